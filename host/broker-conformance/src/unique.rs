//! Unique jobs: the first wins, the latest wins, and how long.

use super::{broker_options::*, *};

fn first(n: u64) -> NewJob {
    unique(n, "k", Wins::First)
}

fn latest(n: u64) -> NewJob {
    unique(n, "k", Wins::Latest)
}

fn with_unique(mut job: NewJob, change: impl FnOnce(&mut Unique)) -> NewJob {
    change(
        job.broker_options.as_mut().and_then(|broker_options| broker_options.unique.as_mut()).expect("a unique job"),
    );
    job
}

/// Job `n`, whose key is held for a second.
fn for_a_second(n: u64) -> NewJob {
    with_unique(first(n), |unique| unique.for_ms = 1_000)
}

pub async fn while_a_job_holds_its_key_the_next_is_a_duplicate(s: Subject) {
    s.add(first(1)).await;
    assert_eq!(s.submit_one(first(2)).await, Submitted::Duplicate(job_id(1)));
    assert!(s.broker.job(&tenant("t1"), job_id(2)).await.unwrap().is_none());
    // While it runs and while it waits for its retry, too.
    let delivery = s.claim_one().await;
    assert_eq!(s.submit_one(first(2)).await, Submitted::Duplicate(job_id(1)));
    s.settle(&delivery, retry(1_000)).await;
    assert_eq!(s.submit_one(first(2)).await, Submitted::Duplicate(job_id(1)));
    // The same submission again is that job, and other keys and tenants are others.
    assert_eq!(s.submit_one(first(1)).await, Submitted::Existing(job_id(1)));
    s.add(unique(3, "other", Wins::First)).await;
    s.add(of_tenant("t2", first(4))).await;
    s.pass(1_000);
    s.promote().await;
    let again = s.claim(10).await;
    s.succeed_all(&again).await;
    s.add(first(2)).await;
}

pub async fn every_kind_of_end_frees_the_key(s: Subject) {
    for (n, end) in (1..).zip([succeed("1"), fail(), Resolution::Revoke]) {
        s.add(first(n)).await;
        let delivery = s.claim_one().await;
        s.settle(&delivery, end).await;
    }
    s.add(first(10)).await;
    s.cancel_one(10).await;
    s.add(NewJob { expires_ms: 5, ..first(11) }).await;
    s.pass(5);
    assert_eq!(s.submit_one(first(12)).await, Submitted::Duplicate(job_id(11)), "it has not ended yet");
    assert_eq!(s.promote().await.expired, 1);
    s.add(NewJob { max_deliveries: 1, ..first(12) }).await;
    s.claim_one().await;
    s.pass_served(DEFAULT_LEASE_MS).await;
    assert_eq!(s.broker.reap(10).await.unwrap().buried, 1);
    s.add(first(13)).await;
}

pub async fn of_two_alike_in_one_call_the_first_is_stored(s: Subject) {
    let answers = s.broker.submit(&[first(1), first(2), unique(3, "x", Wins::First)]).await.unwrap();
    assert_eq!(answers, [Submitted::Created, Submitted::Duplicate(job_id(1)), Submitted::Created]);
    assert_eq!(s.queue().await.queued, 2);
}

pub async fn a_key_for_a_period_is_held_beyond_the_end_and_no_longer(s: Subject) {
    s.add(for_a_second(1)).await;
    let delivery = s.claim_one().await;
    s.succeed_all(&[delivery]).await;
    s.pass(999);
    assert_eq!(s.submit_one(for_a_second(2)).await, Submitted::Duplicate(job_id(1)));
    s.pass(1);
    s.add(NewJob { result_ttl_ms: 10, ..for_a_second(2) }).await;
    // The first one's end, whenever it comes, does not free what the second one holds.
    s.pass(1_000);
    s.add(for_a_second(3)).await;
    let second = s.claim_one().await;
    s.succeed_all(&[second]).await;
    assert_eq!(s.submit_one(for_a_second(4)).await, Submitted::Duplicate(job_id(3)));
    // Nor is it kept for what others hold.
    s.pass(10);
    assert_eq!(s.prune_all().await, 1);
    assert_eq!(s.submit_one(for_a_second(4)).await, Submitted::Duplicate(job_id(3)));
}

