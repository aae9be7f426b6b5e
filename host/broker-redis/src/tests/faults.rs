//! What only a server can do to its clients.

use std::{collections::BTreeSet, time::Duration};

use umbel_model::{JobState, Resolution, Token};

use super::*;

const TENANT: &str = "t1";

fn tenant() -> TenantId {
    TenantId::new(TENANT).unwrap()
}

pub(super) fn job(n: u64) -> NewJob {
    NewJob {
        id: JobId::from_parts(conformance::START_MS, n.into()),
        tenant: tenant(),
        task: "add".parse().unwrap(),
        queue: QueueName::default(),
        priority: 5,
        spec: format!(r#"{{"n":{n}}}"#),
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

pub(super) fn claim(max: u32) -> Claim {
    static SEED: AtomicU64 = AtomicU64::new(0);
    Claim {
        worker: WorkerId::new("w1").unwrap(),
        queues: vec![QueueName::default()].into(),
        max,
        lease_ms: 1_000,
        token_seed: Token::new(format!("s{}", SEED.fetch_add(1, Ordering::SeqCst))).unwrap(),
        limited: Default::default(),
        in_row: 1,
    }
}

pub(super) fn settle(delivery: &Delivery, resolution: Resolution) -> Settle {
    Settle {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        resolution,
        record: None,
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    }
}

pub(super) fn worker() -> WorkerInfo {
    WorkerInfo {
        id: WorkerId::new("w1").unwrap(),
        host: "h".into(),
        pid: 1,
        version: "0".into(),
        queues: vec![QueueName::default()],
        slots: 1,
        running: 1,
        state: "running".into(),
        started_at: conformance::START_MS,
        settled: 0,
        rss_bytes: 0,
        leases: 0,
        min_slots: 0,
        max_slots: 0,
        exclude: Vec::new(),
        order: 0,
    }
}

pub(super) fn succeed() -> Resolution {
    Resolution::Succeed { result: Some(serde_json::value::RawValue::from_string("1".into()).unwrap()) }
}

/// For a server that is killed: short waits.
pub(super) fn impatient(server: &RedisServer) -> RedisConfig {
    RedisConfig { patience: Duration::from_millis(100), ..RedisConfig::new(server.url()) }
}

pub(super) async fn refusal(config: RedisConfig) -> String {
    match RedisBroker::connect(config).await {
        Err(Error::Refused(why)) => why,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_the_server_is_killed_and_comes_back() {
    let mut server = RedisServer::start(Options { appendonly: true, ..Options::default() });
    let broker = Arc::new(RedisBroker::connect(impatient(&server)).await.unwrap());
    let (mut accepted, mut ended) = (BTreeSet::new(), BTreeSet::new());
    let mut next = 0;
    for round in 0..3 {
        let killer = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(60));
            server.kill();
            server
        });
        // Submits and settles until the server is gone; what it said yes to counts.
        loop {
            let batch: Vec<NewJob> = (next..next + 20).map(job).collect();
            next += 20;
            let Ok(answers) = broker.submit(&batch).await else { break };
            accepted.extend(batch.iter().zip(answers).filter(|(_, a)| *a == Submitted::Created).map(|(j, _)| j.id));
            let Ok(held) = broker.claim(&claim(10)).await else { break };
            let settles: Vec<Settle> = held.iter().map(|d| settle(d, succeed())).collect();
            let Ok((settled, _)) = broker.settle(&settles, None).await else { break };
            ended.extend(held.iter().zip(settled).filter(|(_, s)| *s == Settled::Recorded).map(|(d, _)| d.id));
        }
        assert!(matches!(broker.submit(&[job(9_000_000 + round)]).await, Err(Error::Unavailable(_))));
        server = killer.await.unwrap();
        server = tokio::task::spawn_blocking(move || {
            server.restart();
            server
        })
        .await
        .unwrap();
        within_seconds(10, || async { broker.check().await.is_ok() }).await;
    }
    assert!(!accepted.is_empty() && !ended.is_empty());
    for id in &ended {
        assert_eq!(broker.job(&tenant(), *id).await.unwrap().unwrap().state, JobState::Succeeded);
    }
    // Everything that was accepted ends, whoever held it.
    within_seconds(30, || async {
        broker.reap(1_000).await.unwrap();
        let held = broker.claim(&claim(500)).await.unwrap();
        let settles: Vec<Settle> = held.iter().map(|d| settle(d, succeed())).collect();
        broker.settle(&settles, None).await.unwrap();
        let queue = broker.queues(&tenant()).await.unwrap().pop().unwrap();
        queue.queued + queue.running == 0
    })
    .await;
    for id in &accepted {
        assert_eq!(broker.job(&tenant(), *id).await.unwrap().unwrap().state, JobState::Succeeded);
    }
}

/// Asks again until it holds.
pub(super) async fn within_seconds<F: Future<Output = bool>>(seconds: u64, holds: impl Fn() -> F) {
    let asking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(seconds), asking).await.expect("it holds in time");
}

#[tokio::test]
async fn an_operation_waits_for_a_server_that_restarts_and_gives_it_its_functions() {
    let mut server = RedisServer::start(Options { appendonly: true, ..Options::default() });
    let patient = RedisConfig { patience: Duration::from_secs(20), ..RedisConfig::new(server.url()) };
    let broker = RedisBroker::connect(patient).await.unwrap();
    broker.submit(&[job(1)]).await.unwrap();
    server.kill();
    let waiting = tokio::spawn(async move {
        let answer = broker.submit(&[job(1), job(2)]).await;
        (broker, answer)
    });
    let server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    });
    let (broker, answer) = waiting.await.unwrap();
    assert_eq!(answer.unwrap(), [Submitted::Existing(job(1).id), Submitted::Created]);
    // A server may also forget them while it runs.
    broker.command(&redis::cmd("FUNCTION").arg("FLUSH").to_owned()).await.unwrap();
    assert_eq!(broker.claim(&claim(10)).await.unwrap().len(), 2);
    drop(server.await.unwrap());
}

