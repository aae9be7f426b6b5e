//! Damage that is planted, found and mended; a store of the release before; limits that many keys have.

use std::collections::BTreeMap;

use umbel_model::{Digest, Failure, Rate, Resolution, TaskName};

use super::{
    chords::{claim, settle, tenant},
    full::single,
    *,
};

async fn broker(server: &RedisServer) -> RedisBroker {
    RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap()
}

fn key(name: &str) -> String {
    format!("umbel:{{s0}}:{name}")
}

fn run(server: &RedisServer, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    let () = command.query(&mut server.connection()).unwrap();
}

fn limited(n: u64, limits: JobLimits) -> NewJob {
    let broker_options = BrokerOptions { limits: Some(limits), ..BrokerOptions::default() };
    NewJob { broker_options: Some(Box::new(broker_options)), ..single(n) }
}

fn of_key(n: u64, cap: u32) -> NewJob {
    limited(n, JobLimits { key: Some(format!("k{n}")), key_concurrency: cap, ..JobLimits::default() })
}

fn failed(delivery: &Delivery) -> Settle {
    Settle { resolution: Resolution::Fail { failure: Failure::new("E", "m") }, ..settle(delivery) }
}

/// Jobs queued, in a sub-queue, delayed, running, dead and ended, a control and a unique key.
async fn populated(server: &RedisServer) -> (RedisBroker, Vec<Delivery>) {
    let broker = broker(server).await;
    broker.submit(&[single(1), single(2), single(3), of_key(4, 1)]).await.unwrap();
    let held = broker.claim(&claim(4)).await.unwrap();
    assert_eq!(held.len(), 4);
    broker.settle(&[failed(&held[0]), settle(&held[1])], None).await.unwrap();
    let unique = Unique { key: "u".into(), wins: Wins::First, for_ms: 0, max_wait_ms: 0 };
    let broker_options = Some(Box::new(BrokerOptions { unique: Some(unique), ..BrokerOptions::default() }));
    let [used, unused] = [Digest::of(b"used"), Digest::of(b"unused")];
    for digest in [used, unused] {
        let blob = NewBlob { digest, bytes: 5, content_type: None };
        broker.put_blob(&PutBlob { tenant: tenant(), blob }).await.unwrap();
    }
    let waiting = [
        NewJob { blobs: vec![used], ..single(11) },
        of_key(12, 1),
        NewJob { start: Start::After(60_000), ..single(13) },
        NewJob { broker_options, ..single(14) },
        NewJob { expires_ms: 600_000, ..single(15) },
    ];
    broker.submit(&waiting).await.unwrap();
    broker.schedule_steps(&[schedules::make("s"), schedules::make("t")]).await.unwrap();
    let task: TaskName = "other".parse().unwrap();
    let patch = ControlPatch { concurrency: Some(3), ..ControlPatch::default() };
    broker.set_control(&tenant(), &Scope::Task(task), &patch).await.unwrap();
    assert_eq!(broker.audit(true).await.unwrap(), []);
    (broker, held)
}

#[tokio::test]
async fn a_damaged_record_or_key_stops_nobody_and_is_found() {
    let server = RedisServer::start(Options::default());
    let broker = broker(&server).await;
    let later = |n| NewJob { start: Start::After(1), ..single(n) };
    let other = of_key(5, 1);
    broker.submit(&[single(1), single(2), single(3), later(4), other, of_key(6, 1), later(7)]).await.unwrap();
    let record = |n: u64| key(&format!("job:{},{}", tenant(), single(n).id));
    let long = format!("\u{1}\u{1}{}", "x".repeat(200));
    for (n, garbage) in [(1, "garbage"), (2, long.as_str()), (4, "garbage"), (5, "garbage")] {
        run(&server, &["SET", &record(n), garbage]);
    }
    while broker.promote(10).await.unwrap().moved == 0 {}
    let mut held = Vec::new();
    for _ in 0..3 {
        held.extend(broker.claim(&claim(10)).await.unwrap());
    }
    let mut ids: Vec<_> = held.iter().map(|delivery| delivery.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [single(3).id, single(6).id, single(7).id]);
    run(&server, &["SET", &record(3), "garbage"]);
    let answers = broker.settle(&held.iter().map(settle).collect::<Vec<_>>(), None).await.unwrap().0;
    assert_eq!(answers.iter().filter(|answer| **answer == Settled::Recorded).count(), 2, "{answers:?}");
    run(&server, &["SET", &key("orders"), "x"]);
    let found = broker.audit(true).await.unwrap();
    let count = |check: &str| found.iter().find(|f| f.check == check).map_or(0, |finding| finding.count);
    assert_eq!(count("record that cannot be read"), 5, "{found:?}");
    assert_eq!(count("keys that cannot be read"), 1, "{found:?}");
}

