//! Jobs and workflows that are submitted in a history.

use proptest::prelude::*;
use serde_json::{Value, json};
use umbel_model::{OnWorkerLost, Rate};

use super::*;

/// What a history is mostly about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    /// Jobs and workflows; some of them with broker options.
    Mixed,
    /// Few tasks and keys with small limits, and what operators set.
    BrokerOptions,
}

#[derive(Debug, Clone)]
pub(super) struct JobRequest {
    pub(super) tenant: u8,
    pub(super) job: u8,
    pub(super) task: u8,
    pub(super) queue: u8,
    pub(super) priority: u8,
    pub(super) start: Start,
    pub(super) expires_ms: u64,
    pub(super) expires_at: Option<UnixMs>,
    pub(super) keep: Keep,
    pub(super) key: Option<(u8, u8)>,
    pub(super) redrive: Option<u8>,
    pub(super) broker_options: Option<Box<BrokerOptions>>,
    /// Which of the labels it has, a bit each.
    pub(super) labels: u8,
    /// To which blobs it refers, a bit each.
    pub(super) blobs: u8,
}

/// How long a job is kept, milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep {
    pub(super) result_ms: u64,
    pub(super) dead_ms: u64,
}

#[derive(Debug, Clone)]
pub(super) struct FlowRequest {
    pub(super) tenant: u8,
    pub(super) canvas: Value,
    pub(super) deadline_ms: u64,
    pub(super) keep_ms: u64,
    pub(super) key: Option<(u8, u8)>,
    /// It says that it has so many nodes of its first template, and so needs room for them.
    pub(super) claims_nodes: Option<u32>,
}

/// Names of tasks: few, so that their jobs share sub-queues.
pub(super) const TASKS: [&str; 3] = ["t0", "t1", "t2"];

/// How often a task starts, where its jobs say so. The same for all its jobs, so that it can be checked.
pub(super) fn rate_of(task: usize) -> Rate {
    [per_second(2, 1), per_second(3, 2), Rate { count: 7, period_ms: 60_000, burst: 1 }][task % 3]
}

/// How often a key of it does.
fn key_rate_of(task: usize) -> Rate {
    [per_second(1, 1), Rate { count: 1, period_ms: 3_000, burst: 2 }, per_second(5, 1)][task % 3]
}

/// Half of them none: a cap mostly comes before a rate.
fn cap() -> BoxedStrategy<u32> {
    prop_oneof![2 => Just(0), 1 => Just(1), 1 => Just(2)].boxed()
}

fn job_limits(task: u8) -> BoxedStrategy<JobLimits> {
    let (rate, key_rate) = (rate_of(task.into()), key_rate_of(task.into()));
    let key = prop::option::weighted(0.6, 0..2_u8);
    (prop::bool::weighted(0.4), cap(), key, prop::bool::weighted(0.4), cap())
        .prop_map(move |(has_rate, concurrency, key, has_key_rate, key_concurrency)| JobLimits {
            rate: has_rate.then_some(rate),
            concurrency,
            key: key.map(|key| format!("k{key}")),
            key_rate: has_key_rate.then_some(key_rate),
            key_concurrency,
        })
        .boxed()
}

fn unique_key() -> BoxedStrategy<Unique> {
    let first = prop_oneof![1 => Just(0), 1 => 1..4_000_u64].prop_map(|for_ms| (Wins::First, for_ms, 0));
    let latest = prop_oneof![1 => Just(0), 1 => 1..3_000_u64].prop_map(|max_wait| (Wins::Latest, 0, max_wait));
    (0..2_u8, prop_oneof![first, latest])
        .prop_map(|(key, (wins, for_ms, max_wait_ms))| Unique { key: format!("u{key}"), wins, for_ms, max_wait_ms })
        .boxed()
}

fn on_lost() -> BoxedStrategy<OnWorkerLost> {
    prop_oneof![6 => Just(OnWorkerLost::Requeue), 1 => Just(OnWorkerLost::Dead), 1 => Just(OnWorkerLost::Fail)].boxed()
}

/// As `prop::option::weighted`, which does not take a probability of 0.
fn sometimes<S: Strategy + 'static>(probability: f64, some: S) -> BoxedStrategy<Option<S::Value>>
where
    S::Value: Clone,
{
    if probability > 0.0 { prop::option::weighted(probability, some).boxed() } else { Just(None).boxed() }
}

/// `often`: with that probability a job has broker options at all. `unique`: with that one, then, a unique key.
fn broker_options(task: u8, often: f64, unique: f64) -> BoxedStrategy<Option<Box<BrokerOptions>>> {
    let limits = prop::option::weighted(0.8, job_limits(task));
    let unique = sometimes(unique, unique_key());
    let broker_options = (on_lost(), limits, unique)
        .prop_map(|(on_lost, limits, unique)| Box::new(BrokerOptions { on_lost, limits, unique }));
    sometimes(often, broker_options)
}

