//! The consequences of an end: arrivals, joins, the end of a workflow, and cancellation.

use umbel_model::{
    Failure, JobState, TenantId, UnixMs, WorkflowId,
    canvas::{Range, node_job, node_of},
};

use super::{
    records::{Key, Workflow},
    state::State,
};
use umbel_broker::{
    rules::{
        join::{JobArrival, adjusted, arrive_at_job, status_of, workflow_state},
        retention::delete_workflow_at,
        work_items::WorkItem,
    },
    *,
};

impl State {
    // ---- the work list

    /// Does at most `ADVANCE` nodes of the list. When nothing is left of it, looks which workflows are over: the end of one
    /// may end the job that it replaced, from which more follows.
    pub(super) fn advance(&mut self) {
        let mut budget = ADVANCE;
        loop {
            self.do_items(&mut budget);
            self.finish_workflows();
            if budget == 0 || self.queued_items.is_empty() {
                break;
            }
        }
        self.put_off();
    }

    fn do_items(&mut self, budget: &mut u32) {
        while *budget > 0 {
            let list = if self.queued_items.is_empty() { &mut self.work_items } else { &mut self.queued_items };
            let Some(item) = list.pop_front() else { break };
            *budget -= 1;
            if let Some(rest) = item.clone().rest(1) {
                list.push_front(rest);
            }
            match item {
                WorkItem::Adopt { tenant, job, status } => self.adopt(&(tenant, job), status),
                WorkItem::Arrive { workflow, nodes, raw, adjusted } => {
                    self.arrive(&workflow, nodes.first, raw, adjusted);
                }
                WorkItem::Cancel { workflow: (tenant, id), nodes, how } => {
                    self.cancel_job(&(tenant, node_job(id, nodes.first)), how);
                }
            }
        }
    }

    /// Leaves the step's own items that are left to later steps.
    pub(super) fn put_off(&mut self) {
        self.work_items.append(&mut self.queued_items);
    }

    fn arrive(&mut self, workflow: &Key, node: u32, raw: Status, adjusted: Status) {
        let key = (workflow.0.clone(), node_job(workflow.1, node));
        if self.joins.contains_key(&key) {
            return self.arrive_at_join(workflow, &key, raw, adjusted);
        }
        let Some(job) = self.jobs.get(&key) else { return };
        let Some(place) = &job.place else { return };
        if job.record.state != JobState::Waiting || job.record.child.is_some() {
            return;
        }
        let cancelled = self.workflows.get(workflow).and_then(|w| w.cancelled);
        match arrive_at_job(place.node.when, raw, adjusted, cancelled) {
            JobArrival::End(state) => self.finish(&key, state),
            JobArrival::Ready => {
                let template = self.workflows[workflow].head.templates[place.template as usize].clone();
                let now = self.now;
                self.job_mut(&key).record.expires_at = (template.expires_ms > 0).then_some(now + template.expires_ms);
                self.start(&key, template.start, None);
            }
            JobArrival::FailUpstream => self.fail_upstream(&key, false),
        }
    }

    fn fail_upstream(&mut self, key: &Key, dead: bool) {
        self.job_mut(key).record.failure = Some(Failure::new(UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE));
        self.end(key, JobState::Failed, dead);
    }

    fn arrive_at_join(&mut self, workflow: &Key, key: &Key, raw: Status, adjusted: Status) {
        let join = self.joins.get_mut(key).expect("looked up before");
        let of_join = (join.node.when, !join.members.is_empty(), join.cancel_rest);
        let arrival = join.progress.arrive(of_join, raw, adjusted);
        if arrival.cancels_scope {
            let cancel =
                |nodes: &Range| WorkItem::Cancel { workflow: workflow.clone(), nodes: *nodes, how: JobState::Revoked };
            self.queued_items.extend(join.scope.iter().map(cancel));
        }
        if let Some(status) = arrival.ended {
            let node = join.node.clone();
            self.emit(key, &node, status);
        }
    }

    /// Tells what waits for a node that it ended.
    fn emit(&mut self, (tenant, job): &Key, node: &NewNode, raw: Status) {
        let (id, number) = node_of(*job);
        let workflow = (tenant.clone(), id);
        let adjusted = adjusted(raw, node.on_failure);
        let arrive = |nodes: &Range| WorkItem::Arrive { workflow: workflow.clone(), nodes: *nodes, raw, adjusted };
        self.queued_items.extend(node.next.iter().map(arrive));
        if let Some(stored) = self.workflows.get_mut(&workflow).filter(|stored| stored.head.end == number) {
            stored.end = Some(adjusted);
        }
    }

