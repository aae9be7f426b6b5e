//! Workflows, members and a replacement that a guest requests while it runs: checked and counted at once, stored with its
//! outcome or not at all.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use serde::de::DeserializeOwned;
use umbel_broker::{DeliveredNode, MAX_GROWTH};
use umbel_model::{
    JobId, TenantId, WorkflowId,
    canvas::{CanvasError, CanvasLimits, Plan, plan, plan_members, workflow_id},
    json,
};
use umbel_sandbox::Refused;

use crate::operating_system::{random_u64, unix_ms};

/// Workflows that guests submit one out of another: a task that replaces itself for ever ends here.
pub(crate) const MAX_GENERATIONS: u32 = 100;
/// Nodes that the guests of one tenant may add on one worker: per second, and at once.
const NODES_PER_SECOND: f64 = 10_000.0;
const NODES_AT_ONCE: f64 = 50_000.0;
/// Values of one canvas, counted by its commas.
const MAX_VALUES: usize = 100_000;
/// Tenants whose rate is remembered; a tenant is forgotten when it could add all at once again.
const MAX_TENANTS: usize = 10_000;

/// The requests of one attempt so far.
#[derive(Debug, Default)]
pub(crate) struct WorkflowRequests {
    /// As text, whose length the sandbox has limited: parsed, it takes many times the memory.
    pub(crate) submitted: Vec<(WorkflowId, String)>,
    pub(crate) replacement: Option<(WorkflowId, String)>,
    /// Each a JSON list of members.
    pub(crate) members: Vec<String>,
    nodes: u32,
}

impl WorkflowRequests {
    pub(crate) fn is_empty(&self) -> bool {
        self.submitted.is_empty() && self.replacement.is_none() && self.members.is_empty()
    }

    pub(crate) fn submit(&mut self, requester: &Requester<'_>, canvas: &str) -> Result<WorkflowId, Refused> {
        self.check(requester, canvas, plan)?;
        let id = new_workflow_id();
        self.submitted.push((id, canvas.to_owned()));
        Ok(id)
    }

    pub(crate) fn replace(&mut self, requester: &Requester<'_>, canvas: &str) -> Result<(), Refused> {
        self.check(requester, canvas, plan)?;
        self.replacement = Some((new_workflow_id(), canvas.to_owned()));
        Ok(())
    }

    pub(crate) fn add_to_group(&mut self, requester: &Requester<'_>, members: &str) -> Result<(), Refused> {
        if requester.node.and_then(|node| node.group).is_none() {
            return Err(Refused::new("not_in_group", "this job is in no group"));
        }
        self.check(requester, members, |parsed, limits| plan_members(parsed, None, limits).map(|(plan, _)| plan))?;
        self.members.push(members.to_owned());
        Ok(())
    }

    /// Plans a text of the guest, and counts its nodes.
    fn check<T: DeserializeOwned>(
        &mut self,
        requester: &Requester<'_>,
        text: &str,
        plan: fn(T, CanvasLimits) -> Result<Plan, CanvasError>,
    ) -> Result<(), Refused> {
        let parsed = parsed(text)?;
        let depth = requester.node.map_or(0, |node| node.depth);
        if depth >= MAX_GENERATIONS {
            let message = format!("guests may submit each other {MAX_GENERATIONS} times in a row");
            return Err(Refused::new("host_limit:canvas_depth", message));
        }
        let limits = CanvasLimits { max_nodes: MAX_GROWTH - self.nodes, ..CanvasLimits::default() };
        let nodes = plan(parsed, limits).map_err(|error| unplanned(&error))?.nodes.len() as u32;
        requester.rates.take(requester.tenant, nodes)?;
        self.nodes += nodes;
        Ok(())
    }
}

fn new_workflow_id() -> WorkflowId {
    workflow_id(JobId::from_parts(unix_ms(), u128::from(random_u64()) << 64 | u128::from(random_u64())))
}

/// Parses a guest's text, unless it has so many values that they would take the host's memory.
pub(crate) fn parsed<T: DeserializeOwned>(text: &str) -> Result<T, Refused> {
    if text.bytes().filter(|byte| *byte == b',').count() > MAX_VALUES {
        return Err(Refused::new("host_limit:canvas", format!("a canvas has at most {MAX_VALUES} values")));
    }
    let unreadable = |fault: json::JsonFault| Refused::new("invalid_canvas", fault.to_string());
    json::check(text).map_err(unreadable)?;
    serde_json::from_str(text)
        .map_err(|error| Refused::new("invalid_canvas", format!("the canvas cannot be read: {error}")))
}

