//! Handing out beside tenants with limits: in the model's order, and cheaply for those that have none.

use std::sync::atomic::Ordering;

use umbel_broker_conformance::MemoryBroker;
use umbel_model::{Rate, Token};

use super::{
    cost::{BATCH, jobs, meter, settle},
    *,
};

fn tenant(n: u64) -> TenantId {
    TenantId::new(format!("tenant{n}")).unwrap()
}

fn claim(n: u64, worker: &str, max: u32) -> Claim {
    Claim {
        worker: WorkerId::new(worker).unwrap(),
        queues: vec![QueueName::default()].into(),
        max,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("seed{n}")).unwrap(),
        limited: Default::default(),
        in_row: max.div_ceil(4),
    }
}

/// Commands of Redis, and its microseconds, for a job that is claimed of tenants without limits; `beside`: one whose jobs
/// must wait for another worker.
async fn cost_of_a_claim(beside: bool) -> (f64, f64) {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let (first, others): (Vec<_>, Vec<_>) = jobs(4).into_iter().take(4_000).partition(|job| job.tenant == tenant(0));
    broker.submit(&first[..10]).await.unwrap();
    let of_first = if beside { 1 } else { 10 };
    assert_eq!(broker.claim(&claim(0, "first", of_first)).await.unwrap().len(), of_first as usize);
    if beside {
        let exclusive = ControlPatch { exclusive: Some(true), ..ControlPatch::default() };
        broker.set_control(&tenant(0), &Scope::Queue(QueueName::default()), &exclusive).await.unwrap();
    }
    for batch in others.chunks(BATCH) {
        broker.submit(batch).await.unwrap();
    }
    let start = meter(&broker).await;
    for n in 1..=10 {
        let held = broker.claim(&claim(n, "second", BATCH as u32)).await.unwrap();
        assert_eq!(held.iter().filter(|d| d.tenant != tenant(0)).count(), BATCH);
    }
    let end = meter(&broker).await;
    let per = |x: f64| x / (10 * BATCH) as f64;
    (per(end.3 - start.3), per(end.1 - start.1))
}

#[tokio::test]
async fn a_job_without_limits_takes_two_commands_more_beside_a_tenant_that_has_some() {
    let (alone, beside) = (cost_of_a_claim(false).await, cost_of_a_claim(true).await);
    println!("commands and microseconds of a job: {alone:?} alone, {beside:?} beside a tenant with limits");
    assert!(beside.0 <= alone.0 + 2.2, "{alone:?} {beside:?}");
}

/// Numbers below `n`, the same in every run.
struct Draws(u64);

