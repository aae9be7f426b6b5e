//! The consequences of an end: arrivals, joins, the end of a workflow, and cancellation.

use umbel_model::{
    Failure, JobState, OnFailure, UnixMs,
    canvas::{Range, node_job, node_of},
};

use super::{
    records::Key,
    records::{WorkItem, Workflow},
    state::State,
};
use crate::{
    rules::{
        join::{JobArrival, adjusted, arrive_at_job, status_of, workflow_state},
        retention::delete_workflow_at,
    },
    *,
};

impl State {
    // ---- the work list

    /// Does at most `ADVANCE` nodes of the list, then looks which workflows are over.
    pub(super) fn advance(&mut self, now: UnixMs) {
        let mut budget = ADVANCE;
        while budget > 0 {
            let own = !self.queued_items.is_empty();
            let Some(item) = self.queued_items.pop_front().or_else(|| self.work_items.pop_front()) else { break };
            let mut put_back =
                |item| if own { self.queued_items.push_front(item) } else { self.work_items.push_front(item) };
            budget -= 1;
            match item {
                WorkItem::Adopt { job, status } => self.adopt(now, &job, status),
                WorkItem::Arrive { workflow, targets, raw, adjusted } => {
                    let node = targets.first;
                    if let Some(left) = rest(targets) {
                        put_back(WorkItem::Arrive { workflow: workflow.clone(), targets: left, raw, adjusted });
                    }
                    self.arrive(now, &workflow, node, raw, adjusted);
                }
                WorkItem::Cancel { workflow, nodes, how } => {
                    if let Some(left) = rest(nodes) {
                        put_back(WorkItem::Cancel { workflow: workflow.clone(), nodes: left, how });
                    }
                    self.cancel_node(now, &(workflow.0.clone(), node_job(workflow.1, nodes.first)), how);
                }
            }
        }
        self.put_off();
        self.finish_workflows(now);
    }

    /// Leaves the step's own items that are left to later steps.
    pub(super) fn put_off(&mut self) {
        self.work_items.append(&mut self.queued_items);
    }

    fn arrive(&mut self, now: UnixMs, workflow: &Key, node: u32, raw: Status, adjusted: Status) {
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
        match arrive_at_job(place.when, raw, adjusted, cancelled) {
            JobArrival::End(state) => self.finish(now, &key, state),
            JobArrival::Ready => self.make_ready(now, workflow, &key),
            JobArrival::FailUpstream => self.fail_upstream(now, &key),
        }
    }

    fn fail_upstream(&mut self, now: UnixMs, key: &Key) {
        self.job_mut(key).record.failure = Some(Failure::new(UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE));
        self.end(now, key, JobState::Failed, false);
    }

    fn make_ready(&mut self, now: UnixMs, workflow: &Key, key: &Key) {
        let place = self.jobs[key].place.as_ref().expect("only nodes are made ready");
        let template = self.workflows[workflow].head.templates[place.template as usize].clone();
        self.job_mut(key).record.expires_at = (template.expires_ms > 0).then_some(now + template.expires_ms);
        self.start(now, key, template.start);
    }

    fn arrive_at_join(&mut self, workflow: &Key, key: &Key, raw: Status, adjusted: Status) {
        let join = self.joins.get_mut(key).expect("looked up before");
        let of_join = (join.when, !join.members.is_empty(), join.cancel_rest);
        let arrival = join.progress.arrive(of_join, raw, adjusted);
        if arrival.cancels_scope {
            let how = JobState::Revoked;
            let cancel = |nodes: &Range| WorkItem::Cancel { workflow: workflow.clone(), nodes: *nodes, how };
            self.queued_items.extend(join.scope.iter().map(cancel));
        }
        if let Some(status) = arrival.ended {
            let (next, on_failure) = (join.next.clone(), join.on_failure);
            self.emit(key, &next, status, on_failure);
        }
    }

