//! Workflows in memory: the host's plan of a canvas, walked through as its nodes end.
//!
//! The plan (what waits for what, and what a failure means) is the host's own. Not here: deadlines, limits on size, depth
//! and rate.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json, value::RawValue};
use umbel_model::{
    Failure, JobState, JsonError, OnFailure,
    canvas::{self, CanvasError, CanvasLimits, Join, Node, Plan, Range, When, Work},
};

use super::{
    App, Attempt, Job,
    job::{Record, UPSTREAM_FAILED},
};
use crate::Refused;

/// A workflow that was started. It stays up to date while its app runs.
#[derive(Clone)]
pub struct Workflow(Arc<Mutex<Shown>>);

struct Shown {
    number: usize,
    state: JobState,
    result: Option<Value>,
    jobs: Vec<Job>,
}

impl Workflow {
    fn lock(&self) -> MutexGuard<'_, Shown> {
        // Written whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workflow id that `ctx.place()` returns.
    pub fn id(&self) -> String {
        id_of(self.lock().number)
    }

    /// `running`, `succeeded` or `failed`.
    pub fn state(&self) -> JobState {
        self.lock().state
    }

    /// The result of its last step; of a group the list of its members' results.
    pub fn result(&self) -> Option<Value> {
        self.lock().result.clone()
    }

    /// Its jobs in the order of the canvas: also those that wait for their input, or were skipped. Members that a task
    /// added come last.
    pub fn jobs(&self) -> Vec<Job> {
        self.lock().jobs.clone()
    }
}

impl fmt::Debug for Workflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.lock();
        f.debug_struct("Workflow").field("state", &shown.state).field("jobs", &shown.jobs).finish_non_exhaustive()
    }
}

/// A workflow of an app.
pub(super) struct Flow {
    nodes: Vec<FlowNode>,
    end: u32,
    /// The job that it replaces.
    parent: Option<usize>,
    ended: Option<Status>,
    shown: Workflow,
}

struct FlowNode {
    plan: Node,
    /// Of a node that is no join.
    job: Option<usize>,
    status: Option<Status>,
    /// Of a join.
    failed: u32,
    skipped: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    Failed,
    Skipped,
}

/// A work item.
pub(super) enum Todo {
    /// A node that this one waits for has ended, and how: as it was, and as its `on_failure` makes it look.
    Arrive { flow: usize, node: u32, raw: Status, adjusted: Status },
    /// The workflow that replaced this job has ended.
    Adopt { job: usize, flow: usize, status: Status },
}

pub(super) fn id_of(flow: usize) -> String {
    format!("workflow-{}", flow + 1)
}

pub(super) fn parsed(text: &str) -> Result<canvas::Canvas, Refused> {
    serde_json::from_str(text)
        .map_err(|e| Refused::new("invalid_canvas", JsonError::line_of_text::<canvas::Canvas>(text, &e)))
}

fn invalid(error: CanvasError) -> Refused {
    Refused::new("invalid_canvas", error.to_string())
}

fn adjusted(raw: Status, on_failure: OnFailure) -> Status {
    if raw == Status::Failed && on_failure != OnFailure::Fail { Status::Ok } else { raw }
}

impl Flow {
    pub(super) fn in_group(&self, node: u32) -> bool {
        self.nodes[node as usize].plan.group.is_some()
    }

    /// Whether it is what this job waits for.
    pub(super) fn replaces(&self, job: usize) -> bool {
        self.parent == Some(job)
    }

    /// The numbers of its jobs.
    pub(super) fn jobs(&self) -> impl Iterator<Item = usize> {
        self.nodes.iter().filter_map(|node| node.job)
    }

    fn join(&mut self, node: u32) -> Option<(&mut Join, &mut u32, &mut u32)> {
        let node = &mut self.nodes[node as usize];
        match &mut node.plan.work {
            Work::Join(join) => Some((join, &mut node.failed, &mut node.skipped)),
            Work::Job(_) => None,
        }
    }
}

