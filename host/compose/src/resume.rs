//! A new workflow of one that failed: what succeeded is kept, the rest is done again.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use umbel_broker::{
    Broker, Kept, LargeValues, MAX_NODES_A_CALL, NewNode, NewWork, NewWorkflow, NodeAt, NodeRecord, NodeTemplate,
    NodeWork, Results, ValueError, WorkflowRecord, WorkflowState, value_of,
};
use umbel_model::{
    Digest, JobState, LargeValue, NodeArguments, NodeSpec, Policy, TaskName, TenantId, WorkflowId, WorkflowSpec,
    canvas::{Join, Node, NodeEnd, Range, Signature, Work, push_range, resume},
    large_value::REFERENCE,
};

use crate::{
    Composer, Composing, Error, FaultKind, Head, Result, TaskFacts,
    blobs::of_kept,
    broker_options::BrokerOptionsRule,
    call::Call,
    error::{Faults, refused},
    job::spec_text,
    templates::rest_after_spec,
    workflow::labelled,
};

/// Which module the nodes that are done again run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Digests {
    /// The one that was pinned when the workflow was submitted first.
    #[default]
    Pinned,
    /// The one that the task points at now. The policy stays as it was.
    Current,
}

/// A workflow as it was read to be resumed.
#[derive(Debug, Clone)]
pub struct FailedWorkflow {
    pub record: WorkflowRecord,
    pub nodes: Vec<NodeRecord>,
}

impl FailedWorkflow {
    /// Reads a workflow that is over and did not succeed, with its kept results; none when the tenant has no such
    /// workflow. Results of replaced jobs are read from what replaced them. `max_bytes` bounds the results together.
    pub async fn read(
        broker: &dyn Broker,
        large: &dyn LargeValues,
        tenant: &TenantId,
        id: WorkflowId,
        max_bytes: usize,
    ) -> Result<Option<Self>> {
        let Some(record) = broker.workflow(tenant, id).await? else { return Ok(None) };
        match record.state {
            WorkflowState::Running => return Err(Error::NotResumable("it is not over")),
            WorkflowState::Succeeded => return Err(Error::NotResumable("it succeeded: there is nothing to do again")),
            _ => {}
        }
        if record.parent.is_some() {
            return Err(Error::NotResumable("it replaces a job: resume that job's workflow, or repeat the job"));
        }
        let mut nodes = Vec::with_capacity(record.nodes as usize);
        let mut left = max_bytes;
        let mut first = 0;
        while first < record.nodes {
            let page = broker.nodes(tenant, id, first, MAX_NODES_A_CALL, Results::Included).await?;
            first = page.next;
            for mut node in page.nodes {
                let at = NodeAt { broker, large, tenant, workflow: id, node: node.number };
                let size = settle_result(at, &mut node, left).await?;
                left = left.checked_sub(size).ok_or_else(|| too_large(max_bytes))?;
                nodes.push(node);
            }
        }
        let whole = nodes.iter().zip(0..).all(|(node, number): (_, u32)| node.number == number);
        if nodes.len() != record.nodes as usize || !whole {
            return Err(Error::NotResumable("its retention is over: nodes of it are deleted already"));
        }
        Ok(Some(Self { record, nodes }))
    }
}

impl FailedWorkflow {
    /// The modules that the nodes which did not succeed run with the digests of the first submission.
    ///
    /// # Errors
    /// A template cannot be read.
    pub fn pinned(&self) -> Result<BTreeSet<Digest>> {
        let again = self.nodes.iter().filter_map(|node| match &node.work {
            NodeWork::Job { record, template, .. } if record.state != JobState::Succeeded => Some(*template as usize),
            _ => None,
        });
        let again: BTreeSet<usize> = again.collect();
        let templates = again.into_iter().filter_map(|at| self.record.templates.get(at));
        let digest = |template: &NodeTemplate| {
            let spec: NodeSpec = serde_json::from_str(&template.spec)
                .map_err(|e| Error::Corrupt(format!("a template of workflow {}: {e}", self.record.id)))?;
            Ok(spec.digest)
        };
        templates.map(digest).collect()
    }
}

/// Puts the result of a replaced job, or a large one, in its record: it will be another job's. Answers the size of the node's result, bytes.
async fn settle_result(at: NodeAt<'_>, node: &mut NodeRecord, left: usize) -> Result<usize> {
    let NodeWork::Job { record, .. } = &mut node.work else { return Ok(0) };
    let is_reference = record.result.as_ref().is_some_and(|result| LargeValue::from_reference(result.get()).is_some());
    if record.state == JobState::Succeeded && (record.child.is_some() || is_reference) {
        let text = value_of(at, left).await.map_err(|error| match error {
            ValueError::Broker(error) => Error::Broker(error),
            ValueError::TooLarge(_) => too_large(left),
            ValueError::Unavailable(why) => Error::Broker(umbel_broker::Error::Unavailable(why)),
            _ => Error::NotResumable("the result of a node that was replaced or is large is gone"),
        })?;
        if text.starts_with(REFERENCE) {
            return Err(Error::NotResumable(
                "a result that looks like a reference of the service's own cannot be kept",
            ));
        }
        let result = RawValue::from_string(text).map_err(|e| Error::Corrupt(format!("node {}: {e}", at.node)))?;
        record.result = Some(result);
    }
    Ok(record.result.as_ref().map_or(0, |result| result.get().len()))
}

