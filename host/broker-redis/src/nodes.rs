//! Nodes, templates and workflows as bytes: what `library/workflows.lua` and `library/new_workflows.lua` read and write.

use umbel_broker::{
    Error, Kept, NewNode, NewWork, NodeRecord, NodeTemplate, NodeWork, Result, Start, Status, WorkflowHead,
    WorkflowRecord, WorkflowState,
};
use umbel_model::{
    JobState, OnFailure, TenantId, WorkflowId,
    canvas::{Range, When},
};

use crate::{
    broker_options::broker_options,
    bytes::{Packed, Reader, SPEC_INLINE_BYTES, corrupt, json, some, start_of},
    keys::member,
};

const NOBODY: u32 = u32::MAX;
/// Nodes that the numbers in ids and records can name; far more than a workflow has.
const MAX_NUMBER: u32 = 1 << 24;
const FAILURE_BIT: u8 = 1;
/// Of a job, that it takes its source's result; of a join, that a failure cancels the rest.
const THIRD_BIT: u8 = 8;
/// A `link`. Older releases do not look at it: with them it runs also after a failure that is not minded.
const LINK_BIT: u8 = 16;
const IS_JOIN: u8 = 1;
const ARGUMENTS_APART: u8 = 2;
const IS_KEPT: u8 = 4;
const HAS_BROKER_OPTIONS: u8 = 8;
const HAS_BLOBS: u8 = 16;

/// Where a node stands in its workflow, as its record says it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) template: u32,
    pub(crate) when: When,
    pub(crate) on_failure: OnFailure,
    pub(crate) takes: bool,
    pub(crate) after: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) next: Vec<Range>,
}

impl Place {
    /// From a record's immutable part behind queue and task; and the arguments.
    pub(crate) fn read(bytes: &[u8]) -> Result<(Self, &str)> {
        let mut r = Reader(bytes);
        let (template, bits) = (r.number(3)? as u32, r.u8()?);
        let (after, group) = (somebody(r.u32()?), somebody(r.u32()?));
        let count = r.number(3)? as usize;
        let next = r.ranges(count)?;
        let (when, on_failure, takes) = (when_in(bits), on_failure_in(bits)?, bits & THIRD_BIT > 0);
        Ok((Self { template, when, on_failure, takes, after, group, next }, r.rest()?))
    }
}

fn somebody(number: u32) -> Option<u32> {
    Some(number).filter(|n| *n != NOBODY)
}

fn when_in(bits: u8) -> When {
    match (bits & FAILURE_BIT > 0, bits & LINK_BIT > 0) {
        (true, _) => When::Failure,
        (false, true) => When::Link,
        (false, false) => When::Success,
    }
}

fn on_failure_in(bits: u8) -> Result<OnFailure> {
    match bits >> 1 & 3 {
        0 => Ok(OnFailure::Fail),
        1 => Ok(OnFailure::Continue),
        2 => Ok(OnFailure::Ignore),
        _ => Err(corrupt("what a node's failure means is not known")),
    }
}

fn bits(node: &NewNode, third: bool) -> u8 {
    let when = match node.when {
        When::Success => 0,
        When::Failure => FAILURE_BIT,
        When::Link => LINK_BIT,
    };
    let on_failure = match node.on_failure {
        OnFailure::Fail => 0,
        OnFailure::Continue => 2,
        OnFailure::Ignore => 4,
    };
    when | on_failure | if third { THIRD_BIT } else { 0 }
}

fn code_of(state: JobState) -> u8 {
    JobState::ALL.iter().position(|s| *s == state).map_or(0, |at| at as u8)
}

/// For `store_node` in `new_workflows.lua`.
pub(crate) fn new_node(node: &NewNode) -> Result<Vec<u8>> {
    let (after, group) = (node.after.unwrap_or(NOBODY), node.group.unwrap_or(NOBODY));
    match &node.work {
        NewWork::Job { template, arguments, takes, kept, broker_options: more, blobs } => {
            let apart = arguments.len() > SPEC_INLINE_BYTES;
            let kind = if apart { ARGUMENTS_APART } else { 0 }
                | if kept.is_some() { IS_KEPT } else { 0 }
                | if more.is_some() { HAS_BROKER_OPTIONS } else { 0 }
                | if blobs.is_empty() { 0 } else { HAS_BLOBS };
            let mut packed = Packed::default().u8(kind);
            if apart {
                packed = packed.text(arguments);
            }
            if let Some(more) = more {
                packed = packed.long(&broker_options(more)?);
            }
            if !blobs.is_empty() {
                packed = packed.digests(blobs)?;
            }
            if let Some(Kept { state, result, failure }) = kept {
                let failure = failure.as_ref().map(json).transpose()?.unwrap_or_default();
                let result = result.as_ref().map_or("", |r| r.get());
                packed = packed.u8(code_of(*state)).text(result).text(&failure);
            }
            packed = packed.u24(*template).u8(bits(node, *takes)).u32(after).u32(group);
            packed = packed.u24(node.next.len() as u32).ranges(&node.next);
            Ok(packed.raw(if apart { &[] } else { arguments.as_bytes() }).done())
        }
        NewWork::Join { members, scope, cancel_rest, pending, failed, skipped, kept } => {
            let packed = Packed::default().u8(IS_JOIN).u8(1).u8(bits(node, *cancel_rest)).u8(u8::from(*kept));
            let packed = packed.u32(*pending).u32(*failed).u32(*skipped).u32(after).u32(group);
            let lists = [&node.next, members, scope];
            let packed = lists.iter().fold(packed, |packed, ranges| packed.u24(ranges.len() as u32));
            Ok(lists.iter().fold(packed, |packed, ranges| packed.ranges(ranges)).done())
        }
    }
}

