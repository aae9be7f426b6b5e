//! Reading workflows and their nodes, and deleting them.

use umbel_model::{
    JobRecord, JobState, TenantId, UnixMs, WorkflowId,
    canvas::{When, node_job},
};

use super::{records::Key, records::Workflow, state::State};
use crate::*;

impl State {
    // ---- deletion

    /// The child of a deleted job is deleted next, or when it is over: callbacks may outlive its end.
    pub(super) fn orphan(&mut self, now: UnixMs, tenant: &TenantId, child: WorkflowId) {
        if let Some(workflow) = self.workflows.get_mut(&(tenant.clone(), child)) {
            workflow.orphaned = true;
            workflow.delete_at = workflow.finished.map(|_| now);
        }
    }

    /// Deletes at most `max` of a workflow's nodes and then itself; how many.
    pub(super) fn prune_workflow(&mut self, now: UnixMs, key: &Key, max: u32) -> u32 {
        let mut count = 0;
        while count < max {
            count += 1;
            let Some(workflow) = self.workflows.get_mut(key) else { break };
            let number = workflow.pruned.unwrap_or(0);
            if number >= workflow.head.nodes {
                self.workflows.remove(key);
                break;
            }
            workflow.pruned = Some(number + 1);
            let node = (key.0.clone(), node_job(key.1, number));
            self.joins.remove(&node);
            self.leave_dead(&node);
            // An error callback of a staged node that was cancelled may be queued.
            if self.jobs.contains_key(&node) {
                self.leave(&node);
            }
            if let Some(child) = self.jobs.remove(&node).and_then(|job| job.record.child) {
                self.orphan(now, &key.0, child);
            }
        }
        count
    }

    // ---- readers

    /// Whether a job is the node of a workflow that is staged or half deleted.
    pub(super) fn is_hidden(&self, key: &Key) -> bool {
        let place = self.jobs.get(key).and_then(|job| job.record.node.as_ref());
        let workflow = place.and_then(|node| self.workflows.get(&(key.0.clone(), node.workflow)));
        workflow.is_some_and(Workflow::is_hidden)
    }

    pub(super) fn delivered(&self, key: &Key) -> Option<Box<DeliveredNode>> {
        let job = &self.jobs[key];
        let (place, node) = (job.place.as_ref()?, job.record.node.as_ref()?);
        let input = match (place.takes, place.after, place.when) {
            (true, Some(after), When::Failure) => Input::Error(after),
            (true, Some(after), When::Success) => self.input(&key.0, node.workflow, after),
            _ => Input::Nothing,
        };
        let depth = self.workflows.get(&(key.0.clone(), node.workflow)).map_or(0, |w| w.head.depth);
        Some(Box::new(DeliveredNode {
            workflow: node.workflow,
            node: node.number,
            group: place.group,
            depth,
            arguments: node.arguments.clone(),
            input,
        }))
    }

    fn input(&self, tenant: &TenantId, workflow: WorkflowId, source: u32) -> Input {
        let Some(job) = self.jobs.get(&(tenant.clone(), node_job(workflow, source))) else {
            return Input::Result(source);
        };
        let result = job.record.result.as_ref().map_or("null", |result| result.get());
        let whole = job.record.state == JobState::Succeeded && job.record.child.is_none();
        if whole && result.len() <= INLINE_INPUT_BYTES {
            Input::Value(result.to_owned())
        } else {
            Input::Result(source)
        }
    }

