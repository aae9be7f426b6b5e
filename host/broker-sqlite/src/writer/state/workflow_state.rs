//! Workflows that a group of operations works on: read once, changed in memory, written once before the commit.
//!
//! A chord's join and its workflow change with each member that ends; a group in which 200 of them end writes both
//! once. Between groups nothing is kept but the number of work items, so that memory does not grow with workflows.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
};

use rusqlite::{Connection, OptionalExtension, params};
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
    rows::{self, JobCounts, int, number, small, state_number, status_number, time},
    templates::decode_template,
};

/// A workflow's row.
#[derive(Debug, Clone)]
pub(in crate::writer) struct StoredWorkflow {
    pub(in crate::writer) id: WorkflowId,
    pub(in crate::writer) tenant: TenantId,
    pub(in crate::writer) nodes: u32,
    pub(in crate::writer) end: u32,
    pub(in crate::writer) parent: Option<JobId>,
    pub(in crate::writer) depth: u32,
    pub(in crate::writer) deadline_ms: u64,
    pub(in crate::writer) keep_ms: u64,
    pub(in crate::writer) staged: bool,
    pub(in crate::writer) created_at: UnixMs,
    pub(in crate::writer) deadline_at: Option<UnixMs>,
    pub(in crate::writer) finished_at: Option<UnixMs>,
    pub(in crate::writer) delete_at: Option<UnixMs>,
    pub(in crate::writer) state: WorkflowState,
    /// How it was cancelled.
    pub(in crate::writer) cancelled: Option<JobState>,
    /// How its end node ended, adjusted.
    pub(in crate::writer) end_status: Option<Status>,
    /// The job that it replaced was deleted.
    pub(in crate::writer) orphaned: bool,
    /// Nodes deleted so far; from the first on nobody finds it any more.
    pub(in crate::writer) pruned: Option<u32>,
    /// In the order of `JobState::ALL`.
    pub(in crate::writer) jobs: JobCounts,
    changed: bool,
}

impl StoredWorkflow {
    pub(in crate::writer) fn is_running(&self) -> bool {
        !self.staged && self.state == WorkflowState::Running && self.pruned.is_none()
    }

    /// Whether nobody is to find it: not started yet, or half deleted.
    pub(in crate::writer) fn is_hidden(&self) -> bool {
        self.staged || self.pruned.is_some()
    }

    /// Whether a job of it has not ended.
    pub(in crate::writer) fn is_open(&self) -> bool {
        JobState::ALL.iter().zip(self.jobs).any(|(state, count)| count > 0 && !state.is_terminal())
    }
}

/// A join: its row, and what its node says of it.
#[derive(Debug)]
pub(in crate::writer) struct Join {
    pub(in crate::writer) when: When,
    pub(in crate::writer) on_failure: OnFailure,
    pub(in crate::writer) next: Vec<Range>,
    pub(in crate::writer) members: Vec<Range>,
    pub(in crate::writer) scope: Vec<Range>,
    pub(in crate::writer) cancel_rest: bool,
    pub(in crate::writer) progress: JoinProgress,
    changed: bool,
}

/// A template, and the tenant queue of its jobs.
#[derive(Debug)]
pub(in crate::writer) struct Template {
    pub(in crate::writer) of: NodeTemplate,
    pub(in crate::writer) queue_id: QueueId,
}

#[derive(Debug)]
pub(in crate::writer) struct WorkflowStates {
    pub(in crate::writer) work_items: WorkItems,
    workflows: HashMap<i64, StoredWorkflow>,
    joins: HashMap<(i64, u32), Join>,
    templates: HashMap<(i64, u32), Arc<Template>>,
    /// Workflows that may be over since the step under way.
    touched: BTreeSet<i64>,
}

pub(in crate::writer) const FLOW: &str =
    "SELECT id, tenant, nodes, end_node, parent, depth, deadline_ms, keep_ms, staged, created_at,
    deadline_at, finished_at, delete_at, state, cancelled, end_status, pruned, jobs, orphaned FROM workflow WHERE rid = ?";
pub(in crate::writer) const FLOW_BY_ID: &str =
    "SELECT rid FROM workflow INDEXED BY workflow_id WHERE tenant = ? AND id = ?";
