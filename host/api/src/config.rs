//! The limits of the API, all of them.

use std::sync::Arc;

use umbel_model::{PolicyBounds, settings};
use umbel_secrets::MasterKeys;

settings! {
    /// Limits of the API. The defaults are safe for a server that strangers can reach.
    #[derive(Debug, Clone)]
    pub struct ApiConfig {
        /// Bytes of one uploaded module.
        pub max_module_bytes: u64 = 32 << 20,
        /// Bytes of one blob.
        pub max_blob_bytes: u64 = 1 << 30,
        /// Uploads of blobs under way at once; further ones wait for a permit.
        pub max_blob_uploads: usize = 32,
        /// At most so many of them for one tenant.
        pub max_tenant_blob_uploads: usize = 4,
        /// Bytes of one JSON body.
        pub max_body_bytes: usize = 2 << 20,
        /// Bytes of the value of one key-value entry. The broker has its own limit, which is mostly lower.
        pub max_value_bytes: usize = 1 << 20,
        /// Bytes of one job's arguments as JSON.
        pub max_arguments_bytes: usize = 1 << 20,
        /// Bytes of one batch.
        pub max_batch_bytes: usize = 64 << 20,
        /// Lines of one batch.
        pub max_batch_lines: usize = 100_000,
        /// Batches under way at once; further ones wait for a permit.
        pub max_batches: usize = 8,
        /// At most so many of them for one tenant.
        pub max_tenant_batches: usize = 4,
        /// Bytes of a workflow's submission.
        pub max_workflow_bytes: usize = 32 << 20,
        /// Workflows being submitted or resumed at once; further ones wait for a permit.
        pub max_workflow_submissions: usize = 4,
        /// At most so many of them for one tenant.
        pub max_tenant_workflow_submissions: usize = 2,
        /// Bytes of a workflow's result, and of a replaced job's, that an answer carries.
        pub max_result_bytes: usize = 16 << 20,
        /// Uploads of large modules under way at once, one of a tenant; further ones wait for a permit. Compiling is the
        /// host's most expensive work.
        pub max_uploads: usize = 4,
        /// The same for modules that are declared to be at most 1 MiB: they do not wait for large ones.
        pub max_small_uploads: usize = 64,
        /// At most so many of those for one tenant.
        pub max_tenant_uploads: usize = 2,
        /// Longest wait for the permit of an upload, batch or workflow, milliseconds; then it is answered `overloaded`.
        pub permit_wait_ms: u64 = 10_000,
        /// Requests under way at once, until their answers are written; further ones are answered `overloaded`.
        pub max_in_flight: usize = 1_024,
        /// At most so many of them for one tenant; further ones are answered `too_many_requests`. One that waits (`?wait=`) is
        /// not counted meanwhile.
        pub max_tenant_in_flight: usize = 256,
        /// Further places: for calls that control (cancel, pause, purge, health) of a tenant that has all that it may have, and
        /// for any call of a tenant that has fewer when others have taken all.
        pub reserved_in_flight: usize = 256,
        /// At most so many of them for one tenant.
        pub tenant_reserved_in_flight: usize = 8,
        /// Requests that wait for the end of a job or workflow at once. A submission beyond is stored and answered at once, another
        /// request is answered `too_many_requests`.
        pub max_waits: usize = 1_536,
        /// At most so many of them for one tenant.
        pub max_tenant_waits: usize = 256,
        /// Bytes of large answers in memory, until they are written.
        pub max_answer_bytes: usize = 192 << 20,
        /// At most so many of them for one tenant. No less than the largest result, 64 MiB.
        pub max_tenant_answer_bytes: usize = 64 << 20,
        /// Bytes of JSON bodies in memory, until their requests wait or are answered.
        pub max_bodies_bytes: usize = 128 << 20,
        /// At most so many of them for one tenant. No less than the largest body, that of a workflow.
        pub max_tenant_bodies_bytes: usize = 32 << 20,
        /// Tokens that are looked up in the broker at once; further ones wait.
        pub max_token_lookups: usize = 64,
        /// Streams of events at once; further ones are answered `overloaded`.
        pub max_streams: usize = 1_024,
        /// At most so many of them for one tenant; further ones are answered `too_many_requests`.
        pub max_tenant_streams: usize = 128,
        /// Longest `?wait=`, milliseconds. It is answered a twelfth earlier, so that a proxy which gives up after as long sees
        /// the answer.
        pub max_wait_ms: u64 = 60_000,
        /// Longest request that is neither upload nor batch nor the submission of a workflow, milliseconds. Above `max_wait_ms`.
        pub request_timeout_ms: u64 = 90_000,
        /// Longest upload, batch or submission of a workflow, milliseconds.
        pub upload_timeout_ms: u64 = 900_000,
        /// Longest silence within a body, milliseconds.
        pub body_idle_ms: u64 = 30_000,
        /// Bytes a second that a body must come with, on average, once it has taken `body_grace_ms`.
        pub min_body_bytes_per_second: u64 = 16 << 10,
        /// How long a body may be slow, milliseconds.
        pub body_grace_ms: u64 = 10_000,
        /// Approve the modules that are pushed. Only for a service that nobody else reaches, as `umbel dev` is.
        pub approve_pushes: bool = false,
        /// Wrap the keys that seal secrets. None: no secret can be set.
        pub master_keys: Arc<MasterKeys> = Arc::default(),
        /// Between two fires of a schedule, at least, milliseconds: checked on the next 1,000 when it is set.
        pub min_schedule_interval_ms: u64 = 1_000,
        /// The operator's bounds of policies.
        pub bounds: PolicyBounds = PolicyBounds::default(),
    }
}
