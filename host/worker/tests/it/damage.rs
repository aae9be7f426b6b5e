//! A broker that cannot read some of what it stores: what is whole is not lost with it.

use std::sync::atomic::Ordering;

use umbel_broker::Jobs;
use umbel_model::{JobState, PolicyPatch};

use crate::{
    orders::run_spinning,
    support::{World, outcomes, spinning, tenant},
};

#[tokio::test]
async fn outcomes_are_taken_although_every_settle_with_a_claim_fails() {
    let mut world = World::new().await;
    world.config.concurrency = 2;
    world.broker.no_settle_with_claim.store(true, Ordering::SeqCst);
    let _worker = world.start();
    let mut ids = Vec::new();
    for _ in 0..30 {
        ids.push(world.submit('e').await);
    }
    for id in ids {
        let job = world.ended(id).await;
        assert_eq!((job.state, job.deliveries, outcomes(&job)), (JobState::Succeeded, 1, vec!["succeeded"]));
    }
}

#[tokio::test]
async fn a_queue_that_cannot_be_claimed_from_costs_no_outcome_of_what_runs() {
    let world = World::new().await;
    let _worker = world.start();
    let ids = run_spinning(&world, 3).await;
    world.broker.no_claims.store(true, Ordering::SeqCst);
    let waiting = world.submit('e').await;
    for id in ids {
        world.broker.cancel(&tenant(), id, true).await.unwrap();
        let job = world.ended(id).await;
        assert_eq!((job.state, job.deliveries, outcomes(&job)), (JobState::Revoked, 1, vec!["revoked"]));
    }
    assert_eq!(world.job(waiting).await.state, JobState::Queued);
    world.broker.no_claims.store(false, Ordering::SeqCst);
    assert_eq!(world.ended(waiting).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_lease_that_the_broker_cannot_renew_costs_no_other_job_its_lease() {
    let mut world = World::new().await;
    world.config.lease_ms = 1_000;
    let _worker = world.start();
    let damaged = world.submit_with('l', &spinning()).await;
    world.until(damaged, |job| job.progress.is_some()).await;
    *world.broker.poison_renewal.lock().unwrap() = Some(damaged);
    let mut others = Vec::new();
    for _ in 0..3 {
        let long = PolicyPatch { time_limit_ms: Some(2_500), ..spinning() };
        others.push(world.submit_with('s', &long).await);
    }
    for id in others {
        let job = world.ended(id).await;
        assert_eq!((outcomes(&job), job.deliveries), (vec!["trap"], 1));
    }
    let job = world.until(damaged, |job| job.deliveries > 1).await;
    assert_eq!(job.history[0].outcome, "lost");
    *world.broker.poison_renewal.lock().unwrap() = None;
    world.broker.cancel(&tenant(), damaged, true).await.unwrap();
    world.ended(damaged).await;
}
