//! The services on the in-memory broker, whose clock and whose pauses the tests control.

#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use umbel_broker::{Broker, Claim, Clock, LimitedTenants, Limits, NewJob, Settle, Start};
use umbel_broker_conformance::MemoryBroker;
use umbel_control::{Control, ControlConfig};
use umbel_model::{JobId, JobState, QueueName, Resolution, TaskName, TenantId, Token, WorkerId};

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

fn job(n: u128, start: Start) -> NewJob {
    NewJob {
        id: JobId::from_parts(1, n),
        tenant: tenant(),
        task: TaskName::new("add").unwrap(),
        queue: QueueName::default(),
        priority: 5,
        spec: "{}".into(),
        start,
        expires_ms: 0,
        max_deliveries: 2,
        result_ttl_ms: 1_000,
        dead_ttl_ms: 1_000,
        expires_at: None,
        broker_options: None,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    }
}

fn claim() -> Claim {
    Claim {
        worker: WorkerId::new("w").unwrap(),
        queues: vec![QueueName::default()].into(),
        max: 10,
        lease_ms: 1_000,
        token_seed: Token::new("s").unwrap(),
        limited: LimitedTenants::default(),
        in_row: 1,
    }
}

/// A broker on a manual clock, with the services at work.
fn start() -> (Arc<dyn Broker>, Arc<AtomicU64>, Control) {
    let (clock, now) = Clock::manual(1_000_000);
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new(clock, Limits::default()));
    let control = Control::start(broker.clone(), &ControlConfig::default());
    (broker, now, control)
}

async fn state(broker: &dyn Broker, id: JobId) -> Option<JobState> {
    broker.job(&tenant(), id).await.unwrap().map(|job| job.state)
}

#[tokio::test(start_paused = true)]
async fn a_due_job_is_queued_within_the_period() {
    let (broker, now, control) = start();
    let new = job(1, Start::After(5_000));
    broker.submit(std::slice::from_ref(&new)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(state(&*broker, new.id).await, Some(JobState::Scheduled));
    now.fetch_add(5_000, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(state(&*broker, new.id).await, Some(JobState::Queued));
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn more_due_jobs_than_a_batch_are_all_queued_at_once() {
    let (broker, now, control) = start();
    let jobs: Vec<NewJob> = (0..1_200).map(|n| job(n, Start::After(5_000))).collect();
    broker.submit(&jobs).await.unwrap();
    now.fetch_add(5_000, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(250)).await;
    assert_eq!(broker.queues(&tenant()).await.unwrap()[0].queued, 1_200);
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_workers_job_is_queued_again() {
    let (broker, now, control) = start();
    let new = job(1, Start::Now);
    broker.submit(std::slice::from_ref(&new)).await.unwrap();
    broker.claim(&claim()).await.unwrap();
    now.fetch_add(1_000, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(state(&*broker, new.id).await, Some(JobState::Queued));
    control.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_is_deleted_after_its_retention() {
    let (broker, now, control) = start();
    let new = job(1, Start::Now);
    broker.submit(std::slice::from_ref(&new)).await.unwrap();
    let delivery = broker.claim(&claim()).await.unwrap().remove(0);
    let settle = Settle {
        tenant: tenant(),
        id: new.id,
        token: delivery.token,
        resolution: Resolution::Succeed { result: None },
        record: None,
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    };
    broker.settle(&[settle], None).await.unwrap();
    now.fetch_add(1_000, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(5_100)).await;
    assert_eq!(state(&*broker, new.id).await, None);
    control.stop().await;
}
