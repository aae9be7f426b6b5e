//! From a canvas to a workflow to store: planned, its tasks looked up, its calls checked, its policies decided.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use serde_json::value::RawValue;
use umbel_broker::{NewMembers, NewNode, NewWork, NewWorkflow, NodeTemplate, WorkflowHead};
use umbel_model::{
    BlobReferences, Canvas, CompositeLabels, Digest, JobId, NodeArguments, OnFailure, Stamps, TaskName, TenantId,
    UnixMs, WorkflowId, WorkflowSpec,
    canvas::{CanvasError, Each, Join, Node, Plan, Signature, Work, plan, plan_members},
    outcome::MAX_DELAY_MS,
    policy::DEFAULT_RESULT_TTL_MS,
};

use crate::{
    Error, FaultKind, Options, Result, Rules, SubmissionKey, TaskFacts, TaskSource,
    blobs::{check_references, may_refer, too_many},
    call::Call,
    error::{Faults, refused},
    job::spec_text,
    limits::check_labels,
    templates::{NodeOptions, Templates},
};

/// Makes workflows of canvases.
#[derive(Clone, Copy)]
pub struct Composer<'a> {
    pub tasks: &'a dyn TaskSource,
    pub rules: &'a Rules,
    pub tenant: &'a TenantId,
    /// Stamps that every job inherits.
    pub stamps: &'a Stamps,
    /// This machine's clock: bounds an `eta`.
    pub now_ms: UnixMs,
    /// Where the canvas is in the request, such as `/canvas`; empty when it is the request.
    pub pointer: &'a str,
}

/// A workflow as a whole.
#[derive(Debug, Clone)]
pub struct Head {
    /// Made by `umbel_model::canvas::workflow_id`.
    pub id: WorkflowId,
    pub name: Option<String>,
    /// Given up this long after its start, milliseconds. 0: never.
    pub deadline_ms: u64,
    /// Kept this long after it is over, milliseconds.
    pub keep_ms: u64,
    pub key: Option<SubmissionKey>,
    /// The job that the workflow replaces.
    pub parent: Option<JobId>,
    /// How many guests submitted each other up to here: 0 from outside.
    pub depth: u32,
}

impl Head {
    /// No name, no deadline, kept for a day after its end.
    pub fn new(id: WorkflowId) -> Self {
        let keep_ms = DEFAULT_RESULT_TTL_MS;
        Self { id, name: None, deadline_ms: 0, keep_ms, key: None, parent: None, depth: 0 }
    }
}

/// Unknown tasks that are looked up before the rest is left: as many as faults are named.
const MAX_UNKNOWN: usize = 64;

type Tasks = HashMap<TaskName, Arc<TaskFacts>>;

