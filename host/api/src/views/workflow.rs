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

use super::WorkflowState;
use crate::{
    problem::{Problem, Result},
    time::Timestamp,
    views::{self, JobError},
};

/// A workflow.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Workflow {
    /// 26 capital letters and digits; ids sort by the time of submission.
    id: String,
    name: Option<String>,
    #[schema(value_type = WorkflowState)]
    state: &'static str,
    progress: WorkflowProgress,
    /// Jobs and joins (the ends of groups).
    nodes: u32,
    tags: Vec<String>,
    /// Stamps that its jobs inherit.
    headers: BTreeMap<String, String>,
    cancel_requested: bool,
    created_at: Timestamp,
    deadline_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    /// Kept so long after it is over, milliseconds.
    keep_ms: u64,
    /// Its result: that of the task that it ends with, or the list of its members' results. Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub(crate) result: Option<Box<RawValue>>,
    /// Why a result that there is is not here: `too_large`, `gone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result_omitted: Option<&'static str>,
    /// Why it failed: `details.failed` names the jobs. Not in lists.
    pub(crate) error: Option<JobError>,
    /// The job that it replaces.
    parent: Option<String>,
    /// How many guests submitted each other up to here: 0 from outside.
    depth: u32,
    /// The workflow whose failed nodes it does again.
    resume_of: Option<String>,
    traceparent: Option<String>,
    links: Links,
}

/// How many of a workflow's jobs are where.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct WorkflowProgress {
    total: u32,
    /// Ended, however.
    done: u32,
    succeeded: u32,
    failed: u32,
    revoked: u32,
    expired: u32,
    skipped: u32,
    running: u32,
    queued: u32,
    scheduled: u32,
    retrying: u32,
    waiting: u32,
}

/// Links to more about it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Links {
    #[serde(rename = "self")]
    own: String,
    nodes: String,
    tree: String,
    graph: String,
    jobs: String,
}

impl WorkflowProgress {
    fn new(jobs: &[u32]) -> Self {
        let of = |state: JobState| {
            JobState::ALL.iter().zip(jobs).find(|(known, _)| **known == state).map_or(0, |(_, count)| *count)
        };
        let done = JobState::ALL.iter().filter(|state| state.is_terminal()).map(|state| of(*state)).sum();
        Self {
            total: jobs.iter().sum(),
            done,
            succeeded: of(JobState::Succeeded),
            failed: of(JobState::Failed),
            revoked: of(JobState::Revoked),
            expired: of(JobState::Expired),
            skipped: of(JobState::Skipped),
            running: of(JobState::Running),
            queued: of(JobState::Queued),
            scheduled: of(JobState::Scheduled),
            retrying: of(JobState::Retrying),
            waiting: of(JobState::Waiting),
        }
    }
}

impl Links {
    fn new(id: WorkflowId) -> Self {
        let own = format!("/v1/workflows/{id}");
        let [nodes, tree, graph] = ["nodes", "tree", "graph.svg"].map(|part| format!("{own}/{part}"));
        Self { own, nodes, tree, graph, jobs: format!("/v1/jobs?workflow={id}") }
    }
}

impl Workflow {
    /// A workflow without its result.
    pub(crate) fn new(record: &WorkflowRecord) -> Result<Self> {
        let spec: WorkflowSpec = serde_json::from_str(&record.spec).map_err(|error| {
            tracing::error!(workflow = %record.id, %error, "a stored workflow cannot be read");
            Problem::record_unreadable(format!("workflow {}", record.id))
        })?;
        Ok(Self {
            id: record.id.to_string(),
            name: spec.name,
            state: record.state.as_str(),
            progress: WorkflowProgress::new(&record.jobs),
            nodes: record.nodes,
            tags: spec.tags,
            headers: spec.headers,
            cancel_requested: record.cancel_requested,
            created_at: Timestamp(record.created_at),
            deadline_at: record.deadline_at.map(Timestamp),
            finished_at: record.finished_at.map(Timestamp),
            keep_ms: record.keep_ms,
            result: None,
            result_omitted: None,
            error: None,
            parent: record.parent.map(|id| id.to_string()),
            depth: record.depth,
            resume_of: spec.resume_of.map(|id| id.to_string()),
            traceparent: spec.traceparent,
            links: Links::new(record.id),
        })
    }
}

/// A page of workflows, newest first. A page may be short, even empty, and have more behind it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Workflows {
    pub(crate) items: Vec<Workflow>,
    /// Where to go on; none at the end.
    pub(crate) next_cursor: Option<String>,
}

/// Consecutive nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Nodes {
    first: u32,
    count: u32,
}

impl From<Range> for Nodes {
    fn from(Range { first, count }: Range) -> Self {
        Self { first, count }
    }
}

/// A node of a workflow with its edges.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Node {
    number: u32,
    /// `job`; or `gate`: a join, which runs nothing and waits for the members of a group.
    kind: &'static str,
    task: Option<String>,
    label: Option<String>,
    /// Of a join: `waiting`, `succeeded`, `failed`, `skipped`.
    #[schema(value_type = views::JobState)]
    state: &'static str,
    /// Its source: the node that ends before.
    after: Option<u32>,
    /// `success`, or `failure` of an error callback.
    when: &'static str,
    /// Whether its source's result goes in front of its arguments.
    takes: bool,
    /// The nodes that wait for it.
    next: Vec<Nodes>,
    /// The join of the innermost group that it is in.
    group: Option<u32>,
    /// Of a join: the last node of each member, in the order of the results.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    members: Vec<Nodes>,
    /// `fail`, `continue`, `ignore`.
    #[schema(value_type = String)]
    on_failure: OnFailure,
    /// The id of its job.
    job: Option<String>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    retries: u32,
    error: Option<JobError>,
    /// The workflow that replaced its job.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by: Option<String>,
}

/// Some nodes of a workflow, in order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NodePage {
    pub(crate) items: Vec<Node>,
    /// The `from` to go on with; none at the end.
    pub(crate) next_from: Option<u32>,
}

impl Node {
    pub(crate) fn new(workflow: WorkflowId, node: NodeRecord) -> Self {
        let state = state_of(&node);
        let NodeRecord { number, when, on_failure, after, group, next, work } = node;
        let plain = Self {
            number,
            // The word of this API for a join.
            kind: "gate",
            task: None,
            label: None,
            state,
            after,
            when: match when {
                When::Success => "success",
                When::Failure => "failure",
            },
            takes: false,
            next: next.into_iter().map(Nodes::from).collect(),
            group,
            members: Vec::new(),
            on_failure,
            job: None,
            started_at: None,
            finished_at: None,
            retries: 0,
            error: None,
            replaced_by: None,
        };
        match work {
            NodeWork::Join { members, .. } => Self { members: members.into_iter().map(Nodes::from).collect(), ..plain },
            NodeWork::Job { record, takes, .. } => Self {
                kind: "job",
                label: label_of(&record),
                task: Some(record.task.into()),
                takes,
                job: Some(node_job(workflow, number).to_string()),
                started_at: record.started_at.map(Timestamp),
                finished_at: record.finished_at.map(Timestamp),
                retries: record.retries,
                error: record.failure.map(JobError::from),
                replaced_by: record.child.map(|id| id.to_string()),
                ..plain
            },
        }
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
