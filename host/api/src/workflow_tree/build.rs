//! From edges to steps.
//!
//! A chain is found from its end: `after` leads back from step to step, as long as both are in the same group. What a
//! step's `next` names besides the chain and the group's join are its callbacks, which are in no group.

use std::collections::{BTreeMap, BTreeSet};

use umbel_model::canvas::{Range, When};

use super::{Caps, Known, Nodes, TreeStep, UPSTREAM_FAILED};

/// Steps within steps. What is nested deeper is left out; canvases are not, unless their callbacks have callbacks.
const MAX_DEPTH: u32 = 64;
/// Members of a group that are looked at for those that failed, when not all can be shown.
const MAX_SEARCHED: usize = 8_192;

pub(super) struct Builder<'a> {
    nodes: &'a Nodes,
    caps: Caps,
    /// Nodes that were needed and are not at hand.
    pub(super) missing: BTreeSet<u32>,
    pub(super) shown: u32,
}

impl<'a> Builder<'a> {
    pub(super) fn new(nodes: &'a Nodes, caps: Caps) -> Self {
        Self { nodes, caps, missing: BTreeSet::new(), shown: 0 }
    }

    /// The tree whose last node is `end`.
    pub(super) fn root(&mut self, end: u32) -> TreeStep {
        self.chain_to(end, 0)
    }

    fn node(&mut self, number: u32) -> Option<&'a Known> {
        match self.nodes.get(&number) {
            Some(known) => known.as_ref(),
            None => {
                self.missing.insert(number);
                None
            }
        }
    }

    fn has_room(&self) -> bool {
        self.room() > 0
    }

    fn room(&self) -> usize {
        self.caps.nodes.saturating_sub(self.shown) as usize
    }

    /// The chain that ends at a node; a chain of one is its step.
    fn chain_to(&mut self, end: u32, depth: u32) -> TreeStep {
        let mut numbers = Vec::new();
        let mut left_out = None;
        let mut at = Some(end);
        let group = self.node(end).and_then(|node| node.group);
        while let Some(number) = at {
            let Some(node) = self.node(number) else { break };
            if node.group != group {
                break;
            }
            if self.shown >= self.caps.nodes.max(1) {
                left_out = Some(0);
                break;
            }
            // Counted before the members of its groups: these cannot crowd out the steps that follow.
            self.shown += 1;
            numbers.push(number);
            at = node.after;
        }
        numbers.reverse();
        self.chain(&numbers, left_out, depth)
    }

    /// The steps of a chain, each with its callbacks.
    fn chain(&mut self, numbers: &[u32], left_out: Option<u32>, depth: u32) -> TreeStep {
        let mut steps: Vec<TreeStep> = Vec::new();
        for (at, number) in numbers.iter().enumerate() {
            let next = numbers.get(at + 1).copied();
            let step = self.step(*number, next, depth);
            match steps.last_mut() {
                // A group that a task follows.
                Some(before) if before.kind == "group" && step.kind == "task" => {
                    before.kind = "chord";
                    before.body = Some(Box::new(step));
                }
                _ => steps.push(step),
            }
        }
        if steps.len() == 1 && left_out.is_none() {
            return steps.swap_remove(0);
        }
        TreeStep { kind: "chain", steps, left_out, ..TreeStep::default() }
    }

    fn step(&mut self, number: u32, next: Option<u32>, depth: u32) -> TreeStep {
        let Some(node) = self.node(number) else { return TreeStep { kind: "task", ..TreeStep::default() } };
        let mut step = node.step.clone();
        if let Some((members, _)) = &node.join {
            let mut shown = 0;
            for member in self.first_members(members, node.step.failed.unwrap_or(0)) {
                if !self.has_room() || depth >= MAX_DEPTH {
                    break;
                }
                // Not at hand, and perhaps never: then it is left out.
                if self.node(member).is_none() {
                    continue;
                }
                step.members.push(self.chain_to(member, depth + 1));
                shown += 1;
            }
            step.left_out = Some(step.count.unwrap_or(0).saturating_sub(shown)).filter(|count| *count > 0);
            if step.state == Some("failed") {
                (step.state, step.error) = why_failed(&step.members);
            }
        }
        if depth >= MAX_DEPTH {
            return step;
        }
        // The last one that was written is planned, and numbered, first.
        for (callback, when) in self.callbacks(node, next).into_iter().rev() {
            if !self.has_room() {
                break;
            }
            let callback = self.chain_from(callback, depth + 1);
            match when {
                When::Success | When::Link => step.link.push(callback),
                When::Failure => step.link_error.push(callback),
            }
        }
        step
    }

    /// The members of a group that are shown: in order or, when there are too many, those that failed first.
    fn first_members(&mut self, members: &[Range], failed: u32) -> Vec<u32> {
        let all = members.iter().flat_map(|range| range.iter());
        let room = self.room().min(self.caps.members as usize);
        let count: u32 = members.iter().map(|range| range.count).sum();
        if failed == 0 || count as usize <= room {
            return all.take(room).collect();
        }
        let mut found: Vec<(Rank, u32)> = Vec::new();
        for member in all.take(MAX_SEARCHED) {
            found.push((self.node(member).map_or(Rank::Other, |known| Rank::of(&known.step)), member));
        }
        found.sort_unstable();
        found.into_iter().take(room).map(|(_, member)| member).collect()
    }

    /// The callback that begins at a node (a join, when it begins with a group).
    fn chain_from(&mut self, first: u32, depth: u32) -> TreeStep {
        let mut numbers = vec![first];
        self.shown += 1;
        while let Some(node) = numbers.last().and_then(|last| self.node(*last)) {
            let room = self.room();
            let callbacks = self.callbacks(node, None);
            // As many as there is room for: there may be more.
            if callbacks.len() >= room {
                break;
            }
            let follows: Vec<u32> =
                callbacks.into_iter().filter(|(_, when)| *when == When::Success).map(|(n, _)| n).collect();
            // More than one: no edge says which is the next step and which is a callback. All are shown as callbacks.
            let [next] = follows[..] else { break };
            self.shown += 1;
            numbers.push(next);
        }
        self.chain(&numbers, None, depth)
    }

    /// What starts after a node and is neither `next` nor in it, nor the join of the node's group. At most as many as
    /// there is room for.
    fn callbacks(&mut self, node: &Known, next: Option<u32>) -> Vec<(u32, When)> {
        let mut found: Vec<(u32, When)> = Vec::new();
        let mut skip = Ranges::default();
        node.group.into_iter().chain(next).for_each(|number| skip.add(Range::one(number)));
        if let Some(next) = next {
            // Without it all of it would look like callbacks.
            let Some(known) = self.node(next) else { return found };
            known.join.iter().flat_map(|(_, scope)| scope).for_each(|range| skip.add(*range));
        }
        // Those that are not at hand are asked for together, and need room as well.
        let mut room = self.room();
        for range in &node.next {
            let (mut target, end) = (range.first, range.first.saturating_add(range.count));
            while target < end && room > 0 {
                if let Some(end) = skip.end_at(target) {
                    target = end;
                    continue;
                }
                room -= 1;
                match self.outermost(target) {
                    Some((root, when, scope)) => {
                        found.push((root, when));
                        skip.add(Range::one(target));
                        skip.add(Range::one(root));
                        scope.iter().for_each(|range| skip.add(*range));
                    }
                    None => target += 1,
                }
            }
        }
        found
    }

    /// The step in no group that a node is in, when it starts, and the nodes in it.
    fn outermost(&mut self, number: u32) -> Option<(u32, When, &'a [Range])> {
        let mut number = number;
        loop {
            let node = self.node(number)?;
            match node.group {
                Some(group) => number = group,
                None => {
                    let scope = node.join.as_ref().map_or(&[][..], |(_, scope)| scope);
                    return Some((number, node.when, scope));
                }
            }
        }
    }
}

