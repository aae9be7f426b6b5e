//! The broker: one trait, and its rules as an in-memory model.
//!
//! Every method is one atomic step that reads the broker's own clock. `memory` says which answer is correct; the crate
//! `umbel-broker-conformance` compares each implementation with it, answer by answer.
//! This crate must not know Redis, SQL, HTTP or wasm.

mod canvas;
mod events;
mod limits;
pub mod memory;
mod results;
mod types;
mod watch;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::broadcast;
use umbel_model::{JobId, JobRecord, QueueName, TenantId, UnixMs, WorkerId, WorkflowId};

pub use canvas::*;
pub use events::*;
pub use limits::*;
pub use memory::MemoryBroker;
pub use results::*;
pub use types::*;
pub use watch::Watch;

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
    /// What is stored cannot be read.
    #[error("a stored record cannot be read: {0}")]
    Corrupt(String),
    /// Anything else the store answered.
    #[error("the broker failed: {0}")]
    Failed(String),
}

impl Error {
    /// True when the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full(_))
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

/// What one broker holds at most. Reaching a limit refuses the submission; nothing is dropped.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Jobs of one tenant in one queue that are queued, scheduled or retrying.
    pub max_backlog: u64,
    /// Queues of one tenant.
    pub max_queues: u64,
    /// Documents of one kind of one tenant.
    pub max_documents: u64,
    /// Log lines kept for one job.
    pub max_log_lines: u64,
    /// Workflows of one tenant, running and kept, those that replace a job apart.
    pub max_workflows: u64,
    /// Nodes of all workflows of one tenant: what waits in them is in no backlog.
    pub max_nodes: u64,
    /// Jobs in the dead set of one tenant: one more, and the oldest leaves it and is kept only as long as its result.
    pub max_dead: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_backlog: 1_000_000,
            max_queues: 1_000,
            max_documents: 10_000,
            max_log_lines: 2_000,
            max_workflows: 100_000,
            max_nodes: 5_000_000,
            max_dead: 100_000,
        }
    }
}

/// Ready jobs that one claim looks at beyond those it returns: it buries the expired ones that it meets.
pub const CLAIM_SCAN: u32 = 128;
/// Queues that `ready_queues` names at most: as many as a tenant may have.
pub const MAX_READY_QUEUES: u32 = 1_000;
/// Index entries that one page of a listing looks at.
pub const PAGE_SCAN: u32 = 1_000;

