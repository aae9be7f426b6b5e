//! Workflows and their nodes as JSON.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use umbel_broker::{NodeRecord, NodeWork, Status, WorkflowRecord};
use umbel_model::{
    JobRecord, JobState, NodeArguments, OnFailure, WorkflowId, WorkflowSpec,
    canvas::{Range, When, node_job},
};
use utoipa::ToSchema;

use super::{JobError, JobSchedule, WorkflowState};
use crate::{
    problem::{Problem, Result},
    time::Timestamp,
};

views! {
    /// A workflow.
    Workflow from (record: &WorkflowRecord, spec: WorkflowSpec) {
        /// 26 capital letters and digits; ids sort by the time of submission.
        id: String = record.id.to_string(),
        name: Option<String> = spec.name,
        #[schema(value_type = WorkflowState)]
        state: &'static str = record.state.as_str(),
        progress: WorkflowProgress = WorkflowProgress::new(&record.jobs),
        /// Jobs and joins (the ends of groups).
        nodes: u32 = record.nodes,
        tags: Vec<String> = spec.stamps.tags,
        /// Stamps that its jobs inherit.
        headers: BTreeMap<String, String> = spec.stamps.headers,
        cancel_requested: bool = record.cancel_requested,
        created_at: Timestamp = Timestamp(record.created_at),
        deadline_at: Option<Timestamp> = record.deadline_at.map(Timestamp),
        finished_at: Option<Timestamp> = record.finished_at.map(Timestamp),
        /// Kept so long after it is over, milliseconds.
        keep_ms: u64 = record.keep_ms,
        /// Its result: that of the task that it ends with, or the list of its members' results. Not in lists.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Value>)]
        result: Option<Box<RawValue>> = None,
        /// Why a result that there is is not here: `too_large`, `gone`.
        #[serde(skip_serializing_if = "Option::is_none")]
        result_omitted: Option<&'static str> = None,
        /// Why it failed: `details.failed` names the jobs. Not in lists.
        error: Option<JobError> = None,
        /// The job that it replaces.
        parent: Option<String> = record.parent.map(|id| id.to_string()),
        /// How many guests submitted each other up to here: 0 from outside.
        depth: u32 = record.depth,
        /// The workflow whose failed nodes it does again.
        resume_of: Option<String> = spec.resume_of.map(|id| id.to_string()),
        traceparent: Option<String> = spec.stamps.traceparent,
        /// The schedule that started it.
        #[serde(skip_serializing_if = "Option::is_none")]
        schedule: Option<JobSchedule> = spec.stamps.schedule.map(JobSchedule::new),
        links: Links = Links::new(record.id),
    }

    /// How many of a workflow's jobs are where.
    WorkflowProgress from (jobs: &[u32]) {
        total: u32 = jobs.iter().sum(),
        /// Ended, however.
        done: u32 = JobState::ALL.iter().zip(jobs).filter(|(state, _)| state.is_terminal()).map(|(_, count)| count).sum(),
        succeeded: u32 = count_of(jobs, JobState::Succeeded),
        failed: u32 = count_of(jobs, JobState::Failed),
        revoked: u32 = count_of(jobs, JobState::Revoked),
        expired: u32 = count_of(jobs, JobState::Expired),
        skipped: u32 = count_of(jobs, JobState::Skipped),
        running: u32 = count_of(jobs, JobState::Running),
        queued: u32 = count_of(jobs, JobState::Queued),
        scheduled: u32 = count_of(jobs, JobState::Scheduled),
        retrying: u32 = count_of(jobs, JobState::Retrying),
        waiting: u32 = count_of(jobs, JobState::Waiting),
    }

    /// Links to more about it.
    Links from (id: WorkflowId) {
        #[serde(rename = "self")]
        own: String = format!("/v1/workflows/{id}"),
        nodes: String = format!("/v1/workflows/{id}/nodes"),
        tree: String = format!("/v1/workflows/{id}/tree"),
        graph: String = format!("/v1/workflows/{id}/graph.svg"),
        jobs: String = format!("/v1/jobs?workflow={id}"),
    }

    /// Consecutive nodes.
    Nodes from (range: Range) {
        first: u32 = range.first,
        count: u32 = range.count,
    }

    /// A node of a workflow with its edges.
    Node from (workflow: WorkflowId, node: &NodeRecord, of_job: Option<&JobRecord>) {
        number: u32 = node.number,
        /// `job`; or `gate`: a join, which runs nothing and waits for the members of a group.
        kind: &'static str = if of_job.is_some() { "job" } else { "gate" },
        task: Option<String> = of_job.map(|job| job.task.to_string()),
        label: Option<String> = of_job.and_then(label_of),
        /// Of a join: `waiting`, `succeeded`, `failed`, `skipped`.
        #[schema(value_type = super::JobState)]
        state: &'static str = state_of(node),
        /// Its source: the node that ends before.
        after: Option<u32> = node.after,
        /// `success`, or `failure` of an error callback.
        when: &'static str = if node.when == When::Failure { "failure" } else { "success" },
        /// Whether its source's result goes in front of its arguments.
        takes: bool = matches!(node.work, NodeWork::Job { takes: true, .. }),
        /// The nodes that wait for it.
        next: Vec<Nodes> = node.next.iter().copied().map(Nodes::new).collect(),
        /// The join of the innermost group that it is in.
        group: Option<u32> = node.group,
        /// Of a join: the last node of each member, in the order of the results.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        members: Vec<Nodes> = match &node.work {
            NodeWork::Join { members, .. } => members.iter().copied().map(Nodes::new).collect(),
            NodeWork::Job { .. } => Vec::new(),
        },
        /// `fail`, `continue`, `ignore`.
        #[schema(value_type = String)]
        on_failure: OnFailure = node.on_failure,
        /// The id of its job.
        job: Option<String> = of_job.map(|_| node_job(workflow, node.number).to_string()),
        started_at: Option<Timestamp> = of_job.and_then(|job| job.started_at).map(Timestamp),
        finished_at: Option<Timestamp> = of_job.and_then(|job| job.finished_at).map(Timestamp),
        retries: u32 = of_job.map_or(0, |job| job.retries),
        error: Option<JobError> = of_job.and_then(|job| job.failure.clone()).map(JobError::new),
        /// The workflow that replaced its job.
        #[serde(skip_serializing_if = "Option::is_none")]
        replaced_by: Option<String> = of_job.and_then(|job| job.child).map(|id| id.to_string()),
    }
}

