//! Deliveries: claim, renew, settle, lose.

use umbel_broker::rules::lease::{GRACE_MS, OUTAGE_MS};
use umbel_model::{AttemptRecord, OnWorkerLost, Progress, Usage, job::MAX_HISTORY};

use super::{broker_options::*, *};

pub async fn settle_and_claim_happen_in_one_step(s: Subject) {
    s.add(new_job(1)).await;
    s.add(new_job(2)).await;
    let first = s.claim_one().await;
    let settle = settle_of(&first, succeed("1"));
    let (settled, claimed) = s.broker.settle(&[settle], Some(&claim_of("w1", &["default"], 5))).await.unwrap();
    assert_eq!(settled, [Settled::Recorded]);
    assert_eq!(claimed.iter().map(|d| d.id).collect::<Vec<_>>(), [job_id(2)]);
}

pub async fn a_settle_with_an_old_token_changes_nothing(s: Subject) {
    let id = s.add(new_job(1)).await;
    let old = s.claim_one().await;
    s.pass_served(DEFAULT_LEASE_MS).await;
    s.broker.reap(10).await.unwrap();
    assert_eq!(s.settle(&old, succeed("1")).await, Settled::Lost);
    let new = s.claim_one().await;
    assert_ne!(old.token, new.token);
    assert_eq!(s.settle(&old, fail()).await, Settled::Lost);
    assert_eq!(s.renew(&old).await, LeaseState::Lost);
    assert_eq!(s.state(id).await, JobState::Running);
    assert_eq!(s.settle(&new, succeed("2")).await, Settled::Recorded);
}

pub async fn a_settle_repeated_is_recorded_once(s: Subject) {
    for (n, resolution) in
        [(1, succeed("1")), (2, fail()), (3, retry(1_000)), (4, Resolution::Snooze { delay_ms: 1_000 })]
    {
        let id = s.add(new_job(n)).await;
        let delivery = s.claim_one().await;
        assert_eq!(s.settle(&delivery, resolution.clone()).await, Settled::Recorded);
        let after = s.read(id).await;
        s.pass(10);
        assert_eq!(s.settle(&delivery, resolution).await, Settled::AlreadyDone);
        let again = s.read(id).await;
        assert_eq!((again.state, again.retries, again.finished_at), (after.state, after.retries, after.finished_at));
    }
}

pub async fn a_settle_that_contradicts_the_recorded_one_is_refused(s: Subject) {
    let id = s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, succeed("1")).await;
    for other in [fail(), retry(0), Resolution::Revoke, Resolution::Release] {
        assert_eq!(s.settle(&delivery, other).await, Settled::Lost);
    }
    assert_eq!(s.state(id).await, JobState::Succeeded);
}

pub async fn a_result_comes_back_as_it_was_sent(s: Subject) {
    let texts =
        [r#"{"big":123456789012345678901234567890,"f":1.10,"u":"é\u0000\n","n":null}"#, "null", "[]", "1e400", "\"\""];
    for (n, text) in (0..).zip(texts) {
        let id = s.add(new_job(n)).await;
        let delivery = s.claim_one().await;
        s.settle(&delivery, succeed(text)).await;
        assert_eq!(s.read(id).await.result.unwrap().get(), text);
    }
    let id = s.add(new_job(100)).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, Resolution::Succeed { result: None }).await;
    assert!(s.read(id).await.result.is_none());
    let id = s.add(new_job(101)).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, fail()).await;
    let Resolution::Fail { failure } = fail() else { unreachable!() };
    assert_eq!(s.read(id).await.failure, Some(failure));
}

pub async fn an_expired_lease_is_requeued_once_at_its_place(s: Subject) {
    let first = s.add(new_job(1)).await;
    s.add(new_job(2)).await;
    let lost = s.claim_one().await;
    s.pass_served(DEFAULT_LEASE_MS - 1).await;
    assert_eq!(s.broker.reap(10).await.unwrap(), Reaped { requeued: 0, buried: 0, failed: 0, revoked: 0 });
    s.pass(1);
    assert_eq!(s.broker.reap(10).await.unwrap(), Reaped { requeued: 1, buried: 0, failed: 0, revoked: 0 });
    assert_eq!(s.broker.reap(10).await.unwrap(), Reaped { requeued: 0, buried: 0, failed: 0, revoked: 0 });
    let again = s.claim_one().await;
    assert_eq!((again.id, again.delivery, again.retries), (first, 2, 0));
    assert!(again.fence > lost.fence);
    let history = s.read(first).await.history;
    assert_eq!(history.iter().map(|h| h.outcome.as_str()).collect::<Vec<_>>(), ["lost"]);
}

