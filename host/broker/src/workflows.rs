//! Workflows as brokers know them: a graph whose nodes end exactly once.
//!
//! # The rules
//!
//! A node is a job or a join (the end of a group; it runs nothing). A job node is `waiting` until its source ends. What
//! ends emits one arrival to each node in its `next`, with two statuses: *raw* (how it ended) and *adjusted* (what that
//! means to what waits for it, by its `on_failure`: a failure that is `continue` or `ignore` is adjusted to `Ok`).
//!
//! - A job that waits for success takes the adjusted status: `Ok` readies it; `Failed` ends it as `failed` with
//!   `UPSTREAM_FAILED`, not in the dead set; `Skipped` ends it as `skipped`.
//! - A `link` takes the adjusted status too, but is `skipped` after a failure that is adjusted to `Ok`: it never runs beside
//!   the error callbacks of its step.
//! - A job that waits for failure takes the raw status: `Failed` readies it; anything else ends it as `skipped`.
//! - A join counts adjusted statuses. When none is pending it ends: `Failed` if one failed, else `Skipped` if one was
//!   skipped, else `Ok`; with `cancel_rest`, its first failed arrival cancels its scope.
//! - In a workflow that was cancelled, a job that would be readied or failed by an arrival ends as `revoked` (at the
//!   deadline: `expired`) instead.
//! - `succeeded` emits `Ok`; `failed`, `revoked` and `expired` emit `Failed`; `skipped` emits `Skipped`.
//! - An arrival at a node that is not waiting, or is gone, does nothing.
//!
//! Readying a node queues it (or, with a delay of its own, schedules it), and its expiry counts from then.
//!
//! Arrivals and cancellations are work items in a list of the whole store. Settling a job puts its items there in the same
//! step; every step that may add items then does at most `ADVANCE` nodes, and so does every `claim` before it picks, and
//! every `promote`. Before each node the step looks for items of its own, which are done first, first in, first out: what
//! it began with and what the nodes since have added. Only then comes a node of the front item of the stored list. In the end what is left of
//! the step's own items goes to the back of the stored list, as do those that a `claim` adds by what it picks. So one
//! tenant's hundred thousand nodes that are to be readied do not hold up another's chain. And so one outcome that
//! readies 100,000 jobs is recorded at once, and readies them in many short steps, whatever dies in between.
//!
//! A workflow is over when its end node has ended and no job of it is unfinished. It is `succeeded` if the end's adjusted
//! status is `Ok`; else `revoked` or `expired` if it was cancelled; else `failed`.
//!
//! A job that is replaced (`Resolution::Replace`) goes back to `waiting`, with the new workflow as its child; when the
//! child is over, callbacks and all, the job ends `succeeded`, with the child's result as its own by reference, or `failed`
//! with `UPSTREAM_FAILED`. So whatever waits for the job, cancels it or sets it a deadline does so for all of the child.
//! Cancelling such a job cancels its child. A child is deleted with the job that owns it, but not before it is over.
//!
//! Nodes are not in job listings, but in the dead set when they failed by themselves. They are deleted with their
//! workflow.

use std::fmt;

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::value::RawValue;
pub use umbel_model::WorkflowState;
use umbel_model::{
    Digest, Failure, JobId, JobRecord, JobState, OnFailure, QueueName, TaskName, TenantId, UnixMs, WorkflowId,
    canvas::{Range, When},
};

use crate::{Broker, BrokerOptions, Error, Idempotency, Result, Start};

/// Nodes that one step of a broker readies or cancels at most: some milliseconds of Redis' time.
pub const ADVANCE: u32 = 1_000;
/// Nodes that one call stores or reads at most.
pub const MAX_NODES_A_CALL: u32 = 1_000;
/// A workflow that was not started so long after it was staged is deleted, milliseconds.
pub const STAGED_TTL_MS: u64 = 600_000;
/// A source's result of at most so many bytes comes with the delivery.
pub const INLINE_INPUT_BYTES: usize = 4_096;
/// Nodes that one settle may add at most, over all its workflows and members.
pub const MAX_GROWTH: u32 = 2_000;
/// A template of new members that equals one of so many that the workflow got last, but for its `nodes`, is that one: a
/// group may grow any number of times.
pub const TEMPLATES_COMPARED: usize = 16;
/// Templates of one workflow.
pub const MAX_TEMPLATES: usize = 4_096;
/// The failure's kind of a job that did not run because what it waits for failed.
pub const UPSTREAM_FAILED: &str = "upstream_failed";
/// Its message. What failed is found by following `after`.
pub const UPSTREAM_FAILED_MESSAGE: &str = "what it waits for failed";