/// Which members of a group are shown first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Failed,
    UpstreamFailed,
    Other,
}

impl Rank {
    fn of(step: &TreeStep) -> Self {
        match (step.state, step.error.as_deref()) {
            (Some("failed"), Some(UPSTREAM_FAILED)) => Self::UpstreamFailed,
            (Some("failed" | "expired"), _) => Self::Failed,
            _ => Self::Other,
        }
    }
}

/// The state of a group that did not succeed, and the kind of its error: what a member that failed says, or, when none did,
/// what all of them have in common. Failed members are always among those that are shown.
fn why_failed(members: &[TreeStep]) -> (Option<&'static str>, Option<String>) {
    let ends: Vec<&TreeStep> = members.iter().map(end_of).collect();
    let any = |state| ends.iter().any(|end| end.state == Some(state));
    let is_upstream = |end: &&TreeStep| Rank::of(end) == Rank::UpstreamFailed;
    if ends.iter().any(|end| Rank::of(end) == Rank::Failed && end.state == Some("failed")) {
        return (Some("failed"), None);
    }
    match (any("expired"), any("revoked")) {
        (true, _) => (Some("expired"), None),
        (false, true) => (Some("revoked"), None),
        _ if !ends.is_empty() && ends.iter().all(is_upstream) => (Some("failed"), Some(UPSTREAM_FAILED.to_owned())),
        _ => (Some("failed"), None),
    }
}

/// The step that a chain, or a chord, ends with.
fn end_of(step: &TreeStep) -> &TreeStep {
    match (&step.body, step.steps.last()) {
        (Some(body), _) => end_of(body),
        (None, Some(last)) => end_of(last),
        (None, None) => step,
    }
}

/// Numbers in ranges that neither overlap nor touch: from the first to behind the last.
#[derive(Default)]
struct Ranges(BTreeMap<u32, u32>);

impl Ranges {
    fn add(&mut self, range: Range) {
        let (mut first, mut end) = (range.first, range.first.saturating_add(range.count));
        if first == end {
            return;
        }
        while let Some((at, until)) = self.0.range(..=end).next_back().map(|(at, until)| (*at, *until)) {
            if until < first {
                break;
            }
            self.0.remove(&at);
            (first, end) = (first.min(at), end.max(until));
        }
        self.0.insert(first, end);
    }

    /// Behind the range that a number is in.
    fn end_at(&self, number: u32) -> Option<u32> {
        self.0.range(..=number).next_back().map(|(_, end)| *end).filter(|end| *end > number)
    }
}