/// How many jobs are in a state. `jobs` has a number for each, in the order of `JobState::ALL`.
fn count_of(jobs: &[u32], state: JobState) -> u32 {
    JobState::ALL.iter().zip(jobs).find(|(known, _)| **known == state).map_or(0, |(_, count)| *count)
}

impl Workflow {
    /// A workflow without its result.
    pub(crate) fn summary(record: &WorkflowRecord) -> Result<Self> {
        let unreadable = |error| Problem::unreadable_record(format!("workflow {}", record.id), &error);
        let spec = serde_json::from_str(&record.spec).map_err(unreadable)?;
        Ok(Self::new(record, spec))
    }
}

/// A page of workflows, newest first. A page may be short, even empty, and have more behind it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Workflows {
    pub(crate) items: Vec<Workflow>,
    /// Where to go on; none at the end.
    pub(crate) next_cursor: Option<String>,
}

/// Some nodes of a workflow, in order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodePage {
    pub(crate) items: Vec<Node>,
    /// The `from` to go on with; none at the end.
    pub(crate) next_from: Option<u32>,
}

impl Node {
    pub(crate) fn of(workflow: WorkflowId, node: &NodeRecord) -> Self {
        let job = match &node.work {
            NodeWork::Job { record, .. } => Some(&**record),
            NodeWork::Join { .. } => None,
        };
        Self::new(workflow, node, job)
    }
}

/// The label of a node's job.
pub(crate) fn label_of(record: &JobRecord) -> Option<String> {
    let arguments = &record.node.as_ref()?.arguments;
    // Arguments may be long, and few have one.
    if !arguments.contains(r#""label""#) {
        return None;
    }
    serde_json::from_str::<NodeArguments>(arguments).ok()?.label
}

/// How many items the map or starmap of a node's job has.
pub(crate) fn items_of(record: &JobRecord) -> Option<u32> {
    let arguments = &record.node.as_ref()?.arguments;
    // As for the label; `starmap` ends so, too.
    if !arguments.contains(r#"map""#) {
        return None;
    }
    let NodeArguments { map, starmap, .. } = serde_json::from_str(arguments).ok()?;
    let items = map.map(|items| items.len()).or(starmap.map(|items| items.len()))?;
    u32::try_from(items).ok()
}

/// The state of a node, that of a join in the words of jobs.
pub(crate) fn state_of(node: &NodeRecord) -> &'static str {
    match &node.work {
        NodeWork::Job { record, .. } => record.state.as_str(),
        NodeWork::Join { status, .. } => match status {
            None => JobState::Waiting.as_str(),
            Some(Status::Ok) => JobState::Succeeded.as_str(),
            Some(Status::Failed) => JobState::Failed.as_str(),
            Some(Status::Skipped) => JobState::Skipped.as_str(),
        },
    }
}
