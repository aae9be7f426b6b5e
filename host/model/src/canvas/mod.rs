//! Canvas: how tasks are composed, as one JSON form, and the graph that it becomes.
//!
//! A canvas is a step: a task, or steps in a chain, a group or a chord, nested. `plan` turns it into the normal form, a
//! graph of nodes and edges in which every node ends exactly once; the brokers know that form only.

mod form;
mod plan;
mod resume;

pub use form::{Canvas, Each, OnFailure, Shape, Signature, Values};
pub use plan::{
    CanvasError, CanvasLimits, Join, MAX_DEPTH, MAX_NODES, Node, Plan, Range, When, Work, plan, plan_members,
    push as push_range,
};
pub use resume::{NodeEnd, resume};

use crate::JobId;

/// The id of a workflow: a ULID whose low 32 bits are zero. Its node `n` is the job with the id `workflow + n + 1`.
pub type WorkflowId = JobId;

/// The id of node `node` of a workflow.
pub fn node_job(workflow: WorkflowId, node: u32) -> JobId {
    JobId::from_bytes((u128::from_be_bytes(workflow.to_bytes()) + u128::from(node) + 1).to_be_bytes())
}

/// The workflow and the number of a node, from the id of its job. Only meaningful for the job of a workflow.
pub fn node_of(job: JobId) -> (WorkflowId, u32) {
    (workflow_id(job), (u128::from_be_bytes(job.to_bytes()) as u32).wrapping_sub(1))
}

/// A workflow's id made of any new id.
pub fn workflow_id(fresh: JobId) -> WorkflowId {
    let bits = u128::from_be_bytes(fresh.to_bytes());
    JobId::from_bytes((bits & !u128::from(u32::MAX)).to_be_bytes())
}

#[cfg(test)]
mod tests;