fn too_large(max: usize) -> Error {
    let detail = format!("the results that would be kept have more than {max} bytes together");
    refused(FaultKind::ArgumentsTooLarge, "", detail)
}

impl<'c> Composer<'c> {
    /// The workflow that does again what failed of `stored`. The composer's stamps are those of the new workflow.
    pub fn resumed(self, stored: FailedWorkflow, digests: Digests, head: Head) -> Composing<'c, NewWorkflow> {
        Box::pin(async move { self.resume(stored, digests, head).await })
    }

    async fn resume(&self, stored: FailedWorkflow, digests: Digests, head: Head) -> Result<NewWorkflow> {
        let FailedWorkflow { record, nodes } = stored;
        // Of a join it is not looked at.
        let state = |node: &NodeRecord| match &node.work {
            NodeWork::Job { record, .. } => record.state,
            NodeWork::Join { .. } => JobState::Waiting,
        };
        let states: Vec<JobState> = nodes.iter().map(state).collect();
        let (ends, starts) = resume(&nodes.iter().map(planned).collect::<Result<Vec<_>>>()?, &states);
        let mut templates = record.templates;
        templates.iter_mut().for_each(|template| template.nodes = 0);
        for (node, end) in nodes.iter().zip(&ends) {
            if let (NodeWork::Job { template, .. }, NodeEnd::Redo { .. }) = (&node.work, end) {
                let known = templates.get_mut(*template as usize);
                known.ok_or_else(|| Error::Corrupt(format!("node {} has no template", node.number)))?.nodes += 1;
            }
        }
        let specs = self.restamped(&mut templates, digests).await?;
        if digests == Digests::Current {
            check_again(&nodes, &ends, &specs)?;
        }
        let is_dropped = |number: u32| ends[number as usize].is_dropped();
        let renew = |node: NodeRecord| {
            let end = ends[node.number as usize];
            renewed(without_dropped(node, is_dropped), end, &specs)
        };
        let mut nodes: Vec<NewNode> = nodes.into_iter().map(renew).collect::<Result<_>>()?;
        for number in starts.iter().flat_map(|range| range.iter()) {
            let node = &mut nodes[number as usize];
            node.when = node.when.of_start();
        }
        let mut head = self.head(head, Some(record.id))?;
        let labels = serde_json::from_str::<WorkflowSpec>(&record.spec).map(|spec| spec.labels).unwrap_or_default();
        head.spec = labelled(&head.spec, labels)?;
        (head.templates, head.nodes, head.starts, head.end) = (templates, nodes.len() as u32, starts, record.end);
        Ok(NewWorkflow { head, nodes })
    }

    /// Gives the templates this workflow's stamps and, if asked, the modules that are deployed now. Answers the spec of
    /// each template, and how its broker options are made.
    async fn restamped(
        &self,
        templates: &mut [NodeTemplate],
        digests: Digests,
    ) -> Result<Vec<(NodeSpec, BrokerOptionsRule)>> {
        let mut specs = Vec::with_capacity(templates.len());
        let mut tasks: HashMap<TaskName, Arc<TaskFacts>> = HashMap::new();
        let mut left = self.rules.limits.max_bytes;
        for (at, template) in templates.iter_mut().enumerate() {
            let mut spec: NodeSpec = serde_json::from_str(&template.spec)
                .map_err(|e| Error::Corrupt(format!("template {at} of the workflow: {e}")))?;
            if digests == Digests::Current && template.nodes > 0 {
                if !tasks.contains_key(&spec.task) {
                    let found = self.tasks.task(self.tenant, &spec.task).await?;
                    let detail = || format!("the task `{}` is gone", spec.task);
                    let found = found.ok_or_else(|| refused(FaultKind::TaskNotFound, "/digest", detail()))?;
                    tasks.insert(spec.task.clone(), found);
                }
                spec.digest = tasks[&spec.task].digest;
                spec.parameters = tasks[&spec.task].parameters.clone();
            }
            spec.stamps = self.stamps.clone();
            template.spec = spec_text(&spec);
            left = rest_after_spec(left, &template.spec, self.rules)?;
            let rule = BrokerOptionsRule::without_uniqueness(&Policy::resolve(&spec.policy), &spec.task);
            specs.push((spec, rule));
        }
        Ok(specs)
    }
}

