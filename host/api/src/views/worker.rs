//! Workers as JSON.

use umbel_broker::WorkerInfo;

use crate::time::Timestamp;

views! {
    /// A worker that is alive.
    Worker from (info: WorkerInfo) {
        id: String = info.id.into(),
        host: String = info.host,
        pid: u32 = info.pid,
        version: String = info.version,
        queues: Vec<String> = info.queues.into_iter().map(Into::into).collect(),
        /// Queues that it does not serve.
        exclude: Vec<String> = info.exclude.into_iter().map(Into::into).collect(),
        slots: u32 = info.slots,
        /// Between which numbers of slots it scales by itself; the same when it does not.
        // A worker of an earlier release does not say.
        min_slots: u32 = if info.min_slots == 0 { info.slots } else { info.min_slots },
        max_slots: u32 = if info.max_slots == 0 { info.slots } else { info.max_slots },
        running: u32 = info.running,
        /// Deliveries that it holds: those that run and those claimed ahead.
        leases: u32 = info.leases,
        /// `running`, `draining`.
        state: String = info.state,
        started_at: Timestamp = Timestamp(info.started_at),
        /// Jobs settled since it started.
        settled: u64 = info.settled,
        /// Resident memory, bytes.
        rss_bytes: u64 = info.rss_bytes,
        /// The number of the last order that it followed.
        order: u64 = info.order,
    }

    /// A worker as those see it who are no operators: workers serve all tenants.
    WorkerSummary from (info: WorkerInfo) {
        id: String = info.id.into(),
        state: String = info.state,
        version: String = info.version,
    }
}
