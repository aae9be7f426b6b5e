//! The limits of the API, all of them.

use umbel_model::PolicyBounds;

/// Declares the configuration: each field with its default.
macro_rules! config {
    ($(#[$meta:meta])* $name:ident { $($(#[$about:meta])* $field:ident: $type:ty = $default:expr,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub struct $name { $($(#[$about])* pub $field: $type,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }
    };
}

config! {
    /// Limits of the API. The defaults are safe for a server that strangers can reach.
    ApiConfig {
        /// Bytes of one uploaded module.
        max_module_bytes: u64 = 32 << 20,
        /// Bytes of one JSON body.
        max_body_bytes: usize = 2 << 20,
        /// Bytes of one job's arguments as JSON.
        max_arguments_bytes: usize = 1 << 20,
        /// Bytes of one batch.
        max_batch_bytes: usize = 64 << 20,
        /// Lines of one batch.
        max_batch_lines: usize = 100_000,
        /// Batches under way at once; further ones wait for a permit.
        max_batches: usize = 8,
        /// At most so many of them for one tenant.
        max_tenant_batches: usize = 4,
        /// Bytes of a workflow's submission.
        max_workflow_bytes: usize = 32 << 20,
        /// Workflows being submitted or resumed at once; further ones wait for a permit.
        max_workflow_submissions: usize = 4,
        /// At most so many of them for one tenant.
        max_tenant_workflow_submissions: usize = 2,
        /// Bytes of a workflow's result, and of a replaced job's, that an answer carries.
        max_result_bytes: usize = 16 << 20,
        /// Uploads under way at once; further ones wait for a permit. Compiling is the host's most expensive work.
        max_uploads: usize = 4,
        /// At most so many of them for one tenant.
        max_tenant_uploads: usize = 2,
        /// Longest wait for the permit of an upload, batch or workflow, milliseconds; then it is answered `overloaded`.
        permit_wait_ms: u64 = 10_000,
        /// Requests under way at once; further ones are answered `overloaded`.
        max_in_flight: usize = 1_024,
        /// At most so many of them for one tenant; further ones are answered `too_many_requests`. Long polls count.
        max_tenant_in_flight: usize = 256,
        /// Streams of events at once; further ones are answered `overloaded`.
        max_streams: usize = 1_024,
        /// At most so many of them for one tenant; further ones are answered `too_many_requests`.
        max_tenant_streams: usize = 128,
        /// Longest `?wait=`, milliseconds.
        max_wait_ms: u64 = 60_000,
        /// Longest request that is neither upload nor batch nor the submission of a workflow, milliseconds. Above `max_wait_ms`.
        request_timeout_ms: u64 = 90_000,
        /// Longest upload, batch or submission of a workflow, milliseconds.
        upload_timeout_ms: u64 = 900_000,
        /// Longest silence within a body, milliseconds.
        body_idle_ms: u64 = 30_000,
        /// Bytes a second that a body must come with, on average, once it has taken `body_grace_ms`.
        min_body_bytes_per_second: u64 = 16 << 10,
        /// How long a body may be slow, milliseconds.
        body_grace_ms: u64 = 10_000,
        /// The operator's bounds of policies.
        bounds: PolicyBounds = PolicyBounds::default(),
    }
}
