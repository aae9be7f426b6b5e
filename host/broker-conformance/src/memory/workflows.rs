//! Workflows in the model: what is stored of one, and its submission. What follows is in `arrivals`, `growth` and
//! `workflow_reads`.

use umbel_model::{JobId, JobState, NodeRef, TenantId, WorkflowId, canvas::node_job};

use super::{
    records::{Job, Join, Key, Place, Workflow},
    state::State,
};
use umbel_broker::{
    rules::{
        blobs,
        capacity::{self, Held},
        join::{JoinProgress, adjusted, status_of},
        storage,
        work_items::WorkItem,
    },
    *,
};

impl State {
    pub(super) fn stage_workflow(&mut self, head: &WorkflowHead) -> WorkflowSubmitted {
        let key = (head.tenant.clone(), head.id);
        let is_known = self.workflows.contains_key(&key);
        if let Some(answer) = self.not_staged(&key).filter(|_| is_known) {
            return answer;
        }
        if let Some((id, same)) = self.known_key(&head.tenant, head.idempotency.as_ref()) {
            return if same { WorkflowSubmitted::Existing(id) } else { WorkflowSubmitted::Conflict(id) };
        }
        if !is_known {
            if let Some(refusal) = self.refused(&head.tenant, Held::of(head), &head.templates) {
                return refusal;
            }
            if !self.fits(&head.tenant, storage::workflow(&head.spec, &head.templates)) {
                return WorkflowSubmitted::StorageFull;
            }
            self.store_head(head);
        }
        WorkflowSubmitted::Created
    }

    /// The answer to a step of a submission whose workflow is not staged.
    fn not_staged(&self, key: &Key) -> Option<WorkflowSubmitted> {
        match self.workflows.get(key).filter(|workflow| workflow.pruned.is_none()) {
            Some(found) if found.staged => None,
            Some(_) => Some(WorkflowSubmitted::Existing(key.1)),
            None => Some(WorkflowSubmitted::Unknown),
        }
    }

    /// Why so many workflows with these templates cannot be added.
    pub(super) fn refused<'a>(
        &self,
        tenant: &TenantId,
        new: Held,
        templates: impl IntoIterator<Item = &'a NodeTemplate>,
    ) -> Option<WorkflowSubmitted> {
        let mine = || self.workflows.iter().filter(|(key, _)| key.0 == *tenant).map(|(_, workflow)| workflow);
        let workflows = mine().filter(|w| w.head.parent.is_none() && w.pruned.is_none()).count() as u64;
        let held = Held { workflows, nodes: mine().map(|w| u64::from(w.head.nodes)).sum() };
        capacity::for_workflows(&self.limits, &self.scheduler, tenant, held, new, templates)
    }

    pub(super) fn store_head(&mut self, head: &WorkflowHead) {
        for template in &head.templates {
            self.scheduler.queue_id(&head.tenant, &template.queue);
        }
        let workflow = Workflow {
            head: head.clone(),
            staged: true,
            created_at: self.now,
            deadline_at: None,
            cancelled: None,
            end: None,
            finished: None,
            delete_at: Some(self.now + STAGED_TTL_MS),
            orphaned: false,
            pruned: None,
        };
        self.workflows.insert((head.tenant.clone(), head.id), workflow);
    }

    pub(super) fn stage_nodes(
        &mut self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        nodes: &[NewNode],
    ) -> WorkflowSubmitted {
        let key = (tenant.clone(), id);
        if let Some(answer) = self.not_staged(&key) {
            return answer;
        }
        if !self.fits(tenant, nodes.iter().map(storage::node).sum()) {
            return WorkflowSubmitted::StorageFull;
        }
        if let Some(missing) = self.missing_blob(tenant, nodes.iter().flat_map(blobs::of_node)) {
            return WorkflowSubmitted::MissingBlob(missing);
        }
        for (number, node) in (first..).zip(nodes) {
            self.store_node(&key, number, node);
        }
        WorkflowSubmitted::Created
    }

    pub(super) fn store_node(&mut self, key: &Key, number: u32, new: &NewNode) {
        let now = self.now;
        let workflow = self.workflows.get_mut(key).expect("nodes are stored for a stored workflow");
        let id = node_job(key.1, number);
        let (node, name) = (new.clone(), (key.0.clone(), id));
        let is_end = workflow.head.end == number;
        match &new.work {
            NewWork::Job { template, arguments, takes, kept, broker_options, blobs } => {
                let of = &workflow.head.templates[*template as usize];
                let mut job = Job::new(now, plain(&key.0, id, of, broker_options.clone()));
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
                job.place = Some(Place { node, template: *template, takes: *takes });
                let before = self.jobs.insert(name.clone(), job);
                self.release_blobs(&key.0, &before.map(|job| job.blobs).unwrap_or_default());
                self.refer(&name, blobs);
            }
            NewWork::Join { members, scope, cancel_rest, pending, failed, skipped, kept } => {
                let status = kept.then_some(Status::Ok);
                if is_end {
                    workflow.end = status;
                }
                let progress = JoinProgress { pending: *pending, failed: *failed, skipped: *skipped, status };
                let (members, scope, cancel_rest) = (members.clone(), scope.clone(), *cancel_rest);
                self.joins.insert(name, Join { node, members, scope, cancel_rest, progress });
            }
        }
    }

    pub(super) fn start_workflow(&mut self, tenant: &TenantId, id: WorkflowId) -> WorkflowSubmitted {
        let key = (tenant.clone(), id);
        if let Some(answer) = self.not_staged(&key) {
            return answer;
        }
        let idempotency = self.workflows[&key].head.idempotency.clone();
        if let Some((id, same)) = self.known_key(tenant, idempotency.as_ref()) {
            return if same { WorkflowSubmitted::Existing(id) } else { WorkflowSubmitted::Conflict(id) };
        }
        self.keep_key(tenant, idempotency.as_ref(), id);
        self.begin(&key);
        self.advance();
        WorkflowSubmitted::Created
    }

    pub(super) fn begin(&mut self, key: &Key) {
        let workflow = self.workflows.get_mut(key).expect("a workflow that begins is stored");
        workflow.staged = false;
        workflow.created_at = self.now;
        workflow.delete_at = None;
        let deadline_ms = workflow.head.deadline_ms;
        workflow.deadline_at = (deadline_ms > 0).then_some(self.now + deadline_ms);
        self.queued_items.extend(workflow.head.starts.iter().map(|nodes| WorkItem::start(key.clone(), *nodes)));
    }
}

/// A node's job as if it had been submitted on its own.
fn plain(tenant: &TenantId, id: JobId, template: &NodeTemplate, broker_options: Option<Box<BrokerOptions>>) -> NewJob {
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
        broker_options,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    }
}