pub async fn what_nobody_could_renew_while_the_store_was_away_is_not_taken_back(s: Subject) {
    s.add_all([once(1, OnWorkerLost::Fail), new_job(2)]).await;
    let held = s.claim(1).await.remove(0);
    let abandoned = s.claim_one().await;
    for _ in 0..6 {
        s.pass_served(OUTAGE_MS).await;
        assert_eq!(s.renew(&held).await, LeaseState::Held);
        // Away for longer than a lease; then the reaper is faster than the workers.
        s.pass(20_000);
        assert_eq!(s.broker.reap(10).await.unwrap(), Reaped::default());
        s.pass(GRACE_MS / 2);
        assert_eq!(s.renew(&held).await, LeaseState::Held);
    }
    // What nobody renews within a lease is lost.
    s.broker.reap(10).await.unwrap();
    s.pass_served(GRACE_MS).await;
    assert_eq!(s.renew(&held).await, LeaseState::Held);
    assert_eq!(s.broker.reap(10).await.unwrap(), Reaped { requeued: 1, ..Reaped::default() });
    assert_eq!(s.settle(&abandoned, succeed("1")).await, Settled::Lost);
    assert_eq!(s.settle(&held, succeed("1")).await, Settled::Recorded);
    assert_eq!(s.read(held.id).await.history.len(), 0);
}

pub async fn a_job_lost_again_goes_to_the_end_of_its_line(s: Subject) {
    for n in 1..=3 {
        s.add(new_job(n)).await;
    }
    // One of a group kills its worker again and again, and each time the others lose a delivery with it.
    for expected in [[1, 2], [1, 2], [3, 1]] {
        let ids: Vec<JobId> = s.claim(2).await.into_iter().map(|d| d.id).collect();
        assert_eq!(ids, expected.map(job_id));
        s.pass_served(DEFAULT_LEASE_MS).await;
        assert_eq!(s.broker.reap(10).await.unwrap().buried, u32::from(expected == [3, 1]));
    }
    // Job 3 was lost once and has its place still; job 2 twice.
    let ids: Vec<JobId> = s.claim(10).await.into_iter().map(|d| d.id).collect();
    assert_eq!(ids, [3, 2].map(job_id));
}

pub async fn a_renewed_lease_does_not_expire(s: Subject) {
    s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    for _ in 0..5 {
        s.pass_served(DEFAULT_LEASE_MS - 1).await;
        assert_eq!(s.renew(&delivery).await, LeaseState::Held);
        assert_eq!(s.broker.reap(10).await.unwrap().requeued, 0);
    }
    // A lease that nobody took back in time is still its holder's.
    s.pass_served(DEFAULT_LEASE_MS * 2).await;
    assert_eq!(s.renew(&delivery).await, LeaseState::Held);
    assert_eq!(s.settle(&delivery, succeed("1")).await, Settled::Recorded);
    assert_eq!(s.renew(&delivery).await, LeaseState::Lost);
}

pub async fn a_job_that_kills_its_workers_is_buried(s: Subject) {
    let id = s.add(new_job(1)).await;
    for delivery in 1..=3 {
        assert_eq!(s.claim_one().await.delivery, delivery);
        s.pass_served(DEFAULT_LEASE_MS).await;
        s.broker.reap(10).await.unwrap();
    }
    let record = s.read(id).await;
    assert_eq!(record.state, JobState::Failed);
    let failure = record.failure.unwrap();
    assert_eq!(failure.kind, "max_deliveries");
    assert_eq!(failure.message, umbel_broker::rules::lease::max_deliveries_message(3));
    assert_eq!(record.history.len(), 3);
    assert_eq!(s.dead().await, [id]);
}

pub async fn a_retry_costs_a_retry_and_resets_the_deliveries(s: Subject) {
    let id = s.add(new_job(1)).await;
    s.claim_one().await;
    s.pass_served(DEFAULT_LEASE_MS).await;
    s.broker.reap(10).await.unwrap();
    let delivery = s.claim_one().await;
    assert_eq!(delivery.delivery, 2);
    s.settle(&delivery, retry(1_000)).await;
    let record = s.read(id).await;
    assert_eq!((record.state, record.retries, record.deliveries), (JobState::Retrying, 1, 0));
    assert_eq!(record.failure.unwrap().kind, "Timeout");
    s.pass(1_000);
    s.broker.promote(10).await.unwrap();
    let delivery = s.claim_one().await;
    assert_eq!((delivery.retries, delivery.delivery), (1, 1));
    s.settle(&delivery, succeed("1")).await;
    assert!(s.read(id).await.failure.is_none());
}

