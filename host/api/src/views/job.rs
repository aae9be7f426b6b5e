//! Jobs as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use umbel_broker::LogLine;
use umbel_model::{
    Failure, JobRecord, JobSpec, JobState as State, LargeValue, NodeArguments, NodeRef, NodeSpec, Policy, PolicyPatch,
    Usage,
};
use utoipa::ToSchema;

use super::JobState;
use crate::{
    problem::{Problem, Result},
    time::Timestamp,
    views::PolicyFields,
};

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Job {
    /// 26 capital letters and digits; ids sort by the time of submission.
    id: String,
    task: String,
    queue: String,
    /// 0–9, 9 first.
    priority: u8,
    /// `waiting`: of a workflow's node, for what comes before it; or replaced by a workflow, for its end. `skipped`: of a
    /// workflow's node, which had nothing to do.
    #[schema(value_type = JobState)]
    state: &'static str,
    /// The module that it runs, pinned at submission.
    digest: String,
    /// By parameter name, with defaults. Not in lists, nor of a workflow's node: see `call`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    arguments: Option<Box<RawValue>>,
    /// Why arguments that there are are not here: `too_large`, `gone`, `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments_omitted: Option<&'static str>,
    #[serde(skip)]
    stored_arguments: Option<LargeValue>,
    /// Of a workflow's node.
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<NodePlace>,
    /// Of a workflow's node: its own arguments; the result that it takes goes in front of them. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<Call>,
    /// The workflow that it is a node of.
    #[serde(skip_serializing_if = "Option::is_none")]
    workflow: Option<String>,
    /// The workflow that replaced it: its result is the job's.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by: Option<String>,
    /// Number of the current or last attempt, from 1.
    attempt: u32,
    /// Retries used.
    retries: u32,
    max_retries: u32,
    /// Deliveries of the current attempt.
    deliveries: u32,
    created_at: Timestamp,
    /// When a scheduled or retrying job is due.
    due_at: Option<Timestamp>,
    /// When it is tried again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    worker: Option<String>,
    cancel_requested: bool,
    /// It was cancelled while it ran and is left to end.
    let_end: bool,
    /// Words to find it by; of a node, its workflow's.
    tags: Vec<String>,
    /// Header stamps; of a node, its workflow's.
    headers: BTreeMap<String, String>,
    progress: Option<Progress>,
    /// The value that the task returned, as it was written. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    result: Option<Box<RawValue>>,
    /// Why a result that there is is not here: `too_large` (`GET /v1/jobs/{id}/result` has it), `gone`, `unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    result_omitted: Option<&'static str>,
    /// Why it failed, or why its last attempt did.
    error: Option<JobError>,
    /// Its attempts and lost deliveries, oldest first. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<Attempt>>,
    /// The fields that code, server and call set; the others have their defaults. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<PolicyFields>)]
    policy: Option<PolicyPatch>,
    /// The dead job that this one repeats.
    redrive_of: Option<String>,
    traceparent: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Progress {
    done: u64,
    /// 0: unknown.
    total: u64,
    message: String,
    /// A state of the task's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    /// Details of that state, given by the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<serde_json::Value>,
}

impl From<umbel_model::Progress> for Progress {
    fn from(progress: umbel_model::Progress) -> Self {
        let umbel_model::Progress { done, total, message, state, meta } = progress;
        Self { done, total, message, state, meta }
    }
}

/// Why a job or an attempt failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobError)]
pub(crate) struct JobError {
    /// The guest's own, or one of `out_of_fuel`, `deadline`, `memory`, `stack`, `trap:<kind>`, `bad_output`,
    /// `host_limit:<which>`, `rejected`, `max_deliveries`, `module_missing`, `corrupted_blob`, `module_refused`,
    /// `bad_spec`, `host_panic`, `invalid_arguments`, `upstream_failed`. docs/errors.md explains them.
    kind: String,
    message: String,
    #[schema(value_type = Option<Value>)]
    details: Option<Box<RawValue>>,
    /// The guest's functions when it trapped, innermost first.
    frames: Vec<String>,
}

/// One line of a job's history.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Attempt {
    attempt: u32,
    delivery: u32,
    worker: String,
    /// By the worker's clock.
    ended_at: Timestamp,
    /// `succeeded`, `ignored`, `error`, `fatal`, `snoozed`, `rejected`, `trap`, `revoked`, `lost`.
    outcome: String,
    error: Option<JobError>,
    fuel: u64,
    memory_bytes: u64,
    duration_us: u64,
}