/// The answer of the composer. Boxed: callers need it to be `Send` whatever its lifetimes are.
pub type Composing<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl<'c> Composer<'c> {
    /// The workflow of a canvas.
    pub fn workflow(self, canvas: Canvas, head: Head) -> Composing<'c, NewWorkflow> {
        Box::pin(async move { self.compose(canvas, head, None).await })
    }

    /// The workflow of a job and its callbacks, the `link` and `link_error` of `canvas`, which is one task. `options` are
    /// that job's: its tags, headers, key and callbacks are taken out of them before.
    pub fn job_with_callbacks(self, canvas: Canvas, options: Options, head: Head) -> Composing<'c, NewWorkflow> {
        Box::pin(async move { self.compose(canvas, head, Some(options)).await })
    }

    /// More members for the group that the running job of node `added_by` is in. `on_failure` is what the group says of its
    /// members, `keep_ms` how long the workflow is kept, if that was said.
    pub fn members(
        self,
        members: Vec<Canvas>,
        added_by: u32,
        on_failure: Option<OnFailure>,
        keep_ms: Option<u64>,
    ) -> Composing<'c, NewMembers> {
        Box::pin(async move {
            let limits = self.rules.limits.canvas;
            let (mut plan, ends) = plan_members(members, on_failure, limits).map_err(|e| self.misplanned(e))?;
            plan.nodes.iter_mut().for_each(|node| node.added_by = Some(added_by));
            let (templates, nodes) = self.nodes(plan.nodes, None, keep_ms).await?;
            Ok(NewMembers { templates, nodes, ends, starts: plan.starts })
        })
    }

    async fn compose(&self, canvas: Canvas, head: Head, first: Option<Options>) -> Result<NewWorkflow> {
        // First: tags and headers are in every template.
        let mut head = self.head(head, None)?;
        let plan = plan(canvas, self.rules.limits.canvas).map_err(|e| self.misplanned(e))?;
        head.spec = labelled(&head.spec, labels_of(&plan))?;
        let Plan { nodes, starts, end, .. } = plan;
        let keep_ms = Some(head.keep_ms).filter(|ms| *ms != DEFAULT_RESULT_TTL_MS);
        let (templates, nodes) = self.nodes(nodes, first.as_ref(), keep_ms).await?;
        (head.templates, head.nodes, head.starts, head.end) = (templates, nodes.len() as u32, starts, end);
        Ok(NewWorkflow { head, nodes })
    }

    fn misplanned(&self, error: CanvasError) -> Error {
        refused(FaultKind::Canvas, format!("{}{}", self.pointer, error.pointer), error.detail)
    }

    /// The head, without templates, nodes and starts.
    pub(crate) fn head(&self, head: Head, resume_of: Option<WorkflowId>) -> Result<WorkflowHead> {
        check_labels(head.name.as_deref(), self.stamps)?;
        let bounded = |pointer: &str, ms: u64, max: u64| {
            let detail = format!("write whole milliseconds, at most {max}");
            if ms > max { Err(refused(FaultKind::Option, pointer, detail)) } else { Ok(()) }
        };
        bounded("/deadline_ms", head.deadline_ms, MAX_DELAY_MS)?;
        bounded("/keep_ms", head.keep_ms, self.rules.bounds.max_retention_ms)?;
        let spec = WorkflowSpec {
            // Workflows are as the last release knows them.
            v: 1,
            name: head.name,
            stamps: self.stamps.clone(),
            labels: CompositeLabels::default(),
            resume_of,
            body: head.key.as_ref().map(|key| key.canonical_body.clone()),
        };
        Ok(WorkflowHead {
            id: head.id,
            tenant: self.tenant.clone(),
            spec: spec_text(&spec),
            templates: Vec::new(),
            nodes: 0,
            starts: Vec::new(),
            end: 0,
            deadline_ms: head.deadline_ms,
            // While the key answers with the workflow, there is a workflow.
            keep_ms: head.keep_ms.max(head.key.as_ref().map_or(0, |key| key.idempotency.ttl_ms)),
            idempotency: head.key.map(|key| key.idempotency),
            parent: head.parent,
            depth: head.depth,
        })
    }

    /// The templates and nodes of a plan. `first` are the options of the task that is the whole canvas.
    async fn nodes(
        &self,
        nodes: Vec<Node>,
        first: Option<&Options>,
        keep_ms: Option<u64>,
    ) -> Result<(Vec<NodeTemplate>, Vec<NewNode>)> {
        let tasks = self.tasks(&nodes).await?;
        let mut templates = Templates::new(self.rules, self.stamps, self.now_ms, keep_ms);
        let mut faults = Faults::default();
        // Of arguments; specs have as much for themselves.
        let mut left = self.rules.limits.max_bytes;
        let mut made = Vec::with_capacity(nodes.len());
        for node in nodes {
            let facts = NodeFacts::of(&node);
            let Node { work, when, on_failure, after, takes, group, next, pointer, .. } = node;
            let work = match work {
                Work::Join(Join { members, scope, cancel_rest, pending }) => {
                    Some(NewWork::Join { members, scope, cancel_rest, pending, failed: 0, skipped: 0, kept: false })
                }
                Work::Job(signature) => match tasks.get(&signature.task) {
                    None => {
                        let detail = format!("no task `{}`; push a module that describes it", signature.task);
                        faults.add(FaultKind::TaskNotFound, format!("{}{pointer}/task", self.pointer), detail);
                        None
                    }
                    Some(task) => {
                        let (arguments, options) = facts.arguments(signature);
                        let call = Call { arguments: &arguments, takes, pointer: &pointer };
                        self.check(task, call, &mut faults).await;
                        let options = match first.filter(|_| pointer.is_empty()) {
                            Some(options) => NodeOptions::Read(options),
                            None => NodeOptions::Text(options.as_deref().map_or("", RawValue::get)),
                        };
                        let template = templates.add_node(task, options);
                        let text = serde_json::to_string(&arguments).expect("arguments have text keys only");
                        self.measure(&text, &mut left, &pointer, &mut faults);
                        let template = template.map_err(|error| self.collect(error, &pointer, &mut faults)).ok();
                        template.map(|template| {
                            let rule = templates.broker_options(template);
                            let broker_options = rule.of_node(&task.name, &task.parameters, &arguments, takes);
                            let blobs = self.blobs(&text, &pointer, &mut faults);
                            NewWork::Job { template, arguments: text, takes, kept: None, broker_options, blobs }
                        })
                    }
                },
            };
            if faults.is_full() {
                break;
            }
            made.extend(work.map(|work| NewNode { when, on_failure, after, group, next, work }));
        }
        faults.done()?;
        Ok((templates.into_list(), made))
    }

    /// The tasks that the nodes name, each looked up once. Those that do not exist are left out.
    async fn tasks(&self, nodes: &[Node]) -> Result<Tasks> {
        let mut tasks = Tasks::new();
        let mut unknown: Vec<&TaskName> = Vec::new();
        for node in nodes {
            let Work::Job(Signature { task, .. }) = &node.work else { continue };
            // Canvases of many nodes name few tasks; one of many unknown ones is refused at the first few.
            if tasks.contains_key(task) || unknown.contains(&task) {
                continue;
            }
            match self.tasks.task(self.tenant, task).await? {
                Some(facts) => {
                    tasks.insert(task.clone(), facts);
                }
                None if unknown.len() >= MAX_UNKNOWN => break,
                None => unknown.push(task),
            }
        }
        Ok(tasks)
    }

    async fn check(&self, task: &TaskFacts, call: Call<'_>, faults: &mut Faults) {
        let mut found = Faults::default();
        let is_looked_at = task.checker.is_some() || may_refer(call.arguments);
        if call.fits(&task.parameters, &mut found) && is_looked_at {
            for (at, value, place) in call.values(&task.parameters) {
                check_references(value.get(), || call.pointer_of(&place), &mut found);
                task.check_value(at, value, || call.pointer_of(&place), &mut found).await;
                if found.is_full() {
                    break;
                }
            }
        }
        if !found.is_empty() {
            self.collect(found.into(), "", faults);
        }
    }

    fn collect(&self, error: Error, pointer: &str, faults: &mut Faults) {
        match error {
            Error::Refused(list) => list
                .into_iter()
                .for_each(|f| faults.add(f.kind, format!("{}{pointer}{}", self.pointer, f.pointer), f.detail)),
            other => faults.add(FaultKind::Canvas, format!("{}{pointer}", self.pointer), other.to_string()),
        }
    }

    /// The blobs to which the arguments of a node refer.
    fn blobs(&self, arguments: &str, pointer: &str, faults: &mut Faults) -> Vec<Digest> {
        BlobReferences::of_text(arguments).unwrap_or_else(|| {
            self.collect(too_many(pointer), "", faults);
            Vec::new()
        })
    }

    fn measure(&self, arguments: &str, left: &mut usize, pointer: &str, faults: &mut Faults) {
        let limits = &self.rules.limits;
        let place = || format!("{}{pointer}", self.pointer);
        if arguments.len() > limits.max_arguments_bytes {
            let detail = format!("{} bytes of arguments; at most {}", arguments.len(), limits.max_arguments_bytes);
            faults.add(FaultKind::ArgumentsTooLarge, place(), detail);
        }
        match left.checked_sub(arguments.len()) {
            Some(rest) => *left = rest,
            None if faults.is_empty() => {
                let detail = format!("a workflow has at most {} bytes of arguments together", limits.max_bytes);
                faults.add(FaultKind::ArgumentsTooLarge, place(), detail);
            }
            None => {}
        }
    }
}