    pub(super) fn workflow(&self, key: &Key) -> Option<WorkflowRecord> {
        let found = self.workflows.get(key).filter(|w| !w.staged && w.pruned.is_none())?;
        let mut jobs = [0; JobState::ALL.len()];
        for number in 0..found.head.nodes {
            let Some(job) = self.jobs.get(&(key.0.clone(), node_job(key.1, number))) else { continue };
            let at = JobState::ALL.iter().position(|state| *state == job.record.state);
            jobs[at.expect("every state is listed")] += 1;
        }
        Some(WorkflowRecord {
            id: key.1,
            tenant: key.0.clone(),
            spec: found.head.spec.clone(),
            templates: found.head.templates.clone(),
            state: found.finished.map_or(WorkflowState::Running, |(state, _)| state),
            cancel_requested: found.cancelled.is_some(),
            nodes: found.head.nodes,
            end: found.head.end,
            jobs,
            created_at: found.created_at,
            deadline_at: (found.head.deadline_ms > 0).then_some(found.created_at + found.head.deadline_ms),
            finished_at: found.finished.map(|(_, at)| at),
            keep_ms: found.head.keep_ms,
            parent: found.head.parent,
            depth: found.head.depth,
        })
    }

    pub(super) fn workflow_page(&self, query: &WorkflowQuery) -> WorkflowPage {
        let mut page = WorkflowPage { workflows: Vec::new(), next: None };
        let mine = self.workflows.iter().rev().filter(|((tenant, id), w)| {
            *tenant == query.tenant
                && w.head.parent.is_none()
                && w.pruned.is_none()
                && query.before.is_none_or(|before| *id < before)
        });
        for (scanned, (key, _)) in (1..).zip(mine) {
            if let Some(mut record) = self.workflow(key)
                && query.state.is_none_or(|state| state == record.state)
            {
                record.templates.clear();
                page.workflows.push(record);
            }
            if page.workflows.len() as u32 == query.max || scanned == crate::PAGE_SCAN {
                page.next = Some(key.1);
                break;
            }
        }
        page
    }

    pub(super) fn nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        numbers: std::ops::Range<u32>,
        results: Results,
    ) -> NodePage {
        let mut page = NodePage { nodes: Vec::new(), next: numbers.end };
        let mut bytes = 0;
        for mut node in numbers.filter_map(|number| self.node(tenant, id, number)) {
            if let NodeWork::Job { record, .. } = &mut node.work {
                record.history.clear();
                record.result.take_if(|_| results == Results::Omitted);
                bytes += text_bytes(record);
            }
            let number = node.number;
            page.nodes.push(node);
            if bytes >= PAGE_BYTES {
                page.next = number + 1;
                break;
            }
        }
        page
    }

    fn node(&self, tenant: &TenantId, id: WorkflowId, number: u32) -> Option<NodeRecord> {
        let key = (tenant.clone(), node_job(id, number));
        if let Some(join) = self.joins.get(&key) {
            return Some(NodeRecord {
                number,
                when: join.when,
                on_failure: join.on_failure,
                after: join.after,
                group: join.group,
                next: join.next.clone(),
                work: NodeWork::Join {
                    members: join.members.clone(),
                    scope: join.scope.clone(),
                    cancel_rest: join.cancel_rest,
                    pending: join.progress.pending,
                    failed: join.progress.failed,
                    skipped: join.progress.skipped,
                    status: join.progress.status,
                },
            });
        }
        let job = self.jobs.get(&key)?;
        let place = job.place.as_ref()?;
        Some(NodeRecord {
            number,
            when: place.when,
            on_failure: place.on_failure,
            after: place.after,
            group: place.group,
            next: place.next.clone(),
            work: NodeWork::Job { record: Box::new(job.record.clone()), template: place.template, takes: place.takes },
        })
    }

    pub(super) fn values(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Vec<NodeValue> {
        let value = |number| match self.node(tenant, id, number) {
            None => NodeValue::Missing,
            Some(NodeRecord { after, on_failure, work: NodeWork::Join { members, status, .. }, .. }) => {
                NodeValue::Join { after, members, on_failure, status }
            }
            Some(NodeRecord { after, on_failure, work: NodeWork::Job { record, .. }, .. }) => {
                let JobRecord { task, state, result, failure, child, .. } = *record;
                NodeValue::Job { task, state, on_failure, after, result, failure, child }
            }
        };
        (first..first.saturating_add(max.min(MAX_NODES_A_CALL))).map(value).collect()
    }
}
