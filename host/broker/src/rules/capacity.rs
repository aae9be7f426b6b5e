//! Whether a tenant has the capacity for what is submitted: jobs, workflows, and what guests add.

use umbel_model::{QueueName, TenantId};

use super::growth::nodes_of;
use crate::{Growth, Limits, NodeTemplate, Submitted, WorkflowHead, WorkflowSubmitted, scheduler::Scheduler};

/// Jobs of a tenant queue that are queued, scheduled or retrying; none when there is no such queue.
fn backlog<J: Ord + Copy>(scheduler: &Scheduler<J>, tenant: &TenantId, queue: &QueueName) -> Option<u64> {
    let counts = scheduler.counts(scheduler.find(tenant, queue)?);
    Some(counts.ready + counts.delayed)
}

/// Why a job cannot be added to what its tenant has.
pub fn for_job<J: Ord + Copy>(
    limits: &Limits,
    scheduler: &Scheduler<J>,
    tenant: &TenantId,
    queue: &QueueName,
) -> Option<Submitted> {
    match backlog(scheduler, tenant, queue) {
        None => (scheduler.queues_of(tenant) >= limits.max_queues).then_some(Submitted::TooManyQueues),
        Some(backlog) => (backlog >= limits.max_backlog).then_some(Submitted::QueueFull),
    }
}

/// Workflows of a tenant, those that replace a job apart, and the nodes of all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    pub workflows: u64,
    pub nodes: u64,
}

impl Held {
    /// The part that one workflow adds.
    pub fn of(head: &WorkflowHead) -> Self {
        Self { workflows: head.parent.is_none().into(), nodes: head.nodes.into() }
    }
}

/// Why `new` workflows with these templates cannot be added to those that a tenant `held`.
pub fn for_workflows<'a, J: Ord + Copy>(
    limits: &Limits,
    scheduler: &Scheduler<J>,
    tenant: &TenantId,
    held: Held,
    new: Held,
    templates: impl IntoIterator<Item = &'a NodeTemplate>,
) -> Option<WorkflowSubmitted> {
    let too_many = new.workflows > 0 && held.workflows + new.workflows > limits.max_workflows;
    if too_many || held.nodes + new.nodes > limits.max_nodes {
        return Some(WorkflowSubmitted::TooManyWorkflows);
    }
    let mut wanted: Vec<(&QueueName, u64)> = Vec::new();
    for template in templates {
        match wanted.iter_mut().find(|(queue, _)| *queue == &template.queue) {
            Some((_, nodes)) => *nodes += u64::from(template.nodes),
            None => wanted.push((&template.queue, template.nodes.into())),
        }
    }
    let mut queues = scheduler.queues_of(tenant);
    for (queue, nodes) in wanted {
        let backlog = backlog(scheduler, tenant, queue);
        queues += u64::from(backlog.is_none());
        if backlog.is_none() && queues > limits.max_queues {
            return Some(WorkflowSubmitted::TooManyQueues);
        }
        if backlog.unwrap_or(0) + nodes > limits.max_backlog {
            return Some(WorkflowSubmitted::QueueFull);
        }
    }
    None
}

/// The workflows that count for the tenant, and all nodes; and their templates.
pub fn wanted(growth: &Growth) -> (Held, impl Iterator<Item = &NodeTemplate>) {
    let workflows = growth.workflows.iter().filter(|new| new.head.parent.is_none()).count() as u64;
    let templates = growth.workflows.iter().flat_map(|new| &new.head.templates);
    let members = growth.members.iter().flat_map(|members| &members.templates);
    (Held { workflows, nodes: nodes_of(growth) as u64 }, templates.chain(members))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_and_too_many_queues_refuse_a_job() {
        let limits = Limits { max_backlog: 3, max_queues: 2, ..Limits::default() };
        let (mut scheduler, tenant) = (Scheduler::<u64>::default(), TenantId::new("t").unwrap());
        let [old, full, new] = ["old", "full", "new"].map(|name| QueueName::new(name).unwrap());
        let fill = |scheduler: &mut Scheduler<u64>, queue, backlog| {
            let id = scheduler.queue_id(&tenant, queue);
            scheduler.change(id, |counts| counts.delayed = backlog);
        };
        fill(&mut scheduler, &old, 2);
        assert_eq!(for_job(&limits, &scheduler, &tenant, &new), None);
        fill(&mut scheduler, &full, 3);
        assert_eq!(for_job(&limits, &scheduler, &tenant, &old), None);
        assert_eq!(for_job(&limits, &scheduler, &tenant, &full), Some(Submitted::QueueFull));
        assert_eq!(for_job(&limits, &scheduler, &tenant, &new), Some(Submitted::TooManyQueues));
    }
}
