//! What goes into a broker and comes out of it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use umbel_model::{
    AttemptRecord, JobId, JobRecord, JobState, Progress, QueueName, Resolution, TaskName, TenantId, Token, UnixMs,
    WorkerId,
};

use crate::{BrokerOptions, DeliveredNode, Growth};

/// Lease of a delivery, milliseconds. Renewed at a third of it.
pub const DEFAULT_LEASE_MS: u64 = 15_000;
/// A worker that has not said for this long that it is alive is forgotten, milliseconds.
pub const WORKER_TTL_MS: u64 = 30_000;
/// How long an idempotency key answers with its job, milliseconds: a day, as Stripe does.
pub const IDEMPOTENCY_TTL_MS: u64 = 86_400_000;

/// When a job may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Now,
    /// So many milliseconds after the submission, by the broker's clock.
    After(u64),
    At(UnixMs),
}

/// A key that makes a submission repeatable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// Hash of the caller's key: hex or the like, no spaces.
    pub key: String,
    /// Hash of what was asked: the same key with another body is a conflict.
    pub body: String,
    pub ttl_ms: u64,
}

/// A job to store.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Chosen by the submitter, so that a submission can be repeated.
    pub id: JobId,
    pub tenant: TenantId,
    pub task: TaskName,
    pub queue: QueueName,
    /// 0–9, 9 first.
    pub priority: u8,
    /// JSON text of the `JobSpec`.
    pub spec: String,
    pub start: Start,
    /// Ends `expired` if not started this long after submission, milliseconds. 0: never.
    pub expires_ms: u64,
    /// Ends `expired` if not started by then; the earlier of both counts.
    pub expires_at: Option<UnixMs>,
    pub max_deliveries: u32,
    pub result_ttl_ms: u64,
    /// 0: it never gets into the dead set.
    pub dead_ttl_ms: u64,
    pub broker_options: Option<Box<BrokerOptions>>,
    pub idempotency: Option<Idempotency>,
    /// The dead job that this one repeats; taken out of the dead set in the same step.
    pub redrive_of: Option<JobId>,
}

/// The answer to one submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    Created,
    /// The same submission was made before: this is its job.
    Existing(JobId),
    /// The idempotency key belongs to a submission with another body.
    Conflict(JobId),
    /// A job like it holds their unique key: this one. Nothing was stored.
    Duplicate(JobId),
    /// The tenant's queue holds `max_backlog` jobs.
    QueueFull,
    /// The tenant has `max_queues` queues.
    TooManyQueues,
    /// The job to redrive is not in the dead set (any more).
    NotDead,
}

/// A worker's wish for jobs.
#[derive(Debug, Clone)]
pub struct Claim {
    pub worker: WorkerId,
    pub queues: Vec<QueueName>,
    pub max: u32,
    pub lease_ms: u64,
    /// Random and never used twice: delivery `i` of this claim has the token `<seed>-<i>`.
    pub token_seed: Token,
}

/// A job handed to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub tenant: TenantId,
    pub id: JobId,
    pub queue: QueueName,
    pub token: Token,
    /// Microseconds since the epoch, or one more than the last one: only ever rises.
    pub fence: u64,
    /// JSON text of the `JobSpec`.
    pub spec: String,
    /// Retries used before this attempt.
    pub retries: u32,
    /// 1 unless deliveries of this attempt were lost.
    pub delivery: u32,
    /// Of a workflow's node: then `spec` is that of its template.
    pub node: Option<Box<DeliveredNode>>,
}

/// What a worker says of a delivery that it holds.
#[derive(Debug, Clone)]
pub struct Renewal {
    pub tenant: TenantId,
    pub id: JobId,
    pub token: Token,
    /// Replaces what was said before.
    pub progress: Option<Progress>,
    /// Appended to the job's log.
    pub logs: Vec<LogLine>,
}

/// The answer to one renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    Held,
    /// Held, and somebody asked to stop the job.
    Cancel,
    /// Somebody else's now, or ended: stop the guest and say nothing more.
    Lost,
}

/// The end of one delivery.
#[derive(Debug, Clone)]
pub struct Settle {
    pub tenant: TenantId,
    pub id: JobId,
    pub token: Token,
    pub resolution: Resolution,
    /// Appended to the job's history.
    pub record: Option<AttemptRecord>,
    pub progress: Option<Progress>,
    pub logs: Vec<LogLine>,
    /// Stored with `Succeed` and `Replace`, dropped with any other resolution.
    pub growth: Option<Box<Growth>>,
}

/// The answer to one settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Recorded,
    /// This very settle was recorded before.
    AlreadyDone,
    /// The token is not the current one; nothing was changed.
    Lost,
    /// There is no room for its growth, or no group to add members to; nothing was changed, and the lease is still held.
    NoCapacity,
}

