//! Changes that are confirmed by replicas, with real ones.

use std::time::Duration;

use super::{faults::within_seconds, *};

fn config(server: &RedisServer, confirm_timeout: Duration) -> RedisConfig {
    RedisConfig { durability: Durability::Replicated(1), confirm_timeout, ..RedisConfig::new(server.url()) }
}

/// Makes `server` a replica of `primary`, and waits until it follows.
async fn follow(server: &RedisServer, primary: &RedisServer) {
    let port = primary.port().to_string();
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).exec(&mut server.connection()).unwrap();
    let follows = || async {
        let info: String = redis::cmd("INFO").arg("replication").query(&mut server.connection()).unwrap();
        info.contains("master_link_status:up")
    };
    within_seconds(20, follows).await;
}

#[tokio::test]
async fn a_submission_that_no_replica_confirms_is_stored_and_says_so() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(config(&server, Duration::from_millis(50))).await.unwrap();
    let job = cost::plain_job(1);
    let Err(Error::Unconfirmed(why)) = broker.submit(std::slice::from_ref(&job)).await else {
        panic!("it was confirmed")
    };
    assert!(why.contains("0 of 1 replicas"), "{why}");
    assert!(broker.job(&job.tenant, job.id).await.unwrap().is_some());
}

#[tokio::test]
async fn what_was_answered_survives_the_loss_of_the_primary() {
    let (mut primary, replica) = (RedisServer::start(Options::default()), RedisServer::start(Options::default()));
    follow(&replica, &primary).await;
    let broker = RedisBroker::connect(config(&primary, Duration::from_secs(20))).await.unwrap();
    let jobs: Vec<NewJob> = (0..200).map(cost::plain_job).collect();
    let submissions = jobs.iter().map(|job| broker.submit(std::slice::from_ref(job)));
    for answer in futures::future::join_all(submissions).await {
        assert_eq!(answer.unwrap(), [Submitted::Created]);
    }
    primary.kill();
    redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec(&mut replica.connection()).unwrap();
    let promoted = RedisBroker::connect(RedisConfig::new(replica.url())).await.unwrap();
    for job in &jobs {
        assert!(promoted.job(&job.tenant, job.id).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn nobody_waits_behind_a_submission_that_waits_for_a_replica() {
    let (primary, replica) = (RedisServer::start(Options::default()), RedisServer::start(Options::default()));
    let broker = Arc::new(RedisBroker::connect(config(&primary, Duration::from_secs(60))).await.unwrap());
    let job = cost::plain_job(1);
    let submission = tokio::spawn({
        let (broker, job) = (broker.clone(), job.clone());
        async move { broker.submit(&[job]).await }
    });
    let is_stored = || async { broker.job(&job.tenant, job.id).await.unwrap().is_some() };
    within_seconds(20, is_stored).await;
    assert!(!submission.is_finished());
    follow(&replica, &primary).await;
    assert_eq!(submission.await.unwrap().unwrap(), [Submitted::Created]);
}

#[tokio::test]
async fn waiting_for_the_disk_is_refused_by_name_where_the_server_cannot() {
    let server = RedisServer::start(Options { appendonly: true, ..Options::default() });
    let info: String = redis::cmd("INFO").arg("server").query(&mut server.connection()).unwrap();
    let fsync = RedisConfig { durability: Durability::Fsync, ..RedisConfig::new(server.url()) };
    let connected = RedisBroker::connect(fsync).await;
    if !info.contains("redis_version:7.0.") {
        // A later server confirms it.
        let broker = connected.unwrap();
        assert_eq!(broker.submit(&[cost::plain_job(1)]).await.unwrap(), [Submitted::Created]);
        return;
    }
    let Err(Error::Refused(why)) = connected else { panic!("it was accepted") };
    assert!(why.contains("WAITAOF") && why.contains("7.2") && why.contains("appendfsync always"), "{why}");
}