/// Reads a stored join.
pub(crate) fn join(number: u32, bytes: &[u8]) -> Result<NodeRecord> {
    let mut r = Reader(bytes);
    let (_version, bits, status) = (r.u8()?, r.u8()?, r.u8()?);
    let (pending, failed, skipped) = (r.u32()?, r.u32()?, r.u32()?);
    let (after, group) = (somebody(r.u32()?), somebody(r.u32()?));
    let [next, members, scope] = [r.number(3)? as usize, r.number(3)? as usize, r.number(3)? as usize];
    let (next, members, scope) = (r.ranges(next)?, r.ranges(members)?, r.ranges(scope)?);
    let status = match status {
        0 => None,
        1 => Some(Status::Ok),
        2 => Some(Status::Failed),
        _ => Some(Status::Skipped),
    };
    let cancel_rest = bits & THIRD_BIT > 0;
    let work = NodeWork::Join { members, scope, cancel_rest, pending, failed, skipped, status };
    Ok(NodeRecord { number, when: when_in(bits), on_failure: on_failure_in(bits)?, after, group, next, work })
}

/// As `TEMPLATE` in `workflows.lua`.
pub(crate) fn new_template(template: &NodeTemplate) -> Vec<u8> {
    let (start, start_ms) = start_of(template.start);
    let packed = Packed::default().u8(template.priority.min(9)).u8(start).ms(start_ms).ms(template.expires_ms);
    let packed = packed.u32(template.max_deliveries).u32(template.nodes);
    packed.name(template.queue.as_str()).name(template.task.as_str()).raw(template.spec.as_bytes()).done()
}

/// Reads a stored template.
pub(crate) fn template(bytes: &[u8]) -> Result<NodeTemplate> {
    let mut r = Reader(bytes);
    let (priority, start, start_ms, expires_ms) = (r.u8()?, r.u8()?, r.number(6)?, r.number(6)?);
    let (max_deliveries, nodes) = (r.u32()?, r.u32()?);
    let (queue, task) = (r.text(1)?.parse().map_err(corrupt)?, r.text(1)?.parse().map_err(corrupt)?);
    let start = match start {
        0 => Start::Now,
        1 => Start::After(start_ms),
        _ => Start::At(start_ms),
    };
    Ok(NodeTemplate { task, queue, priority, start, expires_ms, max_deliveries, spec: r.rest()?.to_owned(), nodes })
}

/// As `NEW_WORKFLOW` in `new_workflows.lua`.
pub(crate) fn new_workflow(head: &WorkflowHead) -> Result<Vec<u8>> {
    if head.nodes >= MAX_NUMBER {
        return Err(Error::Failed(format!("a workflow has fewer than {MAX_NUMBER} nodes")));
    }
    let packed = Packed::default().name(&member(&head.tenant, head.id)).u32(head.nodes).u32(head.end).u32(head.depth);
    let packed = packed.ms(head.deadline_ms).ms(head.keep_ms);
    let packed = packed.name(&head.parent.map(|id| id.to_string()).unwrap_or_default());
    Ok(packed.idempotency(head.idempotency.as_ref())?.text(&head.spec).ranges(&head.starts).done())
}

/// Reads a stored workflow that was started.
pub(crate) fn workflow(tenant: &TenantId, id: WorkflowId, bytes: &[u8], spec: String) -> Result<WorkflowRecord> {
    let mut r = Reader(bytes);
    let (_version, state, cancelled, _ending, _orphaned) = (r.u8()?, r.u8()?, r.u8()?, r.u8()?, r.u8()?);
    let (nodes, end, depth, _templates, _pruned) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?, r.u32()?);
    let (created_at, deadline_ms, finished_at, keep_ms) = (r.number(6)?, r.number(6)?, r.time()?, r.number(6)?);
    let mut jobs = [0; JobState::ALL.len()];
    for count in &mut jobs {
        *count = r.u32()?;
    }
    Ok(WorkflowRecord {
        id,
        tenant: tenant.clone(),
        spec,
        templates: Vec::new(),
        state: workflow_state(state)?,
        cancel_requested: cancelled > 0,
        nodes,
        end,
        jobs,
        created_at,
        deadline_at: (deadline_ms > 0).then_some(created_at + deadline_ms),
        finished_at,
        keep_ms,
        parent: some(r.text(1)?).map(|id| id.parse().map_err(corrupt)).transpose()?,
        depth,
    })
}

/// The number of a state in a stored workflow; 0 is one that is staged.
pub(crate) fn workflow_code(state: WorkflowState) -> usize {
    WorkflowState::ALL.iter().position(|s| *s == state).map_or(0, |at| at + 1)
}

/// The state of such a number.
pub(crate) fn workflow_state(code: u8) -> Result<WorkflowState> {
    let at = usize::from(code).checked_sub(1);
    at.and_then(|at| WorkflowState::ALL.get(at)).copied().ok_or_else(|| corrupt("a workflow's state is not known"))
}
