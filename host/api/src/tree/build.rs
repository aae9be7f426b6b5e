//! From edges to steps.
//!
//! A chain is found from its end: `after` leads back from step to step, as long as both are in the same group. What a
//! step's `next` names besides the chain and the group's gate are its callbacks, which are in no group.

use std::collections::BTreeSet;

use umbel_model::canvas::{Range, When};

use super::{Caps, Known, Nodes, TreeStep};

/// Steps within steps. What is nested deeper is left out; canvases are not, unless their callbacks have callbacks.
const MAX_DEPTH: u32 = 64;

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
        self.shown < self.caps.nodes
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
        if let Some((members, _)) = &node.gate {
            let mut shown = 0;
            for member in members.iter().flat_map(|range| range.iter()) {
                if shown == self.caps.members || !self.has_room() || depth >= MAX_DEPTH {
                    break;
                }
                step.members.push(self.chain_to(member, depth + 1));
                shown += 1;
            }
            step.left_out = Some(step.count.unwrap_or(0).saturating_sub(shown)).filter(|count| *count > 0);
        }
        // The last one that was written is planned, and numbered, first.
        for (callback, when) in self.callbacks(node, next).into_iter().rev() {
            if !self.has_room() || depth >= MAX_DEPTH {
                break;
            }
            let callback = self.chain_from(callback, depth + 1);
            match when {
                When::Success => step.link.push(callback),
                When::Failure => step.link_error.push(callback),
            }
        }
        step
    }

    /// The callback that begins at a node (a gate, when it begins with a group).
    fn chain_from(&mut self, first: u32, depth: u32) -> TreeStep {
        let mut numbers = vec![first];
        self.shown += 1;
        while let Some(node) = numbers.last().and_then(|last| self.node(*last)) {
            let follows: Vec<u32> = self
                .callbacks(node, None)
                .into_iter()
                .filter(|(_, when)| *when == When::Success)
                .map(|(n, _)| n)
                .collect();
            // More than one: no edge says which is the next step and which is a callback. All are shown as callbacks.
            let [next] = follows[..] else { break };
            if !self.has_room() {
                break;
            }
            self.shown += 1;
            numbers.push(next);
        }
        self.chain(&numbers, None, depth)
    }

    /// What starts after a node and is neither `next` nor in it, nor the gate of the node's group.
    fn callbacks(&mut self, node: &Known, next: Option<u32>) -> Vec<(u32, When)> {
        let mut found: Vec<(u32, When)> = Vec::new();
        let mut skip: Vec<Range> = node.group.into_iter().chain(next).map(Range::one).collect();
        if let Some((_, scope)) = next.and_then(|next| self.node(next)).and_then(|next| next.gate.as_ref()) {
            skip.extend(scope);
        }
        for range in &node.next {
            let (mut target, end) = (range.first, range.first + range.count);
            while target < end {
                if let Some(skipped) = skip.iter().find(|skipped| skipped.contains(target)) {
                    target = skipped.first + skipped.count;
                    continue;
                }
                let Some((root, when, scope)) = self.outermost(target) else { break };
                found.push((root, when));
                skip.push(Range::one(target));
                skip.push(Range::one(root));
                skip.extend(scope);
            }
        }
        found
    }

    /// The step in no group that a node is in, when it starts, and the nodes in it.
    fn outermost(&mut self, number: u32) -> Option<(u32, When, Vec<Range>)> {
        let mut number = number;
        loop {
            let node = self.node(number)?;
            match node.group {
                Some(group) => number = group,
                None => {
                    let scope = node.gate.as_ref().map(|(_, scope)| scope.clone()).unwrap_or_default();
                    return Some((number, node.when, scope));
                }
            }
        }
    }
}
