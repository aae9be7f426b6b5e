//! What a group of operations knows of workflows: read once, changed in memory, written once before the commit.
//!
//! A chord's join and its workflow change with each member that ends; a group in which 200 of them end writes both once.
//! Between groups nothing is kept but the number of work items, so that memory does not grow with workflows.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    sync::Arc,
};

use rusqlite::{Connection, OptionalExtension, params};
use umbel_broker::{
    NodeTemplate, Status, WorkflowState,
    scheduler::{QueueId, Scheduler},
};
use umbel_model::{
    JobId, JobState, OnFailure, TenantId, UnixMs, WorkflowId,
    canvas::{Range, When},
};

use super::todo::Todo;
use crate::{
    error::Fault,
    rows::{self, JobCounts, int, number, small, state_number, status_number, time},
    workflows::decode_template,
};

/// A workflow's row.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub(super) id: WorkflowId,
    pub(super) tenant: TenantId,
    pub(super) nodes: u32,
    pub(super) end: u32,
    pub(super) parent: Option<JobId>,
    pub(super) depth: u32,
    pub(super) deadline_ms: u64,
    pub(super) keep_ms: u64,
    pub(super) staged: bool,
    pub(super) created_at: UnixMs,
    pub(super) deadline_at: Option<UnixMs>,
    pub(super) finished_at: Option<UnixMs>,
    pub(super) delete_at: Option<UnixMs>,
    pub(super) state: WorkflowState,
    /// How it was cancelled.
    pub(super) cancelled: Option<JobState>,
    /// How its end node ended, adjusted.
    pub(super) end_status: Option<Status>,
    /// The job that it replaced was deleted.
    pub(super) orphaned: bool,
    /// Nodes deleted so far; from the first on nobody finds it any more.
    pub(super) pruned: Option<u32>,
    /// In the order of `JobState::ALL`.
    pub(super) jobs: JobCounts,
    changed: bool,
}

impl Flow {
    pub(super) fn is_running(&self) -> bool {
        !self.staged && self.state == WorkflowState::Running && self.pruned.is_none()
    }

    /// Whether nobody is to find it: not started yet, or half deleted.
    pub(super) fn is_hidden(&self) -> bool {
        self.staged || self.pruned.is_some()
    }

    /// Whether a job of it has not ended.
    pub(super) fn is_open(&self) -> bool {
        JobState::ALL.iter().zip(self.jobs).any(|(state, count)| count > 0 && !state.is_terminal())
    }
}

/// A join: its row, and what its node says of it.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) when: When,
    pub(super) on_failure: OnFailure,
    pub(super) next: Vec<Range>,
    pub(super) members: Vec<Range>,
    pub(super) scope: Vec<Range>,
    pub(super) cancel_rest: bool,
    pub(super) pending: u32,
    pub(super) failed: u32,
    pub(super) skipped: u32,
    pub(super) status: Option<Status>,
    changed: bool,
}

/// A template, and the line of its jobs.
#[derive(Debug)]
pub(super) struct Template {
    pub(super) of: NodeTemplate,
    pub(super) line: QueueId,
}

#[derive(Debug)]
pub(super) struct Flows {
    pub(super) todo: Todo,
    flows: HashMap<i64, Flow>,
    joins: HashMap<(i64, u32), Join>,
    templates: HashMap<(i64, u32), Arc<Template>>,
    /// Workflows that may be over since the step under way.
    touched: BTreeSet<i64>,
}

pub(super) const FLOW: &str =
    "SELECT id, tenant, nodes, end_node, parent, depth, deadline_ms, keep_ms, staged, created_at,
    deadline_at, finished_at, delete_at, state, cancelled, end_status, pruned, jobs, orphaned FROM workflow WHERE rid = ?";
pub(super) const FLOW_BY_ID: &str = "SELECT rid FROM workflow INDEXED BY workflow_id WHERE tenant = ? AND id = ?";
pub(super) const JOIN: &str = "SELECT error_callback, on_failure, next, members, scope, cancel_rest, pending, failed,
    skipped, status FROM node CROSS JOIN gate ON gate.workflow = node.workflow AND gate.number = node.number
    WHERE node.workflow = ? AND node.number = ?";
pub(super) const TEMPLATE: &str = "SELECT task, queue, priority, start_after_ms, start_at, expires_ms, max_deliveries,
    nodes, spec FROM template WHERE workflow = ? AND n = ?";

