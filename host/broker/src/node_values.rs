//! The value of a node, and why one failed, read from the stored form of a workflow.
//!
//! A node that ended never changes, so a value may be read in many calls.

use std::{collections::BTreeSet, fmt, future::Future, pin::Pin};

use async_trait::async_trait;
use serde_json::{Value, json};
use umbel_model::{
    Failure, JobState, LargeValue, OnFailure, TaskName, TenantId, WorkflowId,
    canvas::{Range, node_job},
};

use crate::{Broker, Error, MAX_NODES_A_CALL, NodeValue, Status, UPSTREAM_FAILED, rules::join::status_of};

/// Failed members that an error names; it says how many more there are.
pub const MAX_NAMED: usize = 100;
/// Nodes within nodes that a reading follows: nested groups and replacements together.
const MAX_DEPTH: u32 = 400;
/// Why the value of a node cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    #[error(transparent)]
    Broker(#[from] Error),
    /// The results together are larger than what is allowed.
    #[error("the results that it takes are larger than {0} bytes together")]
    TooLarge(usize),
    /// A node has no value: it has not ended, it failed, or it was deleted.
    #[error("node {0} has no value")]
    None(u32),
    #[error("results are nested more than {MAX_DEPTH} deep")]
    TooDeep,
    /// A large value cannot be read now.
    #[error("a large value cannot be read: {0}")]
    Unavailable(String),
    /// A large value is gone or is not what was stored.
    #[error("a large value is lost: {0}")]
    Lost(String),
}

/// Where large values lie.
#[async_trait]
pub trait LargeValues: fmt::Debug + Send + Sync {
    /// The text of a value of a tenant's job, checked. Fails with `Unavailable` or `Lost`.
    async fn read(&self, tenant: &TenantId, stored: &LargeValue) -> Result<String, ValueError>;
}

/// Nowhere: for brokers without large values, such as those of tests.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLargeValues;

#[async_trait]
impl LargeValues for NoLargeValues {
    async fn read(&self, _: &TenantId, stored: &LargeValue) -> Result<String, ValueError> {
        Err(ValueError::Lost(format!("{} bytes of job {}", stored.bytes, stored.of)))
    }
}

/// A node of a tenant's workflow, and the broker that has it.
#[derive(Debug, Clone, Copy)]
pub struct NodeAt<'a> {
    pub broker: &'a dyn Broker,
    pub large: &'a dyn LargeValues,
    pub tenant: &'a TenantId,
    pub workflow: WorkflowId,
    pub node: u32,
}

impl NodeAt<'_> {
    /// The node at which another workflow of the tenant ends; none when there is no such workflow.
    async fn end_of(self, workflow: WorkflowId) -> Result<Option<Self>, ValueError> {
        let record = self.broker.workflow(self.tenant, workflow).await?;
        Ok(record.map(|record| Self { workflow, node: record.end, ..self }))
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, ValueError>> + Send + 'a>>;

/// The value of a node as JSON text, at most `max_bytes`: a job's result; of a join the list of its members' values. In
/// the place of a failure that is not minded stands `{"error": {…}}` or `null`, as the node's `on_failure` says.
pub async fn value_of(at: NodeAt<'_>, max_bytes: usize) -> Result<String, ValueError> {
    let mut out = String::new();
    append(at, &[Range::one(at.node)], false, max_bytes, &mut out, 0).await?;
    Ok(out)
}

/// The value of the node at which a workflow ends.
pub async fn workflow_value(
    broker: &dyn Broker,
    large: &dyn LargeValues,
    tenant: &TenantId,
    workflow: WorkflowId,
    max_bytes: usize,
) -> Result<String, ValueError> {
    let end = NodeAt { broker, large, tenant, workflow, node: 0 }.end_of(workflow).await?;
    value_of(end.ok_or(ValueError::None(0))?, max_bytes).await
}

/// Appends the values of the nodes, as a list or (of a single one) as they are.
fn append<'a>(
    at: NodeAt<'a>,
    nodes: &'a [Range],
    list: bool,
    max_bytes: usize,
    out: &'a mut String,
    depth: u32,
) -> Boxed<'a, ()> {
    Box::pin(async move {
        if depth > MAX_DEPTH {
            return Err(ValueError::TooDeep);
        }
        if list {
            out.push('[');
        }
        let mut is_first = true;
        let mut pages = Pages::new(nodes);
        while let Some((first, values)) = pages.next(at).await? {
            for (node, value) in (first..).zip(values) {
                if !std::mem::take(&mut is_first) {
                    out.push(',');
                }
                append_one(NodeAt { node, ..at }, value, max_bytes, out, depth).await?;
                if out.len() > max_bytes {
                    return Err(ValueError::TooLarge(max_bytes));
                }
            }
        }
        if list {
            out.push(']');
        }
        Ok(())
    })
}

/// Reads the values of nodes in order, in pages that grow or shrink with what the last one held: results may be large.
struct Pages<'a> {
    ranges: std::slice::Iter<'a, Range>,
    left: Range,
    size: u32,
}

