//! The way from a canvas to a head and nodes.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use umbel_broker::{Idempotency, NewMembers, NewNode, NewWork, NodeTemplate, WorkflowHead};
use umbel_model::{
    Canvas, JobId, NodeArguments, TaskName, TenantId, UnixMs, WorkflowId, WorkflowSpec,
    canvas::{CanvasError, Each, Node, Plan, Signature, Work, plan, plan_members},
    outcome::MAX_DELAY_MS,
    policy::DEFAULT_RESULT_TTL_MS,
};

use crate::{
    Complaints, Error, FaultKind, Result, Rules, Stamps, TaskFacts, TaskSource,
    call::Call,
    error::{Faults, refused},
    limits::check_labels,
    templates::Templates,
};

/// Makes workflows of canvases.
#[derive(Clone, Copy)]
pub struct Composer<'a> {
    pub tasks: &'a dyn TaskSource,
    pub rules: &'a Rules,
    pub tenant: &'a TenantId,
    /// What every job inherits.
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
    pub idempotency: Option<Idempotency>,
    /// The job that the workflow replaces.
    pub parent: Option<JobId>,
    /// How many guests submitted each other up to here: 0 from outside.
    pub depth: u32,
}

impl Head {
    /// No name, no deadline, kept for a day after its end.
    pub fn new(id: WorkflowId) -> Self {
        let keep_ms = DEFAULT_RESULT_TTL_MS;
        Self { id, name: None, deadline_ms: 0, keep_ms, idempotency: None, parent: None, depth: 0 }
    }
}

/// A workflow to store.
#[derive(Debug, Clone)]
pub struct Composed {
    pub head: WorkflowHead,
    pub nodes: Vec<NewNode>,
}

/// Unknown tasks that are looked up before the rest is left: as many as faults are named.
const MAX_UNKNOWN: usize = 64;

type Tasks = HashMap<TaskName, Arc<TaskFacts>>;