pub async fn a_snooze_costs_nothing(s: Subject) {
    let id = s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, Resolution::Snooze { delay_ms: 700 }).await;
    let record = s.read(id).await;
    assert_eq!((record.state, record.due_at), (JobState::Scheduled, Some(START_MS + 700)));
    s.pass(700);
    s.broker.promote(10).await.unwrap();
    assert_eq!(s.claim_one().await.retries, 0);
}

pub async fn a_released_job_keeps_its_place_and_its_count(s: Subject) {
    let first = s.add(new_job(1)).await;
    s.add(new_job(2)).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, Resolution::Release).await;
    assert_eq!(s.read(first).await.deliveries, 0);
    let again = s.claim_one().await;
    assert_eq!((again.id, again.delivery, again.retries), (first, 1, 0));
}

pub async fn a_fence_only_rises(s: Subject) {
    s.add(new_job(1)).await;
    let mut last = 0;
    for _ in 0..5 {
        let delivery = s.claim_one().await;
        assert!(delivery.fence > last, "even when the clock stands still");
        last = delivery.fence;
        s.settle(&delivery, Resolution::Release).await;
    }
    // Nor does a clock that is set back lower it.
    s.now.fetch_sub(60_000, Ordering::SeqCst);
    assert!(s.claim_one().await.fence > last);
}

pub async fn cancelling_a_waiting_job_revokes_it(s: Subject) {
    let queued = s.add(new_job(1)).await;
    let scheduled = s.add(NewJob { start: Start::After(1_000), ..new_job(2) }).await;
    let t = tenant("t1");
    for id in [queued, scheduled] {
        assert_eq!(s.broker.cancel(&t, id, true).await.unwrap(), Cancelled::Revoked);
        assert_eq!(s.state(id).await, JobState::Revoked);
        assert_eq!(s.broker.cancel(&t, id, true).await.unwrap(), Cancelled::AlreadyEnded(JobState::Revoked));
    }
    s.pass(2_000);
    assert_eq!(s.broker.promote(10).await.unwrap(), Promoted { moved: 0, expired: 0, opened: 0, next_due: None });
    assert!(s.claim(10).await.is_empty());
}

pub async fn cancelling_a_running_job_asks_its_worker(s: Subject) {
    let id = s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    assert_eq!(s.broker.cancel(&tenant("t1"), id, true).await.unwrap(), Cancelled::Requested);
    assert!(s.read(id).await.cancel_requested);
    assert_eq!(s.renew(&delivery).await, LeaseState::Cancel);
    assert_eq!(s.settle(&delivery, Resolution::Revoke).await, Settled::Recorded);
    assert_eq!(s.state(id).await, JobState::Revoked);
}

pub async fn a_cancelled_job_does_not_come_back_by_retry_or_crash(s: Subject) {
    let t = tenant("t1");
    for (n, resolution) in [(1, retry(0)), (2, Resolution::Snooze { delay_ms: 0 }), (3, Resolution::Release)] {
        let id = s.add(new_job(n)).await;
        let delivery = s.claim_one().await;
        s.broker.cancel(&t, id, true).await.unwrap();
        s.settle(&delivery, resolution).await;
        assert_eq!(s.state(id).await, JobState::Revoked);
    }
    let id = s.add(new_job(4)).await;
    s.claim_one().await;
    s.broker.cancel(&t, id, true).await.unwrap();
    s.pass_served(DEFAULT_LEASE_MS).await;
    assert_eq!(s.broker.reap(10).await.unwrap().revoked, 1);
    assert_eq!(s.state(id).await, JobState::Revoked);
}

pub async fn progress_and_logs_come_with_the_lease(s: Subject) {
    let id = s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    let progress = Progress { done: 1, total: 3, message: "a \"b\"".into(), ..Progress::default() };
    let renewal = Renewal { progress: Some(progress.clone()), logs: vec![line(1), line(2)], ..renewal_of(&delivery) };
    s.broker.renew(DEFAULT_LEASE_MS, &[renewal]).await.unwrap();
    s.renew(&delivery).await;
    assert_eq!(s.read(id).await.progress, Some(progress));
    let settle = Settle { logs: vec![line(3)], ..settle_of(&delivery, succeed("1")) };
    s.broker.settle(&[settle], None).await.unwrap();
    let t = tenant("t1");
    assert_eq!(s.broker.logs(&t, id, 0, 10).await.unwrap(), [1, 2, 3].map(line));
    assert_eq!(s.broker.logs(&t, id, 1, 1).await.unwrap(), [line(2)]);
    // Who lost the lease cannot write.
    let late = Renewal { logs: vec![line(9)], ..renewal_of(&delivery) };
    s.broker.renew(DEFAULT_LEASE_MS, &[late]).await.unwrap();
    assert_eq!(s.broker.logs(&t, id, 0, 10).await.unwrap().len(), 3);
}

