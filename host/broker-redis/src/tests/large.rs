//! What is kept apart from a record: a large spec, a long history. The model knows no such thing.

use umbel_model::{AttemptRecord, Failure, Resolution, Token, Usage, job::MAX_HISTORY};

use super::*;

fn id(n: u64) -> JobId {
    JobId::from_parts(conformance::START_MS, n.into())
}

fn job(n: u64, spec: String) -> NewJob {
    NewJob {
        id: id(n),
        tenant: TenantId::new("t1").unwrap(),
        task: "add".parse().unwrap(),
        queue: QueueName::default(),
        priority: 5,
        spec,
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 100,
        result_ttl_ms: 60_000,
        dead_ttl_ms: 60_000,
        expires_at: None,
        broker_options: None,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    }
}

fn claim(max: u32) -> Claim {
    static SEED: AtomicU64 = AtomicU64::new(0);
    Claim {
        worker: WorkerId::new("w1").unwrap(),
        queues: vec![QueueName::default()].into(),
        max,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("s{}", SEED.fetch_add(1, Ordering::SeqCst))).unwrap(),
        limited: Default::default(),
        in_row: 1,
    }
}

fn entry(attempt: u32, message_bytes: usize) -> AttemptRecord {
    AttemptRecord {
        attempt,
        delivery: 1,
        worker: WorkerId::new("w1").unwrap(),
        ended_at: conformance::START_MS,
        outcome: "error".into(),
        failure: Some(Failure::new("E", "x".repeat(message_bytes))),
        usage: Usage::default(),
    }
}

/// Makes a job fail `attempts` times with messages of so many bytes, settling through the broker alone.
async fn attempts(broker: &dyn Broker, attempts: u32, message_bytes: impl Fn(u32) -> usize) {
    for attempt in 1..=attempts {
        let delivery = broker.claim(&claim(1)).await.unwrap().pop().unwrap();
        let failure = Failure::new("E", "");
        let settle = Settle {
            tenant: delivery.tenant,
            id: delivery.id,
            token: delivery.token,
            resolution: Resolution::Retry { delay_ms: 0, failure },
            record: Some(entry(attempt, message_bytes(attempt))),
            progress: None,
            logs: Vec::new(),
            growth: None,
            blobs: None,
        };
        assert_eq!(broker.settle(&[settle], None).await.unwrap().0, [Settled::Recorded]);
        assert_eq!(broker.promote(10).await.unwrap().moved, 1);
    }
}

#[tokio::test]
async fn a_history_keeps_its_first_and_newest_attempts_wherever_they_are_kept() {
    // The first is inline and the others are not; all are apart; half are inline; none is apart.
    let sizes: [fn(u32) -> usize; 4] =
        [|n| if n == 1 { 10 } else { 3_000 }, |_| 3_000, |n| if n < 5 { 300 } else { 500 }, |_| 0];
    for size in sizes {
        let subject = subject().await;
        let broker = &*subject.broker;
        broker.submit(&[job(1, "{}".into())]).await.unwrap();
        let count = MAX_HISTORY as u32 + 7;
        attempts(broker, count, size).await;
        let record = broker.job(&TenantId::new("t1").unwrap(), id(1)).await.unwrap().unwrap();
        let newest = count - MAX_HISTORY as u32 + 2;
        let expected: Vec<AttemptRecord> =
            std::iter::once(1).chain(newest..=count).map(|n| entry(n, size(n))).collect();
        assert_eq!(record.history, expected);
    }
}

#[tokio::test]
async fn a_large_spec_comes_back_with_every_delivery_and_goes_with_its_job() {
    let subject = subject().await;
    let (broker, tenant) = (&*subject.broker, TenantId::new("t1").unwrap());
    let specs: Vec<String> = [0, 900, 1_024, 1_025, 70_000].map(|n| "é".repeat(n / 2) + &"x".repeat(n % 2)).into();
    let jobs: Vec<NewJob> = (0..).zip(&specs).map(|(n, spec)| job(n, spec.clone())).collect();
    assert!(broker.submit(&jobs).await.unwrap().iter().all(|s| *s == Submitted::Created));
    for _ in 0..2 {
        let held = broker.claim(&claim(10)).await.unwrap();
        assert_eq!(held.iter().map(|d| &d.spec).collect::<Vec<_>>(), specs.iter().collect::<Vec<_>>());
        subject.pass_served(DEFAULT_LEASE_MS).await;
        assert_eq!(broker.reap(10).await.unwrap().requeued, 5);
    }
    let query = JobQuery {
        tenant: tenant.clone(),
        dead: false,
        state: None,
        task: None,
        queue: None,
        worker: None,
        labels: Vec::new(),
        before: None,
        max: 10,
    };
    let listed = broker.jobs(&query).await.unwrap().jobs;
    assert_eq!(listed.iter().rev().map(|j| &j.spec).collect::<Vec<_>>(), specs.iter().collect::<Vec<_>>());
    for n in 0..5 {
        assert_eq!(broker.job(&tenant, id(n)).await.unwrap().unwrap().spec, specs[n as usize]);
        broker.cancel(&tenant, id(n), true).await.unwrap();
    }
    subject.now.fetch_add(60_000, Ordering::SeqCst);
    assert_eq!(broker.prune(10).await.unwrap(), 5);
    assert!(broker.ready_queues().await.unwrap().is_empty());
    let database = subject.keep.downcast::<Database>().unwrap();
    let mut connection = redis::Client::open(database.url()).unwrap().get_connection().unwrap();
    let mut left: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    left.sort();
    // What belongs to the tenant stays: it has queues.
    let names: Vec<&str> = left.iter().map(|k| k.rsplit_once("}:").unwrap().1).collect();
    assert_eq!(
        names,
        [
            "meta",
            "meta:counted_seq",
            "meta:labels_v1",
            "meta:reaping_v1",
            "meta:recounted_v1",
            "meta:seq",
            "meta:turn",
            "meta:usage_hours_v1",
            "meta:usage_v1:t1,500000",
            "queue_used",
            "queues:t1",
            "seq"
        ]
    );
}

#[tokio::test]
async fn many_tenants_get_turns_by_name_when_they_are_level() {
    let subject = subject().await;
    let names = ["a", "a-b", "a0", "a_b", "b"];
    for round in 0..3 {
        for name in names {
            let new = NewJob { tenant: TenantId::new(name).unwrap(), ..job(round, "{}".into()) };
            subject.broker.submit(&[new]).await.unwrap();
        }
    }
    let held = subject.broker.claim(&claim(11)).await.unwrap();
    let served: Vec<&str> = held.iter().map(|d| d.tenant.as_str()).collect();
    let expected: Vec<&str> = names.iter().cycle().take(11).copied().collect();
    assert_eq!(served, expected);
}
