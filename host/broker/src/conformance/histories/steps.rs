//! What may happen in a history.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[derive(Debug, Clone)]
pub(super) enum Step {
    Submit(Vec<Wish>),
    Claim {
        queues: u8,
        max: u32,
    },
    /// Of any delivery ever made.
    Renew {
        delivery: usize,
        logs: u8,
    },
    Settle {
        delivery: usize,
        how: How,
        claim: bool,
    },
    Promote {
        max: u32,
    },
    Reap {
        max: u32,
    },
    Prune {
        max: u32,
    },
    Cancel {
        tenant: u8,
        job: u8,
    },
    RunNow {
        tenant: u8,
        job: u8,
    },
    Pause {
        tenant: u8,
        queue: u8,
        paused: bool,
    },
    List {
        tenant: u8,
        dead: bool,
        state: Option<JobState>,
        before: Option<u8>,
        max: u32,
    },
    /// Submits a workflow, up to a part of the way.
    Flow {
        wish: FlowWish,
        parts: Parts,
    },
    /// Any workflow again.
    FlowAgain {
        flow: usize,
        parts: Parts,
    },
    /// Resumes any workflow that is over.
    Resume {
        flow: usize,
    },
    CancelFlow {
        flow: usize,
    },
    CancelNode {
        flow: usize,
        node: u32,
    },
    RunNodeNow {
        flow: usize,
        node: u32,
    },
    /// A plain job that repeats a node.
    RedriveNode {
        flow: usize,
        node: u32,
        job: u8,
    },
    ListFlows {
        tenant: u8,
        state: Option<WorkflowState>,
        before: Option<usize>,
        max: u32,
    },
    Pass {
        ms: i64,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Wish {
    pub(super) tenant: u8,
    pub(super) job: u8,
    pub(super) queue: u8,
    pub(super) priority: u8,
    pub(super) start: Start,
    pub(super) expires_ms: u64,
    pub(super) key: Option<(u8, u8)>,
    pub(super) redrive: Option<u8>,
}

#[derive(Debug, Clone)]
pub(super) struct FlowWish {
    pub(super) tenant: u8,
    pub(super) canvas: Value,
    pub(super) deadline_ms: u64,
    pub(super) keep_ms: u64,
    pub(super) key: Option<(u8, u8)>,
    /// It says that it has so many nodes of its first template, and so needs room for them.
    pub(super) claims_nodes: Option<u32>,
}

/// How far a submission comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parts {
    Head,
    HeadAndNodes,
    All,
}

#[derive(Debug, Clone)]
pub(super) enum How {
    Succeed,
    SucceedUnkept,
    Fail,
    Retry(u64),
    Snooze(u64),
    Revoke,
    Release,
    /// With what a guest asked for. `None` as the resolution's workflow: it is replaced by the first.
    Grow {
        replaced: bool,
        flows: Vec<Value>,
        members: Option<Vec<Value>>,
        resolution: Box<How>,
    },
}

fn wish() -> impl Strategy<Value = Wish> {
    let start = prop_oneof![
        4 => Just(Start::Now),
        1 => (1..3_000_u64).prop_map(Start::After),
        1 => (0..3_000_u64).prop_map(|ms| Start::At(START_MS + ms)),
    ];
    let key = prop::option::weighted(0.2, (0..3_u8, 0..2_u8));
    let expires = prop_oneof![3 => Just(0), 1 => 1..4_000_u64];
    let redrive = prop::option::weighted(0.1, 0..JOBS);
    (0..3_u8, 0..JOBS, 0..2_u8, 0..10_u8, start, expires, key, redrive).prop_map(
        |(tenant, job, queue, priority, start, expires_ms, key, redrive)| Wish {
            tenant,
            job,
            queue,
            priority,
            start,
            expires_ms,
            key,
            redrive,
        },
    )
}

fn policy() -> impl Strategy<Value = Option<&'static str>> {
    prop::option::weighted(0.3, prop::sample::select(vec!["fail", "continue", "ignore"]))
}

fn with_policy(mut step: Value, policy: Option<&str>) -> Value {
    if let Some(policy) = policy {
        step["on_failure"] = policy.into();
    }
    step
}

fn task() -> impl Strategy<Value = Value> {
    let options = (
        prop::sample::select(QUEUES.to_vec()),
        0..10_u8,
        prop_oneof![6 => Just(0), 1 => 1..2_000_u64],
        prop_oneof![6 => Just(0), 1 => 1..2_000_u64],
        1..4_u32,
    );
    (0..3_u8, options, prop::bool::weighted(0.1), policy()).prop_map(|(task, options, immutable, policy)| {
        let (queue, priority, delay_ms, expires_ms, max_deliveries) = options;
        let mut step = json!({ "task": format!("t{task}"), "args": [task], "options": {
            "queue": queue, "priority": priority, "delay_ms": delay_ms, "expires_ms": expires_ms,
            "max_deliveries": max_deliveries,
        }});
        if immutable {
            step["immutable"] = true.into();
        }
        with_policy(step, policy)
    })
}

