//! What an operator orders of a worker while it runs, and what it decides itself.

use std::{sync::atomic::Ordering, time::Duration};

use umbel_broker::{Jobs, Ordered, Registry, Shutdown, WorkerInfo, WorkerOrder};
use umbel_model::{JobId, JobState, PolicyPatch};
use umbel_worker::{End, Queues, WorkerHandle};

use crate::support::{PATIENCE, World, next_id, outcomes, queue, spinning, tenant};

/// What a worker says of itself once `wanted` holds.
pub async fn info(world: &World, worker: &WorkerHandle, wanted: impl Fn(&WorkerInfo) -> bool) -> WorkerInfo {
    let looking = async {
        loop {
            let found = world.broker.workers().await.unwrap().into_iter().find(|info| info.id == *worker.id());
            if let Some(info) = found.filter(&wanted) {
                return info;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap()
}

/// Gives an order, and waits until it was followed.
async fn order(world: &World, worker: &WorkerHandle, order: WorkerOrder) -> WorkerInfo {
    info(world, worker, |_| true).await;
    let Ordered::Told(number) = world.broker.order_worker(worker.id(), &order).await.unwrap() else { panic!() };
    info(world, worker, |info| info.order == number).await
}

fn slots(least: u32, most: u32) -> WorkerOrder {
    WorkerOrder { slots: Some((least, most)), ..WorkerOrder::default() }
}

pub async fn in_queue(world: &World, name: &str) -> JobId {
    let spec = world.spec(r#"{"d":"e"}"#, &PolicyPatch::default(), "");
    world.submit_as(next_id(), queue(name), spec).await
}

/// So many jobs that spin, seen to run.
pub async fn run_spinning(world: &World, count: usize) -> Vec<JobId> {
    let mut ids = Vec::new();
    for _ in 0..count {
        ids.push(world.submit_with('l', &spinning()).await);
    }
    for id in &ids {
        world.until(*id, |job| job.progress.is_some()).await;
    }
    ids
}

async fn running(world: &World, ids: &[JobId]) -> usize {
    let mut running = 0;
    for id in ids {
        running += usize::from(world.job(*id).await.state == JobState::Running);
    }
    running
}

#[tokio::test]
async fn a_drained_worker_stays_and_claims_nothing_until_it_is_resumed() {
    let world = World::new().await;
    let worker = world.start();
    let drain = |drain| WorkerOrder { drain: Some(drain), ..WorkerOrder::default() };
    assert_eq!(order(&world, &worker, drain(true)).await.state, "draining");
    let job = world.submit('e').await;
    // Another order later, and some looks for work that did not happen.
    order(&world, &worker, slots(2, 2)).await;
    assert_eq!(world.job(job).await.state, JobState::Queued);
    assert_eq!(order(&world, &worker, drain(false)).await.state, "running");
    assert_eq!(world.ended(job).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn slots_are_added_and_taken_while_jobs_run_up_to_those_of_the_sandbox() {
    let mut world = World::new().await;
    world.config.concurrency = 2;
    let worker = world.start();
    let mut ids = run_spinning(&world, 2).await;
    ids.push(world.submit_with('l', &spinning()).await);
    assert_eq!(running(&world, &ids).await, 2);
    let said = order(&world, &worker, slots(3, 3)).await;
    assert_eq!((said.slots, said.min_slots, said.max_slots), (3, 3, 3));
    world.until(ids[2], |job| job.progress.is_some()).await;
    assert_eq!(info(&world, &worker, |info| info.running == 3).await.leases, 3);
    // What runs goes on; then there is one slot.
    assert_eq!(order(&world, &worker, slots(1, 1)).await.slots, 1);
    assert_eq!(running(&world, &ids).await, 3);
    for id in ids {
        world.broker.cancel(&tenant(), id, true).await.unwrap();
        world.ended(id).await;
    }
    let ids = run_spinning(&world, 1).await;
    let waiting = world.submit('e').await;
    assert_eq!(order(&world, &worker, slots(1, 1)).await.running, 1);
    assert_eq!(world.job(waiting).await.state, JobState::Queued);
    assert_eq!(order(&world, &worker, slots(50, 60)).await.slots, 16);
    world.ended(waiting).await;
    world.broker.cancel(&tenant(), ids[0], true).await.unwrap();
}

#[tokio::test]
async fn queues_are_replaced_while_it_runs() {
    let world = World::new().await;
    let worker = world.start();
    let (first, other) = (in_queue(&world, "default").await, in_queue(&world, "other").await);
    world.ended(first).await;
    assert_eq!(world.job(other).await.state, JobState::Queued);
    let queues = |names: &[&str]| WorkerOrder {
        queues: Some(names.iter().map(|name| queue(name)).collect()),
        ..WorkerOrder::default()
    };
    assert_eq!(order(&world, &worker, queues(&["other"])).await.queues, [queue("other")]);
    world.ended(other).await;
    // None at all are all of them.
    let third = in_queue(&world, "third").await;
    assert!(order(&world, &worker, queues(&[])).await.queues.is_empty());
    world.ended(third).await;
}

#[tokio::test]
async fn an_excluded_queue_is_left_to_others() {
    let mut world = World::new().await;
    (world.config.queues, world.config.exclude) = (Queues::All, vec![queue("other")]);
    let other = in_queue(&world, "other").await;
    let worker = world.start();
    for _ in 0..20 {
        let job = world.submit('e').await;
        world.ended(job).await;
    }
    assert_eq!(world.job(other).await.state, JobState::Queued);
    assert_eq!(info(&world, &worker, |_| true).await.exclude, [queue("other")]);
}

#[tokio::test]
async fn a_cold_shutdown_that_was_ordered_hands_back_what_runs_at_once() {
    let mut world = World::new().await;
    world.config.grace_ms = 3_600_000;
    let mut worker = world.start();
    let ids = run_spinning(&world, 1).await;
    info(&world, &worker, |_| true).await;
    let cold = WorkerOrder { shutdown: Some(Shutdown::Cold), ..WorkerOrder::default() };
    assert!(matches!(world.broker.order_worker(worker.id(), &cold).await.unwrap(), Ordered::Told(_)));
    assert_eq!(worker.join().await, End::Ordered);
    let job = world.job(ids[0]).await;
    assert_eq!((job.state, job.deliveries, job.history.len()), (JobState::Queued, 0, 0));
    assert!(world.broker.workers().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_warm_shutdown_waits_for_what_runs_and_a_colder_one_ends_it_sooner() {
    let mut world = World::new().await;
    world.config.grace_ms = 0;
    let mut worker = world.start();
    let short = PolicyPatch { time_limit_ms: Some(1_500), ..spinning() };
    let job = world.submit_with('l', &short).await;
    world.until(job, |job| job.progress.is_some()).await;
    worker.shutdown(Shutdown::Warm);
    assert_eq!(worker.join().await, End::Requested);
    assert_eq!(outcomes(&world.job(job).await), ["trap"]);
    let mut worker = world.start();
    let ids = run_spinning(&world, 1).await;
    worker.shutdown(Shutdown::Warm);
    worker.shutdown(Shutdown::Cold);
    assert_eq!(worker.join().await, End::Requested);
    assert_eq!(world.job(ids[0]).await.state, JobState::Queued);
}

#[tokio::test]
async fn a_worker_that_scales_gets_more_slots_while_work_waits() {
    let mut world = World::new().await;
    (world.config.concurrency, world.config.autoscale) = (1, Some((1, 4)));
    let worker = world.start();
    let ids = run_spinning(&world, 4).await;
    let said = info(&world, &worker, |info| info.slots == 4).await;
    assert_eq!((said.min_slots, said.max_slots), (1, 4));
    for id in ids {
        world.broker.cancel(&tenant(), id, true).await.unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_was_forgotten_for_a_while_follows_the_next_order_all_the_same() {
    let world = World::frozen().await;
    let worker = world.start();
    order(&world, &worker, slots(2, 2)).await;
    assert_eq!(order(&world, &worker, slots(3, 3)).await.order, 2);
    world.advance(umbel_broker::WORKER_TTL_MS + 1);
    assert!(world.broker.workers().await.unwrap().is_empty());
    info(&world, &worker, |info| info.order == 0).await;
    let said = order(&world, &worker, slots(1, 1)).await;
    assert_eq!((said.order, said.slots), (1, 1));
}

/// Waits for so many heartbeats more.
async fn heartbeats(world: &World, more: u32) {
    let wanted = world.broker.heartbeats.load(Ordering::SeqCst) + more;
    let waiting = async {
        while world.broker.heartbeats.load(Ordering::SeqCst) < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test]
async fn an_order_is_followed_once_however_often_it_is_heard_and_whatever_replies_are_lost() {
    let world = World::new().await;
    let worker = world.start();
    info(&world, &worker, |_| true).await;
    worker.pause();
    info(&world, &worker, |info| info.state == "draining").await;
    // The first two replies that tell of it are lost.
    world.broker.lost_heartbeats.store(2, Ordering::SeqCst);
    let drain = WorkerOrder { drain: Some(true), ..WorkerOrder::default() };
    assert_eq!(order(&world, &worker, drain).await.order, 1);
    assert_eq!(world.broker.lost_heartbeats.load(Ordering::SeqCst), 0);
    // Its owner takes it back, while every heartbeat is answered with the order again.
    worker.resume();
    info(&world, &worker, |info| info.state == "running").await;
    heartbeats(&world, 2).await;
    // The next order still has the drain in it.
    let said = order(&world, &worker, slots(2, 2)).await;
    assert_eq!((said.order, said.slots, said.state.as_str()), (2, 2, "running"));
    heartbeats(&world, 2).await;
    let job = world.submit('e').await;
    assert_eq!(world.ended(job).await.state, JobState::Succeeded);
    assert_eq!(info(&world, &worker, |_| true).await.state, "running");
}

#[tokio::test]
async fn a_claim_that_is_answered_after_the_shutdown_began_is_given_back_and_nothing_of_it_is_run() {
    let mut world = World::new().await;
    world.config.concurrency = 16;
    for how in [Shutdown::Cold, Shutdown::Warm] {
        world.broker.late_claims.send_replace(true);
        let mut ids = Vec::new();
        for _ in 0..16 {
            ids.push(world.submit_with('l', &spinning()).await);
        }
        let mut worker = world.start();
        for id in &ids {
            world.running(*id).await;
        }
        worker.shutdown(how);
        info(&world, &worker, |info| info.state == "draining").await;
        world.broker.late_claims.send_replace(false);
        assert_eq!((worker.join().await, worker.settled()), (End::Requested, 0));
        for id in ids {
            let job = world.job(id).await;
            assert_eq!((job.state, job.deliveries, job.progress.is_none()), (JobState::Queued, 0, true));
            world.broker.cancel(&tenant(), id, true).await.unwrap();
        }
    }
}

#[tokio::test]
async fn full_queues_of_weights_nine_and_one_are_served_nine_to_one() {
    let mut world = World::new().await;
    world.config.queues = Queues::Weighted(vec![(queue("large"), 9), (queue("small"), 1)]);
    // One claim for each job, and an end after so many.
    (world.config.concurrency, world.config.max_ahead, world.config.max_jobs) = (1, 0, 50);
    let (mut large, mut small) = (Vec::new(), Vec::new());
    for _ in 0..60 {
        large.push(in_queue(&world, "large").await);
        small.push(in_queue(&world, "small").await);
    }
    assert_eq!(world.start().join().await, End::MaxJobs);
    let mut served = [0, 0];
    for (count, ids) in served.iter_mut().zip([large, small]) {
        for id in ids {
            *count += u32::from(world.job(id).await.state == JobState::Succeeded);
        }
    }
    assert_eq!(served, [45, 5]);
}
