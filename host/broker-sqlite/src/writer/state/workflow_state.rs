//! Workflows that a group of operations works on: read once, changed in memory, written once before the commit.
//!
//! A chord's join and its workflow change with each member that ends; a group in which 200 of them end writes both
//! once. Between groups nothing is kept but the number of work items, so that memory does not grow with workflows.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
};

use rusqlite::Connection;
use umbel_broker::{
    NodeTemplate, Status, WorkflowState,
    rules::join::JoinProgress,
    scheduler::{QueueId, Scheduler},
};
use umbel_model::{
    JobId, JobState, OnFailure, TenantId, UnixMs, WorkflowId,
    canvas::{Range, When},
};

use crate::writer::state::work_items::WorkItems;
use crate::{
    error::Fault,
    rows::{JobCounts, Numbered, first, one, progress, read, update},
    templates::{decode_template, select_template},
};

/// A workflow's row.
#[derive(Debug, Clone)]
pub(crate) struct StoredWorkflow {
    pub(crate) id: WorkflowId,
    pub(crate) tenant: TenantId,
    pub(crate) nodes: u32,
    pub(crate) end: u32,
    pub(crate) parent: Option<JobId>,
    pub(crate) depth: u32,
    pub(crate) deadline_ms: u64,
    pub(crate) keep_ms: u64,
    pub(crate) staged: bool,
    pub(crate) created_at: UnixMs,
    pub(crate) deadline_at: Option<UnixMs>,
    pub(crate) finished_at: Option<UnixMs>,
    pub(crate) delete_at: Option<UnixMs>,
    pub(crate) state: WorkflowState,
    /// How it was cancelled.
    pub(crate) cancelled: Option<JobState>,
    /// How its end node ended, adjusted.
    pub(crate) end_status: Option<Status>,
    /// The job that it replaced was deleted.
    pub(crate) orphaned: bool,
    /// Nodes deleted so far; from the first on nobody finds it any more.
    pub(crate) pruned: Option<u32>,
    /// In the order of `JobState::ALL`.
    pub(crate) jobs: JobCounts,
    changed: bool,
}

impl StoredWorkflow {
    pub(crate) fn is_running(&self) -> bool {
        !self.staged && self.state == WorkflowState::Running && self.pruned.is_none()
    }

    /// Whether nobody is to find it: not started yet, or half deleted.
    pub(crate) fn is_hidden(&self) -> bool {
        self.staged || self.pruned.is_some()
    }

    /// Whether a job of it has not ended.
    pub(crate) fn is_open(&self) -> bool {
        JobState::ALL.iter().zip(self.jobs).any(|(state, count)| count > 0 && !state.is_terminal())
    }
}

/// A join: its row, and what its node says of it.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) when: When,
    pub(crate) on_failure: OnFailure,
    pub(crate) next: Vec<Range>,
    pub(crate) members: Vec<Range>,
    pub(crate) scope: Vec<Range>,
    pub(crate) cancel_rest: bool,
    pub(crate) progress: JoinProgress,
    changed: bool,
}

/// A template, and the tenant queue of its jobs.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) of: NodeTemplate,
    pub(crate) queue_id: QueueId,
}

#[derive(Debug, Default)]
pub(crate) struct WorkflowStates {
    pub(crate) work_items: WorkItems,
    workflows: HashMap<i64, StoredWorkflow>,
    joins: HashMap<(i64, u32), Join>,
    templates: HashMap<(i64, u32), Arc<Template>>,
    /// Workflows that may be over since the step under way.
    touched: BTreeSet<i64>,
}

pub(crate) const FLOW: &str =
    "SELECT id, tenant, nodes, end_node, parent, depth, deadline_ms, keep_ms, staged, created_at,
    deadline_at, finished_at, delete_at, state, cancelled, end_status, orphaned, pruned, jobs FROM workflow WHERE rid = ?";
pub(crate) const FLOW_BY_ID: &str = "SELECT rid FROM workflow INDEXED BY workflow_id WHERE tenant = ? AND id = ?";
pub(crate) const JOIN: &str = "SELECT error_callback, on_failure, next, members, scope, cancel_rest, pending, failed,
    skipped, status FROM node CROSS JOIN gate ON gate.workflow = node.workflow AND gate.number = node.number
    WHERE node.workflow = ? AND node.number = ?";
pub(crate) const TEMPLATE: &str = select_template!("n = ?");

/// The row of a tenant's workflow.
pub(crate) fn find(conn: &Connection, tenant: &TenantId, id: WorkflowId) -> Result<Option<i64>, Fault> {
    one(conn, FLOW_BY_ID, &[tenant, &id], first)
}

