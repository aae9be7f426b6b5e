//! Deletion of workflows: their nodes a part at a time, then themselves.

use rusqlite::params;
use umbel_model::{TenantId, UnixMs, WorkflowId, canvas::Range};

use super::{
    flows,
    head::{self, Head},
    step::Step,
};
use crate::{
    error::Fault,
    rows::{self, int, number},
};

const OVER: &str = "SELECT rid, delete_at, tenant, id FROM workflow INDEXED BY workflow_delete
    WHERE delete_at <= ? ORDER BY delete_at, tenant, id LIMIT ?";

/// A workflow to be deleted.
pub(super) struct Over {
    pub(super) rid: i64,
    pub(super) at: UnixMs,
    pub(super) tenant: TenantId,
    pub(super) id: WorkflowId,
}

impl Step<'_> {
    /// At most `max` workflows whose retention has passed, by time, tenant and id.
    pub(super) fn workflows_over(&mut self, max: u32) -> Result<Vec<Over>, Fault> {
        self.flows.write(self.conn)?;
        let mut statement = self.conn.prepare_cached(OVER)?;
        let mut rows = statement.query(params![int(self.now), max])?;
        let mut over = Vec::new();
        while let Some(row) = rows.next()? {
            let (tenant, id) = (rows::name(row, 2)?, rows::id(row, 3)?);
            over.push(Over { rid: row.get(0)?, at: number(row, 1)?, tenant, id });
        }
        Ok(over)
    }

    /// Deletes a job that has ended, or a node. The workflow that replaced it is deleted next, or when it is over:
    /// callbacks may outlive its end.
    pub(super) fn delete_job(&mut self, head: &mut Head) -> Result<(), Fault> {
        self.leave_dead(head);
        head.delete(self.conn)?;
        let Some(child) = head.child else { return Ok(()) };
        if let Some(rid) = flows::find(self.conn, self.scheduler.tenant(head.line), child)? {
            let now = self.now;
            let flow = self.flows.flow_mut(self.conn, rid)?;
            flow.orphaned = true;
            flow.delete_at = flow.finished_at.map(|_| now);
        }
        Ok(())
    }

    /// Deletes at most `max` of a workflow's nodes and then itself; how many.
    pub(super) fn prune_workflow(&mut self, over: &Over, max: u32) -> Result<u32, Fault> {
        let rid = over.rid;
        let flow = self.flows.flow(self.conn, rid)?;
        let (first, nodes) = (flow.pruned.unwrap_or(0), flow.nodes);
        if flow.pruned.is_none() && flow.parent.is_none() {
            self.count_workflows(&over.tenant, -1, 0)?;
        }
        let count = nodes.saturating_sub(first).min(max);
        if count > 0 {
            self.flows.flow_mut(self.conn, rid)?.pruned = Some(first + count);
            let range = Range { first, count };
            self.flows.drop_joins(rid);
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
        self.flows.drop_flow(rid);
        for sql in [
            "DELETE FROM workflow WHERE rid = ?",
            "DELETE FROM workflow_spec WHERE rid = ?",
            "DELETE FROM template WHERE workflow = ?",
        ] {
            self.conn.prepare_cached(sql)?.execute([rid])?;
        }
        Ok(count + 1)
    }

    /// Deletes the rows of nodes and joins whose jobs are gone.
    pub(super) fn delete_graph(&self, rid: i64, nodes: Range) -> Result<(), Fault> {
        let end = i64::from(nodes.first) + i64::from(nodes.count);
        for sql in [
            "DELETE FROM node WHERE workflow = ? AND number >= ? AND number < ?",
            "DELETE FROM gate WHERE workflow = ? AND number >= ? AND number < ?",
        ] {
            self.conn.prepare_cached(sql)?.execute(params![rid, nodes.first, end])?;
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
