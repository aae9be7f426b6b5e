//! Reading workflows and their nodes.

use umbel_model::{
    JobRecord, JobState, TenantId, WorkflowId,
    canvas::{When, node_job},
};

use super::{
    records::{Key, Place, Workflow},
    state::State,
};
use umbel_broker::{
    rules::join::{self, JoinProgress},
    *,
};

impl State {
    /// Whether a job is the node of a workflow that is staged or half deleted.
    pub(super) fn is_hidden(&self, key: &Key) -> bool {
        let place = self.jobs.get(key).and_then(|job| job.record.node.as_ref());
        let workflow = place.and_then(|node| self.workflows.get(&(key.0.clone(), node.workflow)));
        workflow.is_some_and(Workflow::is_hidden)
    }

    pub(super) fn delivered(&self, key: &Key) -> Option<Box<DeliveredNode>> {
        let job = &self.jobs[key];
        let (place, node) = (job.place.as_ref()?, job.record.node.as_ref()?);
        let input = match (place.takes, place.node.after, place.node.when) {
            (true, Some(after), When::Failure) => Input::Error(after),
            (true, Some(after), When::Success | When::Link) => self.input(&key.0, node.workflow, after),
            _ => Input::Nothing,
        };
        let depth = self.workflows.get(&(key.0.clone(), node.workflow)).map_or(0, |w| w.head.depth);
        let (group, arguments) = (place.node.group, node.arguments.clone());
        Some(Box::new(DeliveredNode { workflow: node.workflow, node: node.number, group, depth, arguments, input }))
    }

    fn input(&self, tenant: &TenantId, workflow: WorkflowId, source: u32) -> Input {
        let Some(job) = self.jobs.get(&(tenant.clone(), node_job(workflow, source))) else {
            return Input::Result(source);
        };
        let result = job.record.result.as_ref().map_or("null", |result| result.get());
        join::input(source, job.record.state, job.record.child.is_some(), result)
    }

    pub(super) fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Option<WorkflowRecord> {
        let key = (tenant.clone(), id);
        let found = self.workflows.get(&key).filter(|workflow| !workflow.is_hidden())?;
        let mut jobs = [0; JobState::ALL.len()];
        for number in 0..found.head.nodes {
            let Some(job) = self.jobs.get(&(key.0.clone(), node_job(key.1, number))) else { continue };
            let at = JobState::ALL.iter().position(|state| *state == job.record.state);
            jobs[at.expect("every state is listed")] += 1;
        }
        Some(WorkflowRecord {
            id,
            tenant: tenant.clone(),
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

    pub(super) fn workflows(&self, query: &WorkflowQuery) -> WorkflowPage {
        let mut page = WorkflowPage { workflows: Vec::new(), next: None };
        let mine = self.workflows.iter().rev().filter(|((tenant, id), w)| {
            *tenant == query.tenant
                && w.head.parent.is_none()
                && w.pruned.is_none()
                && query.before.is_none_or(|before| *id < before)
        });
        for (scanned, (key, _)) in (1..).zip(mine) {
            if let Some(mut record) = self.workflow(&key.0, key.1)
                && query.state.is_none_or(|state| state == record.state)
            {
                record.templates.clear();
                page.workflows.push(record);
            }
            if page.workflows.len() as u32 == query.max || scanned == PAGE_SCAN {
                page.next = Some(key.1);
                break;
            }
        }
        page
    }

    pub(super) fn nodes(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32, results: Results) -> NodePage {
        let numbers = first..first.saturating_add(max.min(MAX_NODES_A_CALL));
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
        let (node, work) = if let Some(join) = self.joins.get(&key) {
            let JoinProgress { pending, failed, skipped, status } = join.progress;
            let (members, scope, cancel_rest) = (join.members.clone(), join.scope.clone(), join.cancel_rest);
            (&join.node, NodeWork::Join { members, scope, cancel_rest, pending, failed, skipped, status })
        } else {
            let job = self.jobs.get(&key)?;
            let Place { node, template, takes } = job.place.as_ref()?;
            let record = Box::new(job.record.clone());
            (node, NodeWork::Job { record, template: *template, takes: *takes })
        };
        let NewNode { when, on_failure, after, group, next, .. } = node.clone();
        Some(NodeRecord { number, when, on_failure, after, group, next, work })
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
