//! Counting anew what tenants have stored, beside work and after processes of older releases.

use std::collections::{BTreeMap, BTreeSet};

use redis::FromRedisValue as _;

use super::{full::single, *};

const DAY_MS: u64 = 86_400_000;

fn key(name: &str) -> String {
    format!("umbel:{{s0}}:{name}")
}

fn tenant(n: u64) -> TenantId {
    TenantId::new(format!("tenant{n}")).unwrap()
}

fn run<T: redis::FromRedisValue>(server: &RedisServer, words: &[&str]) -> T {
    redis::cmd(words[0]).arg(&words[1..]).query(&mut server.connection()).unwrap()
}

/// Does all that is left to do.
pub(super) async fn catch_up(broker: &RedisBroker) {
    while broker.catch_up().await.unwrap() {}
}

async fn broker_with_clock(server: &RedisServer) -> (RedisBroker, Arc<AtomicU64>) {
    let (clock, now) = Clock::manual(conformance::START_MS);
    let broker = RedisBroker::connect(RedisConfig { clock, ..RedisConfig::new(server.url()) }).await.unwrap();
    (broker, now)
}

/// Numbers from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Tenants that submit and delete jobs, and what they should have stored.
struct World<'a> {
    broker: &'a RedisBroker,
    draw: Draw,
    last: u64,
    /// Bytes by job, of each tenant.
    stored: BTreeMap<u64, BTreeMap<JobId, u64>>,
}

impl World<'_> {
    async fn submit(&mut self, tenant_number: u64, count: u64) {
        let mut jobs = Vec::new();
        for _ in 0..count {
            self.last += 1;
            let spec = format!("\"{}\"", "x".repeat(self.draw.below(3_000) as usize));
            let job = NewJob { tenant: tenant(tenant_number), spec, ..single(self.last) };
            self.stored.entry(tenant_number).or_default().insert(job.id, job.spec.len() as u64);
            jobs.push(job);
        }
        let answers = self.broker.submit(&jobs).await.unwrap();
        assert!(answers.iter().all(|answer| *answer == Submitted::Created), "{answers:?}");
    }

    async fn delete(&mut self, tenant_number: u64, count: u64) {
        for _ in 0..count {
            let jobs = self.stored.get_mut(&tenant_number).unwrap();
            let at = self.draw.below(jobs.len() as u64) as usize;
            let id = *jobs.keys().nth(at).unwrap();
            jobs.remove(&id);
            self.broker.cancel(&tenant(tenant_number), id, true).await.unwrap();
            assert_eq!(self.broker.forget(&tenant(tenant_number), id).await.unwrap(), Forgot::Forgotten);
        }
    }

    fn real(&self, tenant_number: u64) -> u64 {
        self.stored[&tenant_number].values().sum()
    }

    async fn counted(&self, tenant_number: u64) -> u64 {
        self.broker.stored_bytes(&tenant(tenant_number)).await.unwrap().jobs
    }
}

