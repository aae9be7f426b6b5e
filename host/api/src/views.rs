//! What goes out: jobs, workers and policies as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use umbel_broker::{LogLine, WorkerInfo};
use umbel_model::{Failure, JobRecord, JobSpec, Policy, PolicyPatch, Usage};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{Object, ObjectBuilder, RefOr, Schema, Type},
};

use crate::{
    problem::{Code, Problem},
    time::Time,
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
    /// `scheduled`, `queued`, `running`, `retrying`, `succeeded`, `failed`, `revoked`, `expired`.
    state: &'static str,
    /// The module that it runs, pinned at submission.
    digest: String,
    /// By parameter name, with defaults. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    arguments: Option<Box<RawValue>>,
    /// Number of the current or last attempt, from 1.
    attempt: u32,
    /// Retries used.
    retries: u32,
    max_retries: u32,
    /// Deliveries of the current attempt.
    deliveries: u32,
    #[schema(value_type = String, format = DateTime)]
    created_at: Time,
    /// When a scheduled or retrying job is due.
    #[schema(value_type = Option<String>, format = DateTime)]
    due_at: Option<Time>,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Time>,
    #[schema(value_type = Option<String>, format = DateTime)]
    started_at: Option<Time>,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Time>,
    worker: Option<String>,
    cancel_requested: bool,
    progress: Option<Progress>,
    /// What the task returned, as it was written. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    result: Option<Box<RawValue>>,
    /// Why it failed, or why its last attempt did.
    error: Option<JobError>,
    /// Its attempts and lost deliveries, oldest first. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<Vec<Attempt>>,
    /// What code, server and call set; the rest is default. Not in lists.
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
}

/// Why a job or an attempt failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobError)]
pub(crate) struct JobError {
    /// The guest's own, or one of `out_of_fuel`, `deadline`, `memory`, `stack`, `trap:<kind>`, `bad_output`,
    /// `host_limit:<which>`, `rejected`, `max_deliveries`, `module_missing`, `module_refused`.
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
    #[schema(value_type = String, format = DateTime)]
    ended_at: Time,
    /// `succeeded`, `ignored`, `error`, `fatal`, `snoozed`, `rejected`, `trap`, `revoked`, `lost`.
    outcome: String,
    error: Option<JobError>,
    fuel: u64,
    memory_bytes: u64,
    duration_us: u64,
}

impl Job {
    /// Everything about a job.
    pub(crate) fn whole(record: JobRecord) -> Result<Self, Problem> {
        let history = record.history.clone().into_iter().map(Attempt::from).collect();
        let result = record.result.clone();
        let (mut job, spec) = Self::summary_and_spec(record)?;
        job.arguments = Some(spec.arguments);
        job.policy = Some(spec.policy);
        job.result = result;
        job.history = Some(history);
        Ok(job)
    }

    /// A job as a line of a list.
    pub(crate) fn summary(record: JobRecord) -> Result<Self, Problem> {
        Self::summary_and_spec(record).map(|(job, _)| job)
    }