pub async fn a_period_that_is_over_before_the_end_frees_the_key(s: Subject) {
    s.add(NewJob { start: Start::After(5_000), ..for_a_second(1) }).await;
    s.pass(1_000);
    s.add(for_a_second(2)).await;
    assert_eq!(s.state(job_id(1)).await, JobState::Scheduled);
}

pub async fn the_holder_of_a_key_can_be_read_as_long_as_it_answers(s: Subject) {
    let long = with_unique(NewJob { result_ttl_ms: 10, dead_ttl_ms: 10, ..first(1) }, |u| u.for_ms = 10_000);
    s.add(long).await;
    let delivery = s.claim_one().await;
    s.succeed_all(&[delivery]).await;
    s.pass(9_999);
    assert_eq!(s.prune_all().await, 0);
    assert_eq!(s.submit_one(first(2)).await, Submitted::Duplicate(job_id(1)));
    assert_eq!(s.state(job_id(1)).await, JobState::Succeeded);
    s.pass(1);
    assert_eq!(s.prune_all().await, 1);
    s.add(first(2)).await;
}

pub async fn a_holder_that_leaves_a_full_dead_set_is_kept_as_long_as_its_key(s: Subject) {
    let long = with_unique(NewJob { result_ttl_ms: 10, ..first(0) }, |u| u.for_ms = 10_000);
    s.add(long).await;
    s.add_all((1..=limits().max_dead).map(new_job)).await;
    for delivery in s.claim(100).await {
        s.settle(&delivery, fail()).await;
    }
    assert_eq!(s.dead().await.len() as u64, limits().max_dead);
    s.pass(9_999);
    s.prune_all().await;
    assert_eq!(s.submit_one(first(200)).await, Submitted::Duplicate(job_id(0)));
    assert_eq!(s.state(job_id(0)).await, JobState::Failed);
    s.pass(1);
    assert_eq!(s.prune_all().await, 1);
}

pub async fn a_forgotten_job_holds_its_key_no_more(s: Subject) {
    s.add(for_a_second(1)).await;
    assert_eq!(s.forget(job_id(1)).await, Forgot::NotEnded(JobState::Queued));
    let delivery = s.claim_one().await;
    s.succeed_all(&[delivery]).await;
    assert_eq!(s.submit_one(first(2)).await, Submitted::Duplicate(job_id(1)));
    assert_eq!(s.forget(job_id(1)).await, Forgot::Forgotten);
    s.add(first(2)).await;
}

pub async fn a_duplicate_with_an_idempotency_key_is_answered_by_it_from_then_on(s: Subject) {
    let keyed = |n: u64, body: &str| {
        let idempotency = Idempotency { key: "i".into(), body: body.into(), ttl_ms: 10_000 };
        NewJob { idempotency: Some(idempotency), ..first(n) }
    };
    s.add(first(1)).await;
    assert_eq!(s.submit_one(keyed(2, "b")).await, Submitted::Duplicate(job_id(1)));
    assert_eq!(s.submit_one(keyed(3, "b")).await, Submitted::Existing(job_id(1)));
    assert_eq!(s.submit_one(keyed(4, "other")).await, Submitted::Conflict(job_id(1)));
    // Also when the one that was there has ended: the caller asks for the outcome of what it asked for.
    let delivery = s.claim_one().await;
    s.succeed_all(&[delivery]).await;
    assert_eq!(s.submit_one(keyed(5, "b")).await, Submitted::Existing(job_id(1)));
    s.pass(10_000);
    s.add(keyed(6, "b")).await;
}

pub async fn a_duplicate_is_found_before_the_redrive_and_the_room(s: Subject) {
    s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, fail()).await;
    s.add(first(2)).await;
    let redrive = NewJob { redrive_of: Some(job_id(1)), ..first(3) };
    assert_eq!(s.submit_one(redrive).await, Submitted::Duplicate(job_id(2)));
    assert_eq!(s.dead().await, [job_id(1)]);
    for many in (10..10 + limits().max_backlog - 1).map(new_job).collect::<Vec<_>>().chunks(500) {
        s.broker.submit(many).await.unwrap();
    }
    assert_eq!(s.submit_one(new_job(9_000)).await, Submitted::QueueFull);
    assert_eq!(s.submit_one(first(9_001)).await, Submitted::Duplicate(job_id(2)));
    // The latest takes a place only when it has room itself.
    assert_eq!(s.submit_one(latest(9_002)).await, Submitted::QueueFull);
    assert_eq!(s.state(job_id(2)).await, JobState::Queued);
}

