//! Workflows that have no room to go on, and what goes on beside them.

use serde_json::value::RawValue;
use umbel_model::{Failure, JobState};

use super::{
    flows::{KEEP_MS, contradictions, flow},
    *,
};

const MEMBERS: usize = 12_000;

/// A file of 4 MiB with a job of another tenant and the source of a large group, both claimed, and no room for more.
async fn filled(path: &Path, clock: &Clock, member: &str) -> (SqliteBroker, NewWorkflow, Delivery, Delivery) {
    let config = SqliteConfig { max_size_bytes: 4 << 20, clock: clock.clone(), ..config(path) };
    let broker = SqliteBroker::open(config).unwrap();
    let members = vec![member; MEMBERS].join(",");
    let large = flow(1, &format!(r#"{{"chain":[{{"task":"x"}},{{"group":[{members}]}}]}}"#));
    let submitted = submit_workflow(&broker, &large.head, &large.nodes).await.unwrap();
    assert_eq!(submitted, WorkflowSubmitted::Created);
    let other = NewJob { tenant: TenantId::new("t2").unwrap(), ..new_job(0) };
    broker.submit(&[other]).await.unwrap();
    let mut held = broker.claim(&claim(1, 2)).await.unwrap();
    held.sort_by_key(|delivery| delivery.node.is_some());
    let (source, other) = (held.pop().unwrap(), held.pop().unwrap());
    let queue = QueueName::new("filler").unwrap();
    for n in 1.. {
        if broker.submit(&[NewJob { queue: queue.clone(), ..sized_job(n, 3_000) }]).await.is_err() {
            break;
        }
    }
    (broker, large, source, other)
}

/// Lets time stand still until nothing is left that has room.
async fn promote_all(broker: &SqliteBroker) {
    for _ in 0..100 {
        if broker.promote(10).await.unwrap().next_due.is_none() {
            return;
        }
    }
}

fn states(record: &WorkflowRecord, state: JobState) -> usize {
    JobState::ALL.iter().zip(record.jobs).find(|(s, _)| **s == state).unwrap().1 as usize
}

fn with_result(delivery: &Delivery, bytes: usize) -> Settle {
    let result = RawValue::from_string(format!("\"{}\"", "x".repeat(bytes))).unwrap();
    Settle { resolution: Resolution::Succeed { result: Some(result) }, ..succeed(delivery) }
}

#[tokio::test]
async fn a_group_whose_source_fails_ends_in_a_full_file() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_800_000_000_000).0;
    let (broker, large, source, other) = filled(folder.path(), &clock, r#"{"task":"m"}"#).await;
    let resolution = Resolution::Fail { failure: Failure::new("bad", "very") };
    let fails = Settle { resolution, ..succeed(&source) };
    assert_eq!(broker.settle(&[fails], None).await.unwrap().0, [Settled::Recorded]);
    promote_all(&broker).await;
    let record = broker.workflow(&tenant(), large.head.id).await.unwrap().unwrap();
    assert_eq!((record.state, states(&record, JobState::Failed)), (WorkflowState::Failed, MEMBERS + 1));
    let member = broker.values(&tenant(), large.head.id, 1, 2).await.unwrap().remove(1);
    let NodeValue::Job { failure, .. } = member else { panic!("{member:?}") };
    assert_eq!(failure.unwrap().kind, UPSTREAM_FAILED);
    assert_eq!(broker.settle(&[with_result(&other, 1_000)], None).await.unwrap().0, [Settled::Recorded]);
    assert_eq!(miscounted(&folder.path().join("umbel.db")), 0);
}

#[tokio::test]
async fn a_group_that_has_no_room_to_be_readied_stops_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(1_800_000_000_000);
    let member = r#"{"task":"m","options":{"expires_ms":1000000000,"queue":"members"}}"#;
    let (broker, large, source, other) = filled(folder.path(), &clock, member).await;
    assert_eq!(broker.settle(&[succeed(&source)], None).await.unwrap().0, [Settled::Recorded]);
    promote_all(&broker).await;
    let record = || async { broker.workflow(&tenant(), large.head.id).await.unwrap().unwrap() };
    assert!(states(&record().await, JobState::Waiting) > 0);
    // Half of the reserve is left to others.
    assert_eq!(broker.settle(&[with_result(&other, 200_000)], None).await.unwrap().0, [Settled::Recorded]);
    assert_eq!(broker.claim(&claim(2, 1)).await.unwrap().len(), 0);
    assert_eq!(broker.reap(10).await.unwrap().requeued, 0);

    // It can be given up, and then there is room again.
    assert_eq!(broker.cancel_workflow(&tenant(), large.head.id).await.unwrap(), WorkflowCancelled::Requested);
    promote_all(&broker).await;
    assert_eq!(record().await.state, WorkflowState::Revoked);
    assert_eq!(miscounted(&folder.path().join("umbel.db")), 0);
    now.fetch_add(KEEP_MS, std::sync::atomic::Ordering::SeqCst);
    while broker.prune(1_000).await.unwrap() > 0 {}
    broker.submit(&[sized_job(1_000_000, 20_000)]).await.unwrap();
}

#[tokio::test]
async fn what_a_settle_adds_waits_when_there_is_room_for_the_settle_only() {
    let folder = tempfile::tempdir().unwrap();
    let (clock, now) = Clock::manual(1_800_000_000_000);
    let config = SqliteConfig { max_size_bytes: 1 << 20, clock, ..config(folder.path()) };
    let broker = SqliteBroker::open(config).unwrap();
    let members = vec![r#"{"task":"m","options":{"expires_ms":1000000000}}"#; 900].join(",");
    let new = flow(1, &format!(r#"{{"chain":[{{"task":"x"}},{{"group":[{members}]}}]}}"#));
    submit_workflow(&broker, &new.head, &new.nodes).await.unwrap();
    let source = broker.claim(&claim(1, 1)).await.unwrap().remove(0);
    let jobs: Vec<NewJob> = (0..100).map(new_job).collect();
    broker.submit(&jobs).await.unwrap();
    let held = broker.claim(&claim(2, 100)).await.unwrap();
    // To the last page.
    let mut bytes = 60_000;
    for delivery in &held {
        while bytes > 100 && broker.settle(&[with_result(delivery, bytes)], None).await.is_err() {
            bytes /= 2;
        }
    }
    assert!(bytes <= 100);
    assert_eq!(broker.settle(&[succeed(&source)], None).await.unwrap().0, [Settled::Recorded]);
    let waiting = || async {
        let record = broker.workflow(&tenant(), new.head.id).await.unwrap().unwrap();
        states(&record, JobState::Waiting)
    };
    assert_eq!(waiting().await, 900);
    assert_eq!(broker.promote(10).await.unwrap().next_due, None);
    now.fetch_add(60_000, std::sync::atomic::Ordering::SeqCst);
    while broker.prune(1_000).await.unwrap() > 0 {}
    promote_all(&broker).await;
    assert_eq!(waiting().await, 0);
    assert_eq!(contradictions(&folder.path().join("umbel.db")), [""; 0]);
}