impl Draws {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// One of the controls that make a tenant's jobs be handed out one by one.
fn control(draws: &mut Draws) -> (Scope, ControlPatch) {
    let rate = Some(Some(Rate { count: 3, period_ms: 1_000, burst: 2 }));
    let queue = || Scope::Queue(QueueName::default());
    match draws.below(4) {
        0 => (Scope::Tenant, ControlPatch { concurrency: Some(4), ..ControlPatch::default() }),
        1 => (queue(), ControlPatch { exclusive: Some(true), ..ControlPatch::default() }),
        2 => (queue(), ControlPatch { rate, ..ControlPatch::default() }),
        _ => {
            let task = Scope::Task("process_order".parse().unwrap());
            (task, ControlPatch { concurrency: Some(2), ..ControlPatch::default() })
        }
    }
}

/// Submits, claims and settles at random, with limits of the first tenant only; fails where the model differs.
async fn compare_with_the_model(seed: u64, ready: &[NewJob]) {
    let mut draws = Draws(seed);
    let subject = subject().await;
    let (clock, now) = Clock::manual(conformance::START_MS);
    let model = MemoryBroker::new(clock, conformance::limits());
    let brokers: [&dyn Broker; 2] = [&*subject.broker, &model];
    let queues = [QueueName::default(), "other".parse().unwrap()];
    let (mut new, mut held) = (ready.iter().cloned(), Vec::new());
    for step in 0..30 {
        let count = draws.below(40) as usize;
        let mut batch: Vec<NewJob> = new.by_ref().take(count).collect();
        for job in &mut batch {
            job.priority = 4 + draws.below(2) as u8;
            job.expires_ms = draws.below(3) / 2 * 40;
            job.queue = queues[draws.below(3) as usize / 2].clone();
        }
        let patched = (draws.below(4) == 0 || step == 0).then(|| control(&mut draws));
        let ended = draws.below(held.len() as u64 + 1) as usize;
        let settles: Vec<Settle> = held.drain(..ended).map(|delivery| settle(&delivery, 1)).collect();
        let worker = ["w1", "w2"][draws.below(2) as usize];
        let mut request = claim(step, worker, 1 + draws.below(30) as u32);
        let mut named = queues.to_vec();
        named.rotate_left(draws.below(2) as usize);
        request.queues = match draws.below(4) {
            0 => ClaimQueues::AllBut(Vec::new()),
            1 => ClaimQueues::AllBut(named[..1].to_vec()),
            _ => named.into(),
        };
        let mut claimed = Vec::new();
        for broker in brokers {
            broker.submit(&batch).await.unwrap();
            if let Some((scope, patch)) = &patched {
                broker.set_control(&tenant(0), scope, patch).await.unwrap();
            }
            broker.promote(1_000).await.unwrap();
            claimed.push(broker.settle(&settles, Some(&request)).await.unwrap());
        }
        let differ = format!("seed {seed}, step {step}");
        assert_eq!(claimed[0], claimed[1], "{differ}");
        held.append(&mut claimed.swap_remove(0).1);
        for clock in [&subject.now, &now] {
            clock.fetch_add(7 * (step % 5), Ordering::SeqCst);
        }
    }
    for n in 0..4 {
        assert_eq!(subject.broker.queues(&tenant(n)).await.unwrap(), model.queues(&tenant(n)).await.unwrap());
    }
    assert_eq!(subject.broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn beside_a_tenant_with_limits_jobs_come_in_the_order_of_the_model() {
    let ready = jobs(4);
    for seed in 0..60 {
        compare_with_the_model(seed, &ready[..1_500]).await;
    }
}

#[tokio::test]
async fn many_lanes_that_a_rate_had_parked_are_opened_in_steps_that_follow_at_once() {
    const KEYS: usize = 250;
    let subject = subject().await;
    let rate = Some(Rate { count: 1, period_ms: 1_000, burst: 1 });
    let limited = |(n, job): (usize, NewJob)| {
        let limits = JobLimits { key: Some(format!("k{}", n % KEYS)), key_rate: rate, ..JobLimits::default() };
        NewJob {
            broker_options: Some(Box::new(BrokerOptions { limits: Some(limits), ..BrokerOptions::default() })),
            ..job
        }
    };
    let jobs: Vec<NewJob> = jobs(1).into_iter().take(2 * KEYS).enumerate().map(limited).collect();
    subject.broker.submit(&jobs).await.unwrap();
    assert_eq!(subject.broker.claim(&claim(0, "w1", 1_000)).await.unwrap().len(), KEYS);
    let opens = conformance::START_MS + 1_000;
    assert_eq!(subject.broker.promote(500).await.unwrap().next_due, Some(opens));
    subject.now.store(opens, Ordering::SeqCst);
    for (step, next_due) in [(1, Some(opens)), (2, Some(opens)), (3, None)] {
        assert_eq!(subject.broker.promote(500).await.unwrap().next_due, next_due, "step {step}");
        let opened = [100, 100, 50][step - 1];
        assert_eq!(subject.broker.claim(&claim(step as u64, "w1", 1_000)).await.unwrap().len(), opened, "step {step}");
    }
}

#[tokio::test]
async fn who_holds_an_exclusive_queue_is_forgotten_when_nothing_of_it_runs() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let held_by = || -> Option<String> {
        let line = "tenant0,default";
        redis::cmd("HGET").arg("umbel:{s0}:holders").arg(line).query(&mut server.connection()).unwrap()
    };
    broker.submit(&jobs(1)[..4]).await.unwrap();
    let first = broker.claim(&claim(0, "w1", 2)).await.unwrap();
    // Set while jobs run, it holds for them, too.
    let exclusive = ControlPatch { exclusive: Some(true), ..ControlPatch::default() };
    broker.set_control(&tenant(0), &Scope::Queue(QueueName::default()), &exclusive).await.unwrap();
    assert!(broker.claim(&claim(1, "w2", 2)).await.unwrap().is_empty());
    let settles: Vec<Settle> = first.iter().map(|delivery| settle(delivery, 1)).collect();
    let second = broker.settle(&settles, Some(&claim(2, "w2", 1))).await.unwrap().1;
    assert_eq!(held_by().as_deref(), Some("w2"));
    assert!(broker.claim(&claim(3, "w1", 1)).await.unwrap().is_empty());
    broker.settle(&[settle(&second[0], 1)], None).await.unwrap();
    assert_eq!(held_by(), None);
    assert_eq!(broker.claim(&claim(4, "w1", 1)).await.unwrap().len(), 1);
    assert_eq!(held_by().as_deref(), Some("w1"));
}

/// Commands of Redis for a job with these limits that is claimed and settled in batches.
async fn commands_of_a_limited_job(limits: fn(u64) -> JobLimits) -> f64 {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let limited = |(n, job): (u64, NewJob)| {
        let options = BrokerOptions { limits: Some(limits(n)), ..BrokerOptions::default() };
        NewJob { broker_options: Some(Box::new(options)), ..job }
    };
    let jobs: Vec<NewJob> = (0..).zip(jobs(1).into_iter().take(2_000)).map(limited).collect();
    broker.submit(&jobs).await.unwrap();
    let start = meter(&broker).await;
    let mut held = broker.claim(&claim(0, "w1", BATCH as u32)).await.unwrap();
    let mut ended = 0;
    while !held.is_empty() {
        let settles: Vec<Settle> = held.iter().map(|delivery| settle(delivery, 1)).collect();
        ended += settles.len();
        held = broker.settle(&settles, Some(&claim(ended as u64, "w1", BATCH as u32))).await.unwrap().1;
    }
    let end = meter(&broker).await;
    assert_eq!(ended, jobs.len());
    assert_eq!(broker.audit(false).await.unwrap(), []);
    (end.3 - start.3) / jobs.len() as f64
}

#[tokio::test]
async fn a_job_with_a_limit_takes_few_commands() {
    let rate = |_| {
        let rate = Some(Rate { count: 1_000_000, period_ms: 1_000, burst: 1_000_000 });
        JobLimits { rate, ..JobLimits::default() }
    };
    let cap = |_| JobLimits { concurrency: 1_000_000, ..JobLimits::default() };
    let key = |n| JobLimits { key: Some(format!("k{n}")), key_concurrency: 1, ..JobLimits::default() };
    let costs = [
        commands_of_a_limited_job(rate).await,
        commands_of_a_limited_job(cap).await,
        commands_of_a_limited_job(key).await,
    ];
    println!("commands of a job with a rate, a cap, a key of its own: {costs:?}");
    assert!(costs[0] < 2.0 && costs[1] < 2.0 && costs[2] < 9.0, "{costs:?}");
}
