//! Jobs: their submission, reading them, and what users ask of one.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use umbel_model::{Digest, JobId, JobRecord, JobState, QueueName, TaskName, TenantId, UnixMs, WorkerId};

use crate::{BrokerOptions, Error, Label, Result};

/// How long an idempotency key answers with its job, milliseconds: a day, as Stripe does.
pub const IDEMPOTENCY_TTL_MS: u64 = 86_400_000;
/// Index entries that one page of a listing looks at.
pub const PAGE_SCAN: u32 = 1_000;
/// Bytes of texts (see `text_bytes`) at which a page of jobs, nodes or documents ends: the one that reaches them is
/// its last.
pub const PAGE_BYTES: usize = 1 << 20;

/// Submits, reads and cancels jobs.
#[async_trait]
pub trait Jobs: Send + Sync + fmt::Debug + 'static {
    /// Stores jobs, each on its own: one answer per job, in order. Wakes workers.
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>>;

    /// One job; none when the tenant has no such job.
    async fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>>;

    /// Jobs, newest first, without results and histories.
    async fn jobs(&self, query: &JobQuery) -> Result<JobPage>;

    /// Log lines of a job from number `from` on, at most `max`.
    async fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>>;

    /// Does the same to each of at most `MAX_ACTS` jobs, all different, in one step: one answer per job, in order.
    async fn act(&self, tenant: &TenantId, action: JobAction, ids: &[JobId]) -> Result<Vec<JobActed>>;

    /// `JobAction::Cancel` of one job.
    async fn cancel(&self, tenant: &TenantId, id: JobId, terminate: bool) -> Result<Cancelled> {
        match self.act(tenant, JobAction::Cancel { terminate }, &[id]).await?[..] {
            [JobActed::Cancelled(answer)] => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    /// `JobAction::RunNow` of one job.
    async fn run_now(&self, tenant: &TenantId, id: JobId) -> Result<RunNow> {
        match self.act(tenant, JobAction::RunNow, &[id]).await?[..] {
            [JobActed::RunNow(answer)] => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    /// `JobAction::Forget` of one job.
    async fn forget(&self, tenant: &TenantId, id: JobId) -> Result<Forgot> {
        match self.act(tenant, JobAction::Forget, &[id]).await?[..] {
            [JobActed::Forgot(answer)] => Ok(answer),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected() -> Error {
    Error::Failed("an action on a job was answered as another one".into())
}

/// Jobs of one call of `act` at most: some milliseconds of Redis' time.
pub const MAX_ACTS: usize = 200;

/// What users ask of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobAction {
    /// Revokes a job that waits, and the workflow that replaced it; asks the worker of a running one to stop it or, with
    /// `terminate` false, lets it end: then it is only not retried.
    Cancel { terminate: bool },
    /// The same, but leaves a job alone that runs: the answer is then `Runs`.
    CancelWaiting,
    /// Queues a scheduled or retrying job now.
    RunNow,
    /// Deletes a job that has ended, with all that belongs to it.
    Forget,
}

/// The answer to an action, for one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobActed {
    Cancelled(Cancelled),
    RunNow(RunNow),
    Forgot(Forgot),
}

/// When a job may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Now,
    /// So many milliseconds after the submission, by the broker's clock.
    After(u64),
    At(UnixMs),
}

impl Start {
    /// When that is, for what is submitted or ready now.
    pub fn due(self, now: UnixMs) -> UnixMs {
        match self {
            Self::Now => now,
            Self::After(ms) => now.saturating_add(ms),
            Self::At(at) => at,
        }
    }
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
    /// `Label::all_in` the spec: lists find the job by them.
    pub labels: Vec<Label>,
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
    /// The blobs to which its arguments refer, at most `MAX_BLOB_REFERENCES`, each once.
    pub blobs: Vec<Digest>,
}

impl NewJob {
    /// By when it must have started, if it is submitted now.
    pub fn expiry(&self, now: UnixMs) -> Option<UnixMs> {
        let within = (self.expires_ms > 0).then(|| now.saturating_add(self.expires_ms));
        within.into_iter().chain(self.expires_at).min()
    }
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
    /// The tenant has stored as many bytes of jobs as it may.
    StorageFull,
    /// It refers to this blob, which the tenant does not have.
    MissingBlob(Digest),
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
    /// Only those with each of these labels, at most `MAX_QUERY_LABELS`. Not together with `dead`: the spec of a node is its
    /// template's.
    pub labels: Vec<Label>,
    /// Only jobs older than this one: the `next` of the page before.
    pub before: Option<JobId>,
    pub max: u32,
}

/// A page of jobs, newest first.
#[derive(Debug, Clone)]
pub struct JobPage {
    pub jobs: Vec<JobRecord>,
    /// Where to go on; none at the end. A page may be short, even empty, and have more behind it: a page looks at
    /// `PAGE_SCAN` jobs at most, and ends at `PAGE_BYTES`.
    pub next: Option<JobId>,
}

/// Bytes of the texts of a job in a page: its spec, the arguments of a node, failure, progress and, where it is there, the
/// result, each as JSON.
pub fn text_bytes(record: &JobRecord) -> usize {
    let failure = record.failure.as_ref().map_or(0, json_bytes);
    let progress = record.progress.as_ref().map_or(0, json_bytes);
    let arguments = record.node.as_ref().map_or(0, |node| node.arguments.len());
    record.spec.len() + arguments + failure + progress + record.result.as_ref().map_or(0, |result| result.get().len())
}

fn json_bytes(value: &impl Serialize) -> usize {
    serde_json::to_string(value).map_or(0, |text| text.len())
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

/// The answer to a request to run a waiting job now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunNow {
    Queued,
    /// It is in this state, in which it does not wait for its time.
    NotWaiting(JobState),
    NotFound,
}

/// The answer to a request to delete a job that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgot {
    Forgotten,
    /// It is in this state.
    NotEnded(umbel_model::JobState),
    /// It is a node: it is deleted with its workflow.
    Node,
    NotFound,
}