#[tokio::test]
async fn a_settle_of_a_damaged_record_is_lost_and_the_others_of_its_batch_are_recorded() {
    let server = RedisServer::start(Options::default());
    let broker = broker(&server).await;
    broker.submit(&[of_key(1, 1), single(2), single(3)]).await.unwrap();
    let mut held = broker.claim(&claim(3)).await.unwrap();
    held.sort_by_key(|delivery| delivery.id);
    let running = format!("\u{1}\u{2}{}", "x".repeat(200));
    run(&server, &["SET", &key(&format!("job:{},{}", tenant(), single(2).id)), &running]);
    let settles = [settle(&held[0]), failed(&held[1]), failed(&held[2])];
    let answers = broker.settle(&settles, None).await.unwrap().0;
    assert_eq!(answers, [Settled::Recorded, Settled::Lost, Settled::Recorded]);
    broker.submit(&[NewJob { id: single(4).id, ..of_key(1, 1) }]).await.unwrap();
    assert_eq!(broker.claim(&claim(3)).await.unwrap().len(), 1, "the key's capacity was freed");
}

#[tokio::test]
async fn an_entry_of_a_job_that_does_not_wait_makes_it_run_no_second_time() {
    let server = RedisServer::start(Options::default());
    let broker = broker(&server).await;
    broker.submit(&[single(1), single(2)]).await.unwrap();
    let held = broker.claim(&claim(2)).await.unwrap();
    broker.settle(&[settle(&held[0])], None).await.unwrap();
    let ready = key(&format!("ready:{},default", tenant()));
    let patch = ControlPatch { concurrency: Some(100), ..ControlPatch::default() };
    for next in [3, 4] {
        for id in [single(1).id, single(2).id] {
            run(&server, &["ZADD", &ready, "1", &id.to_string()]);
        }
        broker.submit(&[single(next)]).await.unwrap();
        let ids: Vec<_> = broker.claim(&claim(10)).await.unwrap().iter().map(|delivery| delivery.id).collect();
        assert_eq!(ids, [single(next).id]);
        // From now on jobs are picked one by one.
        broker.set_control(&tenant(), &Scope::Tenant, &patch).await.unwrap();
    }
}

