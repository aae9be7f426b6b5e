//! Lists by label while processes of older releases submit, or have: whatever is stored is found.

use umbel_broker_conformance::labelled;

use super::{full::single, *};

fn key(name: &str) -> String {
    format!("umbel:{{s0}}:{name}")
}

/// A job with the tag `a`.
fn tagged(n: u64) -> NewJob {
    labelled(single(n), &["a"], &[("n", &n.to_string())])
}

/// As a process does that does not know labels.
async fn submit_as_an_older_release(broker: &RedisBroker, server: &RedisServer, n: u64) {
    let mut redis = server.connection();
    let known: Option<u64> = redis::cmd("GET").arg(key("meta:seq")).query(&mut redis).unwrap();
    let state: Option<String> = redis::cmd("GET").arg(key("meta:labels_v1")).query(&mut redis).unwrap();
    broker.submit(&[NewJob { labels: Vec::new(), ..tagged(n) }]).await.unwrap();
    match known {
        Some(known) => redis::cmd("SET").arg(key("meta:seq")).arg(known).query::<()>(&mut redis).unwrap(),
        None => redis::cmd("DEL").arg(key("meta:seq")).query::<()>(&mut redis).unwrap(),
    }
    match state {
        Some(state) => redis::cmd("SET").arg(key("meta:labels_v1")).arg(state).query::<()>(&mut redis).unwrap(),
        None => redis::cmd("DEL").arg(key("meta:labels_v1")).query::<()>(&mut redis).unwrap(),
    }
}

async fn found(broker: &RedisBroker) -> Vec<JobId> {
    let query = JobQuery {
        tenant: single(0).tenant,
        dead: false,
        state: None,
        task: None,
        queue: None,
        worker: None,
        labels: vec![Label::Tag("a".into())],
        before: None,
        max: 1_000,
    };
    broker.jobs(&query).await.unwrap().jobs.iter().rev().map(|job| job.id).collect()
}

async fn are_known(broker: &RedisBroker) -> bool {
    broker.typed::<i64>("has_labels", Vec::new(), Repeat::Safe).await.unwrap() == 1
}

fn ids(numbers: &[u64]) -> Vec<JobId> {
    numbers.iter().map(|n| single(*n).id).collect()
}

async fn catch_up(broker: &RedisBroker) -> u32 {
    let mut steps = 0;
    while broker.catch_up().await.unwrap() {
        steps += 1;
        assert!(steps < 100);
    }
    steps
}

#[tokio::test]
async fn a_new_store_knows_all_labels_and_has_nothing_to_catch_up_with() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.submit(&[tagged(1), single(2)]).await.unwrap();
    assert!(are_known(&broker).await);
    assert_eq!(catch_up(&broker).await, 0);
    assert_eq!(found(&broker).await, ids(&[1]));
}

#[tokio::test]
async fn jobs_of_an_older_release_are_found_by_label_before_and_after_their_labels_are_known() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    let () = redis::cmd("DEL").arg(key("meta:labels_v1")).query(&mut server.connection()).unwrap();
    for n in 1..=3 {
        submit_as_an_older_release(&broker, &server, n).await;
    }
    broker.submit(&[tagged(4)]).await.unwrap();
    let (head, nodes) = chords::chord(1, 3);
    assert_eq!(submit_workflow(&broker, &head, &nodes).await.unwrap(), WorkflowSubmitted::Created);
    assert!(!are_known(&broker).await);
    assert_eq!(found(&broker).await, ids(&[1, 2, 3, 4]));
    assert!(catch_up(&broker).await > 0);
    assert!(are_known(&broker).await);
    assert_eq!(found(&broker).await, ids(&[1, 2, 3, 4]));
    let labels: u64 = redis::cmd("HLEN").arg(key("meta:labels:tenant0")).query(&mut server.connection()).unwrap();
    assert_eq!(labels, 4);
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn an_older_process_that_submits_beside_a_new_one_is_noticed() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.submit(&[tagged(1)]).await.unwrap();
    submit_as_an_older_release(&broker, &server, 2).await;
    // Whether or not a new one submits after it.
    assert_eq!(found(&broker).await, ids(&[1, 2]));
    broker.submit(&[tagged(3)]).await.unwrap();
    assert!(!are_known(&broker).await);
    assert_eq!(found(&broker).await, ids(&[1, 2, 3]));
    // In the middle of finding out, and before the last step.
    assert!(broker.catch_up().await.unwrap());
    submit_as_an_older_release(&broker, &server, 4).await;
    broker.submit(&[tagged(5)]).await.unwrap();
    assert!(broker.catch_up().await.unwrap() && !are_known(&broker).await);
    assert!(catch_up(&broker).await > 0 && are_known(&broker).await);
    assert_eq!(found(&broker).await, ids(&[1, 2, 3, 4, 5]));
    assert_eq!(broker.audit(false).await.unwrap(), []);
}

#[tokio::test]
async fn what_an_older_process_deletes_is_in_no_list_and_an_audit_mends_the_index() {
    let server = RedisServer::start(Options::default());
    let broker = RedisBroker::connect(RedisConfig::new(server.url())).await.unwrap();
    broker.submit(&[tagged(1), tagged(2), tagged(3)]).await.unwrap();
    let mut redis = server.connection();
    // An older process forgot the first one, labels were lost of the others.
    for name in ["job:tenant0", "more:tenant0"] {
        let () = redis::cmd("DEL").arg(key(&format!("{name},{}", ids(&[1])[0]))).query(&mut redis).unwrap();
    }
    let () = redis::cmd("ZREM").arg(key("jobs:tenant0")).arg(ids(&[1])[0].to_string()).query(&mut redis).unwrap();
    let () =
        redis::cmd("ZREM").arg(key("ready:tenant0,default")).arg(ids(&[1])[0].to_string()).query(&mut redis).unwrap();
    let () =
        redis::cmd("HDEL").arg(key("meta:labels:tenant0")).arg(ids(&[2])[0].to_string()).query(&mut redis).unwrap();
    let index = key(&format!("meta:label:tenant0,{}", Label::Tag("a".into()).hash()));
    let () = redis::cmd("ZREM").arg(&index).arg(ids(&[3])[0].to_string()).query(&mut redis).unwrap();
    let checks = async |fix: bool| -> Vec<(String, u64, u64)> {
        let found = broker.audit(fix).await.unwrap();
        found.into_iter().map(|finding| (finding.check, finding.count, finding.fixed)).collect()
    };
    assert!(!found(&broker).await.contains(&ids(&[1])[0]));
    let expected = [
        ("bytes of a tenant".to_owned(), 1),
        ("job that is not found by its label".into(), 2),
        ("label of a job that is gone".into(), 2),
        ("labels of a job that is gone".into(), 1),
    ];
    let fixed: Vec<_> = expected.into_iter().map(|(check, count)| (check, count, count)).collect();
    assert_eq!(checks(true).await, fixed);
    assert_eq!(checks(true).await, []);
    assert_eq!(found(&broker).await, ids(&[2, 3]));
}