/// Whether what is done again still fits its tasks.
fn check_again(nodes: &[NodeRecord], ends: &[NodeEnd], specs: &[(NodeSpec, BrokerOptionsRule)]) -> Result<()> {
    let mut faults = Faults::default();
    for (node, end) in nodes.iter().zip(ends) {
        let (NodeWork::Job { record, template, takes }, NodeEnd::Redo { .. }) = (&node.work, end) else { continue };
        let text = record.node.as_ref().map_or("{}", |node| &node.arguments);
        let arguments: NodeArguments = serde_json::from_str(text)
            .map_err(|e| Error::Corrupt(format!("arguments of node {}: {e}", node.number)))?;
        let pointer = format!("/nodes/{}", node.number);
        let call = Call { arguments: &arguments, takes: *takes, pointer: &pointer };
        call.fits(specs.get(*template as usize).map_or(&[], |(spec, _)| &spec.parameters), &mut faults);
        if faults.is_full() {
            break;
        }
    }
    faults.done()
}

/// A join without the members that were dropped.
fn without_dropped(mut node: NodeRecord, is_dropped: impl Fn(u32) -> bool) -> NodeRecord {
    if let NodeWork::Join { members, .. } = &mut node.work
        && members.iter().flat_map(|range| range.iter()).any(&is_dropped)
    {
        let mut left = Vec::new();
        let kept = members.iter().flat_map(|range| range.iter()).filter(|member| !is_dropped(*member));
        kept.for_each(|member| push_range(&mut left, Range::one(member)));
        *members = left;
    }
    node
}

/// The node whose job added this one to its group.
fn added_by(node: &NodeRecord) -> Result<Option<u32>> {
    let NodeWork::Job { record, .. } = &node.work else { return Ok(None) };
    let Some(stored) = record.node.as_ref().filter(|node| node.arguments.contains(r#""added_by""#)) else {
        return Ok(None);
    };
    let arguments: NodeArguments = serde_json::from_str(&stored.arguments)
        .map_err(|e| Error::Corrupt(format!("arguments of node {}: {e}", node.number)))?;
    // A number that a guest could not have given: but a resumed workflow must not depend on it.
    Ok(arguments.added_by.filter(|by| *by < node.number))
}

/// The node as `resume` looks at it: what it is called with makes no difference there.
fn planned(node: &NodeRecord) -> Result<Node> {
    let (work, takes) = match &node.work {
        NodeWork::Job { record, takes, .. } => (Work::Job(Signature::new(record.task.clone())), *takes),
        NodeWork::Join { members, scope, cancel_rest, pending, .. } => {
            let (members, scope) = (members.clone(), scope.clone());
            (Work::Join(Join { members, scope, cancel_rest: *cancel_rest, pending: *pending }), false)
        }
    };
    Ok(Node {
        work,
        when: node.when,
        on_failure: node.on_failure,
        after: node.after,
        takes,
        group: node.group,
        members_on_failure: None,
        added_by: added_by(node)?,
        next: node.next.clone(),
        label: None,
        pointer: String::new(),
    })
}

fn renewed(node: NodeRecord, end: NodeEnd, specs: &[(NodeSpec, BrokerOptionsRule)]) -> Result<NewNode> {
    let NodeRecord { when, on_failure, after, group, next, work, .. } = node;
    let work = match (work, end) {
        (NodeWork::Job { record, template, takes }, end) => {
            let arguments = record.node.map_or_else(|| "{}".to_owned(), |node| node.arguments);
            let kept = match end {
                NodeEnd::Kept(state) => Some(Kept { state, result: record.result, failure: record.failure }),
                NodeEnd::Dropped => Some(Kept { state: JobState::Skipped, result: None, failure: None }),
                NodeEnd::KeptJoin | NodeEnd::Redo { .. } => None,
            };
            let broker_options = match (specs.get(template as usize), &kept) {
                (Some((_, BrokerOptionsRule::Same(broker_options))), None) => broker_options.clone(),
                (Some((spec, rule)), None) => {
                    let call = serde_json::from_str(&arguments).map_err(|e| Error::Corrupt(e.to_string()))?;
                    rule.of_node(&spec.task, &spec.parameters, &call, takes)
                }
                _ => None,
            };
            let blobs = of_kept(&arguments, kept.as_ref())?;
            NewWork::Job { template, arguments, takes, kept, broker_options, blobs }
        }
        (NodeWork::Join { members, scope, cancel_rest, .. }, NodeEnd::Redo { pending, failed, skipped }) => {
            NewWork::Join { members, scope, cancel_rest, pending, failed, skipped, kept: false }
        }
        (
            NodeWork::Join { members, scope, cancel_rest, .. },
            NodeEnd::Kept(_) | NodeEnd::KeptJoin | NodeEnd::Dropped,
        ) => NewWork::Join { members, scope, cancel_rest, pending: 0, failed: 0, skipped: 0, kept: true },
    };
    Ok(NewNode { when, on_failure, after, group, next, work })
}