/// Bytes of the labels of a workflow's groups and chains, which every listing of workflows reads.
const MAX_LABELS_BYTES: usize = 16 << 10;

/// The labels of a plan's groups and chains: the first ones, as many as there is room for.
fn labels_of(plan: &Plan) -> CompositeLabels {
    let mut left = MAX_LABELS_BYTES;
    let mut fits = |label: &String| left.checked_sub(label.len()).inspect(|rest| left = *rest).is_some();
    let group = |(number, node): (u32, &Node)| match &node.work {
        Work::Join(_) => node.label.clone().map(|label| (number, label)),
        Work::Job(_) => None,
    };
    let groups = (0..).zip(&plan.nodes).filter_map(group).filter(|(_, label)| fits(label)).collect();
    let chains = plan.chain_labels.iter().map(|(number, label)| (*number, label.clone()));
    CompositeLabels { groups, chains: chains.filter(|(_, label)| fits(label)).collect() }
}

/// The spec of a workflow with these labels.
pub(crate) fn labelled(spec: &str, labels: CompositeLabels) -> Result<String> {
    if labels.is_empty() {
        return Ok(spec.to_owned());
    }
    let spec: WorkflowSpec =
        serde_json::from_str(spec).map_err(|e| Error::Corrupt(format!("spec of a workflow: {e}")))?;
    Ok(spec_text(&WorkflowSpec { labels, ..spec }))
}

/// What is stored with the arguments of a node beside them.
struct NodeFacts {
    label: Option<String>,
    members_on_failure: Option<OnFailure>,
    added_by: Option<u32>,
}

impl NodeFacts {
    fn of(node: &Node) -> Self {
        let Node { label, members_on_failure, added_by, .. } = node;
        Self { label: label.clone(), members_on_failure: *members_on_failure, added_by: *added_by }
    }

    /// The arguments of the node's signature as they are stored, and its options.
    fn arguments(self, signature: Signature) -> (NodeArguments, Option<Box<RawValue>>) {
        let Self { label, members_on_failure, added_by } = self;
        let Signature { args, kwargs, each, options, .. } = signature;
        let (map, starmap) = Each::split(each);
        (NodeArguments { args, kwargs, map, starmap, label, members_on_failure, added_by }, options)
    }
}