impl WorkflowStates {
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        Ok(Self { work_items: WorkItems::load(conn)?, ..Self::default() })
    }

    /// To be looked at.
    pub(crate) fn flow(&mut self, conn: &Connection, rid: i64) -> Result<&StoredWorkflow, Fault> {
        self.read(conn, rid).map(|flow| &*flow)
    }

    fn read(&mut self, conn: &Connection, rid: i64) -> Result<&mut StoredWorkflow, Fault> {
        Ok(match self.workflows.entry(rid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(load_flow(conn, rid)?),
        })
    }

    /// To be changed.
    pub(crate) fn flow_mut(&mut self, conn: &Connection, rid: i64) -> Result<&mut StoredWorkflow, Fault> {
        let flow = self.read(conn, rid)?;
        flow.changed = true;
        Ok(flow)
    }

    /// Counts a job that came, went from one state to another, or was taken out.
    pub(crate) fn count(
        &mut self,
        conn: &Connection,
        rid: i64,
        from: Option<JobState>,
        to: Option<JobState>,
    ) -> Result<(), Fault> {
        let flow = self.flow_mut(conn, rid)?;
        if let Some(from) = from {
            let count = &mut flow.jobs[from.number() as usize];
            *count = count.saturating_sub(1);
        }
        if let Some(to) = to {
            flow.jobs[to.number() as usize] += 1;
        }
        self.touch(rid);
        Ok(())
    }

    pub(crate) fn touch(&mut self, rid: i64) {
        self.touched.insert(rid);
    }

    pub(crate) fn take_touched(&mut self) -> BTreeSet<i64> {
        std::mem::take(&mut self.touched)
    }

    pub(crate) fn knows_join(&self, workflow: i64, number: u32) -> bool {
        self.joins.contains_key(&(workflow, number))
    }

    /// To be changed; none when there is no such join.
    pub(crate) fn join(&mut self, conn: &Connection, workflow: i64, number: u32) -> Result<Option<&mut Join>, Fault> {
        let join = match self.joins.entry((workflow, number)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => match load_join(conn, workflow, number)? {
                Some(join) => entry.insert(join),
                None => return Ok(None),
            },
        };
        join.changed = true;
        Ok(Some(join))
    }

    pub(crate) fn template(
        &mut self,
        conn: &Connection,
        scheduler: &Scheduler<i64>,
        workflow: i64,
        n: u32,
    ) -> Result<Arc<Template>, Fault> {
        if let Some(known) = self.templates.get(&(workflow, n)) {
            return Ok(known.clone());
        }
        let tenant = self.flow(conn, workflow)?.tenant.clone();
        let of = one(conn, TEMPLATE, &[&workflow, &n], decode_template)?;
        let of = of.ok_or_else(|| Fault::stored("node", format!("there is no template {n}")))?;
        let queue_id =
            scheduler.find_any(&tenant, &of.queue).ok_or_else(|| Fault::stored("template", "its queue is missing"))?;
        let template = Arc::new(Template { of, queue_id });
        self.templates.insert((workflow, n), template.clone());
        Ok(template)
    }

    /// Forgets a workflow whose rows were deleted.
    pub(crate) fn drop_flow(&mut self, rid: i64) {
        self.workflows.remove(&rid);
        self.touched.remove(&rid);
        self.templates.retain(|(workflow, _), _| *workflow != rid);
        self.drop_joins(rid);
    }

    /// Forgets the joins of a workflow, before rows of them are changed by statements.
    pub(crate) fn drop_joins(&mut self, rid: i64) {
        self.joins.retain(|(workflow, _), _| *workflow != rid);
    }

    /// Writes what changed of workflows and joins, for statements that look for it.
    pub(crate) fn write(&mut self, conn: &Connection) -> Result<(), Fault> {
        for (rid, flow) in self.workflows.iter_mut().filter(|(_, flow)| flow.changed) {
            save_flow(conn, *rid, flow)?;
            flow.changed = false;
        }
        for ((workflow, number), join) in self.joins.iter_mut().filter(|(_, join)| join.changed) {
            save_join(conn, *workflow, *number, join)?;
            join.changed = false;
        }
        Ok(())
    }

    /// Writes all that the group changed.
    pub(crate) fn flush(&mut self, conn: &Connection) -> Result<(), Fault> {
        self.write(conn)?;
        self.work_items.flush(conn)
    }

    /// The group was committed.
    pub(crate) fn keep(&mut self) {
        self.work_items.keep();
        self.forget();
    }

    /// The group was rolled back.
    pub(crate) fn undo(&mut self) {
        self.work_items.undo();
        self.forget();
    }

    /// Forgets what was read of workflows, all of it written: their rows were changed by statements.
    pub(crate) fn forget_known(&mut self) {
        self.workflows.clear();
        self.joins.clear();
        self.templates.clear();
    }

    fn forget(&mut self) {
        self.forget_known();
        self.touched.clear();
    }
}

fn load_flow(conn: &Connection, rid: i64) -> Result<StoredWorkflow, Fault> {
    let found = one(conn, FLOW, &[&rid], |row| {
        Ok(read!(row => StoredWorkflow {
            id, tenant, nodes, end, parent, depth, deadline_ms, keep_ms, staged, created_at, deadline_at, finished_at,
            delete_at, state, cancelled, end_status, orphaned, pruned, jobs; changed: false
        }))
    })?;
    found.ok_or_else(|| Fault::stored("node", "its workflow is missing"))
}

fn save_flow(conn: &Connection, rid: i64, flow: &StoredWorkflow) -> Result<(), Fault> {
    update!(conn, "workflow" {
        nodes: flow.nodes, staged: flow.staged, created_at: flow.created_at, deadline_at: flow.deadline_at,
        finished_at: flow.finished_at, delete_at: flow.delete_at, state: flow.state, cancelled: flow.cancelled,
        end_status: flow.end_status, orphaned: flow.orphaned, pruned: flow.pruned, jobs: flow.jobs
    } "rid = ?", rid)
}

fn load_join(conn: &Connection, workflow: i64, number: u32) -> Result<Option<Join>, Fault> {
    one(conn, JOIN, &[&workflow, &number], |row| {
        let progress = progress(row, 6)?;
        Ok(read!(row => Join {
            when, on_failure, next, members, scope, cancel_rest; progress: progress, changed: false
        }))
    })
}

fn save_join(conn: &Connection, workflow: i64, number: u32, join: &Join) -> Result<(), Fault> {
    let JoinProgress { pending, failed, skipped, status } = join.progress;
    update!(conn, "gate" {
        pending: pending, failed: failed, skipped: skipped, status: status
    } "workflow = ? AND number = ?", workflow, number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_look_at_a_workflow_costs_more_because_more_are_stored() {
        for sql in [FLOW, FLOW_BY_ID, JOIN, TEMPLATE] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
