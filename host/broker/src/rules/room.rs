//! Whether there is room for what is submitted.

use umbel_model::{JobId, QueueName, Resolution, canvas::Range};

use crate::{
    Growth, Limits, MAX_GROWTH, NewMembers, NewNode, NewWork, NodeTemplate, Settle, Submitted, TEMPLATES_COMPARED,
    WorkflowHead, WorkflowSubmitted,
};

/// Why a job cannot be added to a queue with this backlog (none: it would be a new queue) of a tenant with so many queues.
pub fn for_job(limits: &Limits, queues: u64, backlog: Option<u64>) -> Option<Submitted> {
    match backlog {
        None => (queues >= limits.max_queues).then_some(Submitted::TooManyQueues),
        Some(backlog) => (backlog >= limits.max_backlog).then_some(Submitted::QueueFull),
    }
}

/// Workflows of a tenant, those that replace a job apart, and the nodes of all of them.
#[derive(Debug, Clone, Copy)]
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

/// Why `new` workflows with these templates cannot be added to what a tenant with so many queues has.
pub fn for_workflows<'a>(
    limits: &Limits,
    held: Held,
    new: Held,
    mut queues: u64,
    backlog: impl Fn(&QueueName) -> Option<u64>,
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
    for (queue, nodes) in wanted {
        let backlog = backlog(queue);
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

/// Whether what a guest added fits together and into one settle of this job.
pub fn growth_is_sound(job: JobId, settle: &Settle) -> bool {
    let replaced_by = match settle.resolution {
        Resolution::Replace { workflow } => Some(workflow),
        _ => None,
    };
    let Some(growth) = &settle.growth else { return replaced_by.is_none() };
    let is_there = |by| growth.workflows.iter().any(|new| new.head.id == by && new.head.parent == Some(job));
    let mut ids: Vec<JobId> = growth.workflows.iter().map(|new| new.head.id).collect();
    ids.sort_unstable();
    let twice = ids.windows(2).any(|pair| pair[0] == pair[1]);
    !twice && replaced_by.is_none_or(is_there) && nodes_of(growth) <= MAX_GROWTH as usize
}

/// How many nodes are to be added.
pub fn nodes_of(growth: &Growth) -> usize {
    let members = growth.members.as_ref().map_or(0, |members| members.nodes.len());
    growth.workflows.iter().map(|new| new.nodes.len()).sum::<usize>() + members
}

/// The workflows that count for the tenant, and all nodes; and their templates.
pub fn wanted(growth: &Growth) -> (Held, impl Iterator<Item = &NodeTemplate>) {
    let workflows = growth.workflows.iter().filter(|new| new.head.parent.is_none()).count() as u64;
    let templates = growth.workflows.iter().flat_map(|new| &new.head.templates);
    let members = growth.members.iter().flat_map(|members| &members.templates);
    (Held { workflows, nodes: nodes_of(growth) as u64 }, templates.chain(members))
}

/// A range behind the `base` nodes that a workflow had.
pub fn moved(range: &Range, base: u32) -> Range {
    Range { first: range.first + base, count: range.count }
}

/// A new member's node with the numbers that it has in the workflow: nodes count from `base` on, its templates are these.
pub fn placed(members: &NewMembers, number: u32, node: &NewNode, base: u32, templates: &[u32], group: u32) -> NewNode {
    let mut node = node.clone();
    node.after = node.after.map(|after| after + base);
    node.group = Some(node.group.map_or(group, |inner| inner + base));
    let shift = |ranges: &mut Vec<Range>| ranges.iter_mut().for_each(|range| *range = moved(range, base));
    shift(&mut node.next);
    match &mut node.work {
        NewWork::Job { template, .. } => *template = templates[*template as usize],
        NewWork::Join { members, scope, .. } => {
            shift(members);
            shift(scope);
        }
    }
    if members.ends.iter().any(|ends| ends.contains(number)) {
        node.next.push(Range::one(group));
    }
    node
}

/// Which of a workflow's templates, from number `first` on, serves a new member's: of the last ones only.
pub fn template_for(first: u32, templates: &[NodeTemplate], new: &NodeTemplate) -> Option<u32> {
    let skipped = templates.len().saturating_sub(TEMPLATES_COMPARED);
    let found = templates[skipped..].iter().position(|old| old.serves(new))?;
    Some(first + (skipped + found) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_and_too_many_queues_refuse_a_job() {
        let limits = Limits { max_backlog: 3, max_queues: 2, ..Limits::default() };
        assert_eq!(for_job(&limits, 2, Some(2)), None);
        assert_eq!(for_job(&limits, 2, Some(3)), Some(Submitted::QueueFull));
        assert_eq!(for_job(&limits, 1, None), None);
        assert_eq!(for_job(&limits, 2, None), Some(Submitted::TooManyQueues));
    }
}