#[tokio::test]
async fn listeners_are_told_to_look_after_the_server_was_away() {
    let mut server = RedisServer::start(Options { appendonly: true, ..Options::default() });
    let broker = RedisBroker::connect(impatient(&server)).await.unwrap();
    let mut work = broker.signals(Topic::Work).await.unwrap();
    let _server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();
    let next = |work: broadcast::Receiver<Signal>| async {
        let mut work = work;
        let signal = tokio::time::timeout(Duration::from_secs(20), work.recv()).await.unwrap().unwrap();
        (work, signal)
    };
    let signal;
    (work, signal) = next(work).await;
    assert_eq!(signal, Signal::Resync);
    within_seconds(10, || async { broker.submit(&[job(1)]).await.is_ok() }).await;
    assert_eq!(next(work).await.1, Signal::Work([QueueName::default()].into()));
}

#[tokio::test]
async fn a_silent_server_is_given_up_and_found_again() {
    let server = RedisServer::start(Options::default());
    let config = RedisConfig {
        response_timeout: Duration::from_millis(300),
        connect_timeout: Duration::from_millis(300),
        ..impatient(&server)
    };
    let broker = RedisBroker::connect(config).await.unwrap();
    server.suspend();
    assert!(matches!(broker.submit(&[job(1)]).await, Err(Error::Unavailable(_))));
    server.resume();
    within_seconds(20, || async { broker.check().await.is_ok() }).await;
    // It was sent, so it may have been done: asking again tells.
    assert!(matches!(broker.submit(&[job(1)]).await.unwrap()[0], Submitted::Created | Submitted::Existing(_)));
    assert_eq!(broker.claim(&claim(10)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_that_evicts_is_refused_unless_that_is_allowed() {
    let server = RedisServer::start(Options {
        arguments: &["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"],
        ..Options::default()
    });
    let why = refusal(RedisConfig::new(server.url())).await;
    assert!(why.contains("allkeys-lru") && why.contains("--allow-unsafe-redis"), "{why}");
    let allowed = RedisConfig { allow_unsafe_settings: true, ..RedisConfig::new(server.url()) };
    RedisBroker::connect(allowed).await.unwrap().check().await.unwrap();
}

#[tokio::test]
async fn a_policy_that_becomes_unsafe_fails_the_check() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.check().await.unwrap();
    let set: () =
        redis::cmd("CONFIG").arg(&["SET", "maxmemory-policy", "volatile-ttl"]).query(&mut server.connection()).unwrap();
    let () = set;
    assert!(matches!(broker.check().await, Err(Error::Refused(_))));
}

#[tokio::test]
async fn a_full_server_takes_no_more_jobs_and_lets_those_it_has_run_and_end() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.submit(&[job(1), job(2)]).await.unwrap();
    let held = broker.claim(&claim(1)).await.unwrap();
    let limit = |bytes: &str| {
        let () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", bytes]).query(&mut server.connection()).unwrap();
    };
    limit("1");
    assert!(matches!(broker.submit(&[job(3)]).await, Err(Error::Full(_))));
    let plain =
        Renewal { tenant: tenant(), id: held[0].id, token: held[0].token.clone(), progress: None, logs: Vec::new() };
    let progress = umbel_model::Progress { done: 1, total: 2, message: "half".into(), ..Default::default() };
    let line = LogLine {
        at: conformance::START_MS,
        attempt: 1,
        level: "info".into(),
        context: String::new(),
        message: "m".into(),
    };
    let telling = Renewal { progress: Some(progress.clone()), logs: vec![line], ..plain.clone() };
    for renewal in [plain, telling] {
        assert_eq!(broker.renew(60_000, &[renewal]).await.unwrap(), [LeaseState::Held]);
    }
    assert_eq!(broker.job(&tenant(), held[0].id).await.unwrap().unwrap().progress, Some(progress));
    assert_eq!(broker.reap(10).await.unwrap().requeued, 0);
    broker.heartbeat(&worker()).await.unwrap();
    assert_eq!(broker.workers().await.unwrap(), [worker()]);
    for paused in [true, false] {
        assert!(broker.set_paused(&tenant(), &QueueName::default(), paused).await.unwrap());
    }
    assert_eq!(broker.ready_queues().await.unwrap(), [QueueName::default()]);
    let (settled, more) = broker.settle(&[settle(&held[0], succeed())], Some(&claim(1))).await.unwrap();
    assert_eq!((settled.as_slice(), more.len()), ([Settled::Recorded].as_slice(), 1));
    limit("0");
    assert_eq!(broker.submit(&[job(3)]).await.unwrap(), [Submitted::Created]);
}

#[tokio::test]
async fn data_of_an_older_release_becomes_data_of_this_one() {
    let server = RedisServer::start(Options::default());
    let meta = Keys::new("umbel", SHARD).meta();
    let mut connection = server.connection();
    let () = redis::cmd("SET").arg(&meta).arg(1).query(&mut connection).unwrap();
    RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let version: u32 = redis::cmd("GET").arg(&meta).query(&mut connection).unwrap();
    assert_eq!(version, keys::VERSION);
}

#[tokio::test]
async fn data_of_a_newer_release_is_refused() {
    let server = RedisServer::start(Options::default());
    RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let meta = Keys::new("umbel", SHARD).meta();
    let mut connection = server.connection();
    let version: u32 = redis::cmd("GET").arg(&meta).query(&mut connection).unwrap();
    assert_eq!(version, keys::VERSION);
    let () = redis::cmd("SET").arg(&meta).arg(version + 1).query(&mut connection).unwrap();
    let why = refusal(RedisConfig::new(server.url())).await;
    assert!(why.contains(&format!("version {}", version + 1)), "{why}");
}

#[tokio::test]
async fn a_server_that_is_not_there_fails_at_once_or_is_waited_for() {
    let mut server = RedisServer::start(Options::default());
    server.kill();
    let error = RedisBroker::connect(impatient(&server)).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(why) if why.contains(&server.port().to_string())), "{error}");
    let broker = RedisBroker::connect(RedisConfig { wait_for_server: true, ..impatient(&server) }).await.unwrap();
    assert!(matches!(broker.check().await, Err(Error::Unavailable(_))));
    let _server = tokio::task::spawn_blocking(move || {
        server.restart();
        server
    })
    .await
    .unwrap();
    within_seconds(20, || async { broker.submit(&[job(1)]).await.is_ok() }).await;
}

