//! Deletion of workflows: their nodes a part at a time, then themselves.

use umbel_broker::{ADVANCE, WorkflowForgot, WorkflowState};
use umbel_model::{TenantId, UnixMs, WorkflowId, canvas::Range};

use crate::writer::{
    jobs::head::Head,
    jobs::head::{self},
    state::workflow_state::{self},
    step::Step,
};
use crate::{
    error::Fault,
    rows::{all, get, one, read, run},
};

const OVER: &str = "SELECT rid, delete_at, tenant, id FROM workflow INDEXED BY workflow_delete
    WHERE delete_at <= ? ORDER BY delete_at, tenant, id LIMIT ?";

const DELETE: &str = "DELETE FROM workflow WHERE rid = ? RETURNING bytes";

/// A workflow to be deleted.
pub(crate) struct Over {
    pub(crate) rid: i64,
    pub(crate) at: UnixMs,
    pub(crate) tenant: TenantId,
    pub(crate) id: WorkflowId,
}

impl Step<'_> {
    /// At most `max` workflows whose retention has passed, by time, tenant and id.
    pub(crate) fn workflows_over(&mut self, max: u32) -> Result<Vec<Over>, Fault> {
        self.workflows.write(self.conn)?;
        all(self.conn, OVER, &[&self.now, &max], |row| Ok(read!(row => Over { rid, at, tenant, id })))
    }

    /// Deletes a job that has ended, or a node. The workflow that replaced it is deleted next, or when it is over:
    /// the job may have been cancelled before.
    pub(crate) fn delete_job(&mut self, head: &mut Head) -> Result<(), Fault> {
        self.leave_dead(head);
        self.delete_rows(head)?;
        let Some(child) = head.child else { return Ok(()) };
        if let Some(rid) = workflow_state::find(self.conn, self.scheduler.tenant(head.queue_id), child)? {
            let now = self.now;
            let flow = self.workflows.flow_mut(self.conn, rid)?;
            flow.orphaned = true;
            flow.delete_at = flow.finished_at.map(|_| now);
        }
        Ok(())
    }

    pub(crate) fn forget_workflow(&mut self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowForgot, Fault> {
        let Some(rid) = workflow_state::find(self.conn, tenant, id)? else { return Ok(WorkflowForgot::NotFound) };
        let flow = self.workflows.flow(self.conn, rid)?;
        if flow.is_hidden() {
            return Ok(WorkflowForgot::NotFound);
        }
        if flow.parent.is_some() {
            return Ok(WorkflowForgot::Replaces);
        }
        if flow.state == WorkflowState::Running {
            return Ok(WorkflowForgot::NotEnded);
        }
        let now = self.now;
        self.workflows.flow_mut(self.conn, rid)?.delete_at = Some(now);
        self.prune_workflow(&Over { rid, at: now, tenant: tenant.clone(), id }, ADVANCE)?;
        Ok(WorkflowForgot::Forgotten)
    }

    /// Deletes at most `max` of a workflow's nodes and then itself; how many.
    pub(crate) fn prune_workflow(&mut self, over: &Over, max: u32) -> Result<u32, Fault> {
        let rid = over.rid;
        let flow = self.workflows.flow(self.conn, rid)?;
        let (first, nodes) = (flow.pruned.unwrap_or(0), flow.nodes);
        if flow.pruned.is_none() && flow.parent.is_none() {
            self.count_workflows(&over.tenant, -1, 0)?;
        }
        let count = nodes.saturating_sub(first).min(max);
        if count > 0 {
            self.workflows.flow_mut(self.conn, rid)?.pruned = Some(first + count);
            let range = Range { first, count };
            self.workflows.drop_joins(rid);
            for mut head in head::targets(self.conn, self.scheduler, rid, range)?.into_iter().filter_map(|t| t.head) {
                // An error callback of a staged node that was cancelled may be queued.
                self.leave(&mut head)?;
                self.delete_job(&mut head)?;
            }
            self.delete_graph(rid, range)?;
        }
        if count == max {
            return Ok(count);
        }
        self.count_workflows(&over.tenant, 0, -i64::from(nodes))?;
        self.workflows.drop_flow(rid);
        let bytes: u64 = one(self.conn, DELETE, &[&rid], |row| get(row, 0))?.unwrap_or(0);
        self.stored.change(&over.tenant, |stored| stored.jobs = stored.jobs.saturating_sub(bytes));
        for sql in ["DELETE FROM workflow_spec WHERE rid = ?", "DELETE FROM template WHERE workflow = ?"] {
            run(self.conn, sql, &[&rid])?;
        }
        Ok(count + 1)
    }

    /// Deletes the rows of nodes and joins whose jobs are gone.
    pub(crate) fn delete_graph(&self, rid: i64, nodes: Range) -> Result<(), Fault> {
        let end = i64::from(nodes.first) + i64::from(nodes.count);
        for sql in [
            "DELETE FROM node WHERE workflow = ? AND number >= ? AND number < ?",
            "DELETE FROM gate WHERE workflow = ? AND number >= ? AND number < ?",
        ] {
            run(self.conn, sql, &[&rid, &nodes.first, &end])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_what_is_over_costs_what_it_finds() {
        crate::tests::assert_costs_what_it_finds(OVER);
    }
}