    /// Called for every job that ended.
    pub(super) fn ended_node(&mut self, key: &Key) {
        let job = &self.jobs[key];
        let Some(place) = &job.place else { return };
        let (node, status) = (place.node.clone(), status_of(job.record.state));
        self.emit(key, &node, status);
    }

    fn adopt(&mut self, key: &Key, status: Status) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        if job.record.state != JobState::Waiting || job.record.child.is_none() {
            return;
        }
        if status == Status::Ok {
            job.record.failure = None;
            self.finish(key, JobState::Succeeded);
        } else {
            // A job on its own goes to the dead set: nobody else tells of it.
            let alone = job.place.is_none();
            self.fail_upstream(key, alone);
        }
    }

    pub(super) fn finish_workflows(&mut self) {
        let now = self.now;
        let jobs = &self.jobs;
        let open = |key: &Key, nodes: u32| {
            let own = jobs.range((key.0.clone(), key.1)..=(key.0.clone(), node_job(key.1, nodes)));
            own.into_iter().any(|(_, job)| job.place.is_some() && !job.record.state.is_terminal())
        };
        for (key, workflow) in &mut self.workflows {
            let Some(end) = workflow.end else { continue };
            if !workflow.is_running() || open(key, workflow.head.nodes) {
                continue;
            }
            workflow.finished = Some((workflow_state(end, workflow.cancelled), now));
            workflow.deadline_at = None;
            let (keep_ms, replaces) = (workflow.head.keep_ms, workflow.head.parent.is_some());
            workflow.delete_at = delete_workflow_at(now, keep_ms, replaces, workflow.orphaned);
            self.notifications.ended.push(key.1);
            if let Some(job) = workflow.head.parent {
                self.queued_items.push_back(WorkItem::Adopt { tenant: key.0.clone(), job, status: end });
            }
        }
    }

    // ---- cancellation

    pub(super) fn cancel_workflow(&mut self, tenant: &TenantId, id: WorkflowId) -> WorkflowCancelled {
        let key = (tenant.clone(), id);
        let Some(found) = self.workflows.get(&key).filter(|workflow| !workflow.is_hidden()) else {
            return WorkflowCancelled::NotFound;
        };
        if let Some((state, _)) = found.finished {
            return WorkflowCancelled::AlreadyEnded(state);
        }
        self.give_up(&key, JobState::Revoked);
        self.advance();
        WorkflowCancelled::Requested
    }

    /// Marks a running workflow as cancelled, and lists its nodes to be cancelled.
    pub(super) fn give_up(&mut self, key: &Key, how: JobState) {
        let Some(workflow) = self.workflows.get_mut(key) else { return };
        if !workflow.is_running() || workflow.cancelled.is_some() {
            return;
        }
        workflow.cancelled = Some(how);
        workflow.deadline_at = None;
        let nodes = Range { first: 0, count: workflow.head.nodes };
        self.queued_items.push_back(WorkItem::Cancel { workflow: key.clone(), nodes, how });
    }

    /// Ends a job that waits, and cancels the workflow that replaced it; asks the worker of a running one to stop it.
    pub(super) fn cancel_job(&mut self, key: &Key, how: JobState) {
        let Some(job) = self.jobs.get_mut(key).filter(|job| !job.record.state.is_terminal()) else { return };
        job.record.cancel_requested = true;
        if job.record.state == JobState::Running {
            // Once it is to be stopped, it is.
            job.record.let_end = false;
            self.notifications.to_cancel.push(key.1);
            return;
        }
        let child = job.record.child;
        self.leave(key);
        self.finish(key, how);
        if let Some(child) = child {
            self.give_up(&(key.0.clone(), child), how);
        }
    }

    /// Cancels at most `max` workflows whose deadline has come; when the next one is.
    pub(super) fn pass_deadlines(&mut self, max: u32) -> Option<UnixMs> {
        let with = |w: (&Key, &Workflow)| Some((w.1.deadline_at?, w.0.clone()));
        let mut due: Vec<(UnixMs, Key)> = self.workflows.iter().filter_map(with).collect();
        due.sort();
        let passed = due.iter().take(max as usize).take_while(|(at, _)| *at <= self.now).count();
        for (_, key) in &due[..passed] {
            self.give_up(key, JobState::Expired);
        }
        due.get(passed).map(|(at, _)| *at)
    }
}
