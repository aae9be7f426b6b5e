//! Lost workers as policies want them handled, absolute expiry, and jobs that are cancelled and left to end.

use umbel_model::OnWorkerLost;

use super::{broker_options::*, flows::*, *};

pub async fn a_job_that_may_run_once_fails_with_its_worker(s: Subject) {
    s.add_all([once(1, OnWorkerLost::Fail), once(2, OnWorkerLost::Dead), once(3, OnWorkerLost::Requeue)]).await;
    let held = s.claim(10).await;
    assert_eq!(s.lose().await, Reaped { requeued: 1, buried: 1, failed: 1, revoked: 0 });
    for n in 1..=2 {
        let record = s.read(job_id(n)).await;
        assert_eq!(record.state, JobState::Failed);
        let failure = record.failure.unwrap();
        assert_eq!((failure.kind.as_str(), failure.message.as_str()), (WORKER_LOST, WORKER_LOST_MESSAGE));
        assert_eq!(record.history.iter().map(|h| h.outcome.as_str()).collect::<Vec<_>>(), ["lost"]);
    }
    assert_eq!(s.dead().await, [job_id(2)]);
    assert_eq!(s.settle(&held[0], succeed("1")).await, Settled::Lost);
    assert_eq!(s.claim_numbers(10).await, [3]);
    // What is not in the dead set is kept as long as a result.
    s.pass(60_000);
    s.broker.reap(10).await.unwrap();
    assert_eq!(s.prune_all().await, 1);
}

pub async fn a_job_that_may_run_once_is_retried_and_released_like_any_other(s: Subject) {
    s.add(once(1, OnWorkerLost::Fail)).await;
    let first = s.claim_one().await;
    s.settle(&first, Resolution::Release).await;
    let second = s.claim_one().await;
    s.settle(&second, retry(0)).await;
    s.promote().await;
    let third = s.claim_one().await;
    assert_eq!((third.retries, third.delivery), (1, 1));
    s.succeed_all(&[third]).await;
    assert_eq!(s.lose().await, Reaped { requeued: 0, buried: 0, failed: 0, revoked: 0 });
}

pub async fn a_cancelled_job_that_may_run_once_is_revoked_when_its_worker_is_lost(s: Subject) {
    s.add(once(1, OnWorkerLost::Dead)).await;
    s.claim_one().await;
    assert_eq!(s.cancel(job_id(1)).await, Cancelled::Requested);
    assert_eq!(s.lose().await, Reaped { requeued: 0, buried: 0, failed: 0, revoked: 1 });
    assert_eq!((s.state(job_id(1)).await, s.dead().await), (JobState::Revoked, vec![]));
}

pub async fn a_node_that_may_run_once_fails_what_waits_for_it(s: Subject) {
    for (n, on_lost) in [(1, "fail"), (2, "dead")] {
        let json =
            format!(r#"{{"chain":[{{"task":"a","options":{{"knobs":{{"on_lost":"{on_lost}"}}}}}},{{"task":"b"}}]}}"#);
        let f = s.begin(&flow(n, &json)).await;
        s.next("a").await;
        s.lose().await;
        f.is_over(WorkflowState::Failed, "a:failed b:failed").await;
        assert_eq!(s.dead().await.len() as u64, n - 1);
    }
}

pub async fn the_earlier_of_two_expiries_counts(s: Subject) {
    let expiring = |n: u64, ms: u64, at: UnixMs| NewJob { expires_ms: ms, expires_at: Some(at), ..new_job(n) };
    s.add_all([expiring(1, 100, START_MS + 50), expiring(2, 50, START_MS + 100), expiring(3, 0, START_MS + 70)]).await;
    assert_eq!(s.read(job_id(1)).await.expires_at, Some(START_MS + 50));
    assert_eq!(s.read(job_id(2)).await.expires_at, Some(START_MS + 50));
    assert_eq!(s.read(job_id(3)).await.expires_at, Some(START_MS + 70));
    s.pass(50);
    assert_eq!(s.promote().await, Promoted { moved: 0, expired: 2, opened: 0, next_due: Some(START_MS + 70) });
    assert_eq!(s.claim_numbers(10).await, [3]);
}

pub async fn a_job_that_was_over_its_time_when_it_was_submitted_never_runs(s: Subject) {
    s.add(NewJob { expires_at: Some(START_MS - 1), ..new_job(1) }).await;
    s.add(NewJob { expires_at: Some(START_MS), start: Start::After(1_000), ..new_job(2) }).await;
    assert!(s.claim(10).await.is_empty());
    s.promote().await;
    assert_eq!((s.state(job_id(1)).await, s.state(job_id(2)).await), (JobState::Expired, JobState::Expired));
}

pub async fn a_job_that_expires_before_its_retry_never_runs_again(s: Subject) {
    s.add(NewJob { expires_at: Some(START_MS + 500), ..new_job(1) }).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, retry(1_000)).await;
    s.pass(500);
    assert_eq!(s.promote().await.expired, 1);
    assert_eq!(s.state(job_id(1)).await, JobState::Expired);
    // One that runs when its time is over may end.
    s.add(NewJob { expires_at: Some(START_MS + 600), ..new_job(2) }).await;
    let delivery = s.claim_one().await;
    s.pass(1_000);
    s.promote().await;
    s.succeed_all(&[delivery]).await;
    assert_eq!(s.state(job_id(2)).await, JobState::Succeeded);
}