#[tokio::test]
async fn a_recount_corrects_what_is_certainly_wrong_beside_work_and_all_in_calm() {
    const QUIET: u64 = 4;
    for seed in 0..4 {
        let server = RedisServer::start(Options::default());
        let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
        let mut world = World { broker: &broker, draw: Draw(seed), last: 0, stored: BTreeMap::new() };
        for n in 0..=QUIET {
            world.submit(n, 1_500).await;
        }
        // The first one is right. The others are wrong by little or by much.
        let errors: Vec<i64> =
            [0, -1_000_000, 100_000_000, 20_000, -1].map(|error| if seed % 2 == 0 { error } else { -error }).into();
        for (n, error) in errors.iter().enumerate() {
            run::<i64>(&server, &["HINCRBY", &key(&format!("meta:stored:tenant{n}")), "j", &error.to_string()]);
        }
        run::<i64>(&server, &["DEL", &key("meta:recounted_v1")]);
        let is_counted = AtomicU64::new(0);
        let counting = async {
            catch_up(&broker).await;
            is_counted.store(1, Ordering::SeqCst);
        };
        let working = async {
            let mut rounds = 0;
            while is_counted.load(Ordering::SeqCst) == 0 {
                for n in 0..QUIET {
                    let (more, fewer) = (world.draw.below(8), world.draw.below(4));
                    world.submit(n, more).await;
                    world.delete(n, fewer).await;
                    rounds += 1;
                }
            }
            rounds
        };
        let rounds = tokio::join!(counting, working).1;
        assert!(rounds >= 4, "{rounds}: nobody worked meanwhile");
        let changed: BTreeMap<String, u64> = run(&server, &["HGETALL", &key("meta:changed_v1")]);
        let changed_of =
            |n: u64| -> u64 { ["+", "-"].iter().filter_map(|sign| changed.get(&format!("tenant{n},{sign}j"))).sum() };
        for n in 0..=QUIET {
            let (counted, real) = (world.counted(n).await, world.real(n));
            println!("seed {seed}, tenant {n}: {counted} for {real}, {} came and went", changed_of(n));
            let left = counted.abs_diff(real);
            assert!(left <= changed_of(n), "seed {seed}, tenant {n}: {counted} for {real}");
            assert!(left <= errors[n as usize].unsigned_abs(), "it is no worse: seed {seed}, tenant {n}");
        }
        assert_eq!(world.counted(0).await, world.real(0), "what was right stays right");
        assert_eq!(world.counted(QUIET).await, world.real(QUIET), "a quiet tenant beside busy ones");

        run::<i64>(&server, &["DEL", &key("meta:recounted_v1")]);
        catch_up(&broker).await;
        for n in 0..=QUIET {
            assert_eq!(world.counted(n).await, world.real(n), "seed {seed}, tenant {n}");
        }
        assert_eq!(broker.audit(false).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_counter_that_was_far_too_small_is_right_after_deletions_beside_a_recount() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let mut world = World { broker: &broker, draw: Draw(1), last: 0, stored: BTreeMap::new() };
    world.submit(0, 3_000).await;
    for start in 0..2 {
        run::<i64>(&server, &["DEL", &key("meta:stored:tenant0"), &key("meta:recounted_v1")]);
        while broker.catch_up().await.unwrap() {
            world.delete(0, 300 * start).await;
            let counted = world.counted(0).await;
            assert!(counted <= world.real(0), "{counted}");
        }
    }
    run::<i64>(&server, &["DEL", &key("meta:recounted_v1")]);
    catch_up(&broker).await;
    assert_eq!(world.counted(0).await, world.real(0));
}

/// Calls of functions so far.
async fn calls(broker: &RedisBroker) -> u64 {
    let info = broker.command(&redis::cmd("INFO").arg("commandstats").to_owned()).await.unwrap();
    let text = String::from_redis_value(info).unwrap();
    let stats = text.lines().find_map(|line| line.strip_prefix("cmdstat_fcall:calls=")).unwrap();
    stats.split(',').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn ten_thousand_tenants_are_counted_with_few_short_calls() {
    const TENANTS: u64 = 10_000;
    let server = RedisServer::start(Options::default());
    let (broker, now) = broker_with_clock(&server).await;
    let jobs: Vec<NewJob> = (0..TENANTS).map(|n| NewJob { tenant: tenant(n), ..single(n) }).collect();
    for piece in jobs.chunks(500) {
        broker.submit(piece).await.unwrap();
    }
    for n in (0..TENANTS).step_by(7) {
        run::<i64>(&server, &["HSET", &key(&format!("meta:stored:tenant{n}")), "j", "99"]);
    }
    now.fetch_add(DAY_MS, Ordering::SeqCst);
    let () = run(&server, &["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    let () = run(&server, &["CONFIG", "SET", "slowlog-max-len", "100000"]);
    let () = run(&server, &["SLOWLOG", "RESET"]);
    let before = calls(&broker).await;
    let start = std::time::Instant::now();
    catch_up(&broker).await;
    let entries: Vec<(i64, i64, i64, Vec<String>, String, String)> = run(&server, &["SLOWLOG", "GET", "100000"]);
    let longest = entries.iter().map(|entry| (entry.2, entry.3[1].clone())).max();
    let made = calls(&broker).await - before;
    println!("{made} calls in {:?}; the longest, in microseconds: {longest:?}", start.elapsed());
    // Five keys for each tenant, and two calls for each page of a thousand keys that begin a step.
    assert!(made < 450, "{made}");
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn logs_and_shelves_that_are_long_are_measured_in_short_steps() {
    const JOBS: u64 = 60;
    let server = RedisServer::start(Options::default());
    let (broker, now) = broker_with_clock(&server).await;
    broker.submit(&(0..JOBS).map(single).collect::<Vec<_>>()).await.unwrap();
    let held = broker.claim(&chords::claim(JOBS as u32)).await.unwrap();
    for delivery in &held {
        let line =
            LogLine { at: 1, attempt: 1, level: "info".into(), context: String::new(), message: "x".repeat(100) };
        let logs = vec![line; 1_000];
        broker.settle(&[Settle { logs, ..chords::settle(delivery) }], None).await.unwrap();
    }
    for n in 0..1_800 {
        let document = PutDocument {
            tenant: tenant(0),
            kind: DocumentKind::Task,
            name: format!("task{n:04}"),
            expect: Expect::Any,
            body: Some("{}".into()),
            held_bytes: 3,
        };
        broker.put_document(&document).await.unwrap();
    }
    let right = broker.stored_bytes(&tenant(0)).await.unwrap();
    assert!(right.logs > JOBS * 100_000 && right.documents > 1_800 * 10, "{right:?}");
    run::<i64>(&server, &["DEL", &key("meta:stored:tenant0")]);
    now.fetch_add(DAY_MS, Ordering::SeqCst);
    let before = calls(&broker).await;
    catch_up(&broker).await;
    assert!(calls(&broker).await - before > 30);
    assert_eq!(broker.stored_bytes(&tenant(0)).await.unwrap(), right);
}

#[tokio::test]
async fn a_key_that_a_scan_comes_back_to_counts_once() {
    let server = RedisServer::start(Options { arguments: &["--enable-debug-command", "yes"], ..Options::default() });
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let mut world = World { broker: &broker, draw: Draw(1), last: 0, stored: BTreeMap::new() };
    let mut came_back = 0;
    // Whether the scan stands in the middle of such keys when the table shrinks is chance: about every third time.
    for round in 0..8 {
        world.submit(0, 500).await;
        let () = run(&server, &["DEBUG", "POPULATE", "100000", "filler"]);
        run::<i64>(&server, &["DEL", &key("meta:recounted_v1")]);
        let (mut cursor, mut seen, mut pages) = ("0".to_owned(), BTreeSet::new(), 0);
        while broker.catch_up().await.unwrap() {
            // The same scan beside it.
            if pages == 0 || cursor != "0" {
                let names: Vec<String>;
                (cursor, names) = run(&server, &["SCAN", &cursor, "MATCH", &key("job:*"), "COUNT", "1000"]);
                came_back += names.into_iter().filter(|name| !seen.insert(name.clone())).count();
            }
            pages += 1;
            if pages == 20 + round % 50 {
                let delete = "local n = 0 for _, k in ipairs(redis.call('KEYS', 'filler*')) do n = n + redis.call('DEL', k) end return n";
                assert_eq!(run::<i64>(&server, &["EVAL", delete, "0"]), 100_000);
                // The server shrinks its table ten times a second, if it is too large.
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            }
        }
        assert_eq!(world.counted(0).await, world.real(0));
    }
    println!("{came_back} names came twice");
}

/// As a process does that does not count bytes.
async fn submit_as_an_older_release(broker: &RedisBroker, server: &RedisServer, n: u64) {
    let known: Option<String> = run(server, &["GET", &key("meta:counted_seq")]);
    let counted: Option<String> = run(server, &["HGET", &key("meta:stored:tenant0"), "j"]);
    broker.submit(&[single(n)]).await.unwrap();
    match known {
        Some(known) => run::<()>(server, &["SET", &key("meta:counted_seq"), &known]),
        None => drop(run::<i64>(server, &["DEL", &key("meta:counted_seq")])),
    }
    match counted {
        Some(counted) => run::<i64>(server, &["HSET", &key("meta:stored:tenant0"), "j", &counted]),
        None => run(server, &["DEL", &key("meta:stored:tenant0")]),
    };
}

#[tokio::test]
async fn the_bytes_are_counted_anew_once_older_processes_are_gone() {
    const SOON_MS: u64 = 180_000;
    let server = RedisServer::start(Options::default());
    let (broker, now) = broker_with_clock(&server).await;
    let jobs = async || broker.stored_bytes(&tenant(0)).await.unwrap().jobs;
    broker.submit(&[single(1)]).await.unwrap();
    catch_up(&broker).await;
    now.fetch_add(1_000, Ordering::SeqCst);

    // One that submits; whether or not a newer one submits after it.
    submit_as_an_older_release(&broker, &server, 2).await;
    catch_up(&broker).await;
    assert_eq!(jobs().await, 2, "it was counted a moment ago");
    now.fetch_add(SOON_MS, Ordering::SeqCst);
    catch_up(&broker).await;
    assert_eq!(jobs().await, 4);
    submit_as_an_older_release(&broker, &server, 3).await;
    broker.submit(&[single(4)]).await.unwrap();
    assert_eq!(jobs().await, 6);
    now.fetch_add(SOON_MS, Ordering::SeqCst);
    catch_up(&broker).await;
    assert_eq!(jobs().await, 8);

    // Nobody was noticed since: only the day after.
    now.fetch_add(SOON_MS, Ordering::SeqCst);
    catch_up(&broker).await;
    now.fetch_add(SOON_MS, Ordering::SeqCst);
    run::<i64>(&server, &["HSET", &key("meta:stored:tenant0"), "j", "99"]);
    catch_up(&broker).await;
    assert_eq!(jobs().await, 99);

    // A worker, which submits nothing.
    let at = now.load(Ordering::SeqCst);
    run::<i64>(&server, &["ZADD", &key("workers_seen"), &at.to_string(), "old-1"]);
    catch_up(&broker).await;
    assert_eq!(jobs().await, 8);
    run::<i64>(&server, &["HSET", &key("meta:stored:tenant0"), "j", "99"]);
    now.fetch_add(1_000, Ordering::SeqCst);
    catch_up(&broker).await;
    now.fetch_add(SOON_MS, Ordering::SeqCst);
    catch_up(&broker).await;
    assert_eq!(jobs().await, 8);

    // One of this release counts.
    broker.heartbeat(&faults::worker()).await.unwrap();
    catch_up(&broker).await;
    now.fetch_add(SOON_MS, Ordering::SeqCst);
    broker.heartbeat(&faults::worker()).await.unwrap();
    run::<i64>(&server, &["HSET", &key("meta:stored:tenant0"), "j", "99"]);
    catch_up(&broker).await;
    assert_eq!(jobs().await, 99);
}