/// Nodes of the first page.
const FIRST_PAGE: u32 = 64;
/// Bytes of results that a page should hold.
const PAGE_BYTES: usize = 4 << 20;

impl<'a> Pages<'a> {
    fn new(ranges: &'a [Range]) -> Self {
        Self { ranges: ranges.iter(), left: Range { first: 0, count: 0 }, size: FIRST_PAGE }
    }

    /// The next values and the number of the first.
    async fn next(&mut self, at: NodeAt<'_>) -> Result<Option<(u32, Vec<NodeValue>)>, ValueError> {
        while self.left.count == 0 {
            match self.ranges.next() {
                Some(range) => self.left = *range,
                None => return Ok(None),
            }
        }
        let (first, count) = (self.left.first, self.left.count.min(self.size));
        self.left = Range { first: first + count, count: self.left.count - count };
        let values = at.broker.values(at.tenant, at.workflow, first, count).await?;
        let size = |value: &NodeValue| match value {
            NodeValue::Job { result: Some(result), .. } => result.get().len(),
            _ => 0,
        };
        let mean = values.iter().map(size).sum::<usize>() / values.len().max(1);
        self.size = u32::try_from(PAGE_BYTES / mean.max(1)).unwrap_or(u32::MAX).clamp(1, MAX_NODES_A_CALL);
        Ok(Some((first, values)))
    }
}

async fn append_one(
    at: NodeAt<'_>,
    value: NodeValue,
    max_bytes: usize,
    out: &mut String,
    depth: u32,
) -> Result<(), ValueError> {
    match (value.ended(), value.on_failure(), value) {
        (Some(Status::Ok), _, NodeValue::Join { members, .. }) => {
            return append(at, &members, true, max_bytes, out, depth + 1).await;
        }
        (Some(Status::Ok), _, NodeValue::Job { child: Some(child), .. }) => {
            let end = at.end_of(child).await?.ok_or(ValueError::None(at.node))?;
            return append(end, &[Range::one(end.node)], false, max_bytes, out, depth + 1).await;
        }
        (Some(Status::Ok), _, NodeValue::Job { result, .. }) => {
            let text = result.as_ref().map_or("null", |result| result.get());
            match LargeValue::from_reference(text) {
                None => out.push_str(text),
                Some(stored) if out.len() as u64 + stored.bytes > max_bytes as u64 => {
                    return Err(ValueError::TooLarge(max_bytes));
                }
                Some(stored) => out.push_str(&at.large.read(at.tenant, &stored).await?),
            }
        }
        (Some(Status::Failed), OnFailure::Continue, _) => {
            out.push_str(r#"{"error":"#);
            out.push_str(&error_of(at).await?);
            out.push('}');
        }
        (Some(Status::Failed), OnFailure::Ignore, _) | (Some(Status::Skipped), ..) => out.push_str("null"),
        _ => return Err(ValueError::None(at.node)),
    }
    Ok(())
}

impl NodeValue {
    /// How it ended, if it did.
    fn ended(&self) -> Option<Status> {
        match self {
            Self::Job { state, .. } => state.is_terminal().then(|| status_of(*state)),
            Self::Join { status, .. } => *status,
            Self::Missing => None,
        }
    }

    fn on_failure(&self) -> OnFailure {
        match self {
            Self::Job { on_failure, .. } | Self::Join { on_failure, .. } => *on_failure,
            Self::Missing => OnFailure::Fail,
        }
    }
}

/// A job that failed by itself, was cancelled or expired.
#[derive(Debug, Clone)]
pub struct FailedNode {
    pub workflow: WorkflowId,
    pub node: u32,
    pub task: TaskName,
    pub failure: Failure,
}

/// Why a node failed: the jobs at the bottom of it.
#[derive(Debug, Clone, Default)]
pub struct Explanation {
    /// The first `MAX_NAMED`, in the order of the members.
    pub failed: Vec<FailedNode>,
    /// There may be more: the search ends with the last that is named.
    pub more: bool,
    /// Sources that were followed: the members of a group have the same one.
    followed: BTreeSet<(WorkflowId, u32)>,
}

impl Explanation {
    /// One sentence that names what failed.
    pub fn message(&self) -> String {
        let names: Vec<String> =
            self.failed.iter().map(|f| format!("{}[{}] ({})", f.task, f.node, f.failure.kind)).collect();
        let (least, more) = if self.more { ("at least ", " and more") } else { ("", "") };
        format!("{least}{} failed: {}{more}", names.len(), names.join(", "))
    }

    /// The failure of a node that did not run because of these.
    pub fn failure(&self) -> Failure {
        Failure::new(UPSTREAM_FAILED, self.message()).with_details(Some(json!({ "failed": self.list() }).to_string()))
    }

    fn list(&self) -> Vec<Value> {
        // All of them fit into the details of a failure.
        let is_short = self.failed.len() <= 20;
        let shown = |failed: &FailedNode| {
            let mut shown = failed.shown();
            if is_short {
                let message = failed.failure.message.clone();
                shown["message"] = umbel_model::outcome::truncated(message, 256).into();
            }
            shown
        };
        self.failed.iter().map(shown).collect()
    }
}

impl FailedNode {
    fn shown(&self) -> Value {
        json!({
            "job_id": node_job(self.workflow, self.node).to_string(), "node": self.node, "task": self.task.as_str(),
            "kind": self.failure.kind,
        })
    }
}

/// The error of a node as an error callback gets it, JSON text: `kind`, `message` and `details` of a job that failed by
/// itself, with its `job_id`, `node` and `task`; of anything else, what failed below it.
pub async fn error_of(at: NodeAt<'_>) -> Result<String, ValueError> {
    let why = explain(at).await?;
    let error = match &why.failed[..] {
        [one] if (one.workflow, one.node) == (at.workflow, at.node) => {
            let mut own = one.shown();
            own["message"] = one.failure.message.clone().into();
            own["details"] = json!(one.failure.details);
            own
        }
        _ => json!({
            "node": at.node, "kind": UPSTREAM_FAILED, "message": why.message(), "failed": why.list(), "count": why.failed.len(),
            "more": why.more,
        }),
    };
    Ok(error.to_string())
}

/// Which jobs made a node fail.
pub async fn explain(at: NodeAt<'_>) -> Result<Explanation, ValueError> {
    let mut why = Explanation::default();
    follow(at, &[Range::one(at.node)], &mut why, 0).await?;
    if why.failed.is_empty() {
        // A guest may call its own failure so, and what it waited for succeeded: then it is itself what failed.
        let value = at.broker.values(at.tenant, at.workflow, at.node, 1).await?.pop();
        if let Some(NodeValue::Job { state: JobState::Failed, task, failure: Some(failure), .. }) = value {
            why.failed.push(FailedNode { workflow: at.workflow, node: at.node, task, failure });
        }
    }
    Ok(why)
}

fn follow<'a>(at: NodeAt<'a>, nodes: &'a [Range], why: &'a mut Explanation, depth: u32) -> Boxed<'a, ()> {
    Box::pin(async move {
        if depth > MAX_DEPTH {
            return Err(ValueError::TooDeep);
        }
        let mut pages = Pages::new(nodes);
        while let Some((first, values)) = pages.next(at).await? {
            for (node, value) in (first..).zip(values) {
                if why.failed.len() == MAX_NAMED {
                    why.more = true;
                    return Ok(());
                }
                follow_one(NodeAt { node, ..at }, value, depth, why).await?;
            }
        }
        Ok(())
    })
}