impl Subject {
    async fn let_end(&self, id: JobId) -> Cancelled {
        self.broker.cancel(&tenant("t1"), id, false).await.unwrap()
    }
}

pub async fn a_running_job_that_is_left_to_end_keeps_its_result(s: Subject) {
    s.add_all((1..=2).map(new_job)).await;
    let held = s.claim(10).await;
    let mut cancel = s.broker.signals(Topic::Cancel).await.unwrap();
    for delivery in &held {
        assert_eq!(s.let_end(delivery.id).await, Cancelled::Requested);
        assert_eq!(s.renew(delivery).await, LeaseState::Held);
        let record = s.read(delivery.id).await;
        assert_eq!((record.cancel_requested, record.let_end), (true, true));
    }
    assert_eq!(s.settle(&held[0], succeed("7")).await, Settled::Recorded);
    assert_eq!(s.state(job_id(1)).await, JobState::Succeeded);
    assert_eq!(s.read(job_id(1)).await.result.unwrap().get(), "7");
    // Told to stop now, it is; and nobody was told before.
    assert_eq!(s.cancel(job_id(2)).await, Cancelled::Requested);
    assert_eq!(hint(&mut cancel).await, Signal::Cancel([job_id(2)].into()));
    assert_eq!(s.renew(&held[1]).await, LeaseState::Cancel);
    assert!(!s.read(job_id(2)).await.let_end);
    // That cannot be taken back.
    assert_eq!(s.let_end(job_id(2)).await, Cancelled::Requested);
    assert_eq!(s.renew(&held[1]).await, LeaseState::Cancel);
    s.settle(&held[1], Resolution::Revoke).await;
    assert_eq!(s.let_end(job_id(2)).await, Cancelled::AlreadyEnded(JobState::Revoked));
}

pub async fn a_running_job_that_is_left_to_end_is_not_started_again(s: Subject) {
    let ends = [retry(0), Resolution::Snooze { delay_ms: 0 }, Resolution::Release];
    for (n, end) in (1..).zip(ends) {
        s.add(new_job(n)).await;
        let delivery = s.claim_one().await;
        s.let_end(delivery.id).await;
        s.settle(&delivery, end).await;
        assert_eq!(s.state(job_id(n)).await, JobState::Revoked);
    }
    s.add(new_job(10)).await;
    s.claim_one().await;
    s.let_end(job_id(10)).await;
    assert_eq!(s.lose().await.revoked, 1);
    s.add(new_job(11)).await;
    let delivery = s.claim_one().await;
    s.let_end(job_id(11)).await;
    s.settle(&delivery, fail()).await;
    assert_eq!((s.state(job_id(11)).await, s.dead().await), (JobState::Failed, vec![job_id(11)]));
}

