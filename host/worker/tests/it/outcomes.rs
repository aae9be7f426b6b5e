//! How attempts end, and what that makes of their jobs.

use std::sync::atomic::Ordering;

use umbel_broker::Jobs;
use umbel_model::{JobId, JobState, PolicyPatch, QueueName};

use crate::support::{World, outcomes, tenant};

#[tokio::test]
async fn a_job_runs_and_its_result_is_kept() {
    let world = World::new().await;
    let _worker = world.start();
    let job = world.submit('e').await;
    let job = world.ended(job).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(job.result.as_ref().unwrap().get(), r#"{"d":"e"}"#);
    assert_eq!((outcomes(&job), job.deliveries, job.retries), (vec!["succeeded"], 1, 0));
    assert!(job.history[0].usage.fuel > 0);
}

#[tokio::test]
async fn two_thousand_small_jobs_each_end_once() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for _ in 0..2_000 {
        ids.push(world.submit('e').await);
    }
    let mut worker = world.start();
    for id in ids {
        let job = world.ended(id).await;
        assert_eq!((job.state, job.history.len()), (JobState::Succeeded, 1));
    }
    worker.drain();
    worker.join().await;
    assert_eq!(worker.settled(), 2_000);
}

#[tokio::test]
async fn an_error_is_retried_until_no_retry_is_left() {
    let world = World::new().await;
    let _worker = world.start();
    let job = world.submit_with('r', &PolicyPatch { max_retries: Some(2), ..PolicyPatch::default() }).await;
    let job = world.ended(job).await;
    assert_eq!((job.state, job.retries), (JobState::Failed, 2));
    assert_eq!(outcomes(&job), ["error", "error", "error"]);
    let attempts: Vec<u32> = job.history.iter().map(|line| line.attempt).collect();
    assert_eq!(attempts, [1, 2, 3]);
    assert_eq!(job.failure.as_ref().unwrap().kind, "kind");
}

#[tokio::test]
async fn what_is_final_is_not_retried() {
    let world = World::new().await;
    let _worker = world.start();
    let fuel = PolicyPatch { fuel: Some(100_000), ..PolicyPatch::default() };
    for (letter, policy, outcome, kind) in [
        ('f', PolicyPatch::default(), "fatal", "kind"),
        ('x', PolicyPatch::default(), "trap", "trap:unreachable"),
        ('s', fuel, "trap", "out_of_fuel"),
    ] {
        let job = world.submit_with(letter, &policy).await;
        let job = world.ended(job).await;
        assert_eq!((job.state, outcomes(&job)), (JobState::Failed, vec![outcome]));
        assert_eq!(job.failure.as_ref().unwrap().kind, kind);
    }
}

#[tokio::test]
async fn an_ignored_result_is_not_kept_and_a_snooze_waits() {
    let world = World::new().await;
    let _worker = world.start();
    let (ignored, snoozed) = (world.submit('i').await, world.submit('z').await);
    let job = world.ended(ignored).await;
    assert_eq!((job.state, job.result.is_none(), outcomes(&job)), (JobState::Succeeded, true, vec!["ignored"]));
    let job = world.until(snoozed, |job| job.state == JobState::Scheduled).await;
    assert_eq!((job.retries, outcomes(&job)), (0, vec!["snoozed"]));
}

