//! Resuming a failed workflow: which nodes are run again, and which are kept.

use super::{
    form::OnFailure,
    plan::{Node, Range, When, Work, push},
};
use crate::JobState;

/// The state in which a node of a resumed workflow begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeEnd {
    /// It ended so before, and keeps its result.
    Kept(JobState),
    /// A join that had ended before.
    KeptJoin,
    /// To be done (again). Of a join: so many arrivals that it waits for are still to come, and so many of those that
    /// came failed or were skipped.
    Redo { pending: u32, failed: u32, skipped: u32 },
    /// It belonged to a member that a job had added which is done again, and adds its members again. It is no member of
    /// its group any more, and nothing of it runs.
    Dropped,
}

impl NodeEnd {
    pub fn is_dropped(self) -> bool {
        self == Self::Dropped
    }
}

/// The state in which each node begins, and the nodes to start: those to be done again whose source is kept. Each of those
/// waits for `When::of_start`.
///
/// A node that succeeded is kept. One that did not is done again, unless all that waited for its success went on
/// without it and is kept; and whatever waits for a node that is done again is done again too. `states` has the state
/// of each job; of a join it is not looked at.
pub fn resume(nodes: &[Node], states: &[JobState]) -> (Vec<NodeEnd>, Vec<Range>) {
    let mut redo = vec![false; nodes.len()];
    let mut known = vec![None; nodes.len()];
    for number in 0..nodes.len() {
        if let Work::Job(_) = nodes[number].work {
            let good = matches!(states[number], JobState::Succeeded | JobState::Skipped);
            redo[number] = !good && !went_on(nodes, states, number, &mut known);
        }
    }
    let mut open: Vec<usize> = (0..nodes.len()).filter(|n| redo[*n]).collect();
    while let Some(number) = open.pop() {
        for target in nodes[number].targets() {
            if !std::mem::replace(&mut redo[target], true) {
                open.push(target);
            }
        }
    }
    let dropped = dropped(nodes, &redo);
    let begins = |n| if dropped[n] { NodeEnd::Dropped } else { begin(nodes, states, &redo, &dropped, n) };
    let ends = (0..nodes.len()).map(begins).collect();
    let is_start = |n: &usize| {
        let kept_source = nodes[*n].after.is_none_or(|source| !redo[source as usize]);
        // A join with members is started by them.
        let starts = !matches!(&nodes[*n].work, Work::Join(join) if !join.members.is_empty());
        redo[*n] && !dropped[*n] && kept_source && starts
    };
    let mut starts: Vec<Range> = Vec::new();
    (0..nodes.len()).filter(is_start).for_each(|number| push(&mut starts, Range::one(number as u32)));
    (ends, starts)
}

/// The nodes that were added by jobs which are done again, and what those added. Nodes that were added have higher numbers
/// than whoever added them, and members than their join.
fn dropped(nodes: &[Node], redo: &[bool]) -> Vec<bool> {
    let mut added_by: Vec<Option<u32>> = nodes.iter().map(|node| node.added_by).collect();
    for (number, node) in nodes.iter().enumerate().rev() {
        if let Work::Join(join) = &node.work {
            let first = join.members.first().map(|range| range.first as usize).filter(|first| *first > number);
            added_by[number] = first.and_then(|first| added_by[first]);
        }
    }
    let mut dropped = vec![false; nodes.len()];
    for number in 0..nodes.len() {
        dropped[number] = added_by[number].is_some_and(|by| redo[by as usize] || dropped[by as usize]);
    }
    dropped
}

/// Whether all that waited for the success of a node is done and need not be done again.
fn went_on(nodes: &[Node], states: &[JobState], number: usize, known: &mut [Option<bool>]) -> bool {
    if nodes[number].on_failure == OnFailure::Fail {
        return false;
    }
    let mut waiting = nodes[number].targets().filter(|n| needs_success(&nodes[*n])).peekable();
    waiting.peek().is_some() && waiting.all(|target| is_done(nodes, states, target, known))
}

/// Whether a node waits for its source to go well: all but callbacks do. A join is what its members wait for.
fn needs_success(node: &Node) -> bool {
    node.when == When::Success || matches!(&node.work, Work::Join(join) if !join.members.is_empty())
}

/// Whether a job succeeded; of a join, whether all that waits for it did. Groups nest at most `MAX_DEPTH` deep, and each
/// join is looked at once.
fn is_done(nodes: &[Node], states: &[JobState], number: usize, known: &mut [Option<bool>]) -> bool {
    if let Work::Job(_) = nodes[number].work {
        return states[number] == JobState::Succeeded;
    }
    if let Some(known) = known[number] {
        return known;
    }
    let done = nodes[number].targets().all(|n| !needs_success(&nodes[n]) || is_done(nodes, states, n, known));
    known[number] = Some(done);
    done
}

fn begin(nodes: &[Node], states: &[JobState], redo: &[bool], dropped: &[bool], number: usize) -> NodeEnd {
    match (&nodes[number].work, redo[number]) {
        (Work::Job(_), false) => NodeEnd::Kept(states[number]),
        (Work::Join(_), false) => NodeEnd::KeptJoin,
        (Work::Join(join), true) if !join.members.is_empty() => {
            let members = || join.members.iter().flat_map(|range| range.iter()).map(|member| member as usize);
            let members = || members().filter(|member| !dropped[*member]);
            let was_skipped = |n: &usize| matches!(nodes[*n].work, Work::Job(_)) && states[*n] == JobState::Skipped;
            let pending = members().filter(|n| redo[*n]).count() as u32;
            let skipped = members().filter(|n| !redo[*n] && was_skipped(n)).count() as u32;
            // A member that failed and is kept went on without its result: it counts as arrived.
            NodeEnd::Redo { pending, failed: 0, skipped }
        }
        (Work::Job(_) | Work::Join(_), true) => NodeEnd::Redo { pending: 1, failed: 0, skipped: 0 },
    }
}