fn unplanned(error: &CanvasError) -> Refused {
    let kind = if error.detail.contains("at most") { "host_limit:canvas" } else { "invalid_canvas" };
    Refused::new(kind, error.to_string())
}

/// The job whose guest makes a request.
pub(crate) struct Requester<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) node: Option<&'a DeliveredNode>,
    pub(crate) rates: &'a NodeRates,
}

/// The rate at which the guests of each tenant add nodes: a token bucket for each tenant.
#[derive(Debug, Default)]
pub(crate) struct NodeRates(Mutex<HashMap<TenantId, (f64, Instant)>>);

impl NodeRates {
    fn take(&self, tenant: &TenantId, nodes: u32) -> Result<(), Refused> {
        let now = Instant::now();
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() >= MAX_TENANTS {
            left.retain(|_, (tokens, at)| refilled(*tokens, *at, now) < NODES_AT_ONCE);
        }
        let entry = left.entry(tenant.clone()).or_insert((NODES_AT_ONCE, now));
        *entry = (refilled(entry.0, entry.1, now), now);
        if entry.0 < f64::from(nodes) {
            let message = format!("the tasks of a tenant may add {NODES_PER_SECOND} nodes a second; try again later");
            return Err(Refused::new("host_limit:canvas_rate", message));
        }
        entry.0 -= f64::from(nodes);
        Ok(())
    }
}

fn refilled(tokens: f64, at: Instant, now: Instant) -> f64 {
    (tokens + now.duration_since(at).as_secs_f64() * NODES_PER_SECOND).min(NODES_AT_ONCE)
}

#[cfg(test)]
mod tests {
    use umbel_broker::Input;

    use super::*;

    fn node(group: Option<u32>, depth: u32) -> DeliveredNode {
        DeliveredNode {
            workflow: JobId::from_parts(1, 0),
            node: 0,
            group,
            depth,
            arguments: "{}".into(),
            input: Input::Nothing,
        }
    }

    fn with<T>(
        node: Option<&DeliveredNode>,
        ask: impl FnOnce(&mut WorkflowRequests, &Requester<'_>) -> Result<T, Refused>,
    ) -> Option<String> {
        let (tenant, rates) = (TenantId::new("t").unwrap(), NodeRates::default());
        let requester = Requester { tenant: &tenant, node, rates: &rates };
        ask(&mut WorkflowRequests::default(), &requester).err().map(|refused| refused.kind)
    }

    #[test]
    fn members_need_a_group() {
        let members = r#"[{"task":"a"}]"#;
        assert_eq!(with(None, |w, g| w.add_to_group(g, members)), Some("not_in_group".into()));
        assert_eq!(with(Some(&node(None, 0)), |w, g| w.add_to_group(g, members)), Some("not_in_group".into()));
        assert_eq!(with(Some(&node(Some(3), 0)), |w, g| w.add_to_group(g, members)), None);
    }

    #[test]
    fn depth_size_and_shape_are_checked_when_it_is_asked() {
        let task = r#"{"task":"a"}"#;
        assert_eq!(with(Some(&node(None, 99)), |w, g| w.replace(g, task)), None);
        assert_eq!(with(Some(&node(None, 100)), |w, g| w.replace(g, task)), Some("host_limit:canvas_depth".into()));
        assert_eq!(with(None, |w, g| w.submit(g, "{")), Some("invalid_canvas".into()));
        assert_eq!(with(None, |w, g| w.submit(g, r#"{"chain":[]}"#)), Some("invalid_canvas".into()));
        for odd in [r#"{"task":"a","args":[1e400]}"#, r#"{"task":"a","kwargs":{"x":["\ud83d"]}}"#] {
            assert_eq!(with(None, |w, g| w.submit(g, odd)), Some("invalid_canvas".into()), "{odd}");
        }
        let many = format!(r#"{{"group":[{}]}}"#, vec![task; MAX_GROWTH as usize].join(","));
        assert_eq!(with(None, |w, g| w.submit(g, &many)), Some("host_limit:canvas".into()));
    }

    #[test]
    fn a_flood_of_small_workflows_meets_the_rate() {
        let (tenant, rates) = (TenantId::new("t").unwrap(), NodeRates::default());
        let refused = (0..100).find_map(|_| rates.take(&tenant, 1_000).err());
        assert_eq!(refused.map(|refused| refused.kind), Some("host_limit:canvas_rate".into()));
        let other = TenantId::new("other").unwrap();
        assert!(rates.take(&other, 1_000).is_ok());
    }
}
