//! A workflow's graph, nested again as it was written: chains, groups, chords and callbacks.
//!
//! Large workflows are not read whole. The tree is built from the nodes that have been read; then the nodes that were
//! missing are read, and it is built again, until no node is missing that the caps let it show.

mod build;
mod labels;

use std::collections::HashMap;

use serde::Serialize;
pub(crate) use umbel_broker::UPSTREAM_FAILED;
use umbel_broker::{Broker, NodeRecord, NodeWork, Results, WorkflowRecord};
use umbel_model::canvas::{Range, When, node_job};
use utoipa::ToSchema;

use crate::{
    problem::{Problem, Result},
    time::Timestamp,
    views,
    views::{items_of, label_of, state_of},
};
use build::Builder;
use labels::Labels;

/// Pages read for one tree. A tree that needs more leaves the rest out.
const MAX_PAGES: u32 = 64;
/// Nodes of a page.
const PAGE: u32 = 256;

/// How much of a workflow is shown.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    pub(crate) nodes: u32,
    /// Members of one group.
    pub(crate) members: u32,
}

impl Caps {
    pub(crate) const OF_TREE: Self = Self { nodes: 2_000, members: 2_000 };
    pub(crate) const OF_PICTURE: Self = Self { nodes: 400, members: 12 };
}

/// The steps of a workflow, from the outermost one.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tree {
    pub(crate) workflow: String,
    /// Nodes of the workflow, those of them that are shown, and the rest.
    pub(crate) nodes: u32,
    pub(crate) nodes_shown: u32,
    pub(crate) nodes_left_out: u32,
    #[serde(flatten)]
    pub(crate) root: TreeStep,
}

/// A step and what is in it. `kind` says which of the fields it has.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct TreeStep {
    /// `task`, `chain`, `group`, `chord`.
    pub(crate) kind: &'static str,
    /// Of a task; of a group and a chord, the join at the group's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<views::JobState>)]
    pub(crate) state: Option<&'static str>,
    /// Of a map or starmap: how often its task is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) items: Option<u32>,
    /// Id of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) job: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finished_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retries: Option<u32>,
    /// Kind of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The workflow that replaced the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) replaced_by: Option<String>,
    /// Of a chain, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub(crate) steps: Vec<TreeStep>,
    /// Of a group or a chord, in order; those that failed first, when some are left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub(crate) members: Vec<TreeStep>,
    /// Members of the group, shown or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u32>,
    /// Members that the group still waits for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pending: Option<u32>,
    /// Members that failed, where that is minded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<u32>,
    /// Members of a group; or steps of a chain, the first ones (0: so many that they were not counted), that are not shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) left_out: Option<u32>,
    /// Of a chord.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(no_recursion)]
    pub(crate) body: Option<Box<TreeStep>>,
    /// Steps that start when it has succeeded, apart from the next one in its chain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub(crate) link: Vec<TreeStep>,
    /// Steps that start when it has failed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub(crate) link_error: Vec<TreeStep>,
}

/// A node that has been read: its edges, and the step that shows it alone.
#[derive(Debug)]
struct Known {
    when: When,
    after: Option<u32>,
    group: Option<u32>,
    next: Vec<Range>,
    /// Of a join: its members' ends, and all nodes of theirs.
    join: Option<(Vec<Range>, Vec<Range>)>,
    step: TreeStep,
}

/// The nodes that have been read, by number. None for one that is deleted.
type Nodes = HashMap<u32, Option<Known>>;

/// The tree of a workflow.
pub(crate) async fn of(broker: &dyn Broker, record: &WorkflowRecord, caps: Caps) -> Result<Tree> {
    let mut nodes = Nodes::new();
    let mut pages = 0;
    loop {
        let end = record.end;
        // Off the async threads: it has thousands of steps.
        let building = tokio::task::spawn_blocking(move || {
            let mut builder = Builder::new(&nodes, caps);
            let root = builder.root(end);
            let Builder { missing, shown, .. } = builder;
            (root, missing, shown, nodes)
        });
        let (root, missing, shown, at_hand) = building.await.map_err(|_| Problem::see_log())?;
        nodes = at_hand;
        if missing.is_empty() || pages >= MAX_PAGES {
            let mut root = root;
            Labels::of(&record.spec).give(&mut root);
            return Ok(Tree {
                workflow: record.id.to_string(),
                nodes: record.nodes,
                nodes_shown: shown,
                nodes_left_out: record.nodes.saturating_sub(shown),
                root,
            });
        }
        for number in missing {
            if nodes.contains_key(&number) || pages >= MAX_PAGES {
                continue;
            }
            pages += 1;
            // The nodes before it are likely to be needed as well as those behind it.
            let mut first = number / PAGE * PAGE;
            // A page of large nodes ends before it has so many.
            while nodes.contains_key(&first) {
                first += 1;
            }
            let count = PAGE - first % PAGE;
            let page = broker.nodes(&record.tenant, record.id, first, count, Results::Omitted).await?;
            (first..page.next).for_each(|number| {
                nodes.entry(number).or_insert(None);
            });
            nodes.extend(page.nodes.into_iter().map(|node| (node.number, Some(Known::new(record, node)))));
        }
    }
}

impl Known {
    fn new(workflow: &WorkflowRecord, node: NodeRecord) -> Self {
        let state = Some(state_of(&node));
        let NodeRecord { number, when, after, group, next, work, .. } = node;
        let plain = TreeStep { node: Some(number), state, ..TreeStep::default() };
        let (join, step) = match work {
            NodeWork::Join { members, scope, pending, failed, .. } => {
                let count = members.iter().map(|range| range.count).sum();
                let pending = if count == 0 { 0 } else { pending };
                let (count, pending, failed) = (Some(count), Some(pending), Some(failed));
                (Some((members, scope)), TreeStep { kind: "group", count, pending, failed, ..plain })
            }
            NodeWork::Job { record, .. } => {
                let step = TreeStep {
                    kind: "task",
                    label: label_of(&record),
                    items: items_of(&record),
                    task: Some(record.task.into()),
                    job: Some(node_job(workflow.id, number).to_string()),
                    started_at: record.started_at.map(Timestamp),
                    finished_at: record.finished_at.map(Timestamp),
                    retries: Some(record.retries),
                    error: record.failure.map(|failure| failure.kind),
                    replaced_by: record.child.map(|id| id.to_string()),
                    ..plain
                };
                (None, step)
            }
        };
        Self { when, after, group, next, join, step }
    }
}

#[cfg(test)]
mod tests;