/// What the composer answers with. Boxed: callers need it to be `Send` whatever its lifetimes are.
pub type Composing<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl<'c> Composer<'c> {
    /// The workflow of a canvas.
    pub fn workflow(self, canvas: Canvas, head: Head) -> Composing<'c, Composed> {
        Box::pin(async move { self.compose(canvas, head).await })
    }

    /// More members for the group that a running job is in.
    pub fn members(self, members: Vec<Canvas>) -> Composing<'c, NewMembers> {
        Box::pin(async move { self.compose_members(members).await })
    }

    async fn compose(&self, canvas: Canvas, head: Head) -> Result<Composed> {
        // First: tags and headers are in every template.
        let mut head = self.head(head, None)?;
        let plan = plan(canvas, self.rules.limits.canvas).map_err(|e| self.misplanned(e))?;
        let Plan { nodes, starts, end } = plan;
        let (templates, nodes) = self.nodes(nodes).await?;
        (head.templates, head.nodes, head.starts, head.end) = (templates, nodes.len() as u32, starts, end);
        Ok(Composed { head, nodes })
    }

    async fn compose_members(&self, members: Vec<Canvas>) -> Result<NewMembers> {
        let (plan, ends) = plan_members(members, self.rules.limits.canvas).map_err(|e| self.misplanned(e))?;
        let (templates, nodes) = self.nodes(plan.nodes).await?;
        Ok(NewMembers { templates, nodes, ends, starts: plan.starts })
    }

    fn misplanned(&self, error: CanvasError) -> Error {
        refused(FaultKind::Canvas, format!("{}{}", self.pointer, error.pointer), error.detail)
    }

    /// The head, without templates, nodes and starts.
    pub(crate) fn head(&self, head: Head, resume_of: Option<WorkflowId>) -> Result<WorkflowHead> {
        check_labels(head.name.as_deref(), self.stamps)?;
        let bounded = |pointer: &str, ms: u64, max: u64| {
            let detail = format!("write whole milliseconds, at most {max}");
            if ms > max { Err(refused(FaultKind::Option, pointer.into(), detail)) } else { Ok(()) }
        };
        bounded("/deadline_ms", head.deadline_ms, MAX_DELAY_MS)?;
        bounded("/keep_ms", head.keep_ms, self.rules.bounds.max_retention_ms)?;
        let spec = WorkflowSpec {
            // Workflows are as the last release knows them.
            v: 1,
            name: head.name,
            tags: self.stamps.tags.clone(),
            headers: self.stamps.headers.clone(),
            traceparent: self.stamps.traceparent.clone(),
            request_id: self.stamps.request_id.clone(),
            resume_of,
        };
        Ok(WorkflowHead {
            id: head.id,
            tenant: self.tenant.clone(),
            spec: serde_json::to_string(&spec).expect("a spec has text keys only"),
            templates: Vec::new(),
            nodes: 0,
            starts: Vec::new(),
            end: 0,
            deadline_ms: head.deadline_ms,
            keep_ms: head.keep_ms,
            idempotency: head.idempotency,
            parent: head.parent,
            depth: head.depth,
        })
    }

    async fn nodes(&self, nodes: Vec<Node>) -> Result<(Vec<NodeTemplate>, Vec<NewNode>)> {
        let tasks = self.tasks(&nodes).await?;
        let mut templates = Templates::new(self.rules, self.stamps, self.now_ms);
        let mut faults = Faults::default();
        // Of arguments; specs have as much for themselves.
        let mut left = self.rules.limits.max_bytes;
        let mut made = Vec::with_capacity(nodes.len());
        for node in nodes {
            let Node { work, when, on_failure, after, takes, group, next, label, pointer } = node;
            let work = match work {
                Work::Join(join) => NewWork::Join {
                    members: join.members,
                    scope: join.scope,
                    cancel_rest: join.cancel_rest,
                    pending: join.pending,
                    failed: 0,
                    skipped: 0,
                    kept: false,
                },
                Work::Job(signature) => {
                    let Some(task) = tasks.get(&signature.task) else {
                        let detail = format!("no task `{}`; push a module that describes it", signature.task);
                        faults.add(FaultKind::TaskNotFound, format!("{}{pointer}/task", self.pointer), detail);
                        if faults.is_full() {
                            break;
                        }
                        continue;
                    };
                    self.check(task, &Call { signature: &signature, takes, pointer: &pointer }, &mut faults).await;
                    let options = signature.options.as_ref().map_or("", |options| options.get());
                    let template = templates.one_more(task, options).unwrap_or_else(|error| {
                        self.collect(error, &pointer, &mut faults);
                        0
                    });
                    let call = arguments(signature, label);
                    let broker_options = templates.broker_options(template, &call, takes);
                    let arguments = serde_json::to_string(&call).expect("arguments have text keys only");
                    self.measure(&arguments, &mut left, &pointer, &mut faults);
                    NewWork::Job { template, arguments, takes, kept: None, broker_options }
                }
            };
            if faults.is_full() {
                break;
            }
            made.push(NewNode { when, on_failure, after, group, next, work });
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

    async fn check(&self, task: &TaskFacts, call: &Call<'_>, faults: &mut Faults) {
        if !call.fits(&task.parameters) {
            let pointer = format!("{}{}", self.pointer, call.pointer);
            Call { pointer: &pointer, ..*call }.explain(&task.parameters, faults);
            return;
        }
        if !self.tasks.checks_values() {
            return;
        }
        for (at, value, place) in call.values(&task.parameters) {
            let Err(complaints) = self.tasks.check(task, at, value).await else { continue };
            let pointer = format!("{}{}", self.pointer, call.pointer_of(&place));
            match complaints {
                Complaints::Wrong(list) => list.into_iter().for_each(|(within, detail)| {
                    faults.add(FaultKind::Arguments, format!("{pointer}{within}"), detail);
                }),
                Complaints::TooComplex => {
                    let detail = "the schema needs too many steps for it; send less, or flatten the schema";
                    faults.add(FaultKind::ArgumentsTooComplex, pointer, detail);
                }
            }
            if faults.is_full() {
                return;
            }
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

fn arguments(signature: Signature, label: Option<String>) -> NodeArguments {
    let Signature { args, kwargs, each, .. } = signature;
    let (map, starmap) = match each {
        None => (None, None),
        Some(Each::Map(items)) => (Some(items), None),
        Some(Each::Starmap(items)) => (None, Some(items)),
    };
    NodeArguments { args, kwargs, map, starmap, label }
}
