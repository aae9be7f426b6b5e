//! Turns over all queues: beside processes of older releases, and what they cost.

use std::collections::BTreeMap;

use umbel_model::Token;

use super::{cost::plain_job, *};

fn claim(n: u64, queues: impl Into<ClaimQueues>, max: u32) -> Claim {
    Claim {
        worker: WorkerId::new("w").unwrap(),
        queues: queues.into(),
        max,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("turns{n}")).unwrap(),
        limited: Default::default(),
        in_row: max.div_ceil(4),
    }
}

fn all() -> ClaimQueues {
    ClaimQueues::AllBut(Vec::new())
}

fn job(n: u64, tenant: &str, queue: &str) -> NewJob {
    NewJob { tenant: tenant.parse().unwrap(), queue: queue.parse().unwrap(), ..plain_job(n) }
}

fn places(held: &[Delivery]) -> Vec<String> {
    held.iter().map(|held| format!("{} {}", held.tenant, held.queue)).collect()
}

fn run(server: &RedisServer, command: &[&str]) {
    let mut cmd = redis::cmd(command[0]);
    for argument in &command[1..] {
        cmd.arg(argument.replace("P:", "umbel:{s0}:"));
    }
    cmd.query::<redis::Value>(&mut server.connection()).unwrap();
}

/// As if only processes of an older release had submitted what there is.
fn forget_turns(server: &RedisServer, tenants: &[&str]) {
    for key in ["turns", "turn", "rested"] {
        run(server, &["DEL", &format!("P:meta:{key}")]);
    }
    for tenant in tenants {
        run(server, &["DEL", &format!("P:meta:open:{tenant}")]);
    }
}

#[tokio::test]
async fn jobs_that_a_process_of_an_older_release_submitted_are_found() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let jobs: Vec<NewJob> = (0..60).map(|n| job(n, ["a", "b"][n as usize % 2], &format!("q{}", n % 30))).collect();
    broker.submit(&jobs).await.unwrap();
    forget_turns(&server, &["a", "b"]);
    let (mut found, mut claims) = (0, 0);
    while found < jobs.len() {
        let held = broker.claim(&claim(claims, all(), 100)).await.unwrap();
        (found, claims) = (found + held.len(), claims + 1);
        assert!(!held.is_empty() && claims <= 2, "claim {claims} found {found}");
    }
    // Named queues are asked as before.
    broker.submit(&[job(100, "a", "q1"), job(101, "b", "q1")]).await.unwrap();
    forget_turns(&server, &["a", "b"]);
    let q1: QueueName = "q1".parse().unwrap();
    assert_eq!(places(&broker.claim(&claim(100, vec![q1], 5)).await.unwrap()), ["a q1", "b q1"]);
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn what_a_process_of_an_older_release_claimed_or_paused_is_not_handed_out() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker
        .submit(&[job(1, "a", "claimed"), job(2, "a", "paused"), job(3, "b", "claimed"), job(4, "b", "open")])
        .await
        .unwrap();
    for command in [
        ["DEL", "P:ready:a,claimed"].as_slice(),
        &["ZREM", "P:fair:claimed", "a"],
        &["DEL", "P:ready:b,claimed"],
        &["ZREM", "P:fair:claimed", "b"],
        &["HSET", "P:queues:a", "paused:p", "1"],
        &["ZREM", "P:fair:paused", "a"],
    ] {
        run(&server, command);
    }
    assert_eq!(places(&broker.claim(&claim(1, all(), 5)).await.unwrap()), ["b open"]);
    broker.set_paused(&"a".parse().unwrap(), &"paused".parse().unwrap(), false).await.unwrap();
    assert_eq!(places(&broker.claim(&claim(2, all(), 5)).await.unwrap()), ["a paused"]);
}

#[tokio::test]
async fn scores_of_older_releases_hold_up_nobody() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.submit(&(0..40).map(|n| job(n, ["a", "b"][n as usize % 2], "q")).collect::<Vec<_>>()).await.unwrap();
    // After a million jobs.
    for (score, tenant) in [("1000000", "a"), ("1000001", "b")] {
        run(&server, &["ZADD", "P:fair:q", score, tenant]);
    }
    forget_turns(&server, &["a", "b"]);
    broker.submit(&(50..55).map(|n| job(n, "c", "q")).collect::<Vec<_>>()).await.unwrap();
    for (n, queues) in [(1, vec!["q".parse().unwrap()].into()), (2, all())] {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for place in places(&broker.claim(&claim(n, queues, 6)).await.unwrap()) {
            *counts.entry(place).or_default() += 1;
        }
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [2, 2, 2], "{counts:?}");
    }
}

#[tokio::test]
async fn a_job_of_a_thousand_queues_takes_few_commands_and_all_are_found_in_full_claims() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let jobs: Vec<NewJob> = (0..3_000).map(|n| job(n, "a", &format!("q{}", n % 1_000))).collect();
    for batch in jobs.chunks(500) {
        broker.submit(batch).await.unwrap();
    }
    let start = cost::meter(&broker).await;
    for n in 0..15 {
        assert_eq!(broker.claim(&claim(n, all(), 200)).await.unwrap().len(), 200);
    }
    let commands = (cost::meter(&broker).await.3 - start.3) / 3_000.0;
    println!("commands of a job: {commands}");
    assert!(commands < 5.0, "{commands}");
    assert!(broker.claim(&claim(99, all(), 200)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_that_is_alone_takes_few_commands() {
    const JOBS: u64 = 50;
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let start = cost::meter(&broker).await;
    for n in 0..JOBS {
        broker.submit(&[job(n, "a", "q")]).await.unwrap();
        let held = broker.claim(&claim(2 * n, all(), 8)).await.unwrap();
        let settles = [cost::settle(&held[0], n)];
        let (_, next) = broker.settle(&settles, Some(&claim(2 * n + 1, all(), 8))).await.unwrap();
        assert!(next.is_empty(), "{next:?}");
    }
    let commands = (cost::meter(&broker).await.3 - start.3) / JOBS as f64;
    println!("commands of a job: {commands}");
    assert!(commands < 60.0, "{commands}");
}

#[tokio::test]
async fn a_quiet_tenant_is_next_beside_a_thousand_tenants_of_twenty_queues() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let jobs: Vec<NewJob> = (0..20_000).map(|n| job(n, &format!("t{}", n / 20), &format!("q{}", n % 20))).collect();
    for batch in jobs.chunks(500) {
        broker.submit(batch).await.unwrap();
    }
    let named: Vec<QueueName> = ["q3", "quiet", "q7"].map(|name| name.parse().unwrap()).to_vec();
    for (n, queues) in (0..).zip([all(), named.clone().into(), all(), named.into()]) {
        assert_eq!(broker.claim(&claim(10 * n, all(), 300)).await.unwrap().len(), 300);
        let quiet = format!("quiet{n}");
        broker.submit(&[job(30_000 + n, &quiet, "quiet")]).await.unwrap();
        let start = cost::meter(&broker).await;
        let held = broker.claim(&claim(10 * n + 1, queues, 1)).await.unwrap();
        let commands = cost::meter(&broker).await.3 - start.3;
        assert_eq!(places(&held), [format!("{quiet} quiet")], "claim {n}");
        println!("commands of claim {n}: {commands}");
        broker.settle(&[cost::settle(&held[0], 1)], None).await.unwrap();
    }
}
