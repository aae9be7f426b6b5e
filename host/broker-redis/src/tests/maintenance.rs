//! What background services cost.

use super::{cost::meter, *};

fn keyed(n: u64) -> NewJob {
    let key = format!("key{n}");
    let idempotency = Some(Idempotency { key, body: "b".into(), ttl_ms: 1_000 });
    NewJob { idempotency, ..cost::plain_job(n) }
}

#[tokio::test]
async fn all_idempotency_keys_that_are_over_are_gone_after_one_prune() {
    const KEYS: u64 = 50_000;
    let server = RedisServer::start(Options::default());
    let (clock, now) = Clock::manual(conformance::START_MS);
    let broker = RedisBroker::connect(RedisConfig { clock, ..RedisConfig::new(server.url()) }).await.unwrap();
    for first in (0..KEYS).step_by(5_000) {
        let jobs: Vec<NewJob> = (first..first + 5_000).map(keyed).collect();
        assert!(broker.submit(&jobs).await.unwrap().iter().all(|s| *s == Submitted::Created));
    }
    let count = || {
        let names: Vec<String> = redis::cmd("KEYS").arg("*:idem*").query(&mut server.connection()).unwrap();
        names.len()
    };
    assert_eq!(count(), KEYS as usize + 1);
    now.fetch_add(1_000, Ordering::SeqCst);
    assert_eq!(broker.prune(500).await.unwrap(), 0);
    assert_eq!(count(), 0);
}

#[tokio::test]
async fn jobs_with_long_logs_are_deleted_by_one_prune_in_short_steps() {
    const JOBS: u64 = 60;
    let server = RedisServer::start(Options::default());
    let (clock, now) = Clock::manual(conformance::START_MS);
    let broker = RedisBroker::connect(RedisConfig { clock, ..RedisConfig::new(server.url()) }).await.unwrap();
    broker.submit(&(0..JOBS).map(full::single).collect::<Vec<_>>()).await.unwrap();
    for delivery in broker.claim(&chords::claim(JOBS as u32)).await.unwrap() {
        let message = "x".repeat(100);
        let line = LogLine { at: 1, attempt: 1, level: "info".into(), context: String::new(), message };
        broker.settle(&[Settle { logs: vec![line; 1_000], ..chords::settle(&delivery) }], None).await.unwrap();
    }
    now.fetch_add(1_000_000, Ordering::SeqCst);
    let calls = || -> u64 {
        let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut server.connection()).unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_fcall:calls=")).unwrap();
        line.split(',').next().unwrap().parse().unwrap()
    };
    let before = calls();
    assert_eq!(broker.prune(500).await.unwrap(), JOBS as u32);
    // Seven or eight such jobs fill a step.
    let steps = calls() - before;
    assert!((7..20).contains(&steps), "{steps}");
    assert_eq!(broker.stored_bytes(&chords::tenant()).await.unwrap(), StoredBytes::default());
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

/// Not a test of anything: run by hand, in a quiet moment.
#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_a_promotion_when_nothing_is_due() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let jobs: Vec<NewJob> =
        (0..5_000).map(|n| NewJob { start: Start::After(3_600_000), ..cost::plain_job(n) }).collect();
    broker.submit(&jobs).await.unwrap();
    let before = meter(&broker).await.0;
    for _ in 0..1_000 {
        assert_eq!(broker.promote(500).await.unwrap().moved, 0);
    }
    println!("{:.1} us of functions for a promotion", (meter(&broker).await.0 - before) / 1_000.0);
}
