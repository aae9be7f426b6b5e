//! Schedules: brokers that fire at once, a server that dies meanwhile, what a fire costs, and a full server.

use std::time::Duration;

use super::{
    chords::{claim, tenant},
    cost,
    faults::{impatient, within_seconds},
    full::single,
    *,
};

/// The step that makes a schedule at which somebody looked long ago, with one fire.
pub(super) fn make(name: &str) -> ScheduleStep {
    ScheduleStep {
        tenant: tenant(),
        name: name.parse().unwrap(),
        revision: 0,
        not_before: 0,
        change: ScheduleChange::Put { definition: Some("{}".into()), state: "s".into(), look_at: Some(1_000) },
        fires: vec!["one".into()],
        start: None,
    }
}

fn put(name: &str, revision: u64, state: &str) -> ScheduleStep {
    let change = ScheduleChange::Put { definition: None, state: state.into(), look_at: Some(2_000) };
    ScheduleStep { revision, change, fires: Vec::new(), ..make(name) }
}

async fn broker_at(server: &RedisServer, clock: &Clock) -> Arc<dyn Broker> {
    Arc::new(RedisBroker::connect(RedisConfig { clock: clock.clone(), ..impatient(server) }).await.unwrap())
}

#[tokio::test]
async fn brokers_that_fire_the_same_schedules_at_once_fire_each_time_once() {
    let server = RedisServer::start(Options::default());
    let (clock, now) = Clock::manual(conformance::START_MS);
    let brokers = [broker_at(&server, &clock).await, broker_at(&server, &clock).await];
    let until = conformance::START_MS + 60;
    conformance::fire_each_millisecond(&*brokers[0]).await;
    now.store(until, Ordering::SeqCst);
    let servers = (1..=6).map(|n| tokio::spawn(conformance::fire_what_is_due(brokers[n % 2].clone(), n as u64, until)));
    for server in servers.collect::<Vec<_>>() {
        server.await.unwrap();
    }
    conformance::assert_each_time_fired_once(&*brokers[0], until).await;
    assert_eq!(brokers[1].audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn no_time_is_lost_or_fires_twice_when_the_server_is_killed_and_comes_back() {
    const ROUNDS: u64 = 4;
    let mut server = RedisServer::start(Options { appendonly: true, ..Options::default() });
    let (clock, now) = Clock::manual(conformance::START_MS);
    let brokers = [broker_at(&server, &clock).await, broker_at(&server, &clock).await];
    let until = conformance::START_MS + ROUNDS * 25;
    conformance::fire_each_millisecond(&*brokers[0]).await;
    let servers = (1..=4).map(|n| tokio::spawn(conformance::fire_what_is_due(brokers[n % 2].clone(), n as u64, until)));
    let servers: Vec<_> = servers.collect();
    for round in 1..=ROUNDS {
        // Much is due at once, and the server dies in the middle of it.
        now.store(conformance::START_MS + round * 25, Ordering::SeqCst);
        server = tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(3 * round));
            server.kill();
            server.restart();
            server
        })
        .await
        .unwrap();
        within_seconds(10, || async { brokers[0].check().await.is_ok() }).await;
    }
    for server in servers {
        server.await.unwrap();
    }
    within_seconds(10, || async { brokers[0].check().await.is_ok() }).await;
    conformance::assert_each_time_fired_once(&*brokers[0], until).await;
    assert_eq!(brokers[1].audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn a_full_server_fires_nothing_and_lets_schedules_be_deleted() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.schedule_steps(&[make("a")]).await.unwrap();
    let limit = |bytes: &str| {
        let () = redis::cmd("CONFIG").arg(&["SET", "maxmemory", bytes]).query(&mut server.connection()).unwrap();
    };
    limit("1");
    let fire = ScheduleStep { start: Some(NewRun::Job(Box::new(single(1)))), ..put("a", 1, "s1") };
    assert!(matches!(broker.schedule_steps(std::slice::from_ref(&fire)).await, Err(Error::Full(_))));
    assert_eq!(broker.due_schedules(5).await.unwrap().schedules.len(), 1);
    let delete = ScheduleStep { change: ScheduleChange::Delete, ..put("a", 1, "") };
    let done = ScheduleStepped::Done { version: 0, revision: 2 };
    assert_eq!(broker.schedule_steps(&[delete]).await.unwrap(), [done]);
    limit("0");
    assert_eq!(broker.schedule_steps(&[fire]).await.unwrap(), [ScheduleStepped::Stale { revision: 0 }]);
    assert!(broker.claim(&claim(5)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_schedule_that_is_gone_is_looked_for_once() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.schedule_steps(&[make("a")]).await.unwrap();
    for name in ["tenant0,0", "tenant0,b", "tenant9,c"] {
        let due = "umbel:{s0}:meta:schedules_due_v1";
        let () = redis::cmd("ZADD").arg(due).arg(1_000).arg(name).query(&mut server.connection()).unwrap();
    }
    let due = broker.due_schedules(10).await.unwrap();
    assert_eq!((due.schedules.len(), due.next_look), (1, None));
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn a_damaged_schedule_stops_none_of_the_others() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let names = ["a", "b", "c", "d", "e"];
    broker.schedule_steps(&names.map(make)).await.unwrap();
    let run = |command: &[&[u8]]| {
        let mut all = redis::cmd(std::str::from_utf8(command[0]).unwrap());
        for part in &command[1..] {
            all.arg(*part);
        }
        let _: redis::Value = all.query(&mut server.connection()).unwrap();
    };
    run(&[b"HSET", b"umbel:{s0}:meta:schedule_v1:tenant0,a", b"d", b"\xff"]);
    run(&[b"HSET", b"umbel:{s0}:meta:schedule_v1:tenant0,b", b"r", b"many"]);
    run(&[b"HDEL", b"umbel:{s0}:meta:schedule_v1:tenant0,c", b"s"]);
    run(&[b"SET", b"umbel:{s0}:meta:schedule_v1:tenant0,d", b"a text"]);
    run(&[b"ZADD", b"umbel:{s0}:meta:schedules_due_v1", b"1", b"no comma"]);
    let read = |schedules: Vec<ScheduleRecord>| schedules.into_iter().map(|one| one.name).collect::<Vec<_>>();
    let whole: [umbel_model::ScheduleName; 1] = ["e".parse().unwrap()];
    let due = broker.due_schedules(10).await.unwrap();
    assert_eq!((read(due.schedules), due.next_look), (whole.to_vec(), None));
    // Those that are not whole are not looked for again.
    let left: Vec<String> = redis::cmd("ZRANGE")
        .arg("umbel:{s0}:meta:schedules_due_v1")
        .arg(0)
        .arg(-1)
        .query(&mut server.connection())
        .unwrap();
    assert_eq!(left, ["tenant0,a", "tenant0,b", "tenant0,e"]);
    let query = ScheduleQuery { tenant: tenant(), prefix: String::new(), after: None, max: 10 };
    assert_eq!(read(broker.schedules(&query).await.unwrap().schedules), whole);
}

#[tokio::test]
async fn a_process_of_an_older_release_that_counts_anew_leaves_the_bytes_of_schedules() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.schedule_steps(&[make("name")]).await.unwrap();
    let stored: std::collections::BTreeMap<String, u64> =
        redis::cmd("HGETALL").arg("umbel:{s0}:meta:stored:tenant0").query(&mut server.connection()).unwrap();
    // It knows `d`, of which it finds nothing.
    assert_eq!(stored, [("s".to_owned(), 7)].into());
    assert_eq!(broker.stored_bytes(&tenant()).await.unwrap().documents, 7);
}

#[tokio::test]
async fn a_fire_takes_few_commands_and_a_call_few_milliseconds() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let tenant_of = |n: u64| TenantId::new(format!("t{}", n % 10)).unwrap();
    let text = "x".repeat(1_000);
    let name = |n: u64| format!("s{n}").parse().unwrap();
    for first in (0..1_000).step_by(100) {
        let made = (first..first + 100).map(|n| ScheduleStep { tenant: tenant_of(n), name: name(n), ..make("s") });
        broker.schedule_steps(&made.collect::<Vec<_>>()).await.unwrap();
    }
    let mut revisions: Vec<u64> = Vec::new();
    for n in 0..100 {
        revisions.push(broker.schedule(&tenant_of(n), &name(n)).await.unwrap().unwrap().revision);
    }
    let fires = (0..100).map(|n| {
        let job = NewJob { tenant: tenant_of(n), ..cost::plain_job(n) };
        let start = Some(NewRun::Job(Box::new(job)));
        let step = put("s", revisions[n as usize], &text);
        ScheduleStep { tenant: tenant_of(n), name: name(n), fires: vec![text.clone()], start, ..step }
    });
    let fires: Vec<ScheduleStep> = fires.collect();
    let before = cost::meter(&broker).await;
    let started = std::time::Instant::now();
    let answers = broker.schedule_steps(&fires).await.unwrap();
    let took = started.elapsed();
    let after = cost::meter(&broker).await;
    assert!(answers.iter().all(|answer| matches!(answer, ScheduleStepped::Done { .. })), "{answers:?}");
    let commands = (after.3 - before.3) / 100.0;
    println!("100 fires: {took:?}, {:.0} us in functions, {commands:.1} commands each", after.0 - before.0);
    // Six of the job, seven of the schedule; and those of four calls.
    assert!(commands < 15.0, "{commands}");
}
