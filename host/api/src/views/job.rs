//! Jobs as JSON.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use umbel_broker::LogLine;
use umbel_model::{
    AttemptRecord, Digest, Failure, JobId, JobRecord, JobState as State, LargeValue, NodeArguments, NodeRef, Policy,
    PolicyPatch, Progress as ModelProgress, ScheduleStamp, Stamps, Usage,
};

use super::{JobState, PolicyFields};
use crate::{
    problem::{Problem, Result},
    time::Timestamp,
};

fn is_zero(number: &u64) -> bool {
    *number == 0
}

views! {
    /// A job.
    Job from (record: JobRecord, spec: Spec, own: Option<NodeArguments>, is_whole: bool) {
        /// 26 capital letters and digits; ids sort by the time of submission.
        id: String = record.id.to_string(),
        task: String = record.task.into(),
        queue: String = record.queue.into(),
        /// 0–9, 9 first.
        priority: u8 = record.priority,
        /// `waiting`: of a workflow's node, for what comes before it; or replaced by a workflow, for its end. `skipped`: of a
        /// workflow's node, which had nothing to do.
        #[schema(value_type = JobState)]
        state: &'static str = record.state.as_str(),
        /// The module that it runs, pinned at submission.
        digest: String = spec.digest.to_string(),
        /// By parameter name, with defaults. Not in lists, nor of a workflow's node: see `call`.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Object>)]
        arguments: Option<Box<RawValue>> = spec.arguments.filter(|_| is_whole && spec.stored_arguments.is_none()),
        /// Why arguments that there are are not here: `too_large`, `gone`, `unavailable`.
        #[serde(skip_serializing_if = "Option::is_none")]
        arguments_omitted: Option<&'static str> = None,
        #[serde(skip)]
        stored_arguments: Option<LargeValue> = spec.stored_arguments,
        /// Of a workflow's node.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<NodePlace> = {
            let node = record.node.as_ref().zip(own.as_ref());
            node.map(|(node, own)| NodePlace::new(node, own, &spec.stamps))
        },
        /// Of a workflow's node: its own arguments; the result that it takes goes in front of them. Not in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        call: Option<Call> = own.filter(|_| is_whole).map(Call::new),
        /// The workflow that it is a node of.
        #[serde(skip_serializing_if = "Option::is_none")]
        workflow: Option<String> = record.node.map(|node| node.workflow.to_string()),
        /// The workflow that replaced it: its result is the job's.
        #[serde(skip_serializing_if = "Option::is_none")]
        replaced_by: Option<String> = record.child.map(|id| id.to_string()),
        /// Number of the current or last attempt, from 1.
        attempt: u32 = record.retries + 1,
        /// Retries used.
        retries: u32 = record.retries,
        max_retries: u32 = Policy::resolve(&spec.policy).max_retries,
        /// Deliveries of the current attempt.
        deliveries: u32 = record.deliveries,
        created_at: Timestamp = Timestamp(record.created_at),
        /// Of a single job that waits: what holds it back.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        waits_for: Vec<WaitsFor> = Vec::new(),
        /// Of a single job that waits: since when, which is its submission or the end of its last attempt.
        #[serde(skip_serializing_if = "Option::is_none")]
        waits_since: Option<Timestamp> = None,
        /// When a scheduled or retrying job is due.
        due_at: Option<Timestamp> = record.due_at.map(Timestamp),
        /// When it is tried again.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp> = record.due_at.filter(|_| record.state == State::Retrying).map(Timestamp),
        expires_at: Option<Timestamp> = record.expires_at.map(Timestamp),
        started_at: Option<Timestamp> = record.started_at.map(Timestamp),
        finished_at: Option<Timestamp> = record.finished_at.map(Timestamp),
        worker: Option<String> = record.worker.map(Into::into),
        cancel_requested: bool = record.cancel_requested,
        /// It was cancelled while it ran and is left to end.
        let_end: bool = record.let_end,
        /// Words to find it by; of a node, its workflow's.
        tags: Vec<String> = spec.stamps.tags,
        /// Header stamps; of a node, its workflow's.
        headers: BTreeMap<String, String> = spec.stamps.headers,
        progress: Option<Progress> = record.progress.map(Progress::new),
        /// The value that the task returned, as it was written. Not in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Value>)]
        result: Option<Box<RawValue>> = record.result.filter(|_| is_whole),
        /// Why a result that there is is not here: `too_large` (`GET /v1/jobs/{id}/result` has it), `gone`, `unavailable`.
        #[serde(skip_serializing_if = "Option::is_none")]
        result_omitted: Option<&'static str> = None,
        /// Why it failed, or why its last attempt did.
        error: Option<JobError> = record.failure.map(JobError::new),
        /// Its attempts and lost deliveries, oldest first. Not in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        history: Option<Vec<Attempt>> = is_whole.then(|| record.history.into_iter().map(Attempt::new).collect()),
        /// The fields that code, server and call set; the others have their defaults. Not in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<PolicyFields>)]
        policy: Option<PolicyPatch> = Some(spec.policy).filter(|_| is_whole),
        /// The dead job that this one repeats.
        redrive_of: Option<String> = spec.redrive_of.map(|id| id.to_string()),
        traceparent: Option<String> = spec.stamps.traceparent,
        /// The schedule that started it; of a node, its workflow.
        #[serde(skip_serializing_if = "Option::is_none")]
        schedule: Option<JobSchedule> = spec.stamps.schedule.map(JobSchedule::new),
    }

    /// Which schedule started a job or workflow, and for which of its times.
    JobSchedule from (stamp: ScheduleStamp) {
        name: String = stamp.name.to_string(),
        /// The time for which it was started.
        nominal_at: Timestamp = Timestamp(stamp.nominal_at),
        /// When it was started, by the broker's clock.
        fired_at: Timestamp = Timestamp(stamp.fired_at),
    }

    /// One thing that holds a job back.
    WaitsFor from (why: &'static str, words: String) {
        /// `time`, `workflow`, `replacement`, `tenant_paused`, `queue_paused`, `task_paused`, `limit`, `no_worker`, `turn`.
        reason: &'static str = why,
        /// In words, with what to do about it.
        detail: String = words,
    }

    Progress from (progress: ModelProgress) {
        done: u64 = progress.done,
        /// 0: unknown.
        total: u64 = progress.total,
        message: String = progress.message,
        /// A state of the task's own.
        #[serde(skip_serializing_if = "Option::is_none")]
        state: Option<String> = progress.state,
        /// Details of that state, given by the task.
        #[serde(skip_serializing_if = "Option::is_none")]
        meta: Option<serde_json::Value> = progress.meta,
    }

    /// Why a job or an attempt failed.
    JobError from (failure: Failure) {
        /// The guest's own, or one of `out_of_fuel`, `deadline`, `memory`, `stack`, `trap:<kind>`, `bad_output`,
        /// `host_limit:<which>`, `rejected`, `max_deliveries`, `module_missing`, `corrupted_blob`, `module_refused`,
        /// `bad_spec`, `host_panic`, `invalid_arguments`, `upstream_failed`. docs/errors.md explains them.
        kind: String = failure.kind,
        message: String = failure.message,
        #[schema(value_type = Option<Value>)]
        details: Option<Box<RawValue>> = failure.details,
        /// The guest's functions when it trapped, innermost first.
        frames: Vec<String> = failure.frames.into_iter().map(|frame| frame.function).collect(),
    }

    /// One line of a job's history.
    Attempt from (record: AttemptRecord) {
        attempt: u32 = record.attempt,
        delivery: u32 = record.delivery,
        worker: String = record.worker.into(),
        /// By the worker's clock.
        ended_at: Timestamp = Timestamp(record.ended_at),
        /// `succeeded`, `ignored`, `error`, `fatal`, `snoozed`, `rejected`, `trap`, `revoked`, `lost`.
        outcome: String = record.outcome,
        error: Option<JobError> = record.failure.map(JobError::new),
        fuel: u64 = record.usage.fuel,
        memory_bytes: u64 = record.usage.memory_bytes,
        duration_us: u64 = record.usage.duration_us,
        #[serde(flatten)]
        used: Used = Used::new(record.usage),
    }

    /// What else an attempt used. What is zero is left out.
    Used from (usage: Usage) {
        /// The time of a thread that it took: never more than `duration_us`.
        #[serde(skip_serializing_if = "is_zero")]
        #[schema(required = false)]
        cpu_us: u64 = usage.cpu_us,
        /// Memory × time, KiB·ms: the peak as long as it lasted.
        #[serde(skip_serializing_if = "is_zero")]
        #[schema(required = false)]
        memory_kib_ms: u64 = usage.memory_kib_ms,
        #[serde(skip_serializing_if = "is_zero")]
        #[schema(required = false)]
        http_requests: u64 = usage.http_requests,
        /// Bytes of heads and bodies of requests.
        #[serde(skip_serializing_if = "is_zero")]
        #[schema(required = false)]
        http_bytes_out: u64 = usage.http_bytes_out,
        /// Bytes of heads and bodies of answers.
        #[serde(skip_serializing_if = "is_zero")]
        #[schema(required = false)]
        http_bytes_in: u64 = usage.http_bytes_in,
        #[serde(skip_serializing_if = "is_zero")]
        #[schema(required = false)]
        kv_operations: u64 = usage.kv_operations,
        #[serde(skip_serializing_if = "is_zero")]
        #[schema(required = false)]
        blob_bytes_read: u64 = usage.blob_bytes_read,
        #[serde(skip_serializing_if = "is_zero")]
        #[schema(required = false)]
        blob_bytes_written: u64 = usage.blob_bytes_written,
    }

    /// A job's place in its workflow.
    NodePlace from (node: &NodeRef, own: &NodeArguments, of_all: &Stamps) {
        number: u32 = node.number,
        label: Option<String> = own.label.clone(),
        /// Of the workflow.
        tags: Vec<String> = of_all.tags.clone(),
        /// Header stamps of the workflow.
        headers: BTreeMap<String, String> = of_all.headers.clone(),
    }

    /// The call of a workflow's node.
    Call from (arguments: NodeArguments) {
        #[schema(value_type = Vec<Value>)]
        args: Vec<Box<RawValue>> = arguments.args,
        #[schema(value_type = Object)]
        kwargs: BTreeMap<String, Box<RawValue>> = arguments.kwargs,
        /// The task is called once for each.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Vec<Value>>)]
        map: Option<Vec<Box<RawValue>>> = arguments.map,
        /// The task is called once for each list of arguments.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Vec<Vec<Value>>>)]
        starmap: Option<Vec<Vec<Box<RawValue>>>> = arguments.starmap,
    }

    /// One line of a job's log.
    Line from (place: u64, line: LogLine) {
        /// From 0.
        number: u64 = place,
        at: Timestamp = Timestamp(line.at),
        attempt: u32 = line.attempt,
        level: String = line.level,
        context: String = line.context,
        message: String = line.message,
    }
}