impl App {
    pub(super) fn start_flow(&mut self, text: &str, parent: Option<usize>) -> Result<Workflow, Refused> {
        let Plan { nodes, starts, end, .. } = canvas::plan(parsed(text)?, CanvasLimits::default()).map_err(invalid)?;
        self.check(&nodes)?;
        let number = self.flows.len();
        let shown = Shown { number, state: JobState::Running, result: None, jobs: Vec::new() };
        let shown = Workflow(Arc::new(Mutex::new(shown)));
        self.flows.push(Flow { nodes: Vec::new(), end, parent, ended: None, shown: shown.clone() });
        self.add_nodes(number, nodes)?;
        self.begin(number, &starts);
        self.settle_flows();
        Ok(shown)
    }

    /// Nothing is begun if a task is unknown or an option is wrong.
    fn check(&self, nodes: &[Node]) -> Result<(), Refused> {
        nodes.iter().try_for_each(|node| match &node.work {
            Work::Job(signature) => self
                .call_without_arguments(signature)
                .map(drop)
                .map_err(|refused| Refused { message: format!("{}: {}", node.pointer, refused.message), ..refused }),
            Work::Join(_) => Ok(()),
        })
    }

    fn add_nodes(&mut self, flow: usize, nodes: Vec<Node>) -> Result<(), Refused> {
        for plan in nodes {
            let node = self.flows[flow].nodes.len() as u32;
            let job = match &plan.work {
                Work::Job(signature) => {
                    let call = self.call_without_arguments(signature)?;
                    let job = self.add(|number, now| Record::waiting(number, &call, now));
                    job.lock().node = Some((flow, node));
                    self.flows[flow].shown.lock().jobs.push(job);
                    Some(self.jobs.len() - 1)
                }
                Work::Join(_) => None,
            };
            self.flows[flow].nodes.push(FlowNode { plan, job, status: None, failed: 0, skipped: 0 });
        }
        Ok(())
    }

    fn begin(&mut self, flow: usize, starts: &[Range]) {
        let (raw, adjusted) = (Status::Ok, Status::Ok);
        let nodes = starts.iter().flat_map(|range| range.iter());
        self.todo.extend(nodes.map(|node| Todo::Arrive { flow, node, raw, adjusted }));
    }

    /// Carries out the workflow requests of an attempt that succeeded. True if the job is replaced.
    pub(super) fn grow(&mut self, number: usize, ended: &Attempt) -> Result<bool, Refused> {
        for canvas in &ended.submitted {
            self.start_flow(&canvas.to_string(), None)?;
        }
        let place = self.jobs[number].lock().node;
        if let (Some((flow, node)), false) = (place, ended.added_to_group.is_empty()) {
            self.add_members(flow, node, &ended.added_to_group)?;
        }
        let Some(canvas) = &ended.replacement else { return Ok(false) };
        // Before it begins: a workflow of nothing ends at once.
        self.jobs[number].lock().state = JobState::Waiting;
        self.start_flow(&canvas.to_string(), Some(number)).map(|_| true)
    }

    fn add_members(&mut self, flow: usize, node: u32, members: &[Value]) -> Result<(), Refused> {
        let of_grower = &self.flows[flow].nodes[node as usize].plan;
        let (Some(join), on_failure) = (of_grower.group, of_grower.members_on_failure) else { return Ok(()) };
        let members = members.iter().map(|member| parsed(&member.to_string())).collect::<Result<Vec<_>, _>>()?;
        let (mut plan, ends) = canvas::plan_members(members, on_failure, CanvasLimits::default()).map_err(invalid)?;
        self.check(&plan.nodes)?;
        let offset = self.flows[flow].nodes.len() as u32;
        let shifted = |range: &Range| Range { first: range.first + offset, ..*range };
        for node in &mut plan.nodes {
            node.after = node.after.map(|after| after + offset);
            node.group = Some(node.group.map_or(join, |group| group + offset));
            node.next = node.next.iter().map(shifted).collect();
            if let Work::Join(inner) = &mut node.work {
                inner.members = inner.members.iter().map(shifted).collect();
                inner.scope = inner.scope.iter().map(shifted).collect();
            }
        }
        ends.iter().flat_map(|range| range.iter()).for_each(|end| {
            canvas::push_range(&mut plan.nodes[end as usize].next, Range::one(join));
        });
        let scope = Range { first: offset, count: plan.nodes.len() as u32 };
        if let Some((join, ..)) = self.flows[flow].join(join) {
            join.pending += ends.iter().map(|range| range.count).sum::<u32>();
            join.members.extend(ends.iter().map(shifted));
            join.scope.push(scope);
        }
        self.add_nodes(flow, plan.nodes)?;
        self.begin(flow, &plan.starts.iter().map(shifted).collect::<Vec<_>>());
        Ok(())
    }