/// The store of jobs. All methods are atomic, may be called from many processes, and are safe to repeat after
/// `Error::Unavailable`: submissions by job id, settles by token.
#[async_trait]
pub trait Broker: Send + Sync + fmt::Debug + 'static {
    /// Stores jobs, each on its own: one answer per job, in order. Wakes workers.
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>>;

    /// Hands out at most `claim.max` ready jobs: the queues in the order given, fairly between tenants, by priority
    /// (9 first) and then age inside a tenant, within limits that hold across all workers (see the rules of lanes in
    /// `limits`). Expired jobs met on the way end `expired`.
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>>;

    /// Prolongs leases to `lease_ms` from now, keeps progress and log lines. One answer per renewal, in order.
    async fn renew(&self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>>;

    /// Ends deliveries, and claims more in the same step. One answer per settle, in order.
    async fn settle(&self, settles: &[Settle], then: Option<&Claim>) -> Result<(Vec<Settled>, Vec<Delivery>)>;

    /// Opens what a rate had parked, queues what is due and ends what expired, at most `max` each; cancels workflows at their deadline, at most `max`.
    async fn promote(&self, max: u32) -> Result<Promoted>;

    /// Takes back at most `max` expired leases: to their place in the queue the first time, to its end after that, and
    /// to the dead set after too many; or as `BrokerOptions::on_lost` says.
    async fn reap(&self, max: u32) -> Result<Reaped>;

    /// Deletes at most `max` jobs, nodes and workflows whose retention has passed, with all that belongs to them. A
    /// workflow cannot be found any more from its first deleted node on.
    async fn prune(&self, max: u32) -> Result<u32>;

    /// One job; none when the tenant has no such job.
    async fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>>;

    /// Jobs, newest first.
    async fn jobs(&self, query: &JobQuery) -> Result<JobPage>;

    /// Log lines of a job from number `from` on, at most `max`.
    async fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>>;

    /// Revokes a job that waits, and the workflow that replaced it; asks the worker of a running one to stop it or, with
    /// `terminate` false, lets it end: then it is only not retried.
    async fn cancel(&self, tenant: &TenantId, id: JobId, terminate: bool) -> Result<Cancelled>;

    /// As `cancel`, but leaves a job alone that runs: the answer is then `Runs`.
    async fn cancel_waiting(&self, tenant: &TenantId, id: JobId) -> Result<Cancelled>;

    /// Deletes a job that has ended, with all that belongs to it.
    async fn forget(&self, tenant: &TenantId, id: JobId) -> Result<Forgot>;

    /// Stores a workflow without its nodes. It is nobody's and does nothing until it is started; one that never is, is
    /// deleted after `STAGED_TTL_MS`. May be repeated.
    async fn stage_workflow(&self, head: &WorkflowHead) -> Result<WorkflowSubmitted>;

    /// Stores the nodes `first…` of a staged workflow, at most `MAX_NODES_A_CALL`. May be repeated.
    async fn stage_nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        nodes: &[NewNode],
    ) -> Result<WorkflowSubmitted>;

    /// Starts a workflow whose nodes are all stored.
    async fn start_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowSubmitted>;

    /// One workflow; none when the tenant has started no such workflow.
    async fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>>;

    /// Workflows, newest first.
    async fn workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage>;

    /// The nodes `first…` of a workflow, in order; those that are gone are left out. At most `MAX_NODES_A_CALL`.
    async fn nodes(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeRecord>>;

    /// What the nodes `first…` give, one answer per node. At most `MAX_NODES_A_CALL`.
    async fn values(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeValue>>;

    /// Cancels a workflow: revokes what waits, asks the workers of what runs to stop.
    async fn cancel_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled>;

    /// Queues a scheduled or retrying job now.
    async fn run_now(&self, tenant: &TenantId, id: JobId) -> Result<RunNow>;

    /// The tenant's queues by name.
    async fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>>;

    /// Queues in which jobs of any tenant can be handed out now, by name; the first `MAX_READY_QUEUES`.
    async fn ready_queues(&self) -> Result<Vec<QueueName>>;

    /// Changes what holds for a tenant, one of its queues or tasks from now on.
    async fn set_control(&self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<ControlSet>;

    /// What was set, in the order of `Scope`; none that is as if it never was.
    async fn controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>>;

    /// Stops or resumes handing out a queue's jobs. Durable; running jobs go on. Answers whether the queue is known:
    /// one that no job was ever sent to is not.
    async fn set_paused(&self, tenant: &TenantId, queue: &QueueName, paused: bool) -> Result<bool> {
        let patch = ControlPatch { paused: Some(paused), ..ControlPatch::default() };
        Ok(self.set_control(tenant, &Scope::Queue(queue.clone()), &patch).await? != ControlSet::Unknown)
    }

    /// Says that a worker is alive, and asks for the last order to it. It is forgotten, and its order with it,
    /// `WORKER_TTL_MS` after the last time.
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>>;

    /// Orders something of a worker: what is set replaces what was ordered before, the rest of that stays. Its number is
    /// chosen here.
    async fn order_worker(&self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered>;

    /// Forgets a worker that ended in order.
    async fn forget_worker(&self, worker: &WorkerId) -> Result<()>;

    /// Workers alive, by id.
    async fn workers(&self) -> Result<Vec<WorkerInfo>>;

    /// Stores or (with no body) deletes a document if its version is as expected.
    async fn put_document(&self, put: &PutDocument) -> Result<DocumentPut>;

    /// One document.
    async fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Result<Option<Document>>;

    /// Documents of a kind by name, after `after`, at most `max`.
    async fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Result<Vec<Document>>;

    /// Says that somebody follows the tenant's jobs, for `FOLLOW_MS` from now. Answers the number of the last event, or one
    /// less than that of the first.
    async fn follow(&self, tenant: &TenantId) -> Result<u64>;

    /// The events after number `after`, at most `max`.
    async fn events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<EventPage>;

    /// Hints of a topic from now on. A hint may be missing or late: poll as well. Never blocks the sender: a slow
    /// receiver sees `Lagged` and should look at the store.
    async fn signals(&self, topic: Topic) -> Result<broadcast::Receiver<Signal>>;

    /// Checks that the store answers and that its settings are safe.
    async fn check(&self) -> Result<()>;

    /// Looks through everything that is stored for what should not be: records without an owner, sets that disagree with
    /// them, keys that nothing will delete, unsafe settings. With `fix` it mends what it can. Slow; may run at any time, and
    /// then does not take what is under way for an error.
    async fn audit(&self, fix: bool) -> Result<Vec<Finding>>;
}