/// Submits, reads and cancels workflows.
#[async_trait]
pub trait Workflows: Send + Sync + fmt::Debug + 'static {
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

    /// The nodes `first…` of a workflow, in order and without histories; those that are gone are left out. At most
    /// `MAX_NODES_A_CALL`.
    async fn nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
        results: Results,
    ) -> Result<NodePage>;

    /// The values of the nodes `first…`, one answer per node. At most `MAX_NODES_A_CALL`.
    async fn values(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeValue>>;

    /// Cancels a workflow: revokes what waits, asks the workers of what runs to stop.
    async fn cancel_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled>;

    /// Deletes a workflow that is over, with its nodes and what replaced them. From then on nobody finds it; of a large one
    /// `ADVANCE` nodes are deleted at once, and `prune` goes on with the rest.
    async fn forget_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowForgot>;
}

/// Chunks of nodes on their way to the store at once: one is packed while the other is stored.
const CHUNKS_IN_FLIGHT: usize = 2;

/// Stores a workflow and starts it: all of it or nothing. May be repeated with the same id.
pub async fn submit_workflow(
    broker: &dyn Broker,
    head: &WorkflowHead,
    nodes: &[NewNode],
) -> Result<WorkflowSubmitted, Error> {
    match stage_whole_workflow(broker, head, nodes).await? {
        WorkflowSubmitted::Created => broker.start_workflow(&head.tenant, head.id).await,
        other => Ok(other),
    }
}

/// Stores a workflow with all its nodes. It does nothing until it is started. May be repeated with the same id.
pub async fn stage_whole_workflow(
    broker: &dyn Broker,
    head: &WorkflowHead,
    nodes: &[NewNode],
) -> Result<WorkflowSubmitted, Error> {
    match broker.stage_workflow(head).await? {
        WorkflowSubmitted::Created => {}
        other => return Ok(other),
    }
    // Not a lazy iterator: its closure would make this future no longer `Send` for callers. Nothing is asked before it is
    // polled.
    let mut chunks = Vec::new();
    for (at, chunk) in nodes.chunks(MAX_NODES_A_CALL as usize).enumerate() {
        let first = at as u32 * MAX_NODES_A_CALL;
        chunks.push(broker.stage_nodes(&head.tenant, head.id, first, chunk));
    }
    let answers: Vec<WorkflowSubmitted> = stream::iter(chunks).buffered(CHUNKS_IN_FLIGHT).try_collect().await?;
    let refused = answers.into_iter().find(|answer| *answer != WorkflowSubmitted::Created);
    Ok(refused.unwrap_or(WorkflowSubmitted::Created))
}

/// How a node ended, as what waits for it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    Ok,
    Failed,
    Skipped,
}

/// The common part of many nodes of a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTemplate {
    pub task: TaskName,
    pub queue: QueueName,
    /// 0–9, 9 first.
    pub priority: u8,
    /// From the moment that the node is ready.
    pub start: Start,
    /// Ends `expired` if not started this long after it was ready, milliseconds. 0: never.
    pub expires_ms: u64,
    pub max_deliveries: u32,
    /// JSON text of a `NodeSpec`. Brokers do not read it.
    pub spec: String,
    /// How many nodes use it: they count against the queue's backlog when the workflow is staged.
    pub nodes: u32,
}

impl NodeTemplate {
    /// Whether nodes of the other one could as well be nodes of this one.
    pub fn serves(&self, other: &Self) -> bool {
        *self == Self { nodes: self.nodes, ..other.clone() }
    }
}