#[tokio::test]
async fn an_audit_finds_and_mends_each_damage() {
    let server = RedisServer::start(Options::default());
    let (broker, held) = populated(&server).await;
    let name = |n: u64| format!("{},{}", tenant(), single(n).id);
    let [running, ended] = [&held[2], &held[1]].map(|delivery| format!("{},{}", tenant(), delivery.id));
    let queues = key("queues:tenant0");
    let ready = key("ready:tenant0,default");
    let damages: Vec<(Vec<String>, &str)> = vec![
        (vec!["ZADD".into(), key("leases"), "1".into(), name(99)], "lease of a job that does not run"),
        (vec!["ZREM".into(), key("leases"), running.clone()], "running job without a lease"),
        (vec!["ZREM".into(), ready.clone(), single(11).id.to_string()], "queued job that is in no queue"),
        (vec!["ZADD".into(), ready, "1".into(), single(99).id.to_string()], "ready entry of a job that is not queued"),
        (
            vec!["ZREM".into(), key("lane:tenant0,default,echo,k12"), single(12).id.to_string()],
            "queued job that is in no queue",
        ),
        (vec!["HINCRBY".into(), queues.clone(), "default:r".into(), "5".into()], "running jobs of a line"),
        (vec!["HINCRBY".into(), queues, "default:d".into(), "5".into()], "delayed jobs of a line"),
        (
            vec!["HSET".into(), key("used"), "tenant0,echo,k4".into(), "7".into()],
            "jobs that count as running for a limit",
        ),
        (vec!["HSET".into(), key("deads:tenant0"), "default".into(), "9".into()], "dead jobs of a line"),
        (vec!["HSET".into(), key("line:tenant0,default"), "q".into(), "9".into()], "queued jobs of a line"),
        (vec!["ZREM".into(), key("retain"), ended], "ended job that is kept for ever"),
        (vec!["ZREM".into(), key("look"), name(13)], "waiting job that nobody looks at"),
        (vec!["ZADD".into(), key("look"), "1".into(), name(99)], "time of a job that does not wait"),
        (vec!["ZREM".into(), key("jobs:tenant0"), single(1).id.to_string()], "job that no list has"),
        (
            vec!["ZADD".into(), key("jobs:tenant0"), "0".into(), single(99).id.to_string()],
            "entry of a job that is gone",
        ),
        (vec!["SET".into(), key(&format!("more:{}", name(99))), "x".into()], "more: without a job"),
        (vec!["RPUSH".into(), key(&format!("log:{}", name(99))), "x".into()], "log: without a job"),
        (vec!["ZREM".into(), key("fair:default"), "tenant0".into()], "ready jobs that nobody is given"),
        (vec!["DEL".into(), key("special")], "limits that are not looked at"),
        (vec!["SET".into(), key("uniq:tenant0,v"), format!("0 {} 1", single(99).id)], "unique key of a job that ended"),
        (vec!["SET".into(), key("idem:tenant0,v"), "1 a b".into()], "idempotency key that nothing will delete"),
        (vec!["HSET".into(), key("workers"), "w".into(), "{}".into()], "worker that is never forgotten"),
        (vec!["SADD".into(), key("blocked:tenant0"), "default".into()], "limit of nothing that is parked"),
        (vec!["ZADD".into(), key("parked"), "1".into(), "tenant0,default".into()], "limit of nothing that is parked"),
        (vec!["RPUSH".into(), key("events:tenant0"), "x".into()], "events that nobody follows"),
        (vec!["DEL".into(), key("meta:blobs_unused_v1")], "references of a blob"),
        (vec!["DEL".into(), key("meta:blob_names_v1:tenant0")], "references of a blob"),
        (
            vec!["HSET".into(), key("meta:blob_refs_v1:tenant0"), single(99).id.to_string(), "x".repeat(32)],
            "references of a job that is gone",
        ),
        (vec!["DEL".into(), key("meta:blob_refs_v1:tenant0")], "references of a blob"),
        (vec!["HINCRBY".into(), key("meta:stored:tenant0"), "b".into(), "5".into()], "bytes of a tenant"),
        (vec!["DEL".into(), key("meta:schedules_v1:tenant0")], "schedule that no list has"),
        (
            vec!["ZREM".into(), key("meta:schedules_due_v1"), "tenant0,s".into()],
            "schedule at which nobody looks at its time",
        ),
        (
            vec!["ZADD".into(), key("meta:schedules_due_v1"), "7".into(), "tenant0,s".into()],
            "schedule at which nobody looks at its time",
        ),
        (
            vec!["ZADD".into(), key("meta:schedules_due_v1"), "7".into(), "tenant0,gone".into()],
            "time of a schedule at which nobody is to look",
        ),
        (
            vec!["ZADD".into(), key("meta:schedules_v1:tenant0"), "0".into(), "gone".into()],
            "name of a schedule that is gone",
        ),
        (vec!["DEL".into(), key("meta:schedule_revisions_v1")], "revision of a schedule that was not given"),
        (
            vec!["RPUSH".into(), key("meta:schedule_fires_v1:tenant0,gone"), "x".into()],
            "fires of a schedule that is gone",
        ),
        (
            vec!["RPUSH".into(), key("meta:schedule_fires_v1:tenant0,s"), "x".into()],
            "fire that is none of its schedule",
        ),
        (vec!["HINCRBY".into(), key("meta:stored:tenant0"), "s".into(), "5".into()], "bytes of a tenant"),
        (vec!["HSET".into(), key("meta:schedule_v1:tenant0,s"), "s".into(), "longer".into()], "bytes of a tenant"),
        (vec!["HDEL".into(), key("meta:schedule_v1:tenant0,s"), "d".into()], "schedule that cannot be read"),
        (vec!["DEL".into(), key("meta:schedule_v1:tenant0,t")], "fires of a schedule that is gone"),
        (
            vec!["HSET".into(), key("followed"), "tenant9".into(), "99999999999999 1".into()],
            "followers that nobody looks for",
        ),
    ];
    for (damage, check) in damages {
        run(&server, &damage.iter().map(String::as_str).collect::<Vec<_>>());
        let seen = broker.audit(false).await.unwrap();
        assert!(seen.iter().any(|finding| finding.check == check && finding.fixed == 0), "{damage:?}: {seen:?}");
        let mended = broker.audit(true).await.unwrap();
        assert!(mended.iter().all(|finding| finding.fixed == finding.count), "{damage:?}: {mended:?}");
        assert_eq!(broker.audit(true).await.unwrap(), [], "{damage:?}");
    }
    // All that was there still runs.
    let mut ran = 0;
    loop {
        let held = broker.claim(&claim(50)).await.unwrap();
        if held.is_empty() {
            break;
        }
        ran += held.len();
        broker.settle(&held.iter().map(settle).collect::<Vec<_>>(), None).await.unwrap();
    }
    assert_eq!(ran, 4);
}

