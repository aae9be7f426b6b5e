//! When a worker ends so that its process can be replaced, and what becomes of its jobs.

use std::sync::atomic::{AtomicU64, Ordering};

use umbel_broker::{Jobs, Ordered, Registry, Shutdown, WorkerOrder};
use umbel_model::JobState;
use umbel_worker::{End, WorkerHandle};

use crate::{
    orders::{info, run_spinning},
    support::{PATIENCE, World, tenant},
};

/// Waits until the poll loop went round some times, as the renewals of the running job show.
async fn rounds(world: &World) {
    let wanted = world.broker.renewals.load(Ordering::SeqCst) + 2;
    let waiting = async {
        while world.broker.renewals.load(Ordering::SeqCst) < wanted {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

/// It drains: it claims nothing, and waits for the job that runs as long as that takes.
async fn assert_waits(world: &World, worker: &WorkerHandle, running: umbel_model::JobId) {
    info(world, worker, |info| info.state == "draining").await;
    let waiting = world.submit('e').await;
    rounds(world).await;
    assert_eq!(world.job(waiting).await.state, JobState::Queued);
    assert_eq!(world.job(running).await.state, JobState::Running);
}

#[tokio::test]
async fn after_as_many_jobs_as_it_may_do_it_ends_and_loses_none() {
    let mut world = World::new().await;
    world.config.max_jobs = 10;
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(world.submit('e').await);
    }
    let mut worker = world.start();
    assert_eq!(worker.join().await, End::MaxJobs);
    assert!((10..=40).contains(&worker.settled()), "{}", worker.settled());
    let mut ended = 0;
    for id in ids {
        let job = world.job(id).await;
        assert!(matches!(job.state, JobState::Succeeded | JobState::Queued), "{job:?}");
        ended += u64::from(job.state == JobState::Succeeded);
    }
    assert!(ended >= 10);
}

#[tokio::test]
async fn a_worker_that_did_its_jobs_waits_for_the_longest_and_claims_nothing_meanwhile() {
    let mut world = World::new().await;
    (world.config.max_jobs, world.config.grace_ms) = (1, 0);
    let mut worker = world.start();
    let long = run_spinning(&world, 1).await[0];
    let short = world.submit('e').await;
    world.ended(short).await;
    assert_waits(&world, &worker, long).await;
    world.broker.cancel(&tenant(), long, true).await.unwrap();
    assert_eq!(worker.join().await, End::MaxJobs);
    assert_eq!(world.job(long).await.state, JobState::Revoked);
}

#[tokio::test]
async fn a_shutdown_that_is_ordered_while_it_waits_to_be_replaced_ends_it_for_good() {
    let mut world = World::new().await;
    world.config.max_jobs = 1;
    let mut worker = world.start();
    let long = run_spinning(&world, 1).await[0];
    let short = world.submit('e').await;
    world.ended(short).await;
    info(&world, &worker, |info| info.state == "draining").await;
    let cold = WorkerOrder { shutdown: Some(Shutdown::Cold), ..WorkerOrder::default() };
    assert!(matches!(world.broker.order_worker(worker.id(), &cold).await.unwrap(), Ordered::Told(_)));
    assert_eq!(worker.join().await, End::Ordered);
    let job = world.job(long).await;
    assert_eq!((job.state, job.deliveries, job.history.len()), (JobState::Queued, 0, 0));
}

#[tokio::test]
async fn a_process_with_more_memory_than_it_may_have_ends_its_worker() {
    let mut world = World::new().await;
    world.config.max_memory_bytes = 1;
    assert_eq!(world.start().join().await, End::MaxMemory);
}

#[tokio::test]
async fn memory_above_the_limit_drains_the_worker_and_is_the_reason_of_its_end() {
    static MEMORY: AtomicU64 = AtomicU64::new(200);
    let mut world = World::new().await;
    (world.config.max_memory_bytes, world.config.memory_bytes) = (200, || MEMORY.load(Ordering::SeqCst));
    let mut worker = world.start();
    let long = run_spinning(&world, 1).await[0];
    rounds(&world).await;
    // As much as it may have.
    assert_eq!(info(&world, &worker, |_| true).await.state, "running");
    MEMORY.store(201, Ordering::SeqCst);
    assert_waits(&world, &worker, long).await;
    world.broker.cancel(&tenant(), long, true).await.unwrap();
    assert_eq!(worker.join().await, End::MaxMemory);
}