    /// Called for every node whose job ended.
    pub(super) fn node_ended(&mut self, flow: usize, node: u32, state: JobState) {
        let raw = match state {
            JobState::Succeeded => Status::Ok,
            JobState::Skipped => Status::Skipped,
            _ => Status::Failed,
        };
        self.emit(flow, node, raw);
    }

    /// Tells what waits for a node that it ended.
    fn emit(&mut self, number: usize, node: u32, raw: Status) {
        let flow = &mut self.flows[number];
        let ended = &mut flow.nodes[node as usize];
        ended.status = Some(raw);
        let adjusted = adjusted(raw, ended.plan.on_failure);
        let next: Vec<u32> = ended.plan.next.iter().flat_map(|range| range.iter()).collect();
        if flow.end == node {
            flow.ended = Some(adjusted);
        }
        self.todo.extend(next.into_iter().map(|node| Todo::Arrive { flow: number, node, raw, adjusted }));
    }

    /// Does all that is left to be done, then looks which workflows are over, until nothing follows from that.
    pub(super) fn settle_flows(&mut self) {
        loop {
            self.do_todo();
            self.finish_flows();
            if self.todo.is_empty() {
                break;
            }
        }
    }

    fn do_todo(&mut self) {
        while let Some(todo) = self.todo.pop_front() {
            match todo {
                Todo::Arrive { flow, node, raw, adjusted } => self.arrive(flow, node, raw, adjusted),
                Todo::Adopt { job, flow, status } => self.adopt(job, flow, status),
            }
        }
    }

    fn finish_flows(&mut self) {
        for number in 0..self.flows.len() {
            let Flow { ended: Some(end), shown, .. } = &self.flows[number] else { continue };
            let (end, shown) = (*end, shown.clone());
            if shown.state() != JobState::Running || shown.jobs().iter().any(|job| !job.state().is_terminal()) {
                continue;
            }
            let result = (end == Status::Ok).then(|| self.value(number, self.flows[number].end));
            let mut shown = shown.lock();
            shown.state = if end == Status::Ok { JobState::Succeeded } else { JobState::Failed };
            shown.result = result.and_then(|json| serde_json::from_str(&json).ok());
            drop(shown);
            let replaced = self.flows[number].parent;
            self.todo.extend(replaced.map(|job| Todo::Adopt { job, flow: number, status: end }));
        }
    }

    fn arrive(&mut self, flow: usize, node: u32, raw: Status, adjusted: Status) {
        let when = self.flows[flow].nodes[node as usize].plan.when;
        // As it looks to a node that waits for a success, or for a failure.
        let seen = match (when, raw) {
            (When::Link, Status::Failed) if adjusted == Status::Ok => Status::Skipped,
            (When::Success | When::Link, _) => adjusted,
            (When::Failure, Status::Failed) => Status::Ok,
            (When::Failure, _) => Status::Skipped,
        };
        let Some(job) = self.flows[flow].nodes[node as usize].job else {
            return self.arrive_at_join(flow, node, seen, adjusted);
        };
        if self.jobs[job].state() != JobState::Waiting {
            return;
        }
        match seen {
            Status::Skipped => self.end(job, JobState::Skipped),
            Status::Failed => self.fail(job, Failure::new(UPSTREAM_FAILED, "a step before it failed")),
            Status::Ok => self.make_ready(flow, node, job),
        }
    }

    fn make_ready(&mut self, flow: usize, node: u32, job: usize) {
        let plan = self.flows[flow].nodes[node as usize].plan.clone();
        let Work::Job(signature) = &plan.work else { return };
        let input = plan.after.filter(|_| plan.takes).map(|after| match plan.when {
            When::Success | When::Link => self.value(flow, after),
            When::Failure => self.error(flow, after).to_string(),
        });
        let input = input.and_then(|json| RawValue::from_string(json).ok());
        match self.call(signature, input) {
            Ok(call) => self.jobs[job].lock().start(call, self.now_ms),
            Err(refused) => self.fail(job, Failure::new(refused.kind, refused.message)),
        }
    }