/// What a promotion did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promoted {
    pub moved: u32,
    pub expired: u32,
    /// What a rate had parked, and starts again. While there is any, `next_due` may come sooner than it said: what is
    /// opened is parked anew by the next claim.
    pub opened: u32,
    /// When the next one is due; now, when work items of workflows are left.
    pub next_due: Option<UnixMs>,
}

/// What a reaping did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    pub requeued: u32,
    /// To the dead set: after `max_deliveries`, or because their policy says so.
    pub buried: u32,
    /// Failed without the dead set, because their policy says so.
    pub failed: u32,
    /// Had been cancelled.
    pub revoked: u32,
}

/// Which jobs to list. Filters are joined by *and*.
#[derive(Debug, Clone)]
pub struct JobQuery {
    pub tenant: TenantId,
    /// Only those in the dead set.
    pub dead: bool,
    pub state: Option<JobState>,
    pub task: Option<TaskName>,
    pub queue: Option<QueueName>,
    /// Only those whose last delivery went to this worker.
    pub worker: Option<WorkerId>,
    /// Only jobs older than this one: the `next` of the page before.
    pub before: Option<JobId>,
    pub max: u32,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone)]
pub struct JobPage {
    pub jobs: Vec<JobRecord>,
    /// Where to go on; none at the end. A page may be short, even empty, and have more behind it: a page looks at
    /// `PAGE_SCAN` jobs at most.
    pub next: Option<JobId>,
}

/// One line that a job wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// By the worker's clock.
    pub at: UnixMs,
    pub attempt: u32,
    /// `trace`, `debug`, `info`, `warn`, `error`, `critical`.
    pub level: String,
    /// The part of the program that spoke.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub context: String,
    pub message: String,
}

/// The answer to a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited; now it is `revoked`.
    Revoked,
    /// It runs; its worker was asked to stop it, or it is left to end and will not be retried.
    Requested,
    /// It runs and was left alone.
    Runs,
    /// It had ended in this state; nothing was changed.
    AlreadyEnded(JobState),
    NotFound,
}

/// The answer to a wish to run a waiting job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunNow {
    Queued,
    /// It is in this state, in which it does not wait for its time.
    NotWaiting(JobState),
    NotFound,
}

/// How many jobs of a queue are where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStats {
    pub name: QueueName,
    pub queued: u64,
    pub running: u64,
    /// Scheduled or retrying.
    pub delayed: u64,
    /// In the dead set.
    #[serde(default)]
    pub dead: u64,
    pub paused: bool,
}

/// What a worker says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    pub id: WorkerId,
    pub host: String,
    pub pid: u32,
    pub version: String,
    pub queues: Vec<QueueName>,
    pub slots: u32,
    pub running: u32,
    /// `running`, `draining`.
    pub state: String,
    pub started_at: UnixMs,
    /// Jobs settled since it started.
    pub settled: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Deliveries that it holds a lease on: those that run and those claimed ahead.
    #[serde(default)]
    pub leases: u32,
    /// Between which numbers of slots it scales by itself; the same when it does not.
    #[serde(default)]
    pub min_slots: u32,
    #[serde(default)]
    pub max_slots: u32,
    /// Queues that it does not serve.
    #[serde(default)]
    pub exclude: Vec<QueueName>,
    /// The number of the last order that it followed.
    #[serde(default)]
    pub order: u64,
}

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DocumentKind {
    Module,
    Task,
    ApiToken,
    /// Which queue a task's jobs go to.
    Routes,
    /// An action on many jobs.
    Bulk,
}

impl DocumentKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Task => "task",
            Self::ApiToken => "api_token",
            Self::Routes => "routes",
            Self::Bulk => "bulk",
        }
    }
}

/// A small JSON text under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub name: String,
    /// 1 when it was created; each write adds one.
    pub version: u64,
    pub body: String,
}

/// What must hold for a write to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    Version(u64),
}

/// A write of one document.
#[derive(Debug, Clone)]
pub struct PutDocument {
    pub tenant: TenantId,
    pub kind: DocumentKind,
    pub name: String,
    pub expect: Expect,
    /// None deletes.
    pub body: Option<String>,
}

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentPut {
    /// The version that is stored now; 0 after a delete.
    Stored(u64),
    /// The version found instead of the expected one; 0 when there is none.
    Conflict(u64),
    /// `max_documents` of this kind exist.
    Full,
}

/// What a hint is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    Work,
    Done,
    Cancel,
}

/// A hint. The store is the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Jobs became ready in these queues.
    Work(Arc<[QueueName]>),
    /// These jobs ended.
    Done(Arc<[JobId]>),
    /// These running jobs should be stopped.
    Cancel(Arc<[JobId]>),
    /// Hints may have been missed: look.
    Resync,
}