#[tokio::test]
async fn a_key_that_nothing_owns_and_unsafe_settings_are_found_and_left() {
    let server = RedisServer::start(Options::default());
    let (broker, _held) = populated(&server).await;
    run(&server, &["SET", &key("unheard:of"), "x"]);
    run(&server, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let found = broker.audit(true).await.unwrap();
    let checks: Vec<(&str, u64, u64)> = found.iter().map(|f| (f.check.as_str(), f.count, f.fixed)).collect();
    assert_eq!(checks, [("key that nothing owns", 1, 0), ("unsafe setting", 1, 0)]);
}

#[tokio::test]
async fn an_audit_finds_nothing_while_work_goes_on() {
    let server = RedisServer::start(Options::default());
    let broker = Arc::new(broker(&server).await);
    let working = tokio::spawn({
        let broker = broker.clone();
        async move {
            for round in 0..40_u64 {
                let jobs: Vec<NewJob> = (0..50)
                    .map(|n| round * 100 + n)
                    .map(|n| if n % 3 == 0 { of_key(n % 7 + round * 1_000_000, 1) } else { single(n) })
                    .collect();
                broker.submit(&jobs).await.unwrap();
                let held = broker.claim(&claim(40)).await.unwrap();
                let settles: Vec<Settle> =
                    held.iter().enumerate().map(|(n, d)| if n % 5 == 0 { failed(d) } else { settle(d) }).collect();
                broker.settle(&settles, None).await.unwrap();
            }
        }
    });
    let mut audits = 0;
    while !working.is_finished() || audits == 0 {
        assert_eq!(broker.audit(false).await.unwrap(), []);
        audits += 1;
    }
    working.await.unwrap();
}

#[tokio::test]
async fn a_store_of_version_2_is_taken_over_with_all_that_is_in_it() {
    let server = RedisServer::start(Options::default());
    let broker = broker(&server).await;
    broker.submit(&[single(1), single(2), single(3)]).await.unwrap();
    let paused: QueueName = "paused".parse().unwrap();
    broker.submit(&[NewJob { queue: paused.clone(), ..single(4) }]).await.unwrap();
    broker.set_paused(&tenant(), &paused, true).await.unwrap();
    let held = broker.claim(&claim(2)).await.unwrap();
    broker.settle(&[failed(&held[0])], None).await.unwrap();
    // What version 2 did not write. The rest of what jobs without broker options need is as it was.
    for name in ["deads:tenant0", "holders"] {
        run(&server, &["DEL", &key(name)]);
    }
    run(&server, &["SET", &key("meta"), "2"]);
    drop(broker);
    let broker = self::broker(&server).await;
    let version: u32 = redis::cmd("GET").arg(key("meta")).query(&mut server.connection()).unwrap();
    assert_eq!(version, keys::VERSION);
    let queues = broker.queues(&tenant()).await.unwrap();
    let counts: Vec<_> = queues.iter().map(|q| (q.name.as_str(), q.queued, q.running, q.dead, q.paused)).collect();
    assert_eq!(counts, [("default", 1, 1, 1, false), ("paused", 1, 0, 0, true)]);
    assert_eq!(broker.controls(&tenant()).await.unwrap().len(), 1);
    assert_eq!(broker.audit(false).await.unwrap(), []);
    let exclusive = ControlPatch { exclusive: Some(true), ..ControlPatch::default() };
    broker.set_control(&tenant(), &Scope::Queue(QueueName::default()), &exclusive).await.unwrap();
    assert_eq!(broker.settle(&[settle(&held[1])], Some(&claim(5))).await.unwrap().1.len(), 1);
}

/// Calls of commands so far, by name; scripts' calls are counted too.
async fn calls(broker: &RedisBroker) -> BTreeMap<String, u64> {
    let Value::BulkString(text) = broker.command(&redis::cmd("INFO").arg("commandstats").to_owned()).await.unwrap()
    else {
        panic!("INFO answers with a text")
    };
    let text = String::from_utf8(text).unwrap();
    let fields = text.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
    fields.map(|(name, rest)| (name.into(), rest.split(',').next().unwrap().parse().unwrap())).collect()
}

fn sum(calls: &BTreeMap<String, u64>) -> u64 {
    calls.iter().filter(|(name, _)| *name != "info").map(|(_, count)| count).sum()
}

#[tokio::test]
async fn plain_jobs_cost_two_commands_more_in_a_batch_and_none_more_for_each() {
    let server = RedisServer::start(Options::default());
    let broker = broker(&server).await;
    for size in [50, 200] {
        let jobs: Vec<NewJob> = (0..3 * size).map(|n| single(size * 1_000 + n)).collect();
        broker.submit(&jobs).await.unwrap();
        let held = broker.claim(&claim(size as u32)).await.unwrap();
        let settles: Vec<Settle> = held.iter().map(settle).collect();
        let before = sum(&calls(&broker).await);
        broker.settle(&settles, Some(&claim(size as u32))).await.unwrap();
        let after = sum(&calls(&broker).await);
        // The function, its version and clock; to settle MGET, MSET, leases, retention; the work items, the tenants; the jobs,
        // their removal, whether more are left; to claim MGET, MSET, leases; the notification. Six for turns: whether the
        // turn, which is written, that of the queue, the virtual time, which is written, and whom it passes. And two for what
        // few jobs use: whether anything is special, and who holds the tenant queue. One counts the bytes of the results. Two for
        // the usage of the task, and three more for the first one of an hour.
        let first = if size == 50 { 3 } else { 0 };
        assert_eq!(after - before, 16 + 6 + 2 + 1 + 2 + first, "{size}");
    }
}

#[tokio::test]
async fn ten_thousand_keys_with_a_cap_do_not_make_a_claim_slow() {
    let server = RedisServer::start(Options::default());
    let broker = broker(&server).await;
    // Two jobs of each key: the first ones run, and the second ones are found out to have to wait.
    for round in 0..2_u64 {
        let jobs: Vec<NewJob> =
            (0..10_000).map(|n| NewJob { id: single(n + round * 100_000).id, ..of_key(n, 1) }).collect();
        broker.submit(&jobs).await.unwrap();
    }
    let (mut most, mut started, mut empty) = (0, 0, 0);
    // Then all second ones are parked: each claim parks as many as it has a budget for.
    while empty < 60 {
        let before = sum(&calls(&broker).await);
        let held = broker.claim(&claim(100)).await.unwrap();
        most = most.max(sum(&calls(&broker).await) - before);
        started += held.len();
        empty += u32::from(held.is_empty());
    }
    assert_eq!(started, 10_000);
    // Each job, move or park takes some 25 calls.
    assert!(most <= u64::from(100 + CLAIM_SCAN) * 40, "{most}");
    // Another key's job is found at once.
    broker.submit(&[of_key(50_000, 1)]).await.unwrap();
    let before = sum(&calls(&broker).await);
    assert_eq!(broker.claim(&claim(1)).await.unwrap().len(), 1);
    assert!(sum(&calls(&broker).await) - before < 60);
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn limits_and_parks_are_still_there_after_a_kill() {
    let mut server = RedisServer::start(Options { appendonly: true, ..Options::default() });
    let broker = broker(&server).await;
    let hourly = JobLimits { rate: Some(Rate { count: 1, period_ms: 3_600_000, burst: 1 }), ..JobLimits::default() };
    broker.submit(&[limited(1, hourly.clone()), limited(2, hourly)]).await.unwrap();
    let pause = ControlPatch { paused: Some(true), ..ControlPatch::default() };
    broker.set_control(&tenant(), &Scope::Task("other".parse().unwrap()), &pause).await.unwrap();
    assert_eq!(broker.claim(&claim(5)).await.unwrap().len(), 1);
    drop(broker);
    server.kill();
    server.restart();
    let broker = self::broker(&server).await;
    assert!(broker.claim(&claim(5)).await.unwrap().is_empty());
    assert_eq!(broker.controls(&tenant()).await.unwrap().len(), 1);
    let queue = broker.queues(&tenant()).await.unwrap().remove(0);
    assert_eq!((queue.queued, queue.running), (1, 1));
    assert!(broker.promote(10).await.unwrap().next_due.is_some());
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
#[ignore = "a measurement"]
async fn time_of_an_audit() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let jobs: Vec<NewJob> = (0..100_000).map(cost::plain_job).collect();
    for batch in jobs.chunks(500) {
        broker.submit(batch).await.unwrap();
    }
    for _ in 0..2 {
        let start = std::time::Instant::now();
        let before = cost::meter(&broker).await.0;
        assert_eq!(broker.audit(false).await.unwrap(), []);
        let used = (cost::meter(&broker).await.0 - before) / 1e6;
        println!("audit of {} jobs: {:?}, {used:.2} s in functions", jobs.len(), start.elapsed());
    }
}

#[tokio::test]
async fn an_audit_takes_one_command_for_a_job_and_few_for_all_of_them() {
    const JOBS: u64 = 3_000;
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let labelled = |n: u64| conformance::labelled(cost::plain_job(n), &["a"], &[]);
    let jobs: Vec<NewJob> = (0..JOBS).map(|n| if n % 2 == 0 { labelled(n) } else { cost::plain_job(n) }).collect();
    broker.submit(&jobs).await.unwrap();
    let start = cost::meter(&broker).await.3;
    assert_eq!(broker.audit(false).await.unwrap(), []);
    let commands = (cost::meter(&broker).await.3 - start) / JOBS as f64;
    println!("commands of an audit, a job: {commands}");
    // One as an entry, and what its bytes take; each of the labelled ones is looked at as an entry of its label, too.
    assert!(commands < 5.5, "{commands}");
}