    fn summary_and_spec(record: JobRecord) -> Result<(Self, JobSpec), Problem> {
        let spec = record.parsed_spec().map_err(|error| {
            tracing::error!(job = %record.id, %error, "a stored job cannot be read");
            Problem::new(Code::RecordUnreadable, format!("job {}", record.id))
        })?;
        let job = Self {
            id: record.id.to_string(),
            task: record.task.into(),
            queue: record.queue.into(),
            priority: record.priority,
            state: record.state.as_str(),
            digest: spec.digest.to_string(),
            arguments: None,
            attempt: record.retries + 1,
            retries: record.retries,
            max_retries: Policy::resolve(&spec.policy).max_retries,
            deliveries: record.deliveries,
            created_at: Time(record.created_at),
            due_at: record.due_at.map(Time),
            expires_at: record.expires_at.map(Time),
            started_at: record.started_at.map(Time),
            finished_at: record.finished_at.map(Time),
            worker: record.worker.map(Into::into),
            cancel_requested: record.cancel_requested,
            progress: record.progress.map(|p| Progress { done: p.done, total: p.total, message: p.message }),
            result: None,
            error: record.failure.map(JobError::from),
            history: None,
            policy: None,
            redrive_of: spec.redrive_of.map(|id| id.to_string()),
            traceparent: spec.traceparent.clone(),
        };
        Ok((job, spec))
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
            ended_at: Time(record.ended_at),
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
    #[schema(value_type = String, format = DateTime)]
    at: Time,
    attempt: u32,
    level: String,
    context: String,
    message: String,
}

impl Line {
    pub(crate) fn new(number: u64, line: LogLine) -> Self {
        let LogLine { at, attempt, level, context, message } = line;
        Self { number, at: Time(at), attempt, level, context, message }
    }
}

/// A worker that is alive.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Worker {
    id: String,
    host: String,
    pid: u32,
    version: String,
    queues: Vec<String>,
    slots: u32,
    running: u32,
    /// `running`, `draining`.
    state: String,
    #[schema(value_type = String, format = DateTime)]
    started_at: Time,
    /// Jobs settled since it started.
    settled: u64,
    /// Resident memory, bytes.
    rss_bytes: u64,
}

impl From<WorkerInfo> for Worker {
    fn from(info: WorkerInfo) -> Self {
        Self {
            id: info.id.into(),
            host: info.host,
            pid: info.pid,
            version: info.version,
            queues: info.queues.into_iter().map(Into::into).collect(),
            slots: info.slots,
            running: info.running,
            state: info.state,
            started_at: Time(info.started_at),
            settled: info.settled,
            rss_bytes: info.rss_bytes,
        }
    }
}

/// One field of a policy and where it was decided.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(crate) struct PolicyValue {
    #[schema(value_type = Value)]
    pub(crate) value: serde_json::Value,
    /// `default`, `code`, `server`.
    pub(crate) from: &'static str,
}

/// Each field of the policy that `code` and `server` make, with its origin.
pub(crate) fn policy_values(code: &PolicyPatch, server: &PolicyPatch) -> BTreeMap<String, PolicyValue> {
    let fields = |value: serde_json::Result<serde_json::Value>| match value {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let of_code = fields(serde_json::to_value(code));
    let of_server = fields(serde_json::to_value(server));
    let resolved = fields(serde_json::to_value(Policy::resolve(&code.overlaid(server))));
    let origin = |name: &str| match () {
        () if of_server.contains_key(name) => "server",
        () if of_code.contains_key(name) => "code",
        () => "default",
    };
    resolved.into_iter().map(|(name, value)| (name.clone(), PolicyValue { from: origin(&name), value })).collect()
}

/// The fields of a policy, all optional: the schema is made from the default policy, so it cannot fall behind.
pub(crate) struct PolicyFields;

impl ToSchema for PolicyFields {}

impl PartialSchema for PolicyFields {
    fn schema() -> RefOr<Schema> {
        let defaults = serde_json::to_value(Policy::default()).unwrap_or_default();
        let fields = defaults.as_object().into_iter().flatten();
        let object = fields.fold(ObjectBuilder::new(), |object, (name, default)| object.property(name, field(default)));
        object.description(Some("The fields of a policy, all optional")).build().into()
    }
}

fn field(default: &serde_json::Value) -> Object {
    let kind = match default {
        serde_json::Value::Bool(_) => Type::Boolean,
        serde_json::Value::Number(_) => Type::Integer,
        serde_json::Value::String(_) => Type::String,
        serde_json::Value::Array(_) => Type::Array,
        _ => Type::Object,
    };
    ObjectBuilder::new().schema_type(kind).default(Some(default.clone())).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_of_a_policy_says_where_it_comes_from() {
        let code = PolicyPatch { priority: Some(1), max_retries: Some(1), ..Default::default() };
        let server = PolicyPatch { priority: Some(2), ..Default::default() };
        let values = policy_values(&code, &server);
        assert_eq!(values["priority"], PolicyValue { value: 2.into(), from: "server" });
        assert_eq!(values["max_retries"], PolicyValue { value: 1.into(), from: "code" });
        assert_eq!(values["fuel"].from, "default");
    }
}