pub async fn the_latest_takes_the_place_of_one_that_waits(s: Subject) {
    s.add(latest(1)).await;
    s.add(NewJob { start: Start::After(1_000), ..latest(2) }).await;
    s.add(latest(3)).await;
    for (n, by) in [(1, 2), (2, 3)] {
        let old = s.read(job_id(n)).await;
        assert_eq!((old.state, old.finished_at), (JobState::Revoked, Some(START_MS)));
        let failure = old.failure.unwrap();
        assert_eq!((failure.kind.as_str(), failure.message), (SUPERSEDED, superseded_message(job_id(by))));
    }
    let queue = s.queue().await;
    assert_eq!((queue.queued, queue.delayed), (1, 0));
    let delivery = s.claim_one().await;
    assert_eq!(delivery.id, job_id(3));
    s.settle(&delivery, retry(1_000)).await;
    s.add(latest(4)).await;
    assert_eq!(s.state(job_id(3)).await, JobState::Revoked);
    assert_eq!(s.dead().await, []);
}

pub async fn the_latest_stands_where_the_one_stood_whose_place_it_took(s: Subject) {
    let latest = |n| unique(n, "k", Wins::Latest);
    s.add_all([latest(1), new_job(2), new_job(3)]).await;
    // Always at the end of the line, it would never run.
    for n in 11..=15 {
        s.add(latest(n)).await;
    }
    assert_eq!(s.claim_numbers(10).await, [15, 2, 3]);
    s.add_all([latest(21), new_job(22)]).await;
    s.add(NewJob { priority: 0, ..latest(23) }).await;
    assert_eq!(s.claim_numbers(10).await, [22, 23]);
}

pub async fn the_latest_leaves_one_that_runs_alone(s: Subject) {
    s.add(latest(1)).await;
    let running = s.claim_one().await;
    s.add(latest(2)).await;
    assert_eq!(s.renew(&running).await, LeaseState::Held);
    // It is not the holder any more: neither its retry nor its end is of any matter to the key.
    s.settle(&running, retry(0)).await;
    s.add(latest(3)).await;
    assert_eq!((s.state(job_id(1)).await, s.state(job_id(2)).await), (JobState::Revoked, JobState::Revoked));
    s.promote().await;
    let newest = s.claim(10).await;
    assert_eq!(newest.len(), 1);
    s.succeed_all(&newest).await;
    s.add(latest(4)).await;
    assert_eq!(s.state(job_id(3)).await, JobState::Succeeded);
}

pub async fn a_job_that_was_superseded_while_it_ran_may_end_and_never_runs_again(s: Subject) {
    let superseded = |n| Some(Failure::new(SUPERSEDED, superseded_message(job_id(n))));
    for (n, end) in [(10, retry(0)), (20, Resolution::Snooze { delay_ms: 0 }), (30, Resolution::Release)] {
        s.add(latest(n)).await;
        let old = s.claim_one().await;
        s.add(latest(n + 1)).await;
        assert_eq!(s.renew(&old).await, LeaseState::Held);
        s.settle(&old, end).await;
        assert_eq!((s.state(job_id(n)).await, s.read(job_id(n)).await.failure), (JobState::Revoked, superseded(n + 1)));
        s.promote().await;
        assert_eq!(s.claim_numbers(10).await, [n + 1]);
        // The next one supersedes that.
    }
    // Its worker is lost.
    assert_eq!(s.lose().await, Reaped { requeued: 1, revoked: 2, ..Reaped::default() });
    s.add(latest(40)).await;
    assert_eq!(s.claim_numbers(10).await, [40]);
    s.add(latest(41)).await;
    assert_eq!(s.lose().await.revoked, 1);
    // What it gives in the end is kept.
    let old = s.claim_one().await;
    s.add(latest(42)).await;
    assert_eq!(s.settle(&old, succeed("1")).await, Settled::Recorded);
    assert_eq!((s.state(job_id(41)).await, s.read(job_id(41)).await.failure), (JobState::Succeeded, None));
    let old = s.claim_one().await;
    s.add(latest(43)).await;
    s.settle(&old, fail()).await;
    let Resolution::Fail { failure } = fail() else { unreachable!() };
    assert_eq!((s.state(job_id(42)).await, s.read(job_id(42)).await.failure), (JobState::Failed, Some(failure)));
    assert_eq!(s.claim_numbers(10).await, [43]);
}

