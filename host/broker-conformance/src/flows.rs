//! Workflows under test: made of canvases in JSON, and looked at by the names of their tasks.

use std::{collections::HashMap, sync::LazyLock};

use serde::Deserialize;
use umbel_model::canvas::{self, Canvas, CanvasLimits, NodeEnd, Plan, Range, Work};

use super::*;

/// What a step's `options` say in a test.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Options {
    queue: String,
    priority: u8,
    delay_ms: u64,
    expires_ms: u64,
    max_deliveries: u32,
    #[serde(rename = "knobs")]
    broker_options: Option<Box<BrokerOptions>>,
    /// To which blobs its arguments refer, a bit each.
    blobs: u8,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue: "default".into(),
            priority: 5,
            delay_ms: 0,
            expires_ms: 0,
            max_deliveries: 3,
            broker_options: None,
            blobs: 0,
        }
    }
}

/// How long a workflow of a test is kept, milliseconds.
pub(super) const KEEP_MS: u64 = 300_000;

pub(super) fn flow_id(n: u64) -> WorkflowId {
    canvas::workflow_id(JobId::from_parts(START_MS, u128::from(n + 1) << 40))
}

pub(super) fn planned(json: &str) -> Plan {
    canvas::plan(serde_json::from_str(json).unwrap(), CanvasLimits::default()).unwrap()
}

/// Workflow `n` of tenant `t1`.
pub(super) fn flow(n: u64, json: &str) -> NewWorkflow {
    flow_of(flow_id(n), planned(json))
}

pub(super) fn flow_of(id: WorkflowId, plan: Plan) -> NewWorkflow {
    let (templates, nodes) = stored(&plan);
    let head = WorkflowHead {
        id,
        tenant: tenant("t1"),
        spec: r#"{"v":1,"name":"é \"x\""}"#.into(),
        templates,
        nodes: nodes.len() as u32,
        starts: plan.starts,
        end: plan.end,
        deadline_ms: 0,
        keep_ms: KEEP_MS,
        idempotency: None,
        parent: None,
        depth: 0,
    };
    NewWorkflow { head, nodes }
}

/// How a node of a workflow that is resumed ended: its state (of a join, any), its result, its failure.
pub(super) type NodeWasEnded = (JobState, Option<Box<RawValue>>, Option<Failure>);