pub async fn only_a_job_that_waits_is_cancelled_when_that_is_asked_for(s: Subject) {
    s.add_all([new_job(1), new_job(2)]).await;
    let first = s.claim(1).await.remove(0);
    let t1 = tenant("t1");
    let ids = [first.id, job_id(2), job_id(9)];
    let cancelled = |answers: [Cancelled; 3]| answers.map(JobActed::Cancelled);
    let expected = cancelled([Cancelled::Runs, Cancelled::Revoked, Cancelled::NotFound]);
    assert_eq!(s.broker.act(&t1, JobAction::CancelWaiting, &ids).await.unwrap(), expected);
    assert!(!s.broker.job(&t1, first.id).await.unwrap().unwrap().cancel_requested);
    let expected = cancelled([Cancelled::Runs, Cancelled::AlreadyEnded(JobState::Revoked), Cancelled::NotFound]);
    assert_eq!(s.broker.act(&t1, JobAction::CancelWaiting, &ids).await.unwrap(), expected);
}

pub async fn many_jobs_are_acted_on_in_one_step_with_an_answer_for_each(s: Subject) {
    let t1 = tenant("t1");
    let act = |action, ids: &[JobId]| {
        let (broker, t1, ids) = (s.broker.clone(), t1.clone(), ids.to_vec());
        async move { broker.act(&t1, action, &ids).await.unwrap() }
    };
    assert_eq!(act(JobAction::Forget, &[]).await, []);
    let late = |n| NewJob { start: Start::After(9_000), ..new_job(n) };
    s.add_all((1..=100).map(new_job).chain((101..=MAX_ACTS as u64).map(late))).await;
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    let all: Vec<JobId> = (1..=MAX_ACTS as u64).map(job_id).collect();
    let queued = act(JobAction::RunNow, &all).await;
    assert!(queued[..100].iter().all(|acted| *acted == JobActed::RunNow(RunNow::NotWaiting(JobState::Queued))));
    assert!(queued[100..].iter().all(|acted| *acted == JobActed::RunNow(RunNow::Queued)));
    assert_eq!((s.queue().await.queued, s.queue().await.delayed), (MAX_ACTS as u64 + 1, 0));
    // A node among them: what waits for it follows in the same step.
    let with_node = [&all[..], &[f.id_of(0), job_id(999)]].concat();
    let cancelled = act(JobAction::Cancel { terminate: true }, &with_node).await;
    assert!(cancelled[..=MAX_ACTS].iter().all(|acted| *acted == JobActed::Cancelled(Cancelled::Revoked)));
    assert_eq!(cancelled[MAX_ACTS + 1], JobActed::Cancelled(Cancelled::NotFound));
    f.is_over(WorkflowState::Failed, "a:revoked b:failed").await;
    assert_eq!(s.queue().await.queued, 0);
    let forgotten = act(JobAction::Forget, &with_node).await;
    assert!(forgotten[..MAX_ACTS].iter().all(|acted| *acted == JobActed::Forgot(Forgot::Forgotten)));
    let rest = [Forgot::Node, Forgot::NotFound].map(JobActed::Forgot);
    assert_eq!(forgotten[MAX_ACTS..], rest);
    assert!(s.broker.jobs(&all_jobs(&t1, false)).await.unwrap().jobs.is_empty());
}

pub async fn a_waiting_job_is_revoked_however_it_is_cancelled(s: Subject) {
    s.add_all([new_job(1), NewJob { start: Start::After(1_000), ..new_job(2) }, laned(3, "mail")]).await;
    for n in 1..=3 {
        assert_eq!(s.let_end(job_id(n)).await, Cancelled::Revoked);
        assert_eq!(s.state(job_id(n)).await, JobState::Revoked);
        assert!(!s.read(job_id(n)).await.let_end);
    }
    assert_eq!(s.let_end(job_id(9)).await, Cancelled::NotFound);
}

pub async fn a_cancelled_workflow_stops_a_job_that_was_left_to_end(s: Subject) {
    let f = s.begin_json(r#"{"group":[{"task":"a"},{"task":"b"}]}"#).await;
    let a = s.next("a").await;
    assert_eq!(s.let_end(a.id).await, Cancelled::Requested);
    assert_eq!(s.renew(&a).await, LeaseState::Held);
    f.cancel().await;
    assert_eq!(s.renew(&a).await, LeaseState::Cancel);
    s.settle(&a, Resolution::Revoke).await;
    f.is_over(WorkflowState::Revoked, "a:revoked b:revoked").await;
}

pub async fn a_node_that_is_left_to_end_goes_on_in_its_workflow(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    let a = s.next("a").await;
    assert_eq!(s.let_end(a.id).await, Cancelled::Requested);
    s.succeed_all(&[a]).await;
    s.run_all(&["b"]).await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded b:succeeded").await;
}