pub async fn logs_stop_at_their_limit(s: Subject) {
    let id = s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    for start in [0, 6, 12] {
        let renewal = Renewal { logs: (start..start + 6).map(line).collect(), ..renewal_of(&delivery) };
        s.broker.renew(DEFAULT_LEASE_MS, &[renewal]).await.unwrap();
    }
    let lines = s.broker.logs(&tenant("t1"), id, 0, 100).await.unwrap();
    assert_eq!(lines, (0..limits().max_log_lines).map(line).collect::<Vec<_>>());
}

pub async fn history_keeps_every_attempt_up_to_its_limit(s: Subject) {
    let id = s.add(new_job(1)).await;
    let attempts = MAX_HISTORY as u32 + 5;
    for attempt in 1..=attempts {
        let delivery = s.claim_one().await;
        let record = AttemptRecord {
            attempt,
            delivery: delivery.delivery,
            worker: WorkerId::new("w1").unwrap(),
            ended_at: START_MS,
            outcome: "error".into(),
            failure: Some(Failure::new("E", "line\nbreak \"quoted\"")),
            usage: Usage { fuel: 1, memory_bytes: 2, duration_us: 3, cpu_us: (attempt % 5).into(), ..Usage::default() },
        };
        let settle = Settle { record: Some(record), ..settle_of(&delivery, retry(0)) };
        s.broker.settle(&[settle], None).await.unwrap();
        s.broker.promote(10).await.unwrap();
    }
    let history = s.read(id).await.history;
    assert!(history.iter().all(|h| h.usage.cpu_us == u64::from(h.attempt % 5)), "{history:?}");
    let seen: Vec<u32> = history.iter().map(|h| h.attempt).collect();
    assert_eq!(seen.len(), MAX_HISTORY);
    assert_eq!((seen[0], seen[1], seen[MAX_HISTORY - 1]), (1, 7, attempts));
}

pub async fn a_failed_job_is_in_the_dead_set_until_redriven_once(s: Subject) {
    let id = s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, fail()).await;
    assert_eq!(s.dead().await, [id]);
    let redrive = |n| NewJob { redrive_of: Some(id), ..new_job(n) };
    s.add(redrive(2)).await;
    assert!(s.dead().await.is_empty());
    assert_eq!(s.state(id).await, JobState::Failed);
    assert_eq!(s.broker.submit(&[redrive(3)]).await.unwrap(), [Submitted::NotDead]);
    // The reply to the first one was lost: asking again answers with it.
    assert_eq!(s.broker.submit(&[redrive(2)]).await.unwrap(), [Submitted::Existing(job_id(2))]);
}

pub async fn retention_deletes_a_job_and_all_that_is_its_own(s: Subject) {
    let good = s.add(new_job(1)).await;
    let bad = s.add(new_job(2)).await;
    let deliveries = s.claim(2).await;
    let settle = Settle { logs: vec![line(1)], ..settle_of(&deliveries[0], succeed("1")) };
    s.broker.settle(&[settle, settle_of(&deliveries[1], fail())], None).await.unwrap();
    s.pass(59_999);
    assert_eq!(s.broker.prune(10).await.unwrap(), 0);
    s.pass(1);
    assert_eq!(s.broker.prune(10).await.unwrap(), 1);
    assert!(s.broker.job(&tenant("t1"), good).await.unwrap().is_none());
    assert!(s.broker.logs(&tenant("t1"), good, 0, 10).await.unwrap().is_empty());
    assert_eq!(s.dead().await, [bad]);
    s.pass(60_000);
    assert_eq!(s.broker.prune(10).await.unwrap(), 1);
    assert!(s.dead().await.is_empty());
    assert!(s.broker.jobs(&all_jobs(&tenant("t1"), false)).await.unwrap().jobs.is_empty());
}

pub async fn a_retrying_job_can_be_run_now(s: Subject) {
    let id = s.add(new_job(1)).await;
    let t = tenant("t1");
    assert_eq!(s.broker.run_now(&t, id).await.unwrap(), RunNow::NotWaiting(JobState::Queued));
    let delivery = s.claim_one().await;
    s.settle(&delivery, retry(1_000_000)).await;
    assert_eq!(s.broker.run_now(&t, id).await.unwrap(), RunNow::Queued);
    assert_eq!(s.claim_one().await.retries, 1);
    assert_eq!(s.queue().await.delayed, 0);
}