#[tokio::test]
async fn a_password_is_in_no_message() {
    let server = RedisServer::start(Options { arguments: &["--requirepass", "right"], ..Options::default() });
    let url = |password: &str| format!("redis://:{password}@127.0.0.1:{}/", server.port());
    let mut texts = vec![refusal(RedisConfig::new(url("s3cret-wrong"))).await];
    assert!(texts[0].contains("password"), "{}", texts[0]);
    texts.push(refusal(RedisConfig::new("redis://:s3cret-wrong@[bad/")).await);
    texts.push(refusal(RedisConfig::new("rediss://:s3cret-wrong@localhost/#insecure")).await);
    assert!(texts[2].contains("certificate"));
    texts.push(format!("{:?}", RedisConfig::new(url("s3cret-wrong"))));
    texts.push(refusal(RedisConfig::new(server.url())).await);
    texts.push(format!("{:?}", RedisBroker::connect(RedisConfig::new(url("right"))).await.unwrap()));
    for text in texts {
        assert!(!text.contains("s3cret") && !text.contains("right"), "{text}");
    }
}

#[tokio::test]
async fn two_installations_on_one_server_do_not_meet() {
    let server = RedisServer::start(Options::default());
    let of = |prefix: &str| RedisConfig { prefix: prefix.into(), ..RedisConfig::new(server.url()) };
    let (a, b) = (RedisBroker::connect(of("a")).await.unwrap(), RedisBroker::connect(of("b")).await.unwrap());
    let mut heard = b.signals(Topic::Work).await.unwrap();
    let other = NewJob { tenant: TenantId::new("t2").unwrap(), ..job(2) };
    a.submit(&[job(1), other]).await.unwrap();
    let held = a.claim(&claim(10)).await.unwrap();
    assert_eq!(held.len(), 2);
    assert!(b.claim(&claim(10)).await.unwrap().is_empty());
    let settles: Vec<Settle> = held.iter().map(|d| settle(d, succeed())).collect();
    assert_eq!(b.settle(&settles, None).await.unwrap().0, [Settled::Lost, Settled::Lost]);
    a.settle(&settles, None).await.unwrap();
    assert!(heard.try_recv().is_err());
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut server.connection()).unwrap();
    assert!(keys.iter().all(|k| k.starts_with("a:{s0}:") || k.starts_with("b:{s0}:meta")), "{keys:?}");
    // Each tenant's keys name that tenant and no other.
    for key in keys.iter().filter(|k| k.contains("t1")) {
        assert!(!key.contains("t2"), "{key}");
    }
}
