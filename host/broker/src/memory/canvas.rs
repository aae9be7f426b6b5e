//! Workflows in the model: what is stored of one, and its submission. What follows is in `arrivals`, `growth` and
//! `lookup`.

use umbel_model::{
    JobId, JobState, NodeRef, OnFailure, QueueName, TenantId, UnixMs,
    canvas::{Range, When, node_job},
};

use super::state::{Job, Key, State};
use crate::*;

/// What a job's record does not say of its node.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) template: u32,
    pub(super) when: When,
    pub(super) on_failure: OnFailure,
    pub(super) after: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) next: Vec<Range>,
    pub(super) takes: bool,
}

#[derive(Debug)]
pub(super) struct Join {
    pub(super) when: When,
    pub(super) on_failure: OnFailure,
    pub(super) after: Option<u32>,
    pub(super) group: Option<u32>,
    pub(super) next: Vec<Range>,
    pub(super) members: Vec<Range>,
    pub(super) scope: Vec<Range>,
    pub(super) cancel_rest: bool,
    pub(super) pending: u32,
    pub(super) failed: u32,
    pub(super) skipped: u32,
    pub(super) status: Option<Status>,
}

#[derive(Debug)]
pub(super) struct Workflow {
    pub(super) head: WorkflowHead,
    pub(super) staged: bool,
    pub(super) created_at: UnixMs,
    pub(super) deadline_at: Option<UnixMs>,
    /// How it was cancelled.
    pub(super) cancelled: Option<JobState>,
    /// How its end node ended, adjusted.
    pub(super) end: Option<Status>,
    pub(super) finished: Option<(WorkflowState, UnixMs)>,
    pub(super) delete_at: Option<UnixMs>,
    /// The job that it replaced was deleted.
    pub(super) orphaned: bool,
    /// Nodes deleted so far; from the first on nobody finds it any more.
    pub(super) pruned: Option<u32>,
}

impl Workflow {
    /// Not started yet, or half deleted.
    pub(super) fn is_hidden(&self) -> bool {
        self.staged || self.pruned.is_some()
    }

    pub(super) fn is_running(&self) -> bool {
        !self.staged && self.finished.is_none() && self.pruned.is_none()
    }
}

/// A work item. What is left of it stays in front.
#[derive(Debug)]
pub(super) enum Todo {
    Arrive {
        workflow: Key,
        targets: Range,
        raw: Status,
        adjusted: Status,
    },
    /// The workflow that replaced a job ended.
    Adopt {
        job: Key,
        status: Status,
    },
    Cancel {
        workflow: Key,
        nodes: Range,
        how: JobState,
    },
}

pub(super) fn status_of(state: JobState) -> Status {
    match state {
        JobState::Succeeded => Status::Ok,
        JobState::Skipped => Status::Skipped,
        _ => Status::Failed,
    }
}

pub(super) fn adjusted(raw: Status, on_failure: OnFailure) -> Status {
    if raw == Status::Failed && on_failure != OnFailure::Fail { Status::Ok } else { raw }
}

impl State {
    // ---- submission

    pub(super) fn stage_workflow(&mut self, now: UnixMs, head: &WorkflowHead) -> WorkflowSubmitted {
        let key = (head.tenant.clone(), head.id);
        match self.workflows.get(&key) {
            Some(found) if found.pruned.is_some() => return WorkflowSubmitted::Unknown,
            Some(found) if !found.staged => return WorkflowSubmitted::Existing(head.id),
            _ => {}
        }
        if let Some(answer) = self.known_workflow(now, head) {
            return answer;
        }
        if self.workflows.contains_key(&key) {
            return WorkflowSubmitted::Created;
        }
        if let Some(refusal) =
            self.no_room_for(&head.tenant, u64::from(head.parent.is_none()), head.nodes.into(), &head.templates)
        {
            return refusal;
        }
        self.store_head(now, head);
        WorkflowSubmitted::Created
    }

