//! A job: what was asked, and where it stands.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{AttemptRecord, Digest, Failure, JobId, PolicyPatch, QueueName, TaskName, TenantId, UnixMs, WorkerId};

/// Version of the stored form of `JobSpec`. A worker that meets a newer one hands the job back.
pub const SPEC_VERSION: u8 = 1;
/// Attempts kept in a job's history; older ones are dropped, the first stays.
pub const MAX_HISTORY: usize = 50;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its time.
    Scheduled,
    /// Waits for a worker.
    Queued,
    /// A worker holds a lease on it.
    Running,
    /// Failed, and waits for its next attempt.
    Retrying,
    Succeeded,
    Failed,
    Revoked,
    Expired,
}

impl JobState {
    pub const ALL: [Self; 8] = [
        Self::Scheduled,
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Revoked,
        Self::Expired,
    ];

    /// A terminal state never changes.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Revoked | Self::Expired)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// What was asked. Immutable, stored as JSON text that brokers do not read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobSpec {
    /// `SPEC_VERSION` of whoever wrote it.
    pub v: u8,
    pub task: TaskName,
    /// Pinned at submission: a deploy never changes a job in flight.
    pub digest: Digest,
    /// The arguments by parameter name: a JSON object, bound and with defaults filled in.
    pub arguments: Box<RawValue>,
    /// Code, server and call laid over each other; the defaults apply below.
    #[serde(default, skip_serializing_if = "PolicyPatch::is_empty")]
    pub policy: PolicyPatch,
    /// W3C trace context of the submitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The HTTP request that submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The job that this one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive_of: Option<JobId>,
}

/// How far a running job said it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub done: u64,
    /// 0: unknown.
    pub total: u64,
    pub message: String,
}

/// A job as a reader sees it.
#[derive(Debug, Clone)]
pub struct JobRecord {
    pub id: JobId,
    pub tenant: TenantId,
    pub task: TaskName,
    pub queue: QueueName,
    pub priority: u8,
    pub state: JobState,
    /// JSON text of the `JobSpec`.
    pub spec: String,
    /// Retries used so far.
    pub retries: u32,
    /// Deliveries of the current attempt.
    pub deliveries: u32,
    pub fence: u64,
    pub cancel_requested: bool,
    pub created_at: UnixMs,
    /// When a scheduled or retrying job is due.
    pub due_at: Option<UnixMs>,
    pub expires_at: Option<UnixMs>,
    /// When the current or last delivery was claimed.
    pub started_at: Option<UnixMs>,
    pub finished_at: Option<UnixMs>,
    pub worker: Option<WorkerId>,
    pub progress: Option<Progress>,
    /// The result of a succeeded job, unless it is not kept.
    pub result: Option<Box<RawValue>>,
    /// Why a failed job failed, or a retrying one failed last.
    pub failure: Option<Failure>,
    pub history: Vec<AttemptRecord>,
}

impl JobRecord {
    /// What was asked.
    pub fn parsed_spec(&self) -> Result<JobSpec, serde_json::Error> {
        serde_json::from_str(&self.spec)
    }
}