/// A job's place in its workflow.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodePlace {
    number: u32,
    label: Option<String>,
    /// Of the workflow.
    tags: Vec<String>,
    /// Header stamps of the workflow.
    headers: BTreeMap<String, String>,
}

/// The call of a workflow's node.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Call {
    #[schema(value_type = Vec<Value>)]
    args: Vec<Box<RawValue>>,
    #[schema(value_type = Object)]
    kwargs: BTreeMap<String, Box<RawValue>>,
    /// The task is called once for each.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Value>>)]
    map: Option<Vec<Box<RawValue>>>,
    /// The task is called once for each list of arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<Value>>>)]
    starmap: Option<Vec<Vec<Box<RawValue>>>>,
}

/// The stored specification of a job or a node.
enum Asked {
    Job(JobSpec),
    Node(NodeSpec, NodeArguments, NodeRef),
}

impl Asked {
    fn of(record: &JobRecord) -> Result<Self, serde_json::Error> {
        Ok(match &record.node {
            None => Self::Job(record.parsed_spec()?),
            Some(node) => {
                Self::Node(serde_json::from_str(&record.spec)?, serde_json::from_str(&node.arguments)?, node.clone())
            }
        })
    }

    fn policy(&self) -> &PolicyPatch {
        match self {
            Self::Job(spec) => &spec.policy,
            Self::Node(spec, ..) => &spec.policy,
        }
    }

    fn digest(&self) -> umbel_model::Digest {
        match self {
            Self::Job(spec) => spec.digest,
            Self::Node(spec, ..) => spec.digest,
        }
    }
}

impl Job {
    /// Everything that the record of a job says.
    pub(crate) fn whole(mut record: JobRecord) -> Result<Self> {
        let history = std::mem::take(&mut record.history).into_iter().map(Attempt::from).collect();
        let result = record.result.take();
        let (mut job, asked) = Self::summary_and_request(record)?;
        job.policy = Some(asked.policy().clone());
        match asked {
            Asked::Job(spec) if spec.stored_arguments.is_some() => job.stored_arguments = spec.stored_arguments,
            Asked::Job(spec) => job.arguments = Some(spec.arguments),
            Asked::Node(_, arguments, _) => {
                let NodeArguments { args, kwargs, map, starmap, .. } = arguments;
                job.call = Some(Call { args, kwargs, map, starmap });
            }
        }
        job.result = result;
        job.history = Some(history);
        Ok(job)
    }

    /// A job as a line of a list.
    pub(crate) fn summary(record: JobRecord) -> Result<Self> {
        Self::summary_and_request(record).map(|(job, _)| job)
    }

    /// Says why the result is not here.
    pub(crate) fn without_result(mut self, why: Option<&'static str>) -> Self {
        self.result_omitted = why;
        self
    }

    /// Without a result of more bytes than that: a reader asks for it by itself.
    pub(crate) fn without_large_result(mut self, max_bytes: usize) -> Self {
        if self.result.as_ref().is_some_and(|result| result.get().len() > max_bytes) {
            self.result = None;
            self.result_omitted = Some("too_large");
        }
        self
    }

    /// Where its arguments lie, if not here.
    pub(crate) fn stored_arguments(&self) -> Option<&LargeValue> {
        self.stored_arguments.as_ref()
    }

