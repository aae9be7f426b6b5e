//! Hints: a worker follows each at once, and claims no more often than it must.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::support::World;

/// Runs so many jobs, each when the one before has ended. Answers the claims until each ended, and how long each took.
async fn one_by_one(world: &World, jobs: usize) -> Vec<(u32, Duration)> {
    let mut runs = Vec::new();
    for _ in 0..jobs {
        let (before, start) = (world.broker.claims.load(Ordering::SeqCst), Instant::now());
        let job = world.submit('e').await;
        world.ended(job).await;
        runs.push((world.broker.claims.load(Ordering::SeqCst) - before, start.elapsed()));
    }
    runs
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_alone_follows_each_hint_without_a_delay() {
    let mut world = World::new().await;
    world.config.poll_ms = 60_000;
    let _worker = world.start();
    let runs = one_by_one(&world, 60).await;
    // Two claims a job: at the hint, and with the settle.
    let (claims, times): (Vec<_>, Vec<_>) = runs.into_iter().unzip();
    assert!(median(claims.clone()) <= 3, "{claims:?}");
    assert!(median(times.clone()) < Duration::from_millis(200), "{times:?}");
}