    /// Tells what waits for a node that it ended.
    fn emit(&mut self, key: &Key, next: &[Range], raw: Status, on_failure: OnFailure) {
        let (id, number) = node_of(key.1);
        let workflow = (key.0.clone(), id);
        let adjusted = adjusted(raw, on_failure);
        for targets in next {
            self.queued_items.push_back(WorkItem::Arrive {
                workflow: workflow.clone(),
                targets: *targets,
                raw,
                adjusted,
            });
        }
        let Some(stored) = self.workflows.get_mut(&workflow) else { return };
        if stored.head.end == number {
            stored.end = Some(adjusted);
            if let Some(parent) = stored.head.parent {
                self.queued_items.push_back(WorkItem::Adopt { job: (key.0.clone(), parent), status: adjusted });
            }
        }
    }

    /// Called for every job that ended.
    pub(super) fn ended_node(&mut self, key: &Key) {
        let job = &self.jobs[key];
        let Some(place) = &job.place else { return };
        let (next, raw, on_failure) = (place.next.clone(), status_of(job.record.state), place.on_failure);
        self.emit(key, &next, raw, on_failure);
    }

    fn adopt(&mut self, now: UnixMs, key: &Key, status: Status) {
        let Some(job) = self.jobs.get(key) else { return };
        if job.record.state != JobState::Waiting || job.record.child.is_none() {
            return;
        }
        match status {
            Status::Ok => {
                self.job_mut(key).record.failure = None;
                self.finish(now, key, JobState::Succeeded);
            }
            // A job on its own goes to the dead set: nobody else tells of it.
            _ => {
                let alone = job.place.is_none();
                self.job_mut(key).record.failure = Some(Failure::new(UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE));
                self.end(now, key, JobState::Failed, alone);
            }
        }
    }

    pub(super) fn finish_workflows(&mut self, now: UnixMs) {
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
            self.ended.push(key.1);
        }
    }

    // ---- cancellation

    pub(super) fn cancel_workflow(&mut self, now: UnixMs, key: &Key) -> WorkflowCancelled {
        let answer = match self.workflows.get(key) {
            Some(found) if !found.staged && found.pruned.is_none() => match found.finished {
                Some((state, _)) => WorkflowCancelled::AlreadyEnded(state),
                None => WorkflowCancelled::Requested,
            },
            _ => WorkflowCancelled::NotFound,
        };
        if answer == WorkflowCancelled::Requested {
            self.give_up(key, JobState::Revoked);
            self.advance(now);
        }
        answer
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

    fn cancel_node(&mut self, now: UnixMs, key: &Key, how: JobState) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        if job.record.state.is_terminal() {
            return;
        }
        job.record.cancel_requested = true;
        if job.record.state == JobState::Running {
            // Once it is to be stopped, it is.
            job.record.let_end = false;
            self.to_stop.push(key.1);
            return;
        }
        let child = job.record.child;
        self.leave(key);
        self.finish(now, key, how);
        if let Some(child) = child {
            self.give_up(&(key.0.clone(), child), how);
        }
    }

    /// Cancels at most `max` workflows whose deadline has come; when the next one is.
    pub(super) fn pass_deadlines(&mut self, now: UnixMs, max: u32) -> Option<UnixMs> {
        let with = |w: (&Key, &Workflow)| Some((w.1.deadline_at?, w.0.clone()));
        let mut due: Vec<(UnixMs, Key)> = self.workflows.iter().filter_map(with).collect();
        due.sort();
        let passed = due.iter().take(max as usize).take_while(|(at, _)| *at <= now).count();
        for (_, key) in &due[..passed] {
            self.give_up(key, JobState::Expired);
        }
        due.get(passed).map(|(at, _)| *at)
    }
}

/// A range without its first node.
fn rest(range: Range) -> Option<Range> {
    (range.count > 1).then(|| Range { first: range.first + 1, count: range.count - 1 })
}