async fn follow_one(at: NodeAt<'_>, value: NodeValue, depth: u32, why: &mut Explanation) -> Result<(), ValueError> {
    let (mut at, mut value, mut is_member) = (at, value, depth > 0);
    let mut page = Page::default();
    loop {
        // A member whose failure is not minded is nobody's reason.
        let is_minded = !is_member || value.on_failure() == OnFailure::Fail;
        if value.ended() != Some(Status::Failed) || !is_minded {
            return Ok(());
        }
        let source = match value {
            NodeValue::Missing => None,
            NodeValue::Join { after, members, .. } => {
                let before = why.failed.len();
                follow(at, &members, why, depth + 1).await?;
                // A group whose members never ran.
                after.filter(|_| why.failed.len() == before)
            }
            NodeValue::Job { state, after, failure, child, task, .. } => {
                let upstream = failure.as_ref().is_some_and(|f| f.kind == UPSTREAM_FAILED);
                if let (true, Some(child)) = (upstream, child) {
                    let Some(end) = at.end_of(child).await? else { return Ok(()) };
                    return follow(end, &[Range::one(end.node)], why, depth + 1).await;
                }
                let source = after.filter(|_| upstream);
                if source.is_none() {
                    let said = || format!("it was {}", state.as_str());
                    // What one that was cancelled failed with before it was retried is not why it ended.
                    let own = failure.filter(|_| state == JobState::Failed);
                    let failure = own.unwrap_or_else(|| Failure::new(state.as_str(), said()));
                    why.failed.push(FailedNode { workflow: at.workflow, node: at.node, task, failure });
                }
                source
            }
        };
        let Some(source) = source.filter(|source| why.followed.insert((at.workflow, *source))) else { return Ok(()) };
        value = page.value(at, source).await?;
        (at.node, is_member) = (source, false);
    }
}

/// Values around the one that was asked for last: the steps of a chain follow each other.
#[derive(Default)]
struct Page {
    first: u32,
    values: Vec<NodeValue>,
    /// Nodes read before this one. The steps of a chain that did not run have no results.
    reads: u32,
}

impl Page {
    async fn value(&mut self, at: NodeAt<'_>, node: u32) -> Result<NodeValue, ValueError> {
        let held = |page: &Self| node.checked_sub(page.first).and_then(|at| page.values.get(at as usize).cloned());
        if let Some(value) = held(self) {
            return Ok(value);
        }
        self.reads = (self.reads * 4).clamp(15, MAX_NODES_A_CALL - 1);
        self.first = node.saturating_sub(self.reads);
        self.values = at.broker.values(at.tenant, at.workflow, self.first, node - self.first + 1).await?;
        Ok(held(self).unwrap_or(NodeValue::Missing))
    }
}
