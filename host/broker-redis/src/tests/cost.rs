//! What a job costs in Redis. Not a test of anything: run by hand, in a quiet moment, with
//! `cargo test -p umbel-broker-redis -- --ignored --nocapture cost`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use umbel_model::{AttemptRecord, Rate, Resolution, Token, Usage};

use super::*;

const JOBS: u64 = 20_000;
pub(super) const BATCH: usize = 200;

pub(super) fn jobs(tenants: u64) -> Vec<NewJob> {
    let tenant = |n: u64| TenantId::new(format!("tenant{}", n % tenants)).unwrap();
    (0..JOBS).map(|n| NewJob { tenant: tenant(n), ..plain_job(n) }).collect()
}

pub(super) fn plain_job(n: u64) -> NewJob {
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    NewJob {
        id: JobId::from_parts(conformance::START_MS + n / 10, u128::from(n) << 56 | 0x1234_5678_9abc),
        tenant: TenantId::new("tenant0").unwrap(),
        task: "process_order".parse().unwrap(),
        queue: QueueName::default(),
        priority: 5,
        spec: format!(r#"{{"v":1,"task":"process_order","digest":"sha256:{digest}","arguments":{{"order_id":{n}}}}}"#),
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 5,
        result_ttl_ms: 86_400_000,
        dead_ttl_ms: 604_800_000,
        expires_at: None,
        broker_options: None,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    }
}

pub(super) fn settle(delivery: &Delivery, n: u64) -> Settle {
    let result = format!(r#"{{"order_id":{n},"status":"success"}}"#);
    Settle {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        resolution: Resolution::Succeed { result: Some(RawValue::from_string(result).unwrap()) },
        record: Some(AttemptRecord {
            attempt: 1,
            delivery: 1,
            worker: WorkerId::new("host-4711-a1b2c3d4").unwrap(),
            ended_at: conformance::START_MS + n,
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

/// Microseconds of functions and of the process, bytes, and commands, so far.
pub(super) async fn meter(broker: &RedisBroker) -> (f64, f64, f64, f64) {
    let info = redis::cmd("INFO").arg("everything").to_owned();
    let Value::BulkString(text) = broker.command(&info).await.unwrap() else { panic!() };
    let text = String::from_utf8(text).unwrap();
    let fields: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once(':')).collect();
    let number = |name: &str| fields.get(name).map_or(0.0, |v| v.parse::<f64>().unwrap());
    let script = fields.get("cmdstat_fcall").map_or(0.0, |v| {
        let usec = v.split("usec=").nth(1).unwrap();
        usec.split(',').next().unwrap().parse().unwrap()
    });
    let stats = fields.iter().filter(|(name, _)| name.starts_with("cmdstat_"));
    let calls = stats.filter_map(|(_, v)| v.strip_prefix("calls=")?.split(',').next()?.parse::<f64>().ok()).sum();
    (script, (number("used_cpu_user") + number("used_cpu_sys")) * 1e6, number("used_memory"), calls)
}

/// Limits of the job with that number.
type LimitsOf = fn(u64) -> JobLimits;

/// `cap`: of the first tenant, which is never reached; its jobs are given out one by one.
async fn measure(tenants: u64, cap: Option<u32>, limits: Option<LimitsOf>, server: &RedisServer) {
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.command(&redis::cmd("FLUSHALL")).await.unwrap();
    if cap.is_some() {
        let patch = ControlPatch { concurrency: cap, ..ControlPatch::default() };
        broker.set_control(&TenantId::new("tenant0").unwrap(), &Scope::Tenant, &patch).await.unwrap();
    }
    let mut jobs = jobs(tenants);
    for (n, job) in jobs.iter_mut().enumerate().filter(|_| limits.is_some()) {
        let limits = limits.map(|limits| limits(n as u64));
        job.broker_options = Some(Box::new(BrokerOptions { limits, ..BrokerOptions::default() }));
    }
    let a = meter(&broker).await;
    for batch in jobs.chunks(BATCH) {
        let answers = broker.submit(batch).await.unwrap();
        assert!(answers.iter().all(|s| *s == Submitted::Created), "{answers:?}");
    }
    let b = meter(&broker).await;
    let claim = |n: usize| Claim {
        worker: WorkerId::new("host-4711-a1b2c3d4").unwrap(),
        queues: vec![QueueName::default()].into(),
        max: BATCH as u32,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("x7f3a9c1d5e{n}")).unwrap(),
        limited: Default::default(),
        in_row: 1,
    };
    let mut held = broker.claim(&claim(0)).await.unwrap();
    let mut ended = 0;
    while !held.is_empty() {
        let settles: Vec<Settle> = held.iter().map(|d| settle(d, 7)).collect();
        ended += settles.len();
        held = broker.settle(&settles, Some(&claim(ended))).await.unwrap().1;
    }
    assert_eq!(ended as u64, JOBS);
    let c = meter(&broker).await;
    let per = |x: f64| x / JOBS as f64;
    println!(
        "{tenants} tenants, {cap:?} the cap of one, batches of {BATCH}: submit {:.2} us in functions, {:.2} us of CPU, {:.0} bytes; \
         claim and settle {:.2} us in functions, {:.2} us of CPU, {:.1} commands; finished {:.0} bytes",
        per(b.0 - a.0),
        per(b.1 - a.1),
        per(b.2 - a.2),
        per(c.0 - b.0),
        per(c.1 - b.1),
        per(c.3 - b.3),
        per(c.2 - a.2)
    );
    let key = format!("umbel:{{s0}}:job:{}", keys::member(&jobs[5].tenant, jobs[5].id));
    let usage = redis::cmd("MEMORY").arg("USAGE").arg(key).to_owned();
    println!("MEMORY USAGE of one record: {:?}", broker.command(&usage).await.unwrap());
}

#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_job() {
    let server = RedisServer::start(Options::default());
    for tenants in [1, 1, 10, 1_000] {
        measure(tenants, None, None, &server).await;
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_job_beside_a_tenant_with_a_control() {
    let server = RedisServer::start(Options::default());
    for cap in [None, None, Some(1_000_000), Some(1_000_000)] {
        measure(4, cap, None, &server).await;
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_job_with_limits() {
    let server = RedisServer::start(Options::default());
    let kinds: [(&str, Option<LimitsOf>); 5] = [
        ("no limit", None),
        (
            "a rate of the task",
            Some(|_| JobLimits {
                rate: Some(Rate { count: 1_000_000, period_ms: 1_000, burst: 1_000_000 }),
                ..JobLimits::default()
            }),
        ),
        ("a cap of the task", Some(|_| JobLimits { concurrency: 1_000_000, ..JobLimits::default() })),
        ("a cap of 100 keys", Some(|n| of_key(n % 100))),
        ("a cap of as many keys as jobs", Some(of_key)),
    ];
    for (kind, limits) in kinds {
        println!("{kind}");
        measure(1, None, limits, &server).await;
    }
}

fn of_key(n: u64) -> JobLimits {
    JobLimits { key: Some(format!("k{n}")), key_concurrency: 1_000_000, ..JobLimits::default() }
}