/// A workflow without its nodes.
#[derive(Debug, Clone)]
pub struct WorkflowHead {
    /// Low 32 bits zero; chosen by the submitter, so that a submission can be repeated.
    pub id: WorkflowId,
    pub tenant: TenantId,
    /// JSON text of a `WorkflowSpec`. Brokers do not read it.
    pub spec: String,
    pub templates: Vec<NodeTemplate>,
    /// How many there are: joins and jobs.
    pub nodes: u32,
    /// Nodes that start when the workflow does, whatever they wait for otherwise.
    pub starts: Vec<Range>,
    pub end: u32,
    /// Cancelled (as `expired`) if not over this long after its start, milliseconds. 0: never.
    pub deadline_ms: u64,
    /// Kept this long after it is over, milliseconds.
    pub keep_ms: u64,
    pub idempotency: Option<Idempotency>,
    /// The job that this workflow replaces.
    pub parent: Option<JobId>,
    /// How many guests submitted each other up to here: 0 from outside.
    pub depth: u32,
}

/// A node to store.
#[derive(Debug, Clone)]
pub struct NewNode {
    pub when: When,
    pub on_failure: OnFailure,
    /// Its source.
    pub after: Option<u32>,
    /// The join of the innermost group that it is in.
    pub group: Option<u32>,
    pub next: Vec<Range>,
    pub work: NewWork,
}

#[derive(Debug, Clone)]
pub enum NewWork {
    Job {
        /// Index into the workflow's templates.
        template: u32,
        /// JSON text of `NodeArguments`. Brokers do not read it.
        arguments: String,
        /// Its source's result or error goes in front of its arguments.
        takes: bool,
        /// How it ended in the workflow that this one resumes. Terminal; emits nothing.
        kept: Option<Kept>,
        /// Never with `unique`.
        broker_options: Option<Box<BrokerOptions>>,
        /// The blobs to which its arguments and its kept result refer, each once.
        blobs: Vec<Digest>,
    },
    Join {
        members: Vec<Range>,
        scope: Vec<Range>,
        cancel_rest: bool,
        pending: u32,
        /// Of arrivals that came in the workflow that this one resumes.
        failed: u32,
        skipped: u32,
        /// It ended `Ok` in the workflow that this one resumes.
        kept: bool,
    },
}

/// How a kept node ended.
#[derive(Debug, Clone)]
pub struct Kept {
    pub state: JobState,
    pub result: Option<Box<RawValue>>,
    pub failure: Option<Failure>,
}

/// A workflow to store. One that a guest adds is stored and started in the same step as its outcome.
#[derive(Debug, Clone)]
pub struct NewWorkflow {
    pub head: WorkflowHead,
    pub nodes: Vec<NewNode>,
}

/// Workflows and members that a guest adds while it runs. Stored in the same step as its outcome, or not at all.
#[derive(Debug, Clone, Default)]
pub struct Growth {
    pub workflows: Vec<NewWorkflow>,
    pub members: Option<NewMembers>,
}

/// More members for the group that the settled job is in. All numbers count from 0; the broker adds them behind the
/// workflow's nodes and templates.
#[derive(Debug, Clone)]
pub struct NewMembers {
    pub templates: Vec<NodeTemplate>,
    pub nodes: Vec<NewNode>,
    /// The last node of each member. The broker adds their edge to the join; each is one more pending arrival of it.
    pub ends: Vec<Range>,
    pub starts: Vec<Range>,
}

/// The answer to a step of a workflow's submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkflowSubmitted {
    /// Done; also when it had been done before and the workflow was not started yet.
    Created,
    /// The same submission was started before: this is its workflow.
    Existing(WorkflowId),
    /// The idempotency key belongs to a submission with another body.
    Conflict(JobId),
    /// A queue would hold more than `max_backlog` jobs.
    QueueFull,
    /// The tenant has `max_queues` queues.
    TooManyQueues,
    /// The tenant has `max_workflows` workflows, or they would have more than `max_nodes` nodes.
    TooManyWorkflows,
    /// The tenant has stored as many bytes of jobs as it may.
    StorageFull,
    /// A node refers to this blob, which the tenant does not have. No node of the call was stored.
    MissingBlob(Digest),
    /// No such workflow is staged: its time was over.
    Unknown,
}

