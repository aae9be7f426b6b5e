//! Servers as they are run in earnest: that take no writes for a while, that do not answer, and users with too few rights.

use std::{net::TcpListener, time::Duration};

use umbel_model::Resolution;

use super::{
    faults::{claim, impatient, job, refusal, settle, succeed, within_seconds},
    *,
};

const WITHIN: Duration = Duration::from_millis(500);

fn ask(server: &RedisServer, command: &[&str]) -> redis::Value {
    redis::cmd(command[0]).arg(&command[1..]).query(&mut server.connection()).unwrap()
}

/// The same server as another user.
fn as_user(server: &RedisServer, name: &str) -> RedisConfig {
    RedisConfig { url: server.url().replace("//", &format!("//{name}:pw@")), ..impatient(server) }
}

fn user(server: &RedisServer, name: &str, rules: &[&str]) {
    let all = [&["ACL", "SETUSER", name, "on", ">pw", "~umbel:*", "&umbel:*", "+@all"], rules].concat();
    ask(server, &all);
}

fn unavailable<T: std::fmt::Debug>(answer: Result<T>) -> String {
    match answer {
        Err(Error::Unavailable(why)) => why,
        other => panic!("expected that it cannot be reached, got {other:?}"),
    }
}

/// Nothing is written while the server is like this, and all goes on after it.
async fn is_not_ready(server: &RedisServer, begin: &[&[&str]], end: &[&[&str]], says: &str, away: bool) {
    let broker = RedisBroker::connect(impatient(server)).await.unwrap();
    let ids = [job(1), job(2)];
    broker.submit(&ids).await.unwrap();
    let held = broker.claim(&claim(1)).await.unwrap();
    broker.check().await.unwrap();
    assert!(!broker.is_away(WITHIN).await);
    for command in begin {
        ask(server, command);
    }
    let why = unavailable(broker.check().await);
    assert!(why.contains(says), "{why}");
    assert_eq!(broker.is_away(WITHIN).await, away);
    unavailable(broker.settle(&[settle(&held[0], succeed())], None).await);
    unavailable(broker.submit(&[job(3)]).await);
    for command in end {
        ask(server, command);
    }
    within_seconds(20, || async { broker.check().await.is_ok() }).await;
    assert_eq!(broker.settle(&[settle(&held[0], succeed())], None).await.unwrap().0, [Settled::Recorded]);
    assert_eq!(broker.claim(&claim(10)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_server_with_too_few_replicas_is_not_ready_and_keeps_what_waits() {
    let server = RedisServer::start(Options::default());
    let set = |n| ["CONFIG", "SET", "min-replicas-to-write", n];
    is_not_ready(&server, &[&set("1")], &[&set("0")], "min-replicas-to-write", true).await;
}

#[tokio::test]
async fn a_primary_that_becomes_a_replica_is_not_ready_until_it_is_the_primary_again() {
    let server = RedisServer::start(Options::default());
    let (begin, end) = (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]);
    // Its successor may serve others.
    is_not_ready(&server, &[&begin], &[&end], "read-only replica", false).await;
}

#[tokio::test]
async fn a_server_that_cannot_save_is_not_ready() {
    let server = RedisServer::start(Options::default());
    let folder: Vec<String> = redis::cmd("CONFIG").arg(&["GET", "dir"]).query(&mut server.connection()).unwrap();
    let in_the_way = std::path::Path::new(&folder[1]).join("dump.rdb/x");
    std::fs::create_dir_all(&in_the_way).unwrap();
    let saved = |how: &'static str| {
        let server = &server;
        move || async move {
            let info: String = redis::cmd("INFO").query(&mut server.connection()).unwrap();
            info.contains(&format!("rdb_last_bgsave_status:{how}")) && info.contains("rdb_bgsave_in_progress:0")
        }
    };
    ask(&server, &["BGSAVE"]);
    within_seconds(20, saved("err")).await;
    let set = |save| ["CONFIG", "SET", "save", save];
    is_not_ready(&server, &[&set("3600 1000000")], &[&set("")], "cannot write to its disk", true).await;
}

#[tokio::test]
async fn a_server_that_stalls_or_is_down_serves_nobody_and_one_that_cannot_be_reached_may() {
    let mut server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(impatient(&server)).await.unwrap();
    assert!(!broker.is_away(WITHIN).await);
    server.suspend();
    assert!(broker.is_away(WITHIN).await);
    server.resume();
    within_seconds(20, || async { !broker.is_away(WITHIN).await }).await;
    server.kill();
    assert!(broker.is_away(WITHIN).await);
    // A proxy that has lost its server.
    let proxy = TcpListener::bind(("127.0.0.1", server.port())).unwrap();
    std::thread::spawn(move || proxy.incoming().for_each(drop));
    assert!(!broker.is_away(WITHIN).await);
}

#[tokio::test]
async fn what_a_claim_took_whose_answer_was_lost_is_handed_back_at_once_and_costs_nothing() {
    let server = RedisServer::start(Options::default());
    let short = Duration::from_millis(300);
    let config = RedisConfig { response_timeout: short, connect_timeout: short, ..impatient(&server) };
    let broker = RedisBroker::connect(config).await.unwrap();
    broker.submit(&[job(1), job(2), job(3)]).await.unwrap();
    let held = broker.claim(&claim(1)).await.unwrap();
    server.suspend();
    let long = || Claim { lease_ms: 3_600_000, ..claim(10) };
    unavailable(broker.claim(&long()).await);
    // It is done at wake-up, on a connection that nobody reads any more.
    server.resume();
    within_seconds(20, || async { broker.check().await.is_ok() }).await;
    let claimed = broker.claim(&long()).await.unwrap();
    assert_eq!(claimed.iter().map(|d| d.delivery).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(broker.settle(&[settle(&held[0], succeed())], None).await.unwrap().0, [Settled::Recorded]);
}

#[tokio::test]
async fn rights_that_are_missing_are_named_when_a_process_starts() {
    let server = RedisServer::start(Options::default());
    user(&server, "good", &[]);
    RedisBroker::connect(as_user(&server, "good")).await.unwrap().check().await.unwrap();
    user(&server, "weak", &["-zadd", "-hincrby"]);
    let why = refusal(as_user(&server, "weak")).await;
    assert!(why.contains("HINCRBY") && why.contains("ZADD") && !why.contains("ZREM") && !why.contains("pw"), "{why}");
    user(&server, "mute", &["resetchannels"]);
    let why = refusal(as_user(&server, "mute")).await;
    assert!(why.contains("PUBLISH to umbel:{s0}:work"), "{why}");
    user(&server, "lost", &["resetkeys", "~other:*"]);
    refusal(as_user(&server, "lost")).await;
    // The others did no harm.
    RedisBroker::connect(as_user(&server, "good")).await.unwrap().check().await.unwrap();
}

#[tokio::test]
async fn a_hint_that_may_not_be_published_fails_nothing_that_was_written() {
    let server = RedisServer::start(Options::default());
    user(&server, "u", &[]);
    let broker = RedisBroker::connect(as_user(&server, "u")).await.unwrap();
    user(&server, "u", &["resetchannels"]);
    assert_eq!(broker.submit(&[job(1)]).await.unwrap(), [Submitted::Created]);
    let held = broker.claim(&claim(1)).await.unwrap();
    assert_eq!(broker.settle(&[settle(&held[0], succeed())], None).await.unwrap().0, [Settled::Recorded]);
    assert!(matches!(broker.check().await, Err(Error::Refused(why)) if why.contains("PUBLISH")));
}

fn rate_of(burst: u32) -> Option<umbel_model::Rate> {
    Some(umbel_model::Rate { count: 100, period_ms: 1_000, burst })
}

#[tokio::test]
async fn a_full_server_hands_out_jobs_with_limits_to_a_worker_that_has_nothing_to_settle() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(impatient(&server)).await.unwrap();
    let limited = |n| {
        let (rate, key_rate) = (rate_of(100), rate_of(50));
        let limits = JobLimits { rate, concurrency: 3, key: Some("k".into()), key_rate, key_concurrency: 2 };
        let options = BrokerOptions { limits: Some(limits), ..BrokerOptions::default() };
        NewJob { broker_options: Some(Box::new(options)), ..job(n) }
    };
    let patch = ControlPatch { rate: Some(rate_of(100)), concurrency: Some(6), ..ControlPatch::default() };
    broker.set_control(&job(0).tenant, &Scope::Queue(QueueName::default()), &patch).await.unwrap();
    broker.submit(&(1..=9).map(limited).collect::<Vec<_>>()).await.unwrap();
    broker.submit(&(10..=12).map(job).collect::<Vec<_>>()).await.unwrap();
    ask(&server, &["CONFIG", "SET", "maxmemory", "1"]);
    let held = broker.claim(&claim(10)).await.unwrap();
    assert_eq!(held.len(), 2 + 3);
    let settles: Vec<Settle> = held.iter().map(|d| settle(d, Resolution::Release)).collect();
    broker.settle(&settles, None).await.unwrap();
    assert_eq!(broker.claim(&claim(10)).await.unwrap().len(), 5);
}

#[tokio::test]
async fn a_password_that_is_not_encoded_is_answered_with_how_to_encode_it() {
    for password in ["a/b", "1/2", "a#b", "a?b"] {
        let why = refusal(RedisConfig::new(format!("redis://:{password}@localhost:6379/0"))).await;
        assert!(why.contains("%2F") && !why.contains(password), "{why}");
    }
}

#[tokio::test]
async fn a_node_of_a_cluster_that_has_none_of_the_keys_says_which_does() {
    let nodes: Vec<RedisServer> = (0..2)
        .map(|_| {
            let arguments = &["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"];
            RedisServer::start(Options { arguments, ..Options::default() })
        })
        .collect();
    ask(&nodes[0], &["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    ask(&nodes[1], &["CLUSTER", "MEET", "127.0.0.1", &nodes[0].port().to_string()]);
    let knows = || async {
        let known: String = redis::cmd("CLUSTER").arg("NODES").query(&mut nodes[1].connection()).unwrap();
        known.contains("0-16383")
    };
    within_seconds(20, knows).await;
    let is_up = |node: &RedisServer| {
        let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut node.connection()).unwrap();
        info.contains("cluster_state:ok")
    };
    within_seconds(20, || async { nodes.iter().all(is_up) }).await;
    let why = unavailable(RedisBroker::connect(impatient(&nodes[1])).await);
    assert!(why.contains("Redis Cluster") && why.contains(&nodes[0].port().to_string()), "{why}");
    let broker = RedisBroker::connect(impatient(&nodes[0])).await.unwrap();
    broker.check().await.unwrap();
}
