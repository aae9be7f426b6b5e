//! Usage beside processes of releases that know nothing of it.

use umbel_model::{AttemptRecord, Failure, Resolution, UnixMs, Usage};

use super::{cost, *};

/// A history's entry as older releases read it: of this very length.
type OldAttempt = (u32, u32, WorkerId, UnixMs, String, u64, u64, u64, Option<Failure>);

fn used(n: u64) -> Usage {
    Usage { fuel: n, memory_bytes: 65_536, duration_us: 20, cpu_us: n, http_requests: n, ..Usage::default() }
}

/// Ends an attempt that used this; one that is not the last is snoozed.
async fn attempt(broker: &RedisBroker, n: u64, is_last: bool) {
    let claim = Claim {
        worker: WorkerId::new("w1").unwrap(),
        queues: vec![QueueName::default()].into(),
        max: 1,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: umbel_model::Token::new(format!("s{n}")).unwrap(),
        limited: Default::default(),
        in_row: 1,
    };
    let held = broker.claim(&claim).await.unwrap();
    let plain = cost::settle(&held[0], 1);
    let record = AttemptRecord { usage: used(n), ..plain.record.clone().unwrap() };
    let resolution = if is_last { plain.resolution.clone() } else { Resolution::Snooze { delay_ms: 0 } };
    let settle = Settle { record: Some(record), resolution, ..plain };
    assert_eq!(broker.settle(&[settle], None).await.unwrap().0, [Settled::Recorded]);
    broker.promote(10).await.unwrap();
}

#[tokio::test]
async fn older_processes_read_the_histories_of_new_ones_and_drop_what_they_do_not_know() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let job = cost::plain_job(1);
    broker.submit(std::slice::from_ref(&job)).await.unwrap();
    let name = keys::member(&job.tenant, job.id);
    let key = format!("umbel:{{s0}}:job:{name}");
    let usages = async || -> Vec<Usage> {
        let record = broker.job(&job.tenant, job.id).await.unwrap().unwrap();
        record.history.iter().map(|attempt| attempt.usage).collect()
    };
    attempt(&broker, 1, false).await;
    attempt(&broker, 2, false).await;
    assert_eq!(usages().await, [used(1), used(2)]);

    // Behind all that they read, and never zeros, which a record without attempts ends in.
    let mut connection = server.connection();
    let stored: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut connection).unwrap();
    let lines = "1,0,1\n2,0,2\n";
    let whole = stored.strip_suffix(lines.as_bytes()).expect("the rest of the usage is the last thing");
    let begin = whole.windows(2).position(|pair| pair == b"[1").unwrap();
    let length = u32::from_le_bytes(whole[begin - 4..begin].try_into().unwrap()) as usize;
    let old: OldAttempt = serde_json::from_slice(&whole[begin..begin + length]).unwrap();
    assert_eq!((old.5, old.6, old.7, old.8), (1, 65_536, 20, None));

    // One of them writes the record.
    redis::cmd("SET").arg(&key).arg(whole).exec(&mut connection).unwrap();
    let bare = |n| Usage { cpu_us: 0, http_requests: 0, ..used(n) };
    assert_eq!(usages().await, [bare(1), bare(2)]);
    attempt(&broker, 3, true).await;
    assert_eq!(usages().await, [bare(1), bare(2), used(3)]);
    let query = UsageQuery {
        tenant: job.tenant.clone(),
        from_hour: 0,
        to_hour: u64::MAX,
        task: None,
        by: UsageBy::Total,
        after: None,
        max: 1,
    };
    let total = broker.usage(&query).await.unwrap().sums[0].1;
    assert_eq!((total.attempts(), total.usage.cpu_us, total.usage.http_requests), (3, 6, 6));
}
