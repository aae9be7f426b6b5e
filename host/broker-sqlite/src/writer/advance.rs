//! The work list: what follows when a node ends or is cancelled, a bounded part of it in each step.

use umbel_broker::{ADVANCE, Status, UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE, WorkflowCancelled, WorkflowState};
use umbel_model::{
    Failure, JobId, JobState, OnFailure, TenantId, UnixMs, WorkflowId,
    canvas::{Range, When, node_of},
};

use rusqlite::params;

use super::{
    flows,
    head::{self, Head, Target},
    step::Step,
    todo::Item,
};
use crate::{
    error::Fault,
    rows::{self, int, time},
};

const EDGES: &str = "SELECT next, on_failure FROM node WHERE workflow = ? AND number = ?";
const DEADLINES: &str = "SELECT rid, deadline_at FROM workflow INDEXED BY workflow_deadline
    WHERE deadline_at IS NOT NULL ORDER BY deadline_at, tenant, id LIMIT ?";

fn status_of(state: JobState) -> Status {
    match state {
        JobState::Succeeded => Status::Ok,
        JobState::Skipped => Status::Skipped,
        _ => Status::Failed,
    }
}

fn adjusted(raw: Status, on_failure: OnFailure) -> Status {
    if raw == Status::Failed && on_failure != OnFailure::Fail { Status::Ok } else { raw }
}

/// The adjusted status of a job that ended so.
pub(super) fn adjusted_end(state: JobState, on_failure: OnFailure) -> Status {
    adjusted(status_of(state), on_failure)
}

/// What of a range is done with this budget, and what is left.
fn cut(range: Range, budget: u32) -> (Range, Option<Range>) {
    let count = range.count.min(budget);
    let left = Range { first: range.first.saturating_add(count), count: range.count - count };
    (Range { first: range.first, count }, (left.count > 0).then_some(left))
}