pub(in crate::writer) const JOIN: &str =
    "SELECT error_callback, on_failure, next, members, scope, cancel_rest, pending, failed,
    skipped, status FROM node CROSS JOIN gate ON gate.workflow = node.workflow AND gate.number = node.number
    WHERE node.workflow = ? AND node.number = ?";
pub(in crate::writer) const TEMPLATE: &str =
    "SELECT task, queue, priority, start_after_ms, start_at, expires_ms, max_deliveries,
    nodes, spec FROM template WHERE workflow = ? AND n = ?";

/// The row of a tenant's workflow.
pub(in crate::writer) fn find(conn: &Connection, tenant: &TenantId, id: WorkflowId) -> Result<Option<i64>, Fault> {
    let mut statement = conn.prepare_cached(FLOW_BY_ID)?;
    Ok(statement.query_row(params![tenant.as_str(), id.to_bytes()], |row| row.get(0)).optional()?)
}

impl WorkflowStates {
    pub(in crate::writer) fn load(conn: &Connection) -> Result<Self, Fault> {
        Ok(Self {
            work_items: WorkItems::load(conn)?,
            workflows: HashMap::new(),
            joins: HashMap::new(),
            templates: HashMap::new(),
            touched: BTreeSet::new(),
        })
    }

    /// To be looked at.
    pub(in crate::writer) fn flow(&mut self, conn: &Connection, rid: i64) -> Result<&StoredWorkflow, Fault> {
        Ok(match self.workflows.entry(rid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(load_flow(conn, rid)?),
        })
    }

    /// To be changed.
    pub(in crate::writer) fn flow_mut(&mut self, conn: &Connection, rid: i64) -> Result<&mut StoredWorkflow, Fault> {
        let flow = match self.workflows.entry(rid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(load_flow(conn, rid)?),
        };
        flow.changed = true;
        Ok(flow)
    }

    /// Counts a job that came, went from one state to another, or was taken out.
    pub(in crate::writer) fn count(
        &mut self,
        conn: &Connection,
        rid: i64,
        from: Option<JobState>,
        to: Option<JobState>,
    ) -> Result<(), Fault> {
        let flow = self.flow_mut(conn, rid)?;
        if let Some(from) = from {
            let count = &mut flow.jobs[state_number(from) as usize];
            *count = count.saturating_sub(1);
        }
        if let Some(to) = to {
            flow.jobs[state_number(to) as usize] += 1;
        }
        self.touch(rid);
        Ok(())
    }

    pub(in crate::writer) fn touch(&mut self, rid: i64) {
        self.touched.insert(rid);
    }

    pub(in crate::writer) fn take_touched(&mut self) -> BTreeSet<i64> {
        std::mem::take(&mut self.touched)
    }

    pub(in crate::writer) fn knows_join(&self, workflow: i64, number: u32) -> bool {
        self.joins.contains_key(&(workflow, number))
    }