/// A small canvas.
fn canvas(depth: u32) -> BoxedStrategy<Value> {
    if depth == 0 {
        return task().boxed();
    }
    let inner = canvas(depth - 1);
    let many = |from: usize| prop::collection::vec(inner.clone(), from..4);
    let group = |name: &'static str| {
        (many(0), prop::bool::weighted(0.3)).prop_map(move |(members, cancel_rest)| match cancel_rest {
            true => json!({ name: members, "cancel_rest": true }),
            false => json!({ name: members }),
        })
    };
    let chord = (group("chord"), inner.clone()).prop_map(|(mut chord, body)| {
        chord["body"] = body;
        chord
    });
    let shape = prop_oneof![
        2 => task(),
        2 => many(1).prop_map(|steps| json!({ "chain": steps })),
        2 => group("group"),
        2 => chord,
    ];
    let callbacks = || prop::option::weighted(0.15, prop::collection::vec(inner.clone(), 1..2));
    (shape, callbacks(), callbacks(), policy())
        .prop_map(|(mut step, link, link_error, policy)| {
            for (name, list) in [("link", link), ("link_error", link_error)] {
                if let Some(list) = list {
                    step[name] = list.into();
                }
            }
            with_policy(step, policy)
        })
        .boxed()
}

/// More members than one step readies.
fn wide() -> impl Strategy<Value = Value> {
    task().prop_map(|task| json!({ "chain": [{ "group": vec![task.clone(); ADVANCE as usize + 100] }, task] }))
}

fn flow_wish() -> impl Strategy<Value = FlowWish> {
    let canvas = prop_oneof![200 => canvas(1), 300 => canvas(2), 1 => wide()];
    let deadline = prop_oneof![3 => Just(0), 1 => 1..4_000_u64];
    let key = prop::option::weighted(0.2, (0..3_u8, 0..2_u8));
    let backlog = limits().max_backlog as u32;
    let claims_nodes = prop::option::weighted(0.05, backlog - 2..backlog + 2);
    (0..3_u8, canvas, deadline, 0..100_000_u64, key, claims_nodes).prop_map(
        |(tenant, canvas, deadline_ms, keep_ms, key, claims_nodes)| FlowWish {
            tenant,
            canvas,
            deadline_ms,
            keep_ms,
            key,
            claims_nodes,
        },
    )
}

fn parts() -> impl Strategy<Value = Parts> {
    prop_oneof![8 => Just(Parts::All), 1 => Just(Parts::HeadAndNodes), 1 => Just(Parts::Head)]
}

fn how() -> impl Strategy<Value = How> {
    let plain = prop_oneof![
        6 => Just(How::Succeed),
        1 => Just(How::SucceedUnkept),
        2 => Just(How::Fail),
        2 => (0..2_000_u64).prop_map(How::Retry),
        1 => (0..2_000_u64).prop_map(How::Snooze),
        1 => Just(How::Revoke),
        1 => Just(How::Release),
    ];
    let flows = prop::collection::vec(canvas(1), 0..3);
    let members = prop::option::weighted(0.4, prop::collection::vec(canvas(1), 0..3));
    let grow = (prop::bool::weighted(0.4), flows, members, plain.clone()).prop_map(
        |(replaced, flows, members, resolution)| How::Grow {
            replaced: replaced && !flows.is_empty(),
            flows,
            members,
            resolution: Box::new(resolution),
        },
    );
    prop_oneof![3 => plain, 1 => grow]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let state = prop::option::of(prop::sample::select(JobState::ALL.to_vec()));
    let flow_state = prop::option::of(prop::sample::select(WorkflowState::ALL.to_vec()));
    let node = || (any::<usize>(), 0..12_u32);
    prop_oneof![
        3 => prop::collection::vec(wish(), 1..5).prop_map(Step::Submit),
        7 => (0..3_u8, 0..6_u32).prop_map(|(queues, max)| Step::Claim { queues, max }),
        2 => (any::<usize>(), 0..4_u8).prop_map(|(delivery, logs)| Step::Renew { delivery, logs }),
        10 => (any::<usize>(), how(), any::<bool>()).prop_map(|(delivery, how, claim)| Step::Settle { delivery, how, claim }),
        3 => (0..8_u32).prop_map(|max| Step::Promote { max }),
        3 => (0..8_u32).prop_map(|max| Step::Reap { max }),
        1 => (0..8_u32).prop_map(|max| Step::Prune { max }),
        2 => (0..3_u8, 0..JOBS).prop_map(|(tenant, job)| Step::Cancel { tenant, job }),
        1 => (0..3_u8, 0..JOBS).prop_map(|(tenant, job)| Step::RunNow { tenant, job }),
        1 => (0..3_u8, 0..2_u8, any::<bool>()).prop_map(|(tenant, queue, paused)| Step::Pause { tenant, queue, paused }),
        1 => (0..3_u8, any::<bool>(), state, prop::option::of(0..JOBS), 1..6_u32)
            .prop_map(|(tenant, dead, state, before, max)| Step::List { tenant, dead, state, before, max }),
        6 => (flow_wish(), parts()).prop_map(|(wish, parts)| Step::Flow { wish, parts }),
        1 => (any::<usize>(), parts()).prop_map(|(flow, parts)| Step::FlowAgain { flow, parts }),
        2 => any::<usize>().prop_map(|flow| Step::Resume { flow }),
        1 => any::<usize>().prop_map(|flow| Step::CancelFlow { flow }),
        1 => node().prop_map(|(flow, node)| Step::CancelNode { flow, node }),
        1 => node().prop_map(|(flow, node)| Step::RunNodeNow { flow, node }),
        1 => (node(), 0..JOBS).prop_map(|((flow, node), job)| Step::RedriveNode { flow, node, job }),
        1 => (0..3_u8, flow_state, prop::option::of(any::<usize>()), 1..4_u32)
            .prop_map(|(tenant, state, before, max)| Step::ListFlows { tenant, state, before, max }),
        4 => prop_oneof![0..1_500_i64, Just(15_000_i64), Just(70_000_i64), -500..0_i64].prop_map(|ms| Step::Pass { ms }),
    ]
}