    pub(super) fn known_workflow(&self, now: UnixMs, head: &WorkflowHead) -> Option<WorkflowSubmitted> {
        let asked = head.idempotency.as_ref()?;
        let (id, body, expires) = self.idempotency.get(&(head.tenant.clone(), asked.key.clone()))?;
        if *expires <= now {
            return None;
        }
        let same = *body == asked.body;
        Some(if same { WorkflowSubmitted::Existing(*id) } else { WorkflowSubmitted::Conflict(*id) })
    }

    /// Why so many workflows with these templates cannot be added.
    pub(super) fn no_room_for<'a>(
        &self,
        tenant: &TenantId,
        workflows: u64,
        nodes: u64,
        templates: impl IntoIterator<Item = &'a NodeTemplate>,
    ) -> Option<WorkflowSubmitted> {
        let mine = |(_, w): &(&Key, &Workflow)| w.head.parent.is_none() && w.pruned.is_none();
        let held = self.workflows.iter().filter(|(key, _)| key.0 == *tenant).filter(mine).count() as u64;
        if workflows > 0 && held + workflows > self.limits.max_workflows {
            return Some(WorkflowSubmitted::TooManyWorkflows);
        }
        let stored = self.workflows.iter().filter(|(key, _)| key.0 == *tenant);
        if stored.map(|(_, w)| u64::from(w.head.nodes)).sum::<u64>() + nodes > self.limits.max_nodes {
            return Some(WorkflowSubmitted::TooManyWorkflows);
        }
        let mut wanted: Vec<(&QueueName, u64)> = Vec::new();
        for template in templates {
            match wanted.iter_mut().find(|(queue, _)| *queue == &template.queue) {
                Some((_, nodes)) => *nodes += u64::from(template.nodes),
                None => wanted.push((&template.queue, template.nodes.into())),
            }
        }
        let mut queues = self.scheduler.queues_of(tenant);
        for (queue, nodes) in wanted {
            let backlog = match self.scheduler.find(tenant, queue).map(|id| self.scheduler.counts(id)) {
                Some(counts) => counts.ready + counts.delayed,
                None => {
                    queues += 1;
                    if queues > self.limits.max_queues {
                        return Some(WorkflowSubmitted::TooManyQueues);
                    }
                    0
                }
            };
            if backlog + nodes > self.limits.max_backlog {
                return Some(WorkflowSubmitted::QueueFull);
            }
        }
        None
    }

    pub(super) fn store_head(&mut self, now: UnixMs, head: &WorkflowHead) {
        for template in &head.templates {
            self.scheduler.queue_id(&head.tenant, &template.queue);
        }
        let workflow = Workflow {
            head: head.clone(),
            staged: true,
            created_at: now,
            deadline_at: None,
            cancelled: None,
            end: None,
            finished: None,
            delete_at: Some(now + STAGED_TTL_MS),
            orphaned: false,
            pruned: None,
        };
        self.workflows.insert((head.tenant.clone(), head.id), workflow);
    }

    pub(super) fn stage_nodes(&mut self, now: UnixMs, key: &Key, first: u32, nodes: &[NewNode]) -> WorkflowSubmitted {
        match self.workflows.get(key) {
            Some(found) if found.pruned.is_some() => WorkflowSubmitted::Unknown,
            Some(found) if !found.staged => WorkflowSubmitted::Existing(key.1),
            Some(_) => {
                for (number, node) in (first..).zip(nodes) {
                    self.store_node(now, key, number, node);
                }
                WorkflowSubmitted::Created
            }
            None => WorkflowSubmitted::Unknown,
        }
    }

    pub(super) fn store_node(&mut self, now: UnixMs, key: &Key, number: u32, new: &NewNode) {
        let workflow = self.workflows.get_mut(key).expect("nodes are stored for a stored workflow");
        let id = node_job(key.1, number);
        let is_end = workflow.head.end == number;
        let next = new.next.clone();
        match &new.work {
            NewWork::Job { template, arguments, takes, kept, broker_options } => {
                let of = &workflow.head.templates[*template as usize];
                let mut job = Job::new(now, &plain(&key.0, id, of));
                job.broker_options.clone_from(broker_options);
                job.record.state = JobState::Waiting;
                job.record.expires_at = None;
                job.record.node = Some(NodeRef { workflow: key.1, number, arguments: arguments.clone() });
                if let Some(kept) = kept {
                    job.record.state = kept.state;
                    job.record.result.clone_from(&kept.result);
                    job.record.failure.clone_from(&kept.failure);
                    job.record.finished_at = Some(now);
                    if is_end {
                        workflow.end = Some(adjusted(status_of(kept.state), new.on_failure));
                    }
                }
                let (when, on_failure, after, group) = (new.when, new.on_failure, new.after, new.group);
                job.place = Some(Place { template: *template, when, on_failure, after, group, next, takes: *takes });
                self.jobs.insert((key.0.clone(), id), job);
            }
            NewWork::Join { members, scope, cancel_rest, pending, failed, skipped, kept } => {
                let status = kept.then_some(Status::Ok);
                if is_end {
                    workflow.end = status;
                }
                let join = Join {
                    when: new.when,
                    on_failure: new.on_failure,
                    after: new.after,
                    group: new.group,
                    next,
                    members: members.clone(),
                    scope: scope.clone(),
                    cancel_rest: *cancel_rest,
                    pending: *pending,
                    failed: *failed,
                    skipped: *skipped,
                    status,
                };
                self.joins.insert((key.0.clone(), id), join);
            }
        }
    }

    pub(super) fn start_workflow(&mut self, now: UnixMs, key: &Key) -> WorkflowSubmitted {
        let head = match self.workflows.get(key) {
            Some(found) if found.pruned.is_some() => return WorkflowSubmitted::Unknown,
            Some(found) if !found.staged => return WorkflowSubmitted::Existing(key.1),
            Some(found) => found.head.clone(),
            None => return WorkflowSubmitted::Unknown,
        };
        if let Some(answer) = self.known_workflow(now, &head) {
            return answer;
        }
        if let Some(asked) = &head.idempotency {
            let entry = (key.1, asked.body.clone(), now + asked.ttl_ms);
            self.idempotency.insert((key.0.clone(), asked.key.clone()), entry);
        }
        self.begin(now, key);
        self.advance(now);
        WorkflowSubmitted::Created
    }

    pub(super) fn begin(&mut self, now: UnixMs, key: &Key) {
        let workflow = self.workflows.get_mut(key).expect("a workflow that begins is stored");
        workflow.staged = false;
        workflow.created_at = now;
        workflow.delete_at = None;
        let deadline_ms = workflow.head.deadline_ms;
        workflow.deadline_at = (deadline_ms > 0).then_some(now + deadline_ms);
        // Whatever a node waits for, this readies it.
        let arrive = |targets: &Range| Todo::Arrive {
            workflow: key.clone(),
            targets: *targets,
            raw: Status::Failed,
            adjusted: Status::Ok,
        };
        let items: Vec<Todo> = workflow.head.starts.iter().map(arrive).collect();
        self.fresh.extend(items);
    }
}

/// A node's job as if it had been submitted on its own.
fn plain(tenant: &TenantId, id: JobId, template: &NodeTemplate) -> NewJob {
    NewJob {
        id,
        tenant: tenant.clone(),
        task: template.task.clone(),
        queue: template.queue.clone(),
        priority: template.priority,
        spec: template.spec.clone(),
        start: template.start,
        expires_ms: template.expires_ms,
        expires_at: None,
        max_deliveries: template.max_deliveries,
        // Nodes are deleted with their workflow.
        result_ttl_ms: 0,
        dead_ttl_ms: 0,
        broker_options: None,
        idempotency: None,
        redrive_of: None,
    }
}
