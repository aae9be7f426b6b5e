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

use crate::{Broker, Error, MAX_NODES_A_CALL, NodeValue, Status, UPSTREAM_FAILED};

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
    let record = broker.workflow(tenant, workflow).await?.ok_or(ValueError::None(0))?;
    value_of(NodeAt { broker, large, tenant, workflow, node: record.end }, max_bytes).await
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
    match value {
        NodeValue::Missing => Err(ValueError::None(at.node)),
        NodeValue::Join { members, status: Some(Status::Ok), .. } => {
            append(at, &members, true, max_bytes, out, depth + 1).await
        }
        NodeValue::Join { status: Some(Status::Failed), on_failure: OnFailure::Continue, .. } => {
            append_error(at, out).await
        }
        NodeValue::Join { status: Some(Status::Failed), on_failure: OnFailure::Ignore, .. }
        | NodeValue::Join { status: Some(Status::Skipped), .. } => {
            out.push_str("null");
            Ok(())
        }
        NodeValue::Join { .. } => Err(ValueError::None(at.node)),
        NodeValue::Job { state: JobState::Succeeded, child: Some(child), .. } => {
            let record = at.broker.workflow(at.tenant, child).await?.ok_or(ValueError::None(at.node))?;
            let end = NodeAt { workflow: child, node: record.end, ..at };
            append(end, &[Range::one(record.end)], false, max_bytes, out, depth + 1).await
        }
        NodeValue::Job { state: JobState::Succeeded, result, .. } => {
            let text = result.as_ref().map_or("null", |result| result.get());
            match LargeValue::from_reference(text) {
                None => out.push_str(text),
                Some(stored) if out.len() as u64 + stored.bytes > max_bytes as u64 => {
                    return Err(ValueError::TooLarge(max_bytes));
                }
                Some(stored) => out.push_str(&at.large.read(at.tenant, &stored).await?),
            }
            Ok(())
        }
        NodeValue::Job { state, on_failure, .. } => match (state, on_failure) {
            (JobState::Failed | JobState::Revoked | JobState::Expired, OnFailure::Continue) => {
                append_error(at, out).await
            }
            (JobState::Failed | JobState::Revoked | JobState::Expired, OnFailure::Ignore) | (JobState::Skipped, _) => {
                out.push_str("null");
                Ok(())
            }
            _ => Err(ValueError::None(at.node)),
        },
    }
}

async fn append_error(at: NodeAt<'_>, out: &mut String) -> Result<(), ValueError> {
    let error = error_of(at).await?;
    out.push_str(r#"{"error":"#);
    out.push_str(&error);
    out.push('}');
    Ok(())
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
    /// How many were found.
    pub count: u64,
    /// There may be more: the search ends with the last that is named.
    pub more: bool,
    /// Sources that were followed: the members of a group have the same one.
    followed: BTreeSet<(WorkflowId, u32)>,
}

impl Explanation {
    fn add(&mut self, node: FailedNode) {
        if self.failed.len() < MAX_NAMED {
            self.failed.push(node);
        }
        self.count += 1;
    }

    /// One sentence that names what failed.
    pub fn message(&self) -> String {
        let names: Vec<String> =
            self.failed.iter().map(|f| format!("{}[{}] ({})", f.task, f.node, f.failure.kind)).collect();
        let (least, more) = if self.more { ("at least ", " and more") } else { ("", "") };
        format!("{least}{} failed: {}{more}", self.count, names.join(", "))
    }

    /// The failure of a node that did not run because of these.
    pub fn failure(&self) -> Failure {
        Failure::new(UPSTREAM_FAILED, self.message()).with_details(Some(json!({ "failed": self.list() }).to_string()))
    }

    fn list(&self) -> Vec<Value> {
        // All of them fit into the details of a failure.
        let room = if self.failed.len() > 20 { 0 } else { 256 };
        let shown = |f: &FailedNode| {
            let mut shown = json!({
                "job_id": node_job(f.workflow, f.node).to_string(), "node": f.node, "task": f.task.as_str(),
                "kind": f.failure.kind,
            });
            if room > 0 {
                shown["message"] = umbel_model::outcome::truncated(f.failure.message.clone(), room).into();
            }
            shown
        };
        self.failed.iter().map(shown).collect()
    }
}

/// The error of a node as an error callback gets it, JSON text: `kind`, `message` and `details` of a job that failed by
/// itself, with its `job_id`, `node` and `task`; of anything else, what failed below it.
pub async fn error_of(at: NodeAt<'_>) -> Result<String, ValueError> {
    let why = explain(at).await?;
    let own = match &why.failed[..] {
        [one] if one.workflow == at.workflow && one.node == at.node => Some(one),
        _ => None,
    };
    let error = match own {
        Some(one) => json!({
            "job_id": node_job(one.workflow, one.node).to_string(), "node": one.node, "task": one.task.as_str(),
            "kind": one.failure.kind, "message": one.failure.message, "details": one.failure.details,
        }),
        None => json!({
            "node": at.node, "kind": UPSTREAM_FAILED, "message": why.message(), "failed": why.list(), "count": why.count,
            "more": why.more,
        }),
    };
    Ok(error.to_string())
}

/// Which jobs made a node fail.
pub async fn explain(at: NodeAt<'_>) -> Result<Explanation, ValueError> {
    let mut why = Explanation::default();
    follow(at, &[Range::one(at.node)], &mut why, 0).await?;
    if why.count == 0 {
        // A guest may call its own failure so, and what it waited for succeeded: then it is itself what failed.
        let value = at.broker.values(at.tenant, at.workflow, at.node, 1).await?.pop();
        if let Some(NodeValue::Job { state: JobState::Failed, task, failure: Some(failure), .. }) = value {
            why.add(FailedNode { workflow: at.workflow, node: at.node, task, failure });
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
        let source = match value {
            NodeValue::Missing => return Ok(()),
            NodeValue::Join { after, members, on_failure, status } => {
                let minded = !is_member || on_failure == OnFailure::Fail;
                if status != Some(Status::Failed) || !minded {
                    return Ok(());
                }
                let before = why.count;
                follow(at, &members, why, depth + 1).await?;
                // A group whose members never ran.
                after.filter(|_| why.count == before)
            }
            NodeValue::Job { state, on_failure, after, failure, child, task, .. } => {
                // A member whose failure is not minded is nobody's reason.
                let minded = !is_member || on_failure == OnFailure::Fail;
                if !matches!(state, JobState::Failed | JobState::Revoked | JobState::Expired) || !minded {
                    return Ok(());
                }
                let upstream = failure.as_ref().is_some_and(|f| f.kind == UPSTREAM_FAILED);
                if let (true, Some(child)) = (upstream, child) {
                    let Some(record) = at.broker.workflow(at.tenant, child).await? else { return Ok(()) };
                    let end = NodeAt { workflow: child, node: record.end, ..at };
                    return follow(end, &[Range::one(record.end)], why, depth + 1).await;
                }
                let source = after.filter(|_| upstream);
                if source.is_none() {
                    let said = || format!("it was {}", state.as_str());
                    // What one that was cancelled failed with before it was retried is not why it ended.
                    let own = failure.filter(|_| state == JobState::Failed);
                    let failure = own.unwrap_or_else(|| Failure::new(state.as_str(), said()));
                    why.add(FailedNode { workflow: at.workflow, node: at.node, task, failure });
                }
                source
            }
        };
        let Some(source) = source else { return Ok(()) };
        if !why.followed.insert((at.workflow, source)) {
            return Ok(());
        }
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