#[tokio::test]
async fn a_job_that_asks_to_run_again_after_its_lifetime_fails() {
    let world = World::new().await;
    let _worker = world.start();
    let submitted_in_1970 = JobId::from_parts(1, 1);
    let spec = world.spec(r#"{"d":"z"}"#, &PolicyPatch::default(), "");
    let job = world.submit_as(submitted_in_1970, QueueName::default(), spec).await;
    let job = world.ended(job).await;
    assert_eq!((job.state, outcomes(&job)), (JobState::Failed, vec!["snoozed"]));
    assert_eq!(job.failure.unwrap().kind, "lifetime");
}

#[tokio::test]
async fn a_job_that_this_worker_cannot_run_is_put_aside_and_not_lost() {
    let world = World::new().await;
    let _worker = world.start();
    let newer = world.submit_spec(r#"{"v":99,"something":"else"}"#.into()).await;
    let job = world.until(newer, |job| job.state == JobState::Scheduled).await;
    assert_eq!((job.retries, job.deliveries, outcomes(&job)), (0, 0, vec!["snoozed"]));
    let unreadable = world.submit_spec(r#"{"v":1}"#.into()).await;
    let job = world.ended(unreadable).await;
    assert_eq!((job.state, job.failure.as_ref().unwrap().kind.as_str()), (JobState::Failed, "bad_spec"));
}

#[tokio::test]
async fn a_job_whose_module_is_missing_is_retried_later_and_ends_in_the_dead_set() {
    let world = World::new().await;
    let _worker = world.start();
    let missing = "0".repeat(64);
    let spec = |retries: u32| {
        format!(
            r#"{{"v":1,"task":"task","digest":"sha256:{missing}","arguments":{{}},"policy":{{"max_retries":{retries}}}}}"#
        )
    };
    let (once, last) = (world.submit_spec(spec(1)).await, world.submit_spec(spec(0)).await);
    let job = world.until(once, |job| job.state == JobState::Retrying).await;
    assert_eq!((job.retries, outcomes(&job)), (1, vec!["error"]));
    assert_eq!(job.history[0].failure.as_ref().unwrap().kind, "module_missing");
    let job = world.ended(last).await;
    assert_eq!((job.state, job.failure.as_ref().unwrap().kind.as_str()), (JobState::Failed, "module_missing"));
    // The first one still waits half a minute, and then has no retry left.
    world.broker.run_now(&tenant(), once).await.unwrap();
    assert_eq!(world.ended(once).await.state, JobState::Failed);
}

#[tokio::test]
async fn an_outcome_is_settled_once_the_broker_answers_again() {
    let world = World::new().await;
    world.broker.failing_settles.store(3, Ordering::SeqCst);
    let _worker = world.start();
    let job = world.submit('e').await;
    let job = world.ended(job).await;
    assert_eq!((job.state, job.deliveries, outcomes(&job)), (JobState::Succeeded, 1, vec!["succeeded"]));
    assert_eq!(world.broker.failing_settles.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_settle_that_the_broker_cannot_take_does_not_hold_up_the_others() {
    let world = World::new().await;
    let poisoned = world.submit('e').await;
    *world.broker.poison.lock().unwrap() = Some(poisoned);
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(world.submit('e').await);
    }
    let _worker = world.start();
    for id in others {
        assert_eq!(world.ended(id).await.state, JobState::Succeeded);
    }
    assert_eq!(world.job(poisoned).await.state, JobState::Running);
}

#[tokio::test]
async fn what_a_guest_says_is_known_while_it_runs() {
    let world = World::new().await;
    let _worker = world.start();
    let job = world.submit('l').await;
    let record = world.until(job, |job| job.progress.is_some()).await;
    assert_eq!(record.state, JobState::Running);
    assert_eq!(record.progress.unwrap().message, "message");
    let logs = world.broker.logs(&tenant(), job, 0, 10).await.unwrap();
    assert_eq!((logs.len(), logs[0].message.as_str(), logs[0].level.as_str()), (1, "message", "info"));
    world.broker.cancel(&tenant(), job, true).await.unwrap();
    assert_eq!(world.ended(job).await.state, JobState::Revoked);
    assert_eq!(world.broker.logs(&tenant(), job, 0, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn work_claimed_ahead_is_given_back_when_a_long_job_blocks_it() {
    let mut world = World::new().await;
    world.config.concurrency = 1;
    let long = PolicyPatch { fuel: Some(100_000_000_000_000), ..PolicyPatch::default() };
    // Enough small ones that the first worker claims ahead when it meets the long one.
    let mut small = Vec::new();
    for n in 0..400 {
        if n == 300 {
            world.submit_with('s', &long).await;
        }
        small.push(world.submit('e').await);
    }
    let (_first, _second) = (world.start(), world.start());
    for id in small {
        let job = world.ended(id).await;
        assert_eq!((job.state, job.deliveries), (JobState::Succeeded, 1));
    }
}