impl Step<'_> {
    /// Does at most `ADVANCE` nodes of the list, then looks which workflows are over.
    pub(crate) fn advance(&mut self) -> Result<(), Fault> {
        let mut budget = ADVANCE;
        while budget > 0 && !self.flows.todo.is_empty() {
            let Some((origin, item)) = self.flows.todo.take(self.conn)? else { break };
            let (done, rest) = match item {
                Item::Adopt { tenant, job, status } => {
                    self.adopt(&tenant, job, status)?;
                    (1, None)
                }
                Item::Arrive { workflow, targets, raw, adjusted } => {
                    let (now, left) = cut(targets, budget);
                    self.arrive(workflow, now, raw, adjusted)?;
                    (now.count, left.map(|targets| Item::Arrive { workflow, targets, raw, adjusted }))
                }
                Item::Cancel { workflow, nodes, how } => {
                    let (now, left) = cut(nodes, budget);
                    self.cancel_nodes(workflow, now, how)?;
                    (now.count, left.map(|nodes| Item::Cancel { workflow, nodes, how }))
                }
            };
            budget -= done.max(1);
            self.flows.todo.put_back(self.conn, origin, rest)?;
        }
        self.finish_workflows()
    }

    fn arrive(&mut self, workflow: i64, targets: Range, raw: Status, adjusted: Status) -> Result<(), Fault> {
        if targets.count == 1 && self.flows.knows_gate(workflow, targets.first) {
            return self.arrive_at_gate(workflow, targets.first, raw, adjusted);
        }
        for Target { number, when, template, head } in head::targets(self.conn, self.lines, workflow, targets)? {
            match head {
                None => self.arrive_at_gate(workflow, number, raw, adjusted)?,
                Some(mut head) => {
                    let seen = match (when, raw) {
                        (When::Success, _) => adjusted,
                        (When::Failure, Status::Failed) => Status::Ok,
                        (When::Failure, _) => Status::Skipped,
                    };
                    self.arrive_at_job(workflow, template, &mut head, seen)?;
                }
            }
        }
        Ok(())
    }

    fn arrive_at_job(&mut self, workflow: i64, template: u32, head: &mut Head, seen: Status) -> Result<(), Fault> {
        if head.state != JobState::Waiting || head.child.is_some() {
            return Ok(());
        }
        let cancelled = self.flows.flow(self.conn, workflow)?.cancelled;
        match (seen, cancelled) {
            (Status::Skipped, _) => self.finish(head, JobState::Skipped)?,
            (_, Some(how)) => self.finish(head, how)?,
            (Status::Ok, None) => {
                let template = self.flows.template(self.conn, self.lines, workflow, template)?;
                let expires_ms = template.of.expires_ms;
                head.expires_at = (expires_ms > 0).then(|| self.now.saturating_add(expires_ms));
                self.begin_waiting(head, template.of.start);
            }
            (Status::Failed, None) => {
                head.put_failure(self.conn, &upstream_failed())?;
                self.end(head, JobState::Failed, false)?;
            }
        }
        self.save(head)
    }

    fn arrive_at_gate(&mut self, workflow: i64, number: u32, raw: Status, adjusted: Status) -> Result<(), Fault> {
        let Some(gate) = self.flows.gate(self.conn, workflow, number)? else { return Ok(()) };
        if gate.pending == 0 || gate.status.is_some() {
            return Ok(());
        }
        // Without members it waits for what its group waits for, as a job would.
        let seen = match (gate.members.is_empty(), gate.when, raw) {
            (true, When::Failure, Status::Failed) => Status::Ok,
            (true, When::Failure, _) => Status::Skipped,
            _ => adjusted,
        };
        gate.pending -= 1;
        let mut to_cancel = Vec::new();
        match seen {
            Status::Ok => {}
            Status::Skipped => gate.skipped += 1,
            Status::Failed => {
                gate.failed += 1;
                if gate.failed == 1 && gate.cancel_rest {
                    to_cancel.clone_from(&gate.scope);
                }
            }
        }
        let mut ended = None;
        if gate.pending == 0 {
            let status = match (gate.failed, gate.skipped) {
                (0, 0) => Status::Ok,
                (0, _) => Status::Skipped,
                _ => Status::Failed,
            };
            gate.status = Some(status);
            ended = Some((gate.next.clone(), status, gate.on_failure));
        }
        for nodes in to_cancel {
            self.flows.todo.push(Item::Cancel { workflow, nodes, how: JobState::Revoked });
        }
        match ended {
            Some((next, status, on_failure)) => self.emit(workflow, number, &next, status, on_failure),
            None => Ok(()),
        }
    }

    /// Tells what waits for a node that it ended.
    fn emit(
        &mut self,
        workflow: i64,
        number: u32,
        next: &[Range],
        raw: Status,
        on_failure: OnFailure,
    ) -> Result<(), Fault> {
        let adjusted = adjusted(raw, on_failure);
        for targets in next {
            self.flows.todo.push(Item::Arrive { workflow, targets: *targets, raw, adjusted });
        }
        if self.flows.flow(self.conn, workflow)?.end != number {
            return Ok(());
        }
        let flow = self.flows.flow_mut(self.conn, workflow)?;
        flow.end_status = Some(adjusted);
        let adopt = flow.parent.map(|job| Item::Adopt { tenant: flow.tenant.clone(), job, status: adjusted });
        if let Some(adopt) = adopt {
            self.flows.todo.push(adopt);
        }
        self.flows.touch(workflow);
        Ok(())
    }

    /// Called for every job of a workflow that ended.
    pub(super) fn ended_node(&mut self, workflow: i64, head: &Head) -> Result<(), Fault> {
        let number = node_of(head.id).1;
        let (next, on_failure) = {
            let mut statement = self.conn.prepare_cached(EDGES)?;
            let mut rows = statement.query(params![workflow, number])?;
            let row = rows.next()?.ok_or_else(|| Fault::stored("job of a workflow", "its node is missing"))?;
            (rows::ranges(row, 0)?, rows::on_failure(row, 1)?)
        };
        self.emit(workflow, number, &next, status_of(head.state), on_failure)
    }

    fn adopt(&mut self, tenant: &TenantId, job: JobId, status: Status) -> Result<(), Fault> {
        let Some(mut head) = head::by_id(self.conn, self.lines, tenant, job)? else { return Ok(()) };
        if head.state != JobState::Waiting || head.child.is_none() {
            return Ok(());
        }
        if status == Status::Ok {
            self.finish(&mut head, JobState::Succeeded)?;
        } else {
            head.put_failure(self.conn, &upstream_failed())?;
            // A job on its own goes to the dead set: nobody else tells of it.
            let alone = head.workflow.is_none();
            self.end(&mut head, JobState::Failed, alone)?;
        }
        self.save(&mut head)
    }

    /// Ends the workflows that are over since the last look.
    pub(super) fn finish_workflows(&mut self) -> Result<(), Fault> {
        for rid in self.flows.take_touched() {
            let flow = self.flows.flow(self.conn, rid)?;
            let Some(end) = flow.end_status else { continue };
            if !flow.is_running() || flow.is_open() {
                continue;
            }
            let now = self.now;
            let flow = self.flows.flow_mut(self.conn, rid)?;
            flow.state = match (end, flow.cancelled) {
                (Status::Ok, _) => WorkflowState::Succeeded,
                (_, Some(JobState::Expired)) => WorkflowState::Expired,
                (_, Some(_)) => WorkflowState::Revoked,
                (_, None) => WorkflowState::Failed,
            };
            flow.finished_at = Some(now);
            flow.deadline_at = None;
            if flow.parent.is_none() {
                flow.delete_at = Some(now.saturating_add(flow.keep_ms));
            } else if flow.orphaned {
                flow.delete_at = Some(now);
            }
            let id = flow.id;
            self.news.ended(id);
        }
        Ok(())
    }

    pub(crate) fn cancel_workflow(&mut self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled, Fault> {
        let Some(rid) = flows::find(self.conn, tenant, id)? else { return Ok(WorkflowCancelled::NotFound) };
        let flow = self.flows.flow(self.conn, rid)?;
        if flow.staged || flow.pruned.is_some() {
            return Ok(WorkflowCancelled::NotFound);
        }
        if flow.state != WorkflowState::Running {
            return Ok(WorkflowCancelled::AlreadyEnded(flow.state));
        }
        self.give_up(rid, JobState::Revoked)?;
        self.advance()?;
        Ok(WorkflowCancelled::Requested)
    }

    /// Marks a running workflow as cancelled, and lists its nodes to be cancelled.
    pub(super) fn give_up(&mut self, rid: i64, how: JobState) -> Result<(), Fault> {
        let flow = self.flows.flow(self.conn, rid)?;
        if !flow.is_running() || flow.cancelled.is_some() {
            return Ok(());
        }
        let nodes = Range { first: 0, count: flow.nodes };
        let flow = self.flows.flow_mut(self.conn, rid)?;
        flow.cancelled = Some(how);
        flow.deadline_at = None;
        self.flows.todo.push(Item::Cancel { workflow: rid, nodes, how });
        Ok(())
    }

    /// Cancels the workflow that replaced a job that was cancelled.
    pub(super) fn give_up_child(&mut self, head: &Head, how: JobState) -> Result<(), Fault> {
        let Some(child) = head.child else { return Ok(()) };
        match flows::find(self.conn, self.lines.tenant(head.line), child)? {
            Some(rid) => self.give_up(rid, how),
            None => Ok(()),
        }
    }

    fn cancel_nodes(&mut self, workflow: i64, nodes: Range, how: JobState) -> Result<(), Fault> {
        let targets = head::targets(self.conn, self.lines, workflow, nodes)?;
        for mut head in targets.into_iter().filter_map(|target| target.head) {
            if head.state.is_terminal() {
                continue;
            }
            head.cancel_requested = true;
            if head.state == JobState::Running {
                self.news.cancel_asked(head.id);
                self.save(&mut head)?;
                continue;
            }
            self.leave(&head);
            self.finish(&mut head, how)?;
            self.save(&mut head)?;
            self.give_up_child(&head, how)?;
        }
        Ok(())
    }

    /// Cancels at most `max` workflows whose deadline has come; when the next one is.
    pub(super) fn pass_deadlines(&mut self, max: u32) -> Result<Option<UnixMs>, Fault> {
        self.flows.write(self.conn)?;
        let mut passed = Vec::new();
        let mut next = None;
        {
            let mut statement = self.conn.prepare_cached(DEADLINES)?;
            let mut rows = statement.query([int(u64::from(max) + 1)])?;
            while let Some(row) = rows.next()? {
                let at = time(row, 1)?;
                if passed.len() as u64 == u64::from(max) || at.is_none_or(|at| at > self.now) {
                    next = at;
                    break;
                }
                passed.push(row.get(0)?);
            }
        }
        for rid in passed {
            self.give_up(rid, JobState::Expired)?;
        }
        Ok(next)
    }
}

fn upstream_failed() -> Failure {
    Failure::new(UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_where_the_budget_ends() {
        let range = |first, count| Range { first, count };
        assert_eq!(cut(range(5, 3), 10), (range(5, 3), None));
        assert_eq!(cut(range(5, 3), 3), (range(5, 3), None));
        assert_eq!(cut(range(5, 3), 1), (range(5, 1), Some(range(6, 2))));
    }

    #[test]
    fn no_work_item_costs_more_because_more_is_stored() {
        crate::tests::assert_costs_what_it_finds(EDGES);
        let plan = crate::tests::plan(DEADLINES);
        assert!(!plan.contains("TEMP B-TREE") && plan.contains("workflow_deadline"), "{plan}");
    }
}
