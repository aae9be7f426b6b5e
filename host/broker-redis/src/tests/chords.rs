//! What a chord costs: bytes, commands and time of Redis per member, whatever its size.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use umbel_model::{
    AttemptRecord, JobState, OnFailure, Resolution, Token, Usage,
    canvas::{Range, When, node_job, workflow_id},
};

use super::*;

/// Most of what issue 3 allows.
const MAX_BYTES_PER_MEMBER: f64 = 600.0;
const BATCH: u32 = 200;

pub(super) fn tenant() -> TenantId {
    TenantId::new("tenant0").unwrap()
}

pub(super) fn template(nodes: u32, task: &str) -> NodeTemplate {
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    NodeTemplate {
        task: task.parse().unwrap(),
        queue: QueueName::default(),
        priority: 5,
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 5,
        spec: format!(r#"{{"v":1,"task":"{task}","digest":"sha256:{digest}","parameters":[{{"name":"x"}}]}}"#),
        nodes,
    }
}

pub(super) fn job(
    template: u32,
    after: Option<u32>,
    group: Option<u32>,
    next: Vec<Range>,
    arguments: String,
) -> NewNode {
    let work = NewWork::Job {
        template,
        arguments,
        takes: after.is_some(),
        kept: None,
        broker_options: None,
        blobs: Vec::new(),
    };
    NewNode { when: When::Success, on_failure: OnFailure::Fail, after, group, next, work }
}

/// A group of so many members and its body: the join is node 0, the body the last.
pub(super) fn chord(id: u64, members: u32) -> (WorkflowHead, Vec<NewNode>) {
    let body = members + 1;
    let all = Range { first: 1, count: members };
    let join = NewWork::Join {
        members: vec![all],
        scope: vec![all],
        cancel_rest: false,
        pending: members,
        failed: 0,
        skipped: 0,
        kept: false,
    };
    let mut nodes = vec![NewNode {
        when: When::Success,
        on_failure: OnFailure::Fail,
        after: None,
        group: None,
        next: vec![Range::one(body)],
        work: join,
    }];
    let argument = |n: u32| format!(r#"{{"args":[{n}]}}"#);
    nodes.extend((1..=members).map(|n| job(0, None, Some(0), vec![Range::one(0)], argument(n))));
    nodes.push(job(1, Some(0), None, Vec::new(), "{}".into()));
    (head(id, vec![template(members, "square"), template(1, "total")], vec![all], body), nodes)
}

/// So many jobs, one after the other.
pub(super) fn chain(id: u64, steps: u32) -> (WorkflowHead, Vec<NewNode>) {
    let next = |n: u32| if n + 1 < steps { vec![Range::one(n + 1)] } else { Vec::new() };
    let nodes = (0..steps).map(|n| job(0, n.checked_sub(1), None, next(n), "{}".into())).collect();
    (head(id, vec![template(steps, "next")], vec![Range::one(0)], steps - 1), nodes)
}

pub(super) fn head(id: u64, templates: Vec<NodeTemplate>, starts: Vec<Range>, end: u32) -> WorkflowHead {
    WorkflowHead {
        id: workflow_id(JobId::from_parts(conformance::START_MS, u128::from(id) << 40)),
        tenant: tenant(),
        spec: r#"{"v":1}"#.into(),
        templates,
        nodes: end + 1,
        starts,
        end,
        deadline_ms: 0,
        keep_ms: 60_000,
        idempotency: None,
        parent: None,
        depth: 0,
    }
}

pub(super) fn claim(max: u32) -> Claim {
    static SEED: AtomicU64 = AtomicU64::new(0);
    Claim {
        worker: WorkerId::new("host-4711-a1b2c3d4").unwrap(),
        queues: vec![QueueName::default()].into(),
        max,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("x7f3a9c1d5e{}", SEED.fetch_add(1, Ordering::SeqCst))).unwrap(),
        limited: Default::default(),
        in_row: 1,
    }
}

pub(super) fn settle(delivery: &Delivery) -> Settle {
    Settle {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        resolution: Resolution::Succeed { result: Some(RawValue::from_string("12345".into()).unwrap()) },
        record: Some(AttemptRecord {
            attempt: 1,
            delivery: 1,
            worker: WorkerId::new("host-4711-a1b2c3d4").unwrap(),
            ended_at: conformance::START_MS,
            outcome: "succeeded".into(),
            failure: None,
            usage: Usage { fuel: 12_345, memory_bytes: 1_114_112, duration_us: 25, ..Usage::default() },
        }),
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    }
}

/// Runs all that is ready, and what follows; how many jobs.
pub(super) async fn run_all(broker: &RedisBroker) -> u32 {
    let mut ran = 0;
    let mut held = broker.claim(&claim(BATCH)).await.unwrap();
    while !held.is_empty() {
        ran += held.len() as u32;
        let settles: Vec<Settle> = held.iter().map(settle).collect();
        held = broker.settle(&settles, Some(&claim(BATCH))).await.unwrap().1;
    }
    ran
}

/// Microseconds of the process, commands, bytes, so far.
#[derive(Debug, Clone, Copy)]
struct Meter {
    cpu_us: f64,
    commands: f64,
    bytes: f64,
}

async fn text_of(broker: &RedisBroker, command: &[&str]) -> String {
    let value = broker.command(&redis::cmd(command[0]).arg(&command[1..]).to_owned()).await.unwrap();
    String::from_redis_value(value).unwrap()
}

async fn meter(broker: &RedisBroker) -> Meter {
    // Redis shrinks the buffers of clients when it has time.
    let clients = text_of(broker, &["CLIENT", "LIST"]).await;
    let buffers = clients.split_whitespace().filter_map(|field| field.strip_prefix("tot-mem="));
    let buffers: f64 = buffers.map(|bytes| bytes.parse::<f64>().unwrap()).sum();
    let text = text_of(broker, &["INFO", "everything"]).await;
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once(':')).collect();
    let number = |name: &str| fields[name].parse::<f64>().unwrap();
    let of = |line: &str, name: &str| -> f64 {
        line.split(',').find_map(|part| part.strip_prefix(name)).map_or(0.0, |v| v.parse().unwrap())
    };
    let stats = fields.iter().filter(|(name, _)| name.starts_with("cmdstat_"));
    Meter {
        cpu_us: ["used_cpu_user", "used_cpu_sys"].into_iter().map(|name| number(name) * 1e6).sum(),
        commands: stats.map(|(_, line)| of(line, "calls=")).sum(),
        bytes: number("used_memory") - buffers,
    }
}