    /// Its arguments, or why they are not here.
    pub(crate) fn set_arguments(&mut self, arguments: Result<Box<RawValue>, &'static str>) {
        match arguments {
            Ok(arguments) => self.arguments = Some(arguments),
            Err(why) => self.arguments_omitted = Some(why),
        }
    }

    fn summary_and_request(record: JobRecord) -> Result<(Self, Asked)> {
        let asked = Asked::of(&record).map_err(|error| {
            tracing::error!(job = %record.id, %error, "a stored job cannot be read");
            Problem::record_unreadable(format!("job {}", record.id))
        })?;
        let mut job = Self {
            id: record.id.to_string(),
            task: record.task.into(),
            queue: record.queue.into(),
            priority: record.priority,
            state: record.state.as_str(),
            digest: asked.digest().to_string(),
            arguments: None,
            arguments_omitted: None,
            stored_arguments: None,
            node: None,
            call: None,
            workflow: None,
            replaced_by: record.child.map(|id| id.to_string()),
            attempt: record.retries + 1,
            retries: record.retries,
            max_retries: Policy::resolve(asked.policy()).max_retries,
            deliveries: record.deliveries,
            created_at: Timestamp(record.created_at),
            due_at: record.due_at.map(Timestamp),
            retry_at: record.due_at.filter(|_| record.state == State::Retrying).map(Timestamp),
            expires_at: record.expires_at.map(Timestamp),
            started_at: record.started_at.map(Timestamp),
            finished_at: record.finished_at.map(Timestamp),
            worker: record.worker.map(Into::into),
            cancel_requested: record.cancel_requested,
            let_end: record.let_end,
            tags: Vec::new(),
            headers: BTreeMap::new(),
            progress: record.progress.map(Progress::from),
            result: None,
            result_omitted: None,
            error: record.failure.map(JobError::from),
            history: None,
            policy: None,
            redrive_of: None,
            traceparent: None,
        };
        match &asked {
            Asked::Job(spec) => {
                job.redrive_of = spec.redrive_of.map(|id| id.to_string());
                job.traceparent.clone_from(&spec.traceparent);
                job.tags.clone_from(&spec.tags);
                job.headers.clone_from(&spec.headers);
            }
            Asked::Node(spec, arguments, node) => {
                job.traceparent.clone_from(&spec.traceparent);
                job.tags.clone_from(&spec.tags);
                job.headers.clone_from(&spec.headers);
                job.workflow = Some(node.workflow.to_string());
                let (number, label) = (node.number, arguments.label.clone());
                job.node = Some(NodePlace { number, label, tags: spec.tags.clone(), headers: spec.headers.clone() });
            }
        }
        Ok((job, asked))
    }
}

impl From<Failure> for JobError {
    fn from(failure: Failure) -> Self {
        let frames = failure.frames.into_iter().map(|frame| frame.function).collect();
        Self { kind: failure.kind, message: failure.message, details: failure.details, frames }
    }
}

impl From<umbel_model::AttemptRecord> for Attempt {
    fn from(record: umbel_model::AttemptRecord) -> Self {
        let Usage { fuel, memory_bytes, duration_us } = record.usage;
        Self {
            attempt: record.attempt,
            delivery: record.delivery,
            worker: record.worker.into(),
            ended_at: Timestamp(record.ended_at),
            outcome: record.outcome,
            error: record.failure.map(JobError::from),
            fuel,
            memory_bytes,
            duration_us,
        }
    }
}

/// One line of a job's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Line {
    /// From 0.
    number: u64,
    at: Timestamp,
    attempt: u32,
    level: String,
    context: String,
    message: String,
}

impl Line {
    pub(crate) fn new(number: u64, line: LogLine) -> Self {
        let LogLine { at, attempt, level, context, message } = line;
        Self { number, at: Timestamp(at), attempt, level, context, message }
    }
}