/// The row of a tenant's workflow.
pub(super) fn find(conn: &Connection, tenant: &TenantId, id: WorkflowId) -> Result<Option<i64>, Fault> {
    let mut statement = conn.prepare_cached(FLOW_BY_ID)?;
    Ok(statement.query_row(params![tenant.as_str(), id.to_bytes()], |row| row.get(0)).optional()?)
}

impl Flows {
    pub(super) fn load(conn: &Connection) -> Result<Self, Fault> {
        Ok(Self {
            todo: Todo::load(conn)?,
            flows: HashMap::new(),
            joins: HashMap::new(),
            templates: HashMap::new(),
            touched: BTreeSet::new(),
        })
    }

    /// To be looked at.
    pub(super) fn flow(&mut self, conn: &Connection, rid: i64) -> Result<&Flow, Fault> {
        Ok(match self.flows.entry(rid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(load_flow(conn, rid)?),
        })
    }

    /// To be changed.
    pub(super) fn flow_mut(&mut self, conn: &Connection, rid: i64) -> Result<&mut Flow, Fault> {
        let flow = match self.flows.entry(rid) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(load_flow(conn, rid)?),
        };
        flow.changed = true;
        Ok(flow)
    }

    /// Counts a job that came, went from one state to another, or was taken out.
    pub(super) fn count(
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

    pub(super) fn touch(&mut self, rid: i64) {
        self.touched.insert(rid);
    }

    pub(super) fn take_touched(&mut self) -> BTreeSet<i64> {
        std::mem::take(&mut self.touched)
    }

    pub(super) fn knows_join(&self, workflow: i64, number: u32) -> bool {
        self.joins.contains_key(&(workflow, number))
    }

    /// To be changed; none when there is no such join.
    pub(super) fn join(&mut self, conn: &Connection, workflow: i64, number: u32) -> Result<Option<&mut Join>, Fault> {
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

    pub(super) fn template(
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
        let line =
            scheduler.find_any(&tenant, &of.queue).ok_or_else(|| Fault::stored("template", "its queue is missing"))?;
        let template = Arc::new(Template { of, line });
        self.templates.insert((workflow, n), template.clone());
        Ok(template)
    }

    /// Forgets a workflow whose rows were deleted.
    pub(super) fn drop_flow(&mut self, rid: i64) {
        self.flows.remove(&rid);
        self.touched.remove(&rid);
        self.templates.retain(|(workflow, _), _| *workflow != rid);
        self.drop_joins(rid);
    }

    /// Forgets the joins of a workflow, before rows of them are changed by statements.
    pub(super) fn drop_joins(&mut self, rid: i64) {
        self.joins.retain(|(workflow, _), _| *workflow != rid);
    }

    /// Writes what changed of workflows and joins, for statements that look for it.
    pub(super) fn write(&mut self, conn: &Connection) -> Result<(), Fault> {
        for (rid, flow) in self.flows.iter_mut().filter(|(_, flow)| flow.changed) {
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
    pub(super) fn flush(&mut self, conn: &Connection) -> Result<(), Fault> {
        self.write(conn)?;
        self.todo.flush(conn)
    }

    /// The group was committed.
    pub(super) fn keep(&mut self) {
        self.todo.keep();
        self.forget();
    }

    /// The group was rolled back.
    pub(super) fn undo(&mut self) {
        self.todo.undo();
        self.forget();
    }

    /// Forgets what was read of workflows, all of it written: their rows were changed by statements.
    pub(super) fn forget_known(&mut self) {
        self.flows.clear();
        self.joins.clear();
        self.templates.clear();
    }

    fn forget(&mut self) {
        self.forget_known();
        self.touched.clear();
    }
}

fn load_flow(conn: &Connection, rid: i64) -> Result<Flow, Fault> {
    let mut statement = conn.prepare_cached(FLOW)?;
    let mut rows = statement.query([rid])?;
    let row = rows.next()?.ok_or_else(|| Fault::stored("node", "its workflow is missing"))?;
    Ok(Flow {
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

fn save_flow(conn: &Connection, rid: i64, flow: &Flow) -> Result<(), Fault> {
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
        pending: small(row, 6)?,
        failed: small(row, 7)?,
        skipped: small(row, 8)?,
        status: rows::status_or_none(row, 9)?,
        changed: false,
    }))
}

fn save_join(conn: &Connection, workflow: i64, number: u32, join: &Join) -> Result<(), Fault> {
    let sql = "UPDATE gate SET pending = ?, failed = ?, skipped = ?, status = ? WHERE workflow = ? AND number = ?";
    let status = join.status.map(status_number);
    conn.prepare_cached(sql)?.execute(params![join.pending, join.failed, join.skipped, status, workflow, number])?;
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
