//! The labels of groups and chains, which are kept in the workflow's spec and not in its nodes.

use std::collections::HashMap;

use umbel_model::{CompositeLabels, WorkflowSpec};

use super::TreeStep;

/// Labels that no step has got yet, by node.
pub(super) struct Labels {
    groups: HashMap<u32, String>,
    chains: HashMap<u32, String>,
}

impl Labels {
    /// Those in a workflow's spec.
    pub(super) fn of(spec: &str) -> Self {
        let spec = serde_json::from_str::<WorkflowSpec>(spec).unwrap_or_default();
        let CompositeLabels { groups, chains } = spec.labels;
        Self { groups: groups.into_iter().collect(), chains: chains.into_iter().collect() }
    }

    /// Gives each step its label, the outer ones first.
    pub(super) fn give(&mut self, step: &mut TreeStep) {
        if self.groups.is_empty() && self.chains.is_empty() {
            return;
        }
        let of_group = step.node.and_then(|node| self.groups.remove(&node));
        step.label = step.label.take().or(of_group);
        if step.label.is_none() {
            step.label = last_node(step).and_then(|node| self.chains.remove(&node));
        }
        let TreeStep { steps, members, body, link, link_error, .. } = step;
        let inner = steps.iter_mut().chain(members).chain(body.as_deref_mut()).chain(link).chain(link_error);
        inner.for_each(|step| self.give(step));
    }
}

/// The node whose end is that of the step.
fn last_node(step: &TreeStep) -> Option<u32> {
    match (&step.body, step.steps.last()) {
        (Some(body), _) => last_node(body),
        (None, Some(last)) => last_node(last),
        (None, None) => step.node,
    }
}
