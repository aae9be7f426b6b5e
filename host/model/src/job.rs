//! A job: its specification, and its state.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    AttemptRecord, Digest, Failure, JobId, JsonText, LargeValue, OnFailure, Parameter, PolicyPatch, QueueName,
    ScheduleName, TaskName, TenantId, UnixMs, WorkerId, WorkflowId, named_enum, task::given,
};

/// Newest version of the stored form of `JobSpec`. A worker that meets a newer one hands the job back; who writes one says
/// the oldest version that has all its fields (`PolicyPatch::spec_version`).
pub const SPEC_VERSION: u8 = 2;
/// Attempts kept in a job's history; older ones are dropped, the first stays.
pub const MAX_HISTORY: usize = 50;

named_enum! {
    /// The state of a job.
    pub enum JobState {
        /// Waits for its time.
        Scheduled = "scheduled",
        /// Waits for a worker.
        Queued = "queued",
        /// A worker holds a lease on it.
        Running = "running",
        /// Failed, and waits for its next attempt.
        Retrying = "retrying",
        Succeeded = "succeeded",
        Failed = "failed",
        Revoked = "revoked",
        Expired = "expired",
        /// A workflow's node whose inputs are missing, or a job that was replaced and waits for the result.
        Waiting = "waiting",
        /// A workflow's node that had nothing to do: an error callback without an error, and what follows it.
        Skipped = "skipped",
    }
}

impl JobState {
    /// A terminal state never changes.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Revoked | Self::Expired | Self::Skipped)
    }
}

named_enum! {
    /// Where a workflow stands.
    #[derive(Default)]
    pub enum WorkflowState {
        #[default]
        Running = "running",
        Succeeded = "succeeded",
        Failed = "failed",
        Revoked = "revoked",
        Expired = "expired",
    }
}

impl WorkflowState {
    /// A terminal state never changes.
    pub fn is_terminal(self) -> bool {
        self != Self::Running
    }
}

/// Labels that every job of a submission gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamps {
    /// W3C trace context of the submitter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The HTTP request that submitted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Header stamps: they are for people and for filters, and no task sees them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The schedule that started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleStamp>,
}

/// Which schedule started a job or workflow, and for which of its times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleStamp {
    pub name: ScheduleName,
    /// The time for which it was started; of one that somebody started beside the schedule's times, when that was.
    pub nominal_at: UnixMs,
    /// When it was started, by the broker's clock.
    pub fired_at: UnixMs,
}

/// The specification of a job. Immutable, stored as JSON text that brokers do not read.
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
    #[serde(flatten)]
    pub stamps: Stamps,
    /// The job that this one repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive_of: Option<JobId>,
    /// Of a submission with an idempotency key: a hash of its body in canonical form, by which a second spelling of it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Its arguments are in the module store because they are large: `arguments` is then `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_arguments: Option<LargeValue>,
}

/// The specification of the nodes of one template. Immutable, stored as JSON text that brokers do not read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeSpec {
    /// `SPEC_VERSION` of whoever wrote it.
    pub v: u8,
    pub task: TaskName,
    /// Pinned when the workflow was submitted.
    pub digest: Digest,
    /// Binds the arguments when the node runs: its input is known only then.
    pub parameters: Vec<ParameterText>,
    #[serde(default, skip_serializing_if = "PolicyPatch::is_empty")]
    pub policy: PolicyPatch,
    /// Those of the workflow.
    #[serde(flatten)]
    pub stamps: Stamps,
    /// How long its workflow is kept after its end, milliseconds, if that was said: workflows that its guests submit are kept as
    /// long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
}

/// A parameter without its schema.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ParameterText {
    pub name: String,
    /// A default of `null` is a default.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub default: Option<Box<RawValue>>,
}

impl From<&Parameter> for ParameterText {
    fn from(parameter: &Parameter) -> Self {
        let default = parameter.default.clone().map(JsonText::into_raw);
        Self { name: parameter.name.clone(), default }
    }
}

/// The arguments of a node, before its input is known.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NodeArguments {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kwargs: BTreeMap<String, Box<RawValue>>,
    /// The task is called once for each item, which is its last positional argument.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub map: Option<Vec<Box<RawValue>>>,
    /// The task is called once for each item, which is a list of positional arguments behind its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starmap: Option<Vec<Vec<Box<RawValue>>>>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// What its group says of the failure of members that say nothing themselves: for the members that it may add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members_on_failure: Option<OnFailure>,
    /// The node of its workflow whose job added it to the group while it ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_by: Option<u32>,
}

/// The labels of steps that are no jobs, by nodes of their workflow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompositeLabels {
    /// Of groups and chords: by the join of the group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<(u32, String)>,
    /// By the last node of the chain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<(u32, String)>,
}

impl CompositeLabels {
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.chains.is_empty()
    }
}

/// The specification of a workflow as a whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WorkflowSpec {
    pub v: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its jobs inherit them.
    #[serde(flatten)]
    pub stamps: Stamps,
    #[serde(default, skip_serializing_if = "CompositeLabels::is_empty")]
    pub labels: CompositeLabels,
    /// The workflow whose failed nodes this one does again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume_of: Option<WorkflowId>,
    /// As `JobSpec::body`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// How far a running job said it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub done: u64,
    /// 0: unknown.
    pub total: u64,
    pub message: String,
    /// A state of the task's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Details of that state, given by the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<serde_json::Value>,
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
    /// It was cancelled while it ran and is left to end.
    pub let_end: bool,
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
    /// Of a workflow's node: then `spec` is that of its template (a `NodeSpec`).
    pub node: Option<NodeRef>,
    /// The workflow that replaced it: its result is the job's.
    pub child: Option<WorkflowId>,
}

/// A job's place in its workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRef {
    pub workflow: WorkflowId,
    pub number: u32,
    /// JSON text of its `NodeArguments`.
    pub arguments: String,
}

impl JobRecord {
    /// The specification of a job that is no node.
    pub fn parsed_spec(&self) -> Result<JobSpec, serde_json::Error> {
        serde_json::from_str(&self.spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_of_null_is_kept_apart_from_none() {
        let read = |text: &str| serde_json::from_str::<ParameterText>(text).unwrap();
        let null = read(r#"{"name":"x","default":null}"#);
        assert_eq!(null.default.as_deref().map(RawValue::get), Some("null"));
        assert_eq!(serde_json::to_string(&null).unwrap(), r#"{"name":"x","default":null}"#);
        assert!(read(r#"{"name":"x"}"#).default.is_none());
    }
}
