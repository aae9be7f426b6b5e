//! Leases: kept while guests are busy, lost when they cannot be kept, and given up on a cancel.

use std::sync::atomic::Ordering;

use umbel_broker::{Jobs, Maintenance};
use umbel_model::{JobState, PolicyPatch};

use crate::support::{World, outcomes, tenant};

/// Spins until its time limit, milliseconds.
fn spinning_for(ms: u64) -> PolicyPatch {
    PolicyPatch { time_limit_ms: Some(ms), fuel: Some(100_000_000_000_000), ..PolicyPatch::default() }
}

#[tokio::test]
async fn leases_are_renewed_however_busy_the_guests_are() {
    let mut world = World::new().await;
    (world.config.lease_ms, world.config.guest_threads) = (1_000, 1);
    let _worker = world.start();
    // Two leases long, on every slot, on one thread.
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(world.submit_with('s', &spinning_for(2_500)).await);
    }
    for id in ids {
        let job = world.ended(id).await;
        assert_eq!((outcomes(&job), job.deliveries), (vec!["trap"], 1));
        assert_eq!(job.failure.as_ref().unwrap().kind, "deadline");
    }
    assert!(world.broker.renewals.load(Ordering::SeqCst) >= 2);
}

#[tokio::test]
async fn a_cancelled_job_is_stopped_while_it_computes() {
    let world = World::new().await;
    let _worker = world.start();
    let job = world.submit_with('s', &spinning_for(60_000)).await;
    world.running(job).await;
    world.broker.cancel(&tenant(), job, true).await.unwrap();
    let job = world.ended(job).await;
    assert_eq!((job.state, outcomes(&job)), (JobState::Revoked, vec!["revoked"]));
}

#[tokio::test]
async fn a_cancelled_job_is_stopped_long_before_its_lease_is_renewed_even_when_the_hint_is_lost() {
    let mut world = World::new().await;
    world.config.lease_ms = 3_600_000;
    world.broker.deaf.store(true, Ordering::SeqCst);
    let _worker = world.start();
    let job = world.submit_with('s', &spinning_for(600_000)).await;
    world.running(job).await;
    world.broker.cancel(&tenant(), job, true).await.unwrap();
    // A third of the lease are twenty minutes.
    assert_eq!(world.ended(job).await.state, JobState::Revoked);
}

#[tokio::test]
async fn a_cancelled_job_that_is_let_end_ends_by_itself_and_is_not_retried() {
    let world = World::new().await;
    let _worker = world.start();
    let retrying = PolicyPatch { retry_on: Some(vec!["deadline".into()]), ..spinning_for(1_500) };
    let job = world.submit_with('s', &retrying).await;
    world.running(job).await;
    world.broker.cancel(&tenant(), job, false).await.unwrap();
    let job = world.ended(job).await;
    assert_eq!(outcomes(&job), ["trap"]);
    assert_ne!(job.state, JobState::Retrying);
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_stops_the_guest_and_costs_a_delivery() {
    let mut world = World::new().await;
    (world.config.lease_ms, world.config.concurrency) = (1_000, 1);
    let _worker = world.start();
    let job = world.submit_with('s', &spinning_for(60_000)).await;
    world.running(job).await;
    world.broker.failing_renewals.store(u32::MAX, Ordering::SeqCst);
    // The guest was stopped, or the only slot would not be free for the second delivery.
    let record = world.until(job, |job| job.deliveries == 2).await;
    assert_eq!((outcomes(&record), record.retries), (vec!["lost"], 0));
    world.broker.failing_renewals.store(0, Ordering::SeqCst);
    world.broker.cancel(&tenant(), job, true).await.unwrap();
    world.ended(job).await;
}

#[tokio::test]
async fn guests_go_on_while_the_store_serves_nobody_and_cost_no_delivery() {
    let mut world = World::frozen().await;
    (world.config.lease_ms, world.config.concurrency) = (1_000, 1);
    let _worker = world.start();
    let job = world.submit_with('s', &spinning_for(60_000)).await;
    world.running(job).await;
    world.broker.is_away.store(true, Ordering::SeqCst);
    world.broker.failing_renewals.store(u32::MAX, Ordering::SeqCst);
    // It is asked once in a tenth of the lease: three leases pass.
    until(|| world.broker.asked_away.load(Ordering::SeqCst) > 30).await;
    world.broker.is_away.store(false, Ordering::SeqCst);
    world.broker.failing_renewals.store(0, Ordering::SeqCst);
    let renewed = world.broker.renewals.load(Ordering::SeqCst) + 2;
    until(|| world.broker.renewals.load(Ordering::SeqCst) >= renewed).await;
    world.broker.cancel(&tenant(), job, true).await.unwrap();
    let job = world.ended(job).await;
    assert_eq!((outcomes(&job), job.deliveries), (vec!["revoked"], 1));
}

async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_lease_that_somebody_took_stops_the_guest_and_its_outcome_is_not_told() {
    let mut world = World::frozen().await;
    (world.config.lease_ms, world.config.concurrency) = (1_000, 1);
    let mut worker = world.start();
    let job = world.submit_with('s', &spinning_for(60_000)).await;
    world.running(job).await;
    world.advance(1_001);
    assert_eq!(world.broker.reap(10).await.unwrap().requeued, 1);
    // The same worker takes it again once the next renewal said that the first delivery is lost.
    let record = world.until(job, |job| job.deliveries == 2 && job.state == JobState::Running).await;
    assert_eq!(outcomes(&record), ["lost"]);
    worker.stop();
    worker.join().await;
}