/// A workflow as a reader sees it.
#[derive(Debug, Clone)]
pub struct WorkflowRecord {
    pub id: WorkflowId,
    pub tenant: TenantId,
    pub spec: String,
    /// Empty in listings.
    pub templates: Vec<NodeTemplate>,
    pub state: WorkflowState,
    pub cancel_requested: bool,
    /// Joins and jobs.
    pub nodes: u32,
    pub end: u32,
    /// Its jobs by state, in the order of `JobState::ALL`.
    pub jobs: [u32; JobState::ALL.len()],
    /// When it was started.
    pub created_at: UnixMs,
    pub deadline_at: Option<UnixMs>,
    pub finished_at: Option<UnixMs>,
    pub keep_ms: u64,
    pub parent: Option<JobId>,
    pub depth: u32,
}

/// Which workflows to list: those that replace no job.
#[derive(Debug, Clone)]
pub struct WorkflowQuery {
    pub tenant: TenantId,
    pub state: Option<WorkflowState>,
    /// Only workflows older than this one: the `next` of the page before.
    pub before: Option<WorkflowId>,
    pub max: u32,
}

/// A page of workflows, newest first. It looks at `PAGE_SCAN` workflows at most, as a page of jobs does.
#[derive(Debug, Clone)]
pub struct WorkflowPage {
    pub workflows: Vec<WorkflowRecord>,
    pub next: Option<WorkflowId>,
}

/// A stored node as a reader sees it.
#[derive(Debug, Clone)]
pub struct NodeRecord {
    pub number: u32,
    pub when: When,
    pub on_failure: OnFailure,
    pub after: Option<u32>,
    pub group: Option<u32>,
    pub next: Vec<Range>,
    pub work: NodeWork,
}

/// Some nodes of a workflow.
#[derive(Debug, Clone)]
pub struct NodePage {
    pub nodes: Vec<NodeRecord>,
    /// The first node that was not looked at. A page ends at `PAGE_BYTES`.
    pub next: u32,
}

/// Whether nodes are read with the results of their jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Results {
    Included,
    Omitted,
}

#[derive(Debug, Clone)]
pub enum NodeWork {
    Job {
        record: Box<JobRecord>,
        template: u32,
        takes: bool,
    },
    Join {
        members: Vec<Range>,
        scope: Vec<Range>,
        cancel_rest: bool,
        pending: u32,
        failed: u32,
        skipped: u32,
        status: Option<Status>,
    },
}

/// The value of a node for those that read it.
#[derive(Debug, Clone)]
pub enum NodeValue {
    Job {
        task: TaskName,
        state: JobState,
        on_failure: OnFailure,
        after: Option<u32>,
        result: Option<Box<RawValue>>,
        failure: Option<Failure>,
        /// Its result is that of this workflow.
        child: Option<WorkflowId>,
    },
    Join {
        after: Option<u32>,
        members: Vec<Range>,
        on_failure: OnFailure,
        /// None until it ends.
        status: Option<Status>,
    },
    /// No such node (any more).
    Missing,
}

/// The part of a delivery that only a workflow's node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveredNode {
    pub workflow: WorkflowId,
    pub node: u32,
    /// The join of the innermost group that it is in.
    pub group: Option<u32>,
    pub depth: u32,
    /// JSON text of `NodeArguments`.
    pub arguments: String,
    pub input: Input,
}

/// The input in front of a node's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Nothing,
    /// JSON text: the result of its source, which is a job that succeeded with at most `INLINE_INPUT_BYTES` of it (or
    /// kept none: `null`) and was not replaced.
    Value(String),
    /// The result of this node, to be read.
    Result(u32),
    /// The error of this node, to be read.
    Error(u32),
}

/// The answer to the cancel of a workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkflowCancelled {
    /// Waiting nodes are revoked (many of them in many steps); workers of running ones are asked to stop them.
    Requested,
    /// It was over; nothing was changed.
    AlreadyEnded(WorkflowState),
    NotFound,
}

/// The answer to a request to delete a workflow that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkflowForgot {
    Forgotten,
    /// It runs.
    NotEnded,
    /// It replaced a job: it is deleted with that job.
    Replaces,
    NotFound,
}
