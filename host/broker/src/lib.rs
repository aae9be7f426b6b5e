//! The broker: a trait for each concern, and the rules.
//!
//! Every method is one atomic step that reads the broker's own clock. An in-memory model in the crate
//! `umbel-broker-conformance` says which answer is correct, and each implementation is compared with it, answer by answer.
//! This crate must not know Redis, SQL, HTTP or wasm.

mod blobs;
mod controls;
mod deliveries;
mod events;
pub mod in_process;
mod jobs;
mod kv;
mod labels;
mod limits;
mod maintenance;
mod node_values;
mod registry;
pub mod rules;
pub mod scheduler;
mod schedules;
mod usage;
mod watch;
mod workflows;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use umbel_model::UnixMs;

pub use blobs::*;
pub use controls::*;
pub use deliveries::*;
pub use events::*;
pub use jobs::*;
pub use kv::*;
pub use labels::*;
pub use limits::*;
pub use maintenance::*;
pub use node_values::*;
pub use registry::*;
pub use schedules::*;
pub use usage::*;
pub use watch::{Waiter, Watch};
pub use workflows::*;

/// Why a broker could not answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing is known of the operation's effect; every operation may be repeated.
    #[error("the broker cannot be reached: {0}")]
    Unavailable(String),
    /// The broker runs with settings that lose data, or is of a version that cannot be used.
    #[error("the broker was refused: {0}")]
    Refused(String),
    /// No room for what was asked: memory, disk.
    #[error("the broker is full: {0}")]
    Full(String),
    /// The change is stored, and was not confirmed by as many replicas or disks as it should be: it may still be lost.
    #[error("stored, but not confirmed: {0}")]
    Unconfirmed(String),
    /// A stored record cannot be read.
    #[error("a stored record cannot be read: {0}")]
    Corrupt(String),
    /// Anything else the store answered.
    #[error("the broker failed: {0}")]
    Failed(String),
}

impl Error {
    /// True when the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full(_) | Self::Unconfirmed(_))
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Where a broker reads the time.
#[derive(Debug, Clone, Default)]
pub enum Clock {
    /// The store's own clock: the Redis server's, this machine's for an embedded store.
    #[default]
    Server,
    /// Milliseconds that a test sets.
    Manual(Arc<AtomicU64>),
}

impl Clock {
    /// A clock that only moves when it is told to, and its handle.
    pub fn manual(now: UnixMs) -> (Self, Arc<AtomicU64>) {
        let handle = Arc::new(AtomicU64::new(now));
        (Self::Manual(handle.clone()), handle)
    }

    /// The time of a manual clock.
    pub fn fixed_now(&self) -> Option<UnixMs> {
        match self {
            Self::Server => None,
            Self::Manual(now) => Some(now.load(Ordering::SeqCst)),
        }
    }
}

umbel_model::settings! {
    /// The limits of one broker. Reaching a limit refuses the submission; nothing is dropped.
    #[derive(Debug, Clone)]
    pub struct Limits {
        /// Jobs of one tenant in one queue that are queued, scheduled or retrying.
        pub max_backlog: u64 = 1_000_000,
        /// Queues of one tenant.
        pub max_queues: u64 = 1_000,
        /// Documents of one kind of one tenant.
        pub max_documents: u64 = 10_000,
        /// Log lines kept for one job.
        pub max_log_lines: u64 = 2_000,
        /// Workflows of one tenant, running and kept, those that replace a job apart.
        pub max_workflows: u64 = 100_000,
        /// Nodes of all workflows of one tenant: what waits in them is in no backlog.
        pub max_nodes: u64 = 5_000_000,
        /// Jobs in the dead set of one tenant: one more, and the oldest leaves it and is kept only as long as its result.
        pub max_dead: u64 = 100_000,
        /// Bytes of one tenant's jobs and workflows, as `StoredBytes` has them; 0: any number. An operator may set others
        /// for a tenant.
        pub max_job_bytes: u64 = 16 << 30,
        /// The same of documents.
        pub max_document_bytes: u64 = 4 << 30,
        /// The same of key-value entries.
        pub max_kv_bytes: u64 = 1 << 30,
        /// One value of a key-value entry, bytes.
        pub max_value_bytes: u64 = 64 << 10,
        /// Key-value buckets of one tenant.
        pub max_buckets: u64 = 1_000,
        /// Tasks of one tenant that have sums of usage of their own in an hour; what others use is summed without a name.
        pub max_usage_tasks: u64 = 1_000,
        /// How long sums of usage are kept, milliseconds, in whole hours.
        pub usage_retention_ms: u64 = 14 * 86_400_000,
        /// Bytes of one tenant's blobs, as `StoredBytes` has them; 0: any number. An operator may set others for a tenant.
        pub max_blob_bytes: u64 = 16 << 30,
        /// Blobs of one tenant.
        pub max_blobs: u64 = 100_000,
        /// Schedules of one tenant.
        pub max_schedules: u64 = 1_000,
    }
}

/// The store of jobs, all concerns together. Every method is atomic, may be called from many processes, and is safe to
/// repeat after `Error::Unavailable`: submissions by job id, settles by token.
pub trait Broker:
    Jobs + Deliveries + Workflows + Controls + Registry + Events + KeyValues + Blobs + UsageSums + Schedules + Maintenance
{
}

impl<T> Broker for T where
    T: Jobs
        + Deliveries
        + Workflows
        + Controls
        + Registry
        + Events
        + KeyValues
        + Blobs
        + UsageSums
        + Schedules
        + Maintenance
{
}
