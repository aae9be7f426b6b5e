//! What guests add to workflows while they run: whether it fits together, and where new members go.

use umbel_model::{
    JobId, Resolution,
    canvas::{Range, push_range},
};

use super::join::JoinProgress;
use crate::{Claim, Growth, MAX_GROWTH, NewMembers, NewNode, NewWork, NodeTemplate, Settle, TEMPLATES_COMPARED};

/// Whether what a guest added fits together and into one settle of this job.
pub fn is_sound(job: JobId, settle: &Settle) -> bool {
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

/// Lets a join wait for new members, whose nodes count from `base` on.
pub fn widen(
    progress: &mut JoinProgress,
    members: &mut Vec<Range>,
    scope: &mut Vec<Range>,
    new: &NewMembers,
    base: u32,
) {
    progress.pending += new.ends.iter().map(|ends| ends.count).sum::<u32>();
    new.ends.iter().for_each(|ends| push_range(members, moved(ends, base)));
    if !new.nodes.is_empty() {
        push_range(scope, Range { first: base, count: new.nodes.len() as u32 });
    }
}

/// Which of a workflow's templates, from number `first` on, serves a new member's: of the last ones only.
pub fn template_for(first: u32, templates: &[NodeTemplate], new: &NodeTemplate) -> Option<u32> {
    let skipped = templates.len().saturating_sub(TEMPLATES_COMPARED);
    let found = templates[skipped..].iter().position(|old| old.serves(new))?;
    Some(first + (skipped + found) as u32)
}

/// About how many jobs a call of `settle` touches.
pub fn jobs_touched(settles: &[Settle], then: Option<&Claim>) -> usize {
    let grown: usize = settles.iter().filter_map(|settle| settle.growth.as_deref()).map(nodes_of).sum();
    settles.len() + grown + then.map_or(0, |claim| claim.max as usize)
}
