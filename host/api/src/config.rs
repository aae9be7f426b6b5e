//! The limits of the API, all of them.

use umbel_model::PolicyBounds;

/// Limits of the API. The defaults are safe for a server that strangers can reach.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Bytes of one uploaded module.
    pub max_module_bytes: u64,
    /// Bytes of one JSON body.
    pub max_body_bytes: usize,
    /// Bytes of one job's arguments as JSON.
    pub max_arguments_bytes: usize,
    /// Bytes of one batch.
    pub max_batch_bytes: usize,
    /// Lines of one batch.
    pub max_batch_lines: usize,
    /// Batches under way at once; further ones wait for a permit.
    pub max_batches: usize,
    /// At most so many of them for one tenant.
    pub max_tenant_batches: usize,
    /// Bytes of a workflow's submission.
    pub max_workflow_bytes: usize,
    /// Workflows being submitted or resumed at once; further ones wait for a permit.
    pub max_workflow_submissions: usize,
    /// At most so many of them for one tenant.
    pub max_tenant_workflow_submissions: usize,
    /// Bytes of a workflow's result, and of a replaced job's, that an answer carries.
    pub max_result_bytes: usize,
    /// Uploads under way at once; further ones wait for a permit. Compiling is the host's most expensive work.
    pub max_uploads: usize,
    /// At most so many of them for one tenant.
    pub max_tenant_uploads: usize,
    /// Longest wait for the permit of an upload, batch or workflow, milliseconds; then it is answered `overloaded`.
    pub permit_wait_ms: u64,
    /// Requests under way at once; further ones are answered `overloaded`.
    pub max_in_flight: usize,
    /// At most so many of them for one tenant; further ones are answered `too_many_requests`. Long polls count.
    pub max_tenant_in_flight: usize,
    /// Streams of events at once; further ones are answered `overloaded`.
    pub max_streams: usize,
    /// At most so many of them for one tenant; further ones are answered `too_many_requests`.
    pub max_tenant_streams: usize,
    /// Longest `?wait=`, milliseconds.
    pub max_wait_ms: u64,
    /// Longest request that is neither upload nor batch nor the submission of a workflow, milliseconds. Above `max_wait_ms`.
    pub request_timeout_ms: u64,
    /// Longest upload, batch or submission of a workflow, milliseconds.
    pub upload_timeout_ms: u64,
    /// Longest silence within a body, milliseconds.
    pub body_idle_ms: u64,
    /// Bytes a second that a body must come with, on average, once it has taken `body_grace_ms`.
    pub min_body_bytes_per_second: u64,
    /// How long a body may be slow, milliseconds.
    pub body_grace_ms: u64,
    /// The operator's bounds of policies.
    pub bounds: PolicyBounds,
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            max_module_bytes: 32 << 20,
            max_body_bytes: 2 << 20,
            max_arguments_bytes: 1 << 20,
            max_batch_bytes: 64 << 20,
            max_batch_lines: 100_000,
            max_batches: 8,
            max_tenant_batches: 4,
            max_workflow_bytes: 32 << 20,
            max_workflow_submissions: 4,
            max_tenant_workflow_submissions: 2,
            max_result_bytes: 16 << 20,
            max_uploads: 4,
            max_tenant_uploads: 2,
            permit_wait_ms: 10_000,
            max_in_flight: 1_024,
            max_tenant_in_flight: 256,
            max_streams: 1_024,
            max_tenant_streams: 128,
            max_wait_ms: 60_000,
            request_timeout_ms: 90_000,
            upload_timeout_ms: 900_000,
            body_idle_ms: 30_000,
            min_body_bytes_per_second: 16 << 10,
            body_grace_ms: 10_000,
            bounds: PolicyBounds::default(),
        }
    }
}