pub async fn a_latest_job_in_a_lane_takes_the_place_of_one_there(s: Subject) {
    let in_sub_queue = |n: u64| {
        let mut job = latest(n);
        job.task = task("mail");
        if let Some(broker_options) = &mut job.broker_options {
            broker_options.limits = Some(JobLimits { concurrency: 1, ..JobLimits::default() });
        }
        job
    };
    s.add(capped(1, "mail", 1)).await;
    let running = s.claim_one().await;
    s.add(in_sub_queue(2)).await;
    assert!(s.claim(10).await.is_empty());
    s.add(in_sub_queue(3)).await;
    assert_eq!(s.queue().await.queued, 1);
    s.succeed_all(&[running]).await;
    assert_eq!(s.claim_numbers(10).await, [3]);
}

pub async fn a_first_job_yields_to_a_latest_one_of_its_key(s: Subject) {
    s.add(first(1)).await;
    s.add(latest(2)).await;
    assert_eq!(s.state(job_id(1)).await, JobState::Revoked);
    assert_eq!(s.submit_one(first(3)).await, Submitted::Duplicate(job_id(2)));
}

pub async fn debounced_jobs_start_when_no_more_have_come_for_a_while(s: Subject) {
    let debounced = |n: u64| NewJob { start: Start::After(1_000), ..latest(n) };
    for n in 1..=5 {
        s.add(debounced(n)).await;
        s.pass(900);
        assert_eq!(s.promote().await.moved, 0);
    }
    assert_eq!(s.read(job_id(5)).await.due_at, Some(START_MS + 4_600));
    s.pass(100);
    assert_eq!(s.promote().await.moved, 1);
    assert_eq!(s.claim_numbers(10).await, [5]);
}

pub async fn debounced_jobs_start_after_their_longest_wait_however_many_come(s: Subject) {
    let debounced =
        |n: u64| with_unique(NewJob { start: Start::After(1_000), ..latest(n) }, |unique| unique.max_wait_ms = 2_500);
    for (n, due) in [(1, 1_000), (2, 1_800), (3, 2_500), (4, 2_500)] {
        s.pass(if n == 1 { 0 } else { 800 });
        s.add(debounced(n)).await;
        assert_eq!(s.read(job_id(n)).await.due_at, Some(START_MS + due), "job {n}");
    }
    // So late that its time is over: at once.
    s.pass(200);
    s.add(debounced(5)).await;
    assert_eq!(s.state(job_id(5)).await, JobState::Queued);
    // What comes when nothing waits begins to wait anew.
    let running = s.claim_one().await;
    s.add(debounced(6)).await;
    assert_eq!(s.read(job_id(6)).await.due_at, Some(START_MS + 2_600 + 1_000));
    s.succeed_all(&[running]).await;
}

pub async fn a_unique_redrive_takes_its_job_out_of_the_dead_set_once(s: Subject) {
    s.add(first(1)).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, fail()).await;
    let redrive = |n: u64| NewJob { redrive_of: Some(job_id(1)), ..first(n) };
    s.add(redrive(2)).await;
    assert!(s.dead().await.is_empty());
    assert_eq!(s.submit_one(redrive(3)).await, Submitted::Duplicate(job_id(2)));
}

impl Subject {
    async fn cancel_one(&self, n: u64) {
        assert_eq!(self.broker.cancel(&tenant("t1"), job_id(n), true).await.unwrap(), Cancelled::Revoked);
    }
}
