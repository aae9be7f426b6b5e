//! Workers as JSON.

use serde::Serialize;
use umbel_broker::WorkerInfo;
use utoipa::ToSchema;

use crate::time::Timestamp;

/// A worker that is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Worker {
    id: String,
    host: String,
    pid: u32,
    version: String,
    queues: Vec<String>,
    /// Queues that it does not serve.
    exclude: Vec<String>,
    slots: u32,
    /// Between which numbers of slots it scales by itself; the same when it does not.
    min_slots: u32,
    max_slots: u32,
    running: u32,
    /// Deliveries that it holds: those that run and those claimed ahead.
    leases: u32,
    /// `running`, `draining`.
    state: String,
    started_at: Timestamp,
    /// Jobs settled since it started.
    settled: u64,
    /// Resident memory, bytes.
    rss_bytes: u64,
    /// The number of the last order that it followed.
    order: u64,
}

impl From<WorkerInfo> for Worker {
    fn from(info: WorkerInfo) -> Self {
        Self {
            id: info.id.into(),
            host: info.host,
            pid: info.pid,
            version: info.version,
            queues: info.queues.into_iter().map(Into::into).collect(),
            exclude: info.exclude.into_iter().map(Into::into).collect(),
            slots: info.slots,
            // One of an earlier release does not say.
            min_slots: if info.min_slots == 0 { info.slots } else { info.min_slots },
            max_slots: if info.max_slots == 0 { info.slots } else { info.max_slots },
            running: info.running,
            leases: info.leases,
            state: info.state,
            started_at: Timestamp(info.started_at),
            settled: info.settled,
            rss_bytes: info.rss_bytes,
            order: info.order,
        }
    }
}