    /// To be changed; none when there is no such join.
    pub(in crate::writer) fn join(
        &mut self,
        conn: &Connection,
        workflow: i64,
        number: u32,
    ) -> Result<Option<&mut Join>, Fault> {
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

    pub(in crate::writer) fn template(
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
        let mut statement = conn.prepare_cached(TEMPLATE)?;
        let mut rows = statement.query(params![workflow, n])?;
        let row = rows.next()?.ok_or_else(|| Fault::stored("node", format!("there is no template {n}")))?;
        let of = decode_template(row)?;
        let queue_id =
            scheduler.find_any(&tenant, &of.queue).ok_or_else(|| Fault::stored("template", "its queue is missing"))?;
        let template = Arc::new(Template { of, queue_id });
        self.templates.insert((workflow, n), template.clone());
        Ok(template)
    }

    /// Forgets a workflow whose rows were deleted.
    pub(in crate::writer) fn drop_flow(&mut self, rid: i64) {
        self.workflows.remove(&rid);
        self.touched.remove(&rid);
        self.templates.retain(|(workflow, _), _| *workflow != rid);
        self.drop_joins(rid);
    }

    /// Forgets the joins of a workflow, before rows of them are changed by statements.
    pub(in crate::writer) fn drop_joins(&mut self, rid: i64) {
        self.joins.retain(|(workflow, _), _| *workflow != rid);
    }

    /// Writes what changed of workflows and joins, for statements that look for it.
    pub(in crate::writer) fn write(&mut self, conn: &Connection) -> Result<(), Fault> {
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
    pub(in crate::writer) fn flush(&mut self, conn: &Connection) -> Result<(), Fault> {
        self.write(conn)?;
        self.work_items.flush(conn)
    }

    /// The group was committed.
    pub(in crate::writer) fn keep(&mut self) {
        self.work_items.keep();
        self.forget();
    }

    /// The group was rolled back.
    pub(in crate::writer) fn undo(&mut self) {
        self.work_items.undo();
        self.forget();
    }

    /// Forgets what was read of workflows, all of it written: their rows were changed by statements.
    pub(in crate::writer) fn forget_known(&mut self) {
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
    let mut statement = conn.prepare_cached(FLOW)?;
    let mut rows = statement.query([rid])?;
    let row = rows.next()?.ok_or_else(|| Fault::stored("node", "its workflow is missing"))?;
    Ok(StoredWorkflow {
        id: rows::id(row, 0)?,
        tenant: rows::name(row, 1)?,
        nodes: small(row, 2)?,
        end: small(row, 3)?,
        parent: rows::id_or_none(row, 4)?,
        depth: small(row, 5)?,
        deadline_ms: number(row, 6)?,
        keep_ms: number(row, 7)?,
        staged: row.get(8)?,
        created_at: number(row, 9)?,
        deadline_at: time(row, 10)?,
        finished_at: time(row, 11)?,
        delete_at: time(row, 12)?,
        state: rows::workflow_state(row, 13)?,
        cancelled: rows::state_or_none(row, 14)?,
        end_status: rows::status_or_none(row, 15)?,
        pruned: row.get(16)?,
        jobs: rows::counts(row, 17)?,
        orphaned: row.get(18)?,
        changed: false,
    })
}

fn save_flow(conn: &Connection, rid: i64, flow: &StoredWorkflow) -> Result<(), Fault> {
    let sql =
        "UPDATE workflow SET nodes = ?, staged = ?, created_at = ?, deadline_at = ?, finished_at = ?, delete_at = ?,
        state = ?, cancelled = ?, end_status = ?, orphaned = ?, pruned = ?, jobs = ? WHERE rid = ?";
    conn.prepare_cached(sql)?.execute(params![
        flow.nodes,
        flow.staged,
        int(flow.created_at),
        flow.deadline_at.map(int),
        flow.finished_at.map(int),
        flow.delete_at.map(int),
        rows::workflow_state_number(flow.state),
        flow.cancelled.map(state_number),
        flow.end_status.map(status_number),
        flow.orphaned,
        flow.pruned,
        rows::counts_blob(&flow.jobs),
        rid,
    ])?;
    Ok(())
}

fn load_join(conn: &Connection, workflow: i64, number: u32) -> Result<Option<Join>, Fault> {
    let mut statement = conn.prepare_cached(JOIN)?;
    let mut rows = statement.query(params![workflow, number])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Join {
        when: rows::when(row, 0)?,
        on_failure: rows::on_failure(row, 1)?,
        next: rows::ranges(row, 2)?,
        members: rows::ranges(row, 3)?,
        scope: rows::ranges(row, 4)?,
        cancel_rest: row.get(5)?,
        progress: JoinProgress {
            pending: small(row, 6)?,
            failed: small(row, 7)?,
            skipped: small(row, 8)?,
            status: rows::status_or_none(row, 9)?,
        },
        changed: false,
    }))
}

fn save_join(conn: &Connection, workflow: i64, number: u32, join: &Join) -> Result<(), Fault> {
    let sql = "UPDATE gate SET pending = ?, failed = ?, skipped = ?, status = ? WHERE workflow = ? AND number = ?";
    let JoinProgress { pending, failed, skipped, status } = join.progress;
    let row = params![pending, failed, skipped, status.map(status_number), workflow, number];
    conn.prepare_cached(sql)?.execute(row)?;
    Ok(())
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