/// The part of a stored specification that is shown, of a job or of a workflow's node.
#[derive(Deserialize)]
pub(crate) struct Spec {
    digest: Digest,
    #[serde(default)]
    policy: PolicyPatch,
    #[serde(flatten)]
    stamps: Stamps,
    redrive_of: Option<JobId>,
    /// Of a job. When they are stored elsewhere they are empty here.
    arguments: Option<Box<RawValue>>,
    stored_arguments: Option<LargeValue>,
}

impl Job {
    /// Everything that the record of a job says.
    pub(crate) fn whole(record: JobRecord) -> Result<Self> {
        Self::read(record, true)
    }

    /// A job as a line of a list.
    pub(crate) fn summary(record: JobRecord) -> Result<Self> {
        Self::read(record, false)
    }

    fn read(record: JobRecord, is_whole: bool) -> Result<Self> {
        let unreadable = |error| Problem::unreadable_record(format!("job {}", record.id), &error);
        let spec: Spec = serde_json::from_str(&record.spec).map_err(unreadable)?;
        let own =
            record.node.as_ref().map(|node| serde_json::from_str(&node.arguments)).transpose().map_err(unreadable)?;
        Ok(Self::new(record, spec, own, is_whole))
    }

    /// Without a result of more bytes than that: a reader asks for it by itself.
    pub(crate) fn without_large_result(mut self, max_bytes: usize) -> Self {
        if self.result.as_ref().is_some_and(|result| result.get().len() > max_bytes) {
            self.result = None;
            self.result_omitted = Some("too_large");
        }
        self
    }
}
