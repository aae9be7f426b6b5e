//! Resuming a failed workflow: which nodes are run again, and which are kept.

use super::{
    form::OnFailure,
    plan::{Node, Range, When, Work},
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
}

/// The state in which each node begins, and the nodes to start: those to be done again whose source is kept.
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
        for target in nodes[number].next.iter().flat_map(|range| range.iter()) {
            if !std::mem::replace(&mut redo[target as usize], true) {
                open.push(target as usize);
            }
        }
    }
    let ends = (0..nodes.len()).map(|n| begin(nodes, states, &redo, n)).collect();
    let is_start = |n: &usize| {
        let kept_source = nodes[*n].after.is_none_or(|source| !redo[source as usize]);
        // A join with members is started by them.
        let starts = match &nodes[*n].work {
            Work::Job(_) => true,
            Work::Join(join) => join.members.is_empty(),
        };
        redo[*n] && kept_source && starts
    };
    let mut starts: Vec<Range> = Vec::new();
    for number in (0..nodes.len()).filter(is_start) {
        match starts.last_mut() {
            Some(last) if last.first + last.count == number as u32 => last.count += 1,
            _ => starts.push(Range::one(number as u32)),
        }
    }
    (ends, starts)
}

/// Whether all that waited for the success of a node is done and need not be done again.
fn went_on(nodes: &[Node], states: &[JobState], number: usize, known: &mut [Option<bool>]) -> bool {
    if nodes[number].on_failure == OnFailure::Fail {
        return false;
    }
    let mut waiting = nodes[number]
        .next
        .iter()
        .flat_map(|range| range.iter())
        .filter(|n| nodes[*n as usize].when == When::Success || matches!(nodes[*n as usize].work, Work::Join(_)))
        .peekable();
    waiting.peek().is_some() && waiting.all(|target| is_done(nodes, states, target as usize, known))
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
    let mut targets = nodes[number].next.iter().flat_map(|range| range.iter());
    let done = targets.all(|n| {
        let minds = nodes[n as usize].when == When::Success || matches!(nodes[n as usize].work, Work::Join(_));
        !minds || is_done(nodes, states, n as usize, known)
    });
    known[number] = Some(done);
    done
}

fn begin(nodes: &[Node], states: &[JobState], redo: &[bool], number: usize) -> NodeEnd {
    match (&nodes[number].work, redo[number]) {
        (Work::Job(_), false) => NodeEnd::Kept(states[number]),
        (Work::Join(_), false) => NodeEnd::KeptJoin,
        (Work::Job(_), true) => NodeEnd::Redo { pending: 1, failed: 0, skipped: 0 },
        (Work::Join(join), true) if join.members.is_empty() => NodeEnd::Redo { pending: 1, failed: 0, skipped: 0 },
        (Work::Join(join), true) => {
            let (mut pending, mut skipped) = (0, 0);
            for member in join.members.iter().flat_map(|range| range.iter()) {
                if redo[member as usize] {
                    pending += 1;
                } else if matches!(nodes[member as usize].work, Work::Job(_))
                    && states[member as usize] == JobState::Skipped
                {
                    skipped += 1;
                }
            }
            // A member that failed and is kept went on without its result: it counts as arrived.
            NodeEnd::Redo { pending, failed: 0, skipped }
        }
    }
}