pub(super) fn request(profile: Profile) -> BoxedStrategy<JobRequest> {
    let (tenants, tasks, often) = match profile {
        Profile::Mixed => (3_u8, 3_u8, 0.3),
        Profile::BrokerOptions => (2, 2, 0.8),
    };
    // Most is about one tenant, so that its jobs meet.
    (prop_oneof![1 => Just(0), 1 => 0..tenants], 0..tasks)
        .prop_flat_map(move |(tenant, task)| {
            let start = prop_oneof![
                4 => Just(Start::Now),
                1 => (1..3_000_u64).prop_map(Start::After),
                1 => (0..3_000_u64).prop_map(|ms| Start::At(START_MS + ms)),
            ];
            let priority = prop_oneof![3 => Just(5), 1 => 0..10_u8];
            let key = prop::option::weighted(0.15, (0..3_u8, 0..2_u8));
            let expires = prop_oneof![5 => Just(0), 1 => 1..4_000_u64];
            let expires_at = prop::option::weighted(0.1, START_MS..START_MS + 4_000);
            let keep = (prop_oneof![Just(500), Just(60_000)], prop_oneof![1 => Just(0), 4 => Just(120_000)])
                .prop_map(|(result_ms, dead_ms)| Keep { result_ms, dead_ms });
            let redrive = prop::option::weighted(0.1, 0..JOBS);
            let labels = prop_oneof![2 => Just(0), 1 => 1..4_u8];
            let blobs = some_blobs();
            let times = (start, expires, expires_at, keep, labels, blobs);
            (
                0..JOBS,
                prop_oneof![3 => Just(0), 1 => Just(1)],
                priority,
                times,
                key,
                redrive,
                broker_options(task, often, 0.3),
            )
                .prop_map(
                    move |(
                        job,
                        queue,
                        priority,
                        (start, expires_ms, expires_at, keep, labels, blobs),
                        key,
                        redrive,
                        broker_options,
                    )| {
                        JobRequest {
                            tenant,
                            job,
                            task,
                            queue,
                            priority,
                            start,
                            expires_ms,
                            expires_at,
                            keep,
                            key,
                            redrive,
                            broker_options,
                            labels,
                            blobs,
                        }
                    },
                )
        })
        .boxed()
}

/// Mostly none.
pub(super) fn some_blobs() -> BoxedStrategy<u8> {
    prop_oneof![8 => Just(0), 1 => 1..=u8::MAX].boxed()
}

fn policy() -> BoxedStrategy<Option<&'static str>> {
    prop::option::weighted(0.3, prop::sample::select(vec!["fail", "continue", "ignore"])).boxed()
}

fn with_policy(mut step: Value, policy: Option<&str>) -> Value {
    if let Some(policy) = policy {
        step["on_failure"] = policy.into();
    }
    step
}

fn task(options_often: f64) -> BoxedStrategy<Value> {
    let options = (
        prop::sample::select(QUEUES.to_vec()),
        0..10_u8,
        prop_oneof![6 => Just(0), 1 => 1..2_000_u64],
        prop_oneof![6 => Just(0), 1 => 1..2_000_u64],
        1..4_u32,
    );
    (0..3_u8)
        .prop_flat_map(move |task| {
            let broker_options = broker_options(task, options_often, 0.0);
            let blobs = prop_oneof![15 => Just(0), 1 => some_blobs()];
            (options.clone(), prop::bool::weighted(0.1), policy(), broker_options, blobs).prop_map(
                move |(options, immutable, policy, broker_options, blobs)| {
                    let (queue, priority, delay_ms, expires_ms, max_deliveries) = options;
                    let mut step = json!({ "task": TASKS[task as usize], "args": [task], "options": {
                        "queue": queue, "priority": priority, "delay_ms": delay_ms, "expires_ms": expires_ms,
                        "max_deliveries": max_deliveries,
                    }});
                    if let Some(broker_options) = broker_options {
                        step["options"]["knobs"] = serde_json::to_value(broker_options).unwrap();
                    }
                    if blobs > 0 {
                        step["options"]["blobs"] = blobs.into();
                    }
                    if immutable {
                        step["immutable"] = true.into();
                    }
                    with_policy(step, policy)
                },
            )
        })
        .boxed()
}

/// A small canvas.
pub(super) fn canvas(depth: u32) -> BoxedStrategy<Value> {
    if depth == 0 {
        return task(0.25).boxed();
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
        2 => task(0.25),
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

/// More members than one step readies. Without broker options: a rate would make it long.
fn wide() -> BoxedStrategy<Value> {
    task(0.0)
        .prop_map(|task| json!({ "chain": [{ "group": vec![task.clone(); ADVANCE as usize + 100] }, task] }))
        .boxed()
}

pub(super) fn flow_request() -> BoxedStrategy<FlowRequest> {
    let canvas = prop_oneof![200 => canvas(1), 300 => canvas(2), 1 => wide()];
    let deadline = prop_oneof![3 => Just(0), 1 => 1..4_000_u64];
    let key = prop::option::weighted(0.2, (0..3_u8, 0..2_u8));
    let backlog = limits().max_backlog as u32;
    let claims_nodes = prop::option::weighted(0.05, backlog - 2..backlog + 2);
    (0..3_u8, canvas, deadline, 0..100_000_u64, key, claims_nodes)
        .prop_map(|(tenant, canvas, deadline_ms, keep_ms, key, claims_nodes)| FlowRequest {
            tenant,
            canvas,
            deadline_ms,
            keep_ms,
            key,
            claims_nodes,
        })
        .boxed()
}
