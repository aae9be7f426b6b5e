//! The work list: what follows when a node ends or is cancelled, a bounded part of it in each step.

use std::collections::BTreeMap;

use umbel_broker::{
    ADVANCE, Status, WorkflowCancelled, WorkflowState,
    rules::{
        join::{self, JobArrival},
        retention::delete_workflow_at,
    },
};
use umbel_model::{
    JobId, JobState, OnFailure, TenantId, UnixMs, WorkflowId,
    canvas::{Range, When, node_of},
};

use crate::writer::{
    jobs::head::{self, Head, Target},
    state::work_items::{Item, Origin},
    state::workflow_state,
    step::{FollowUp, Step},
};
use crate::{
    error::Fault,
    rows::{each, get, one},
};

const EDGES: &str = "SELECT next, on_failure FROM node WHERE workflow = ? AND number = ?";
const DEADLINES: &str = "SELECT rid, deadline_at FROM workflow INDEXED BY workflow_deadline
    WHERE deadline_at IS NOT NULL ORDER BY deadline_at, tenant, id LIMIT ?";

impl Step<'_> {
    /// Does at most `ADVANCE` nodes: those of the items that this step added, then those of the list. When nothing is left,
    /// looks which workflows are over: the end of one may end the job that it replaced, from which more follows.
    pub(crate) fn advance(&mut self) -> Result<(), Fault> {
        let mut budget = ADVANCE;
        loop {
            budget = self.do_items(budget)?;
            self.finish_workflows()?;
            if budget == 0 || self.follow_up == FollowUp::Nothing || !self.workflows.work_items.has_own() {
                break;
            }
        }
        self.workflows.work_items.put_off();
        Ok(())
    }

    /// Answers what is left of the budget.
    fn do_items(&mut self, mut budget: u32) -> Result<u32, Fault> {
        let mut listed = None;
        // Nodes of a listed item that are read at once: few where each adds items, which have to be done before the next.
        let mut pace = ADVANCE;
        while budget > 0 && self.follow_up != FollowUp::Nothing {
            if let Some(item) = self.workflows.work_items.take_own() {
                let (done, rest) = self.perform(item, budget, false)?;
                self.workflows.work_items.put_back(self.conn, Origin::Own, rest)?;
                budget -= done;
                continue;
            }
            if listed.is_none() && self.follow_up == FollowUp::All {
                listed = self.workflows.work_items.take(self.conn)?;
            }
            let Some((origin, item)) = listed.take() else { break };
            if self.needs_room(&item)? {
                listed = Some((origin, item));
                break;
            }
            let (done, rest) = self.perform(item, budget.min(pace), true)?;
            pace = if self.workflows.work_items.has_own() { 1 } else { pace.saturating_mul(2) };
            budget -= done;
            match rest {
                Some(rest) => listed = Some((origin, rest)),
                None => self.workflows.work_items.put_back(self.conn, origin, None)?,
            }
        }
        if let Some((origin, item)) = listed {
            self.workflows.work_items.put_back(self.conn, origin, Some(item))?;
        }
        Ok(budget)
    }

    /// Whether an item would fill the part of the file that is for finishing what runs.
    fn needs_room(&mut self, item: &Item) -> Result<bool, Fault> {
        let Item::Arrive { workflow, adjusted: Status::Ok, .. } = *item else { return Ok(false) };
        Ok(self.is_nearly_full()? && self.workflows.flow(self.conn, workflow)?.cancelled.is_none())
    }

    /// Does at most `max` nodes of an item; how many, and what is left. `one`: none behind one that added items.
    fn perform(&mut self, item: Item, max: u32, one: bool) -> Result<(u32, Option<Item>), Fault> {
        let now = |range: Range| Range { first: range.first, count: range.count.min(max) };
        let done = match &item {
            Item::Adopt { tenant, job, status } => {
                self.adopt(tenant, *job, *status)?;
                1
            }
            Item::Arrive { workflow, nodes, raw, adjusted } => {
                self.arrive(*workflow, now(*nodes), *raw, *adjusted, one)?.max(1)
            }
            Item::Cancel { workflow, nodes, how } => self.cancel_nodes(*workflow, now(*nodes), *how, one)?.max(1),
        };
        Ok((done, item.rest(done)))
    }

    /// How many nodes were done.
    fn arrive(
        &mut self,
        workflow: i64,
        targets: Range,
        raw: Status,
        adjusted: Status,
        one: bool,
    ) -> Result<u32, Fault> {
        if targets.count == 1 && self.workflows.knows_join(workflow, targets.first) {
            self.arrive_at_join(workflow, targets.first, raw, adjusted)?;
            return Ok(1);
        }
        for Target { number, when, template, head } in head::targets(self.conn, self.scheduler, workflow, targets)? {
            match head {
                None => self.arrive_at_join(workflow, number, raw, adjusted)?,
                Some(mut head) => {
                    self.arrive_at_job(workflow, template, &mut head, (when, raw, adjusted))?;
                }
            }
            if one && self.workflows.work_items.has_own() {
                return Ok(number - targets.first + 1);
            }
        }
        Ok(targets.count)
    }

    fn arrive_at_job(
        &mut self,
        workflow: i64,
        template: u32,
        head: &mut Head,
        (when, raw, adjusted): (When, Status, Status),
    ) -> Result<(), Fault> {
        if head.state != JobState::Waiting || head.child.is_some() {
            return Ok(());
        }
        let cancelled = self.workflows.flow(self.conn, workflow)?.cancelled;
        match join::arrive_at_job(when, raw, adjusted, cancelled) {
            JobArrival::End(state) => self.finish(head, state)?,
            JobArrival::Ready => {
                let template = self.workflows.template(self.conn, self.scheduler, workflow, template)?;
                let expires_ms = template.of.expires_ms;
                head.expires_at = (expires_ms > 0).then(|| self.now.saturating_add(expires_ms));
                self.begin_waiting(head, template.of.start)?;
            }
            JobArrival::FailUpstream => {
                head.put_upstream_failed(self.conn)?;
                self.end(head, JobState::Failed, false)?;
            }
        }
        self.save(head)
    }

    fn arrive_at_join(&mut self, workflow: i64, number: u32, raw: Status, adjusted: Status) -> Result<(), Fault> {
        let Some(join) = self.workflows.join(self.conn, workflow, number)? else { return Ok(()) };
        let of_join = (join.when, !join.members.is_empty(), join.cancel_rest);
        let arrival = join.progress.arrive(of_join, raw, adjusted);
        let scope = if arrival.cancels_scope { join.scope.clone() } else { Vec::new() };
        let ended = arrival.ended.map(|status| (join.next.clone(), status, join.on_failure));
        for nodes in scope {
            self.workflows.work_items.push(Item::Cancel { workflow, nodes, how: JobState::Revoked });
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
        let adjusted = join::adjusted(raw, on_failure);
        for nodes in next {
            self.workflows.work_items.push(Item::Arrive { workflow, nodes: *nodes, raw, adjusted });
        }
        if self.workflows.flow(self.conn, workflow)?.end != number {
            return Ok(());
        }
        self.workflows.flow_mut(self.conn, workflow)?.end_status = Some(adjusted);
        self.workflows.touch(workflow);
        Ok(())
    }

    /// Called for every job of a workflow that ended.
    pub(crate) fn ended_node(&mut self, workflow: i64, head: &Head) -> Result<(), Fault> {
        let number = node_of(head.id).1;
        let edges = one(self.conn, EDGES, &[&workflow, &number], |row| Ok((get::<Vec<Range>>(row, 0)?, get(row, 1)?)))?;
        let (next, on_failure) = edges.ok_or_else(|| Fault::stored("job of a workflow", "its node is missing"))?;
        self.emit(workflow, number, &next, join::status_of(head.state), on_failure)
    }

    fn adopt(&mut self, tenant: &TenantId, job: JobId, status: Status) -> Result<(), Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, tenant, job)? else { return Ok(()) };
        if head.state != JobState::Waiting || head.child.is_none() {
            return Ok(());
        }
        // What an earlier attempt failed with is over.
        if status == Status::Ok {
            head.clear_outcome(self.conn)?;
            self.finish(&mut head, JobState::Succeeded)?;
        } else {
            // A job on its own goes to the dead set: nobody else tells of it.
            head.put_upstream_failed(self.conn)?;
            let alone = head.workflow.is_none();
            self.end(&mut head, JobState::Failed, alone)?;
        }
        self.save(&mut head)
    }

    /// Ends the workflows that are over since the last look. The jobs that they replaced are told in the order of the
    /// workflows' ids.
    pub(crate) fn finish_workflows(&mut self) -> Result<(), Fault> {
        let mut replaced = BTreeMap::new();
        for rid in self.workflows.take_touched() {
            let flow = self.workflows.flow(self.conn, rid)?;
            let Some(end) = flow.end_status else { continue };
            if !flow.is_running() || flow.is_open() {
                continue;
            }
            let now = self.now;
            let flow = self.workflows.flow_mut(self.conn, rid)?;
            flow.state = join::workflow_state(end, flow.cancelled);
            flow.finished_at = Some(now);
            flow.deadline_at = None;
            flow.delete_at = delete_workflow_at(now, flow.keep_ms, flow.parent.is_some(), flow.orphaned);
            self.notifications.ended.push(flow.id);
            if let Some(job) = flow.parent {
                let tenant = flow.tenant.clone();
                replaced.insert((tenant.clone(), flow.id), Item::Adopt { tenant, job, status: end });
            }
        }
        for (_, adopt) in replaced {
            self.workflows.work_items.push(adopt);
        }
        Ok(())
    }

    pub(crate) fn cancel_workflow(&mut self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled, Fault> {
        let Some(rid) = workflow_state::find(self.conn, tenant, id)? else { return Ok(WorkflowCancelled::NotFound) };
        let flow = self.workflows.flow(self.conn, rid)?;
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
    pub(crate) fn give_up(&mut self, rid: i64, how: JobState) -> Result<(), Fault> {
        let flow = self.workflows.flow(self.conn, rid)?;
        if !flow.is_running() || flow.cancelled.is_some() {
            return Ok(());
        }
        let nodes = Range { first: 0, count: flow.nodes };
        let flow = self.workflows.flow_mut(self.conn, rid)?;
        flow.cancelled = Some(how);
        flow.deadline_at = None;
        self.workflows.work_items.push(Item::Cancel { workflow: rid, nodes, how });
        Ok(())
    }

    /// Ends a job that waits, and cancels the workflow that replaced it; asks the worker of a running one to stop it.
    pub(crate) fn cancel_job(&mut self, head: &mut Head, how: JobState) -> Result<(), Fault> {
        head.cancel_requested = true;
        if head.state == JobState::Running {
            // Once it is to be stopped, it is.
            head.let_end = false;
            self.notifications.to_cancel.push(head.id);
            return self.save(head);
        }
        self.leave(head)?;
        self.finish(head, how)?;
        self.save(head)?;
        let Some(child) = head.child else { return Ok(()) };
        match workflow_state::find(self.conn, self.scheduler.tenant(head.queue_id), child)? {
            Some(rid) => self.give_up(rid, how),
            None => Ok(()),
        }
    }

    /// How many nodes were done.
    fn cancel_nodes(&mut self, workflow: i64, nodes: Range, how: JobState, one: bool) -> Result<u32, Fault> {
        for Target { number, head, .. } in head::targets(self.conn, self.scheduler, workflow, nodes)? {
            let Some(mut head) = head.filter(|head| !head.state.is_terminal()) else { continue };
            self.cancel_job(&mut head, how)?;
            if one && self.workflows.work_items.has_own() {
                return Ok(number - nodes.first + 1);
            }
        }
        Ok(nodes.count)
    }

    /// Cancels at most `max` workflows whose deadline has come; when the next one is.
    pub(crate) fn pass_deadlines(&mut self, max: u32) -> Result<Option<UnixMs>, Fault> {
        self.workflows.write(self.conn)?;
        let (mut passed, mut next) = (Vec::new(), None);
        each(self.conn, DEADLINES, &[&(u64::from(max) + 1)], |row| {
            let at: Option<UnixMs> = get(row, 1)?;
            if passed.len() as u64 == u64::from(max) || at.is_none_or(|at| at > self.now) {
                next = at;
                return Ok(false);
            }
            passed.push(get(row, 0)?);
            Ok(true)
        })?;
        for rid in passed {
            self.give_up(rid, JobState::Expired)?;
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_work_item_costs_more_because_more_is_stored() {
        crate::tests::assert_costs_what_it_finds(EDGES);
        let plan = crate::tests::plan(DEADLINES);
        assert!(!plan.contains("TEMP B-TREE") && plan.contains("workflow_deadline"), "{plan}");
    }
}