/// Per member: bytes when it waits, is ready and has ended; microseconds of Redis to store, ready and run it; commands.
#[derive(Debug)]
#[allow(dead_code, reason = "shown when it is too much")]
struct Cost {
    waiting_bytes: f64,
    ready_bytes: f64,
    ended_bytes: f64,
    cpu_us: [f64; 3],
    commands: f64,
}

async fn cost(broker: &RedisBroker, members: u32) -> Cost {
    broker.command(&redis::cmd("FLUSHALL")).await.unwrap();
    let (head, nodes) = chord(u64::from(members), members);
    let start = meter(broker).await;
    assert_eq!(broker.stage_workflow(&head).await.unwrap(), WorkflowSubmitted::Created);
    for (at, chunk) in nodes.chunks(MAX_NODES_A_CALL as usize).enumerate() {
        let answer = broker.stage_nodes(&head.tenant, head.id, at as u32 * MAX_NODES_A_CALL, chunk).await.unwrap();
        assert_eq!(answer, WorkflowSubmitted::Created);
    }
    let staged = meter(broker).await;
    assert_eq!(broker.start_workflow(&head.tenant, head.id).await.unwrap(), WorkflowSubmitted::Created);
    while broker.promote(1_000).await.unwrap().next_due.is_some() {}
    let ready = meter(broker).await;
    assert_eq!(run_all(broker).await, members + 1);
    let end = meter(broker).await;
    let workflow = broker.workflow(&head.tenant, head.id).await.unwrap().unwrap();
    assert_eq!(workflow.state, WorkflowState::Succeeded);
    let per = |x: f64| x / f64::from(members);
    Cost {
        waiting_bytes: per(staged.bytes - start.bytes),
        ready_bytes: per(ready.bytes - start.bytes),
        ended_bytes: per(end.bytes - start.bytes),
        cpu_us: [(start, staged), (staged, ready), (ready, end)].map(|(a, b)| per(b.cpu_us - a.cpu_us)),
        commands: per(end.commands - start.commands),
    }
}

#[tokio::test]
async fn a_chords_member_costs_the_same_whatever_its_size() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    // The first has what a server and its connections take once.
    cost(&broker, 100).await;
    let (small, large) = (cost(&broker, 2_000).await, cost(&broker, 16_000).await);
    for cost in [&small, &large] {
        assert!(cost.ready_bytes.max(cost.ended_bytes) <= MAX_BYTES_PER_MEMBER, "{cost:?}");
    }
    // Hash tables double: a part of a bucket more or less.
    assert!(large.ended_bytes <= small.ended_bytes + 20.0, "{small:?} {large:?}");
    assert!(large.commands <= small.commands * 1.02, "{small:?} {large:?}");
}

#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_chord_and_a_chain() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    for members in [1_000, 10_000, 100_000] {
        let began = std::time::Instant::now();
        println!("{members} members: {:?}, all in {:?}", cost(&broker, members).await, began.elapsed());
    }
    let (head, nodes) = chain(1, 200);
    let began = std::time::Instant::now();
    let before = meter(&broker).await;
    umbel_broker::submit_workflow(&broker, &head, &nodes).await.unwrap();
    assert_eq!(run_all(&broker).await, 200);
    let after = meter(&broker).await;
    println!("chain of 200: {:?}, {:.0} us of Redis", began.elapsed(), after.cpu_us - before.cpu_us);
    let last = broker.job(&head.tenant, node_job(head.id, 199)).await.unwrap().unwrap();
    assert_eq!(last.state, JobState::Succeeded);
}