    fn arrive_at_join(&mut self, number: usize, node: u32, seen: Status, adjusted: Status) {
        let flow = &mut self.flows[number];
        if flow.nodes[node as usize].status.is_some() {
            return;
        }
        let Some((join, failed, skipped)) = flow.join(node) else { return };
        // Without members it waits for what its group waits for, as a job would.
        match if join.members.is_empty() { seen } else { adjusted } {
            Status::Ok => {}
            Status::Skipped => *skipped += 1,
            Status::Failed => *failed += 1,
        }
        join.pending = join.pending.saturating_sub(1);
        let first_failure = *failed == 1 && join.cancel_rest;
        let scope: Vec<u32> = join.scope.iter().filter(|_| first_failure).flat_map(|range| range.iter()).collect();
        let status = match (join.pending, *failed, *skipped) {
            (1.., ..) => None,
            (0, 0, 0) => Some(Status::Ok),
            (0, 0, _) => Some(Status::Skipped),
            (0, ..) => Some(Status::Failed),
        };
        let rest: Vec<usize> = scope.into_iter().filter_map(|node| flow.nodes[node as usize].job).collect();
        for job in rest {
            if !self.jobs[job].state().is_terminal() {
                self.end(job, JobState::Revoked);
            }
        }
        if let Some(status) = status {
            self.emit(number, node, status);
        }
    }

    fn adopt(&mut self, job: usize, flow: usize, status: Status) {
        if self.jobs[job].state() != JobState::Waiting {
            return;
        }
        if status == Status::Ok {
            let result = self.value(flow, self.flows[flow].end);
            self.jobs[job].lock().result = Some(result);
            self.end(job, JobState::Succeeded);
        } else {
            self.fail(job, Failure::new(UPSTREAM_FAILED, "the workflow that replaced it failed"));
        }
    }

    /// The value of a node for the nodes that wait for it, as JSON.
    fn value(&self, flow: usize, node: u32) -> String {
        let ended = &self.flows[flow].nodes[node as usize];
        match (ended.status, ended.plan.on_failure, &ended.plan.work) {
            (Some(Status::Failed), OnFailure::Continue, _) => json!({"error": self.error(flow, node)}).to_string(),
            (Some(Status::Ok), _, Work::Join(join)) => {
                let members = join.members.iter().flat_map(|range| range.iter());
                let values: Vec<String> = members.map(|member| self.value(flow, member)).collect();
                format!("[{}]", values.join(","))
            }
            (Some(Status::Ok), ..) => {
                let result = ended.job.and_then(|job| self.jobs[job].lock().result.clone());
                result.unwrap_or_else(|| "null".to_owned())
            }
            _ => "null".to_owned(),
        }
    }

    /// The argument of an error callback.
    fn error(&self, flow: usize, node: u32) -> Value {
        let ended = &self.flows[flow].nodes[node as usize];
        let Some(job) = ended.job.map(|job| &self.jobs[job]) else {
            let Work::Join(join) = &ended.plan.work else { return Value::Null };
            let members = join.members.iter().flat_map(|range| range.iter());
            let failed = |node: &u32| {
                let member = &self.flows[flow].nodes[*node as usize];
                member.job.is_some() && member.status == Some(Status::Failed)
            };
            let failed: Vec<Value> = members.filter(failed).map(|node| self.error(flow, node)).collect();
            return json!({"kind": UPSTREAM_FAILED, "message": "members failed", "node": node, "failed": failed});
        };
        let (failure, task) = (job.failure(), job.task());
        let (kind, message) = failure.as_ref().map_or(("revoked", "it was cancelled"), |f| (&*f.kind, &*f.message));
        let mut error = json!({"kind": kind, "message": message, "node": node, "job_id": job.id(), "task": task});
        if let Some(details) = failure.as_ref().and_then(|f| f.details.as_ref()) {
            error["details"] = serde_json::from_str(details.get()).unwrap_or_default();
        }
        error
    }
}