/// Workflow `n`, which resumes one whose nodes ended so. `end_of` gives the state and the result of each job.
pub(super) fn resumed(n: u64, json: &str, end_of: impl Fn(&str) -> (JobState, Option<&'static str>)) -> NewWorkflow {
    let plan = planned(json);
    let of = |node: &canvas::Node| match &node.work {
        Work::Job(signature) => {
            let (state, result) = end_of(signature.task.as_str());
            let failure = (state == JobState::Failed).then(|| Failure::new("Kept", "failed before"));
            (state, result.map(raw), failure)
        }
        Work::Join(_) => (JobState::Waiting, None, None),
    };
    let ends = plan.nodes.iter().map(of).collect();
    resumed_of(flow_id(n), plan, ends)
}

/// The workflow that resumes one of this plan whose nodes ended so.
pub(super) fn resumed_of(id: WorkflowId, plan: Plan, ends: Vec<NodeWasEnded>) -> NewWorkflow {
    let states: Vec<JobState> = ends.iter().map(|end| end.0).collect();
    let (begins, starts) = canvas::resume(&plan.nodes, &states);
    let mut flow = flow_of(id, plan);
    for number in starts.iter().flat_map(|range| range.iter()) {
        let node = &mut flow.nodes[number as usize];
        node.when = node.when.of_start();
    }
    flow.head.starts = starts;
    for ((node, begin), (_, result, failure)) in flow.nodes.iter_mut().zip(begins).zip(ends) {
        match (&mut node.work, begin) {
            (NewWork::Job { kept, .. }, NodeEnd::Kept(state)) => *kept = Some(Kept { state, result, failure }),
            (NewWork::Join { kept, .. }, NodeEnd::KeptJoin) => *kept = true,
            (NewWork::Join { pending, failed, skipped, .. }, NodeEnd::Redo { pending: p, failed: f, skipped: s }) => {
                (*pending, *failed, *skipped) = (p, f, s);
            }
            _ => {}
        }
    }
    flow
}

/// The workflow that replaces a job.
pub(super) fn child_of(delivery: &Delivery, n: u64, json: &str) -> NewWorkflow {
    let mut child = flow(n, json);
    child.head.tenant = delivery.tenant.clone();
    child.head.parent = Some(delivery.id);
    child.head.depth = delivery.node.as_ref().map_or(0, |node| node.depth) + 1;
    child
}

/// More members: a JSON array of steps.
pub(super) fn members(json: &str) -> NewMembers {
    let steps: Vec<Canvas> = serde_json::from_str(json).unwrap();
    members_of(steps)
}

pub(super) fn members_of(steps: Vec<Canvas>) -> NewMembers {
    let (plan, ends) = canvas::plan_members(steps, None, CanvasLimits::default()).unwrap();
    let (templates, nodes) = stored(&plan);
    NewMembers { templates, nodes, ends, starts: plan.starts }
}

pub(super) fn grow(workflows: Vec<NewWorkflow>) -> Growth {
    Growth { workflows, members: None }
}

pub(super) fn grow_members(json: &str) -> Growth {
    Growth { workflows: Vec::new(), members: Some(members(json)) }
}

/// A plan's nodes as a broker stores them, and the templates that they use.
fn stored(plan: &Plan) -> (Vec<NodeTemplate>, Vec<NewNode>) {
    let mut templates = Vec::new();
    let mut known = HashMap::new();
    let nodes = plan.nodes.iter().map(|node| stored_node(node, &mut templates, &mut known)).collect();
    (templates, nodes)
}

fn stored_node(node: &canvas::Node, templates: &mut Vec<NodeTemplate>, known: &mut HashMap<String, u32>) -> NewNode {
    let work = match &node.work {
        Work::Join(join) => NewWork::Join {
            members: join.members.clone(),
            scope: join.scope.clone(),
            cancel_rest: join.cancel_rest,
            pending: join.pending,
            failed: 0,
            skipped: 0,
            kept: false,
        },
        Work::Job(signature) => {
            let options = signature.options.as_ref().map_or("{}", |o| o.get());
            let key = format!("{} {options}", signature.task);
            let options: Options = serde_json::from_str(options).unwrap();
            let broker_options = options.broker_options.clone();
            let template = *known.entry(key).or_insert_with(|| {
                templates.push(template(signature.task.as_str(), &options));
                templates.len() as u32 - 1
            });
            templates[template as usize].nodes += 1;
            let arguments =
                NodeArguments { args: signature.args.clone(), label: node.label.clone(), ..NodeArguments::default() };
            let arguments = serde_json::to_string(&arguments).unwrap();
            NewWork::Job {
                template,
                arguments,
                takes: node.takes,
                kept: None,
                broker_options,
                blobs: blobs_of(options.blobs),
            }
        }
    };
    let (when, on_failure) = (node.when, node.on_failure);
    NewNode { when, on_failure, after: node.after, group: node.group, next: node.next.clone(), work }
}

fn template(task: &str, options: &Options) -> NodeTemplate {
    NodeTemplate {
        task: TaskName::new(task).unwrap(),
        queue: queue_name(&options.queue),
        priority: options.priority,
        start: if options.delay_ms > 0 { Start::After(options.delay_ms) } else { Start::Now },
        expires_ms: options.expires_ms,
        max_deliveries: options.max_deliveries,
        spec: spec_of(task),
        nodes: 0,
    }
}

/// A template's spec names its task, so that a delivery can be recognised.
fn spec_of(task: &str) -> String {
    format!(r#"{{"task":"{task}"}}"#)
}

pub(super) fn task_of(delivery: &Delivery) -> String {
    let spec: serde_json::Value = serde_json::from_str(&delivery.spec).unwrap();
    spec["task"].as_str().unwrap_or("a plain job").to_owned()
}

/// Nodes that one call of the suite stores.
const STAGE: usize = MAX_NODES_A_CALL as usize;

impl Subject {
    /// Stages a workflow and all its nodes.
    pub(super) async fn stage(&self, flow: &NewWorkflow) {
        assert_eq!(self.broker.stage_workflow(&flow.head).await.unwrap(), WorkflowSubmitted::Created);
        for (at, nodes) in flow.nodes.chunks(STAGE).enumerate() {
            let first = (at * STAGE) as u32;
            let answer = self.broker.stage_nodes(&flow.head.tenant, flow.head.id, first, nodes).await.unwrap();
            assert_eq!(answer, WorkflowSubmitted::Created);
        }
    }

    /// Stages and starts a workflow.
    pub(super) async fn begin(&self, flow: &NewWorkflow) -> Flow<'_> {
        self.stage(flow).await;
        let answer = self.broker.start_workflow(&flow.head.tenant, flow.head.id).await.unwrap();
        assert_eq!(answer, WorkflowSubmitted::Created);
        self.flow(flow.head.id)
    }

    /// Stages and starts workflow 1.
    pub(super) async fn begin_json(&self, json: &str) -> Flow<'_> {
        self.begin(&flow(1, json)).await
    }

    pub(super) fn flow(&self, id: WorkflowId) -> Flow<'_> {
        Flow { s: self, id }
    }

    /// Claims one job, which must be of this task.
    pub(super) async fn next(&self, task: &str) -> Delivery {
        let delivery = self.claim(1).await.pop().unwrap_or_else(|| panic!("a job of {task} is ready"));
        assert_eq!(task_of(&delivery), task);
        delivery
    }

    /// Claims one job, which must be of this task, and settles it.
    pub(super) async fn run(&self, task: &str, resolution: Resolution) -> Delivery {
        let delivery = self.next(task).await;
        assert_eq!(self.settle(&delivery, resolution).await, Settled::Recorded, "{task}");
        delivery
    }

    /// Lets these tasks, in the order in which they are ready, succeed with their name as the result.
    pub(super) async fn run_all(&self, tasks: &[&str]) {
        for task in tasks {
            self.run(task, succeed(&format!("\"{task}\""))).await;
        }
    }

    pub(super) async fn nothing_is_ready(&self) {
        let ready: Vec<String> = self.claim(1).await.iter().map(task_of).collect();
        assert!(ready.is_empty(), "{ready:?}");
    }

    pub(super) async fn settle_grown(&self, delivery: &Delivery, resolution: Resolution, growth: Growth) -> Settled {
        let settle = Settle { growth: Some(Box::new(growth)), ..settle_of(delivery, resolution) };
        self.broker.settle(&[settle], None).await.unwrap().0[0]
    }

    /// Settles a delivery as replaced by workflow `n`.
    pub(super) async fn replace(&self, delivery: &Delivery, n: u64, json: &str) -> Flow<'_> {
        let child = child_of(delivery, n, json);
        let id = child.head.id;
        let settled = self.settle_grown(delivery, Resolution::Replace { workflow: id }, grow(vec![child])).await;
        assert_eq!(settled, Settled::Recorded);
        self.flow(id)
    }

    pub(super) async fn cancel(&self, id: JobId) -> Cancelled {
        self.broker.cancel(&tenant("t1"), id, true).await.unwrap()
    }

    pub(super) async fn dead(&self) -> Vec<JobId> {
        self.broker.jobs(&all_jobs(&tenant("t1"), true)).await.unwrap().jobs.into_iter().map(|j| j.id).collect()
    }

    /// Lets the lease of what runs pass, and takes it back.
    pub(super) async fn lose(&self) -> Reaped {
        self.pass_served(DEFAULT_LEASE_MS).await;
        self.broker.reap(100).await.unwrap()
    }

    /// Prunes until nothing is left to prune.
    pub(super) async fn prune_all(&self) -> u32 {
        let mut total = 0;
        loop {
            match self.broker.prune(7).await.unwrap() {
                0 => return total,
                some => total += some,
            }
        }
    }
}

