//! How a worker ends: warm, cold, and by a crash.

use umbel_broker::{Jobs, Maintenance, Registry};
use umbel_model::{JobState, PolicyPatch};
use umbel_worker::Queues;

use crate::support::{World, outcomes, spinning, tenant};

#[tokio::test]
async fn a_drain_lets_running_jobs_finish() {
    let world = World::new().await;
    let mut worker = world.start();
    let short = PolicyPatch { time_limit_ms: Some(1_500), ..spinning() };
    let job = world.submit_with('l', &short).await;
    // It was claimed and it was started.
    world.until(job, |job| job.progress.is_some()).await;
    worker.drain();
    worker.join().await;
    let job = world.job(job).await;
    assert_eq!((outcomes(&job), job.failure.as_ref().unwrap().kind.as_str()), (vec!["trap"], "deadline"));
}

#[tokio::test]
async fn after_the_grace_time_a_drain_hands_jobs_back_at_no_cost() {
    let mut world = World::new().await;
    (world.config.grace_ms, world.config.concurrency) = (50, 1);
    let mut worker = world.start();
    let running = world.submit_with('s', &spinning()).await;
    world.running(running).await;
    let waiting = world.submit('e').await;
    worker.drain();
    worker.join().await;
    for id in [running, waiting] {
        let job = world.job(id).await;
        assert_eq!((job.state, job.deliveries, job.retries, job.history.len()), (JobState::Queued, 0, 0, 0));
    }
    assert!(world.broker.workers().await.unwrap().is_empty());
}

#[tokio::test]
async fn jobs_whose_module_is_compiled_wait_outside_of_the_slots_and_can_be_cancelled() {
    let mut world = World::new().await;
    world.hang_compiler().await;
    world.config.concurrency = 1;
    let mut worker = world.start();
    // One slot, and a compilation that never ends: each of them has it, and leaves it.
    for _ in 0..3 {
        let job = world.submit('e').await;
        world.until(job, |job| job.state == JobState::Scheduled).await;
        world.broker.cancel(&tenant(), job, true).await.unwrap();
        assert_eq!(world.ended(job).await.state, JobState::Revoked);
    }
    let released = world.submit('e').await;
    let job = world.until(released, |job| job.state == JobState::Scheduled).await;
    assert_eq!(job.retries, 0);
    worker.drain();
    worker.join().await;
    // Again: an end that was seen is not waited for.
    worker.join().await;
}

#[tokio::test]
async fn work_that_was_there_first_is_found_whatever_its_tenant() {
    let mut world = World::new().await;
    world.config.queues = Queues::All;
    let job = world.submit('e').await;
    let _worker = world.start();
    assert_eq!(world.ended(job).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_drained_worker_claims_nothing_more() {
    let world = World::new().await;
    let mut worker = world.start();
    let job = world.submit('e').await;
    world.ended(job).await;
    worker.drain();
    worker.join().await;
    let job = world.submit('e').await;
    assert_eq!(world.job(job).await.state, JobState::Queued);
}

#[tokio::test]
async fn a_crash_costs_a_delivery_and_no_retry() {
    let world = World::frozen().await;
    let mut worker = world.start();
    let job = world.submit_with('s', &spinning()).await;
    world.running(job).await;
    worker.stop();
    worker.join().await;
    assert_eq!(world.job(job).await.state, JobState::Running);
    world.advance(world.config.lease_ms + 1);
    assert_eq!(world.broker.reap(10).await.unwrap().requeued, 1);
    let job = world.job(job).await;
    assert_eq!((job.state, job.deliveries, job.retries), (JobState::Queued, 1, 0));
    assert_eq!(outcomes(&job), ["lost"]);
}

#[tokio::test]
async fn a_job_that_kills_its_workers_ends_in_the_dead_set() {
    let world = World::frozen().await;
    let job = world.submit_with('s', &spinning()).await;
    for _ in 0..5 {
        let mut worker = world.start();
        world.running(job).await;
        worker.stop();
        worker.join().await;
        // In steps, as background services do: more at once is an outage.
        for _ in 0..=world.config.lease_ms / 1_000 {
            world.advance(1_000);
            world.broker.reap(10).await.unwrap();
        }
    }
    let job = world.job(job).await;
    assert_eq!((job.state, job.failure.as_ref().unwrap().kind.as_str()), (JobState::Failed, "max_deliveries"));
    assert_eq!(outcomes(&job), ["lost"; 5]);
}

#[tokio::test]
async fn a_worker_that_lives_is_listed_and_says_what_it_did() {
    let world = World::new().await;
    let worker = world.start();
    let job = world.submit('e').await;
    world.ended(job).await;
    let workers = world.broker.workers().await.unwrap();
    assert_eq!((workers.len(), &workers[0].id, workers[0].slots), (1, worker.id(), 4));
}
