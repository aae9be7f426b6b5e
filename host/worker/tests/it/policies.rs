//! What a policy makes of how attempts end: retries, fuel, acknowledgement, and what is kept.

use umbel_broker::Shutdown;
use umbel_model::{Acks, Backoff, JobState, PolicyPatch};
use umbel_worker::End;

use crate::support::{World, outcomes, spinning};

fn retrying(on: &str, max_retries: u32) -> PolicyPatch {
    let soon = Backoff { initial_ms: 1, max_ms: 1, ..Backoff::default() };
    PolicyPatch {
        retry_on: Some(vec![on.into()]),
        max_retries: Some(max_retries),
        retry_backoff: Some(soon),
        ..PolicyPatch::default()
    }
}

#[tokio::test]
async fn each_attempt_keeps_why_it_failed_where_and_what_it_used() {
    let world = World::new().await;
    let worker = world.start();
    let job = world.submit_with('x', &retrying("trap:*", 2)).await;
    let job = world.ended(job).await;
    assert_eq!((job.state, outcomes(&job)), (JobState::Failed, vec!["trap"; 3]));
    for (line, attempt) in job.history.iter().zip(1..) {
        let failure = line.failure.as_ref().unwrap();
        assert_eq!((line.attempt, failure.kind.as_str(), &line.worker), (attempt, "trap:unreachable", worker.id()));
        assert!(!failure.message.is_empty() && !failure.frames.is_empty(), "{failure:?}");
        let used = line.usage;
        assert!(used.fuel > 0 && used.memory_bytes > 0 && used.duration_us > 0, "{used:?}");
    }
}

#[tokio::test]
async fn a_retry_gets_more_fuel_when_its_policy_says_so() {
    let world = World::new().await;
    let _worker = world.start();
    let fuel =
        |factor| PolicyPatch { fuel: Some(100_000), retry_fuel_factor: Some(factor), ..retrying("out_of_fuel", 2) };
    let job = world.submit_with('s', &fuel(3)).await;
    let job = world.ended(job).await;
    let used: Vec<u64> = job.history.iter().map(|line| line.usage.fuel).collect();
    assert!(used.len() == 3 && used[1] > 2 * used[0] && used[2] > 2 * used[1], "{used:?}");
    let job = world.submit_with('s', &fuel(1)).await;
    assert_eq!(outcomes(&world.ended(job).await), ["trap"]);
}

#[tokio::test]
async fn a_result_that_is_to_be_ignored_is_not_kept_and_neither_are_errors_if_the_policy_says_so() {
    let world = World::new().await;
    let _worker = world.start();
    let quiet = PolicyPatch { ignore_result: Some(true), ..PolicyPatch::default() };
    let job = world.submit_with('e', &quiet).await;
    let job = world.ended(job).await;
    assert_eq!((job.state, outcomes(&job), job.result.is_none()), (JobState::Succeeded, vec!["succeeded"], true));
    let mute = PolicyPatch { store_errors_even_if_ignored: Some(false), ..quiet.clone() };
    for (policy, message) in [(quiet, "message"), (mute, "")] {
        let job = world.submit_with('f', &policy).await;
        let job = world.ended(job).await;
        let kept = [job.failure.as_ref(), job.history[0].failure.as_ref()].map(|f| f.unwrap());
        assert!(kept.iter().all(|failure| failure.kind == "kind" && failure.message == message), "{kept:?}");
    }
}

#[tokio::test]
async fn a_job_that_may_run_only_once_fails_when_its_worker_is_ended_and_is_given_back_when_it_had_not_begun() {
    let mut world = World::new().await;
    world.config.concurrency = 2;
    let mut worker = world.start();
    let early = PolicyPatch { acks: Some(Acks::Early), ..spinning() };
    let (once, again) = (world.submit_with('l', &early).await, world.submit_with('l', &spinning()).await);
    for id in [once, again] {
        world.until(id, |job| job.progress.is_some()).await;
    }
    let waiting = world.submit_with('l', &early).await;
    worker.shutdown(Shutdown::Cold);
    assert_eq!(worker.join().await, End::Requested);
    let job = world.job(once).await;
    assert_eq!((job.state, job.failure.as_ref().unwrap().kind.as_str()), (JobState::Failed, "worker_lost"));
    for id in [again, waiting] {
        let job = world.job(id).await;
        assert_eq!((job.state, job.deliveries, job.retries), (JobState::Queued, 0, 0));
    }
}

#[tokio::test]
async fn a_state_of_the_tasks_own_is_known_while_it_runs() {
    let world = World::new().await;
    let _worker = world.start();
    let job = world.submit_with('c', &spinning()).await;
    let progress = world.until(job, |job| job.progress.is_some()).await.progress.unwrap();
    assert_eq!((progress.state.as_deref(), progress.meta), (Some("message"), Some(serde_json::json!({}))));
}