/// One workflow of a subject.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flow<'a> {
    s: &'a Subject,
    pub(super) id: WorkflowId,
}

impl<'a> Flow<'a> {
    /// Where the value of a node is read.
    pub(super) fn at(&self, node: u32) -> NodeAt<'a> {
        static T1: LazyLock<TenantId> = LazyLock::new(|| tenant("t1"));
        NodeAt { broker: &*self.s.broker, large: &umbel_broker::NoLargeValues, tenant: &T1, workflow: self.id, node }
    }

    pub(super) async fn record(&self) -> WorkflowRecord {
        let record = self.s.broker.workflow(&tenant("t1"), self.id).await.unwrap();
        record.expect("the workflow exists")
    }

    pub(super) async fn state(&self) -> WorkflowState {
        self.record().await.state
    }

    pub(super) async fn is_gone(&self) -> bool {
        self.s.broker.workflow(&tenant("t1"), self.id).await.unwrap().is_none()
    }

    pub(super) async fn nodes(&self) -> Vec<NodeRecord> {
        let page = self.s.broker.nodes(&tenant("t1"), self.id, 0, MAX_NODES_A_CALL, Results::Included).await.unwrap();
        assert_eq!(page.next, MAX_NODES_A_CALL, "their texts fit into a page");
        page.nodes
    }

    pub(super) async fn value(&self, number: u32) -> NodeValue {
        let mut values = self.s.broker.values(&tenant("t1"), self.id, number, 1).await.unwrap();
        assert_eq!(values.len(), 1);
        values.remove(0)
    }

    /// The job of a task that only one node has.
    pub(super) async fn job(&self, task: &str) -> JobRecord {
        let mut jobs = self.jobs().await;
        jobs.retain(|job| job.task.as_str() == task);
        assert_eq!(jobs.len(), 1, "nodes of {task}");
        jobs.remove(0)
    }

    pub(super) async fn job_at(&self, number: u32) -> JobRecord {
        self.s.read(self.id_of(number)).await
    }

    pub(super) async fn jobs(&self) -> Vec<JobRecord> {
        let job = |node: NodeRecord| match node.work {
            NodeWork::Job { record, .. } => Some(*record),
            NodeWork::Join { .. } => None,
        };
        self.nodes().await.into_iter().filter_map(job).collect()
    }

    /// `task:state` of all jobs by their numbers, joined by spaces. Joins are left out.
    pub(super) async fn shown(&self) -> String {
        let show = |job: JobRecord| format!("{}:{}", job.task, job.state.as_str());
        self.jobs().await.into_iter().map(show).collect::<Vec<_>>().join(" ")
    }

    /// How the joins ended, by their numbers.
    pub(super) async fn joins(&self) -> Vec<Option<Status>> {
        let status = |node: NodeRecord| match node.work {
            NodeWork::Join { status, .. } => Some(status),
            NodeWork::Job { .. } => None,
        };
        self.nodes().await.into_iter().filter_map(status).collect()
    }

    pub(super) async fn cancel(&self) -> WorkflowCancelled {
        self.s.broker.cancel_workflow(&tenant("t1"), self.id).await.unwrap()
    }

    /// It is over so, and its counters agree with its jobs.
    pub(super) async fn is_over(&self, state: WorkflowState, shown: &str) {
        assert_eq!(self.shown().await, shown);
        let record = self.record().await;
        assert_eq!((record.state, record.finished_at.is_some()), (state, state.is_terminal()));
        let mut jobs = [0; JobState::ALL.len()];
        for job in self.jobs().await {
            jobs[JobState::ALL.iter().position(|s| *s == job.state).unwrap()] += 1;
        }
        assert_eq!(record.jobs, jobs);
    }

    pub(super) fn id_of(&self, number: u32) -> JobId {
        canvas::node_job(self.id, number)
    }
}

pub(super) fn input(delivery: &Delivery) -> Input {
    delivery.node.as_ref().expect("of a node").input.clone()
}

pub(super) fn value(json: &str) -> Input {
    Input::Value(json.into())
}

pub(super) fn one(node: u32) -> Vec<Range> {
    vec![Range::one(node)]
}
