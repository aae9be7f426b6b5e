//! What users of Celery complain of, reproduced: each scenario is a situation that goes wrong there.

use std::collections::BTreeSet;

use super::{broker_options::*, *};

const HOUR_MS: u64 = 3_600_000;

pub async fn a_job_with_an_eta_beyond_every_lease_runs_once(s: Subject) {
    s.add(NewJob { start: Start::At(START_MS + 30 * HOUR_MS), ..new_job(1) }).await;
    for _ in 0..30 {
        assert!(s.claim_as("w1", 10).await.is_empty() && s.claim_as("w2", 10).await.is_empty());
        s.pass(HOUR_MS);
        assert_eq!(s.broker.reap(10).await.unwrap().requeued, 0);
        s.promote().await;
    }
    let delivery = s.claim_one().await;
    assert_eq!((delivery.delivery, delivery.retries), (1, 0));
    assert!(s.claim_as("w2", 10).await.is_empty());
    s.succeed_all(&[delivery]).await;
    assert!(s.read(job_id(1)).await.history.is_empty(), "no delivery was lost");
}

pub async fn a_job_that_runs_for_hours_is_not_given_to_anybody_else(s: Subject) {
    s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    let third = DEFAULT_LEASE_MS / 3;
    for _ in 0..4 * HOUR_MS / third / 10 {
        s.pass(third);
        assert_eq!(s.renew(&delivery).await, LeaseState::Held);
        assert_eq!(s.broker.reap(10).await.unwrap().requeued, 0);
        assert!(s.claim_as("w2", 1).await.is_empty());
    }
    assert_eq!(s.settle(&delivery, succeed("1")).await, Settled::Recorded);
}

pub async fn a_late_answer_of_the_old_owner_does_not_touch_the_new_owners_claim(s: Subject) {
    s.add(capped(1, "mail", 1)).await;
    let old = s.claim_as("w1", 1).await.remove(0);
    s.lose().await;
    let new = s.claim_as("w2", 1).await.remove(0);
    assert!(new.fence > old.fence);
    for late in [succeed("1"), fail(), retry(0), Resolution::Release, Resolution::Revoke] {
        assert_eq!(s.settle(&old, late).await, Settled::Lost);
        assert_eq!(s.renew(&old).await, LeaseState::Lost);
    }
    // Nor does it make place for another one under the cap.
    s.add(capped(2, "mail", 1)).await;
    assert!(s.claim(10).await.is_empty());
    assert_eq!(s.renew(&new).await, LeaseState::Held);
    assert_eq!(s.settle(&new, succeed("2")).await, Settled::Recorded);
}

pub async fn a_claim_whose_reply_is_lost_loses_no_job(s: Subject) {
    s.add_all((1..=3).map(|n| keyed(n, "a", 2))).await;
    s.add_all((4..=6).map(new_job)).await;
    // The worker died before it heard what it had been given.
    let sorted = |deliveries: &[Delivery]| numbers(deliveries).into_iter().collect::<BTreeSet<_>>();
    let unheard = sorted(&s.claim(10).await);
    assert_eq!(unheard.len(), 5);
    assert_eq!(s.lose().await.requeued, 5);
    let again = s.claim(10).await;
    assert_eq!(sorted(&again), unheard);
    s.succeed_all(&again).await;
    assert_eq!(s.claim_numbers(10).await, [3]);
}

pub async fn delayed_jobs_are_with_no_worker_before_they_are_due(s: Subject) {
    let jobs: Vec<NewJob> = (0..2_000).map(|n| NewJob { start: Start::After(1_000 + n), ..new_job(n) }).collect();
    for some in jobs.chunks(500) {
        s.broker.submit(some).await.unwrap();
    }
    assert!(s.claim(100).await.is_empty());
    let queue = s.queue().await;
    assert_eq!((queue.delayed, queue.running, queue.queued), (2_000, 0, 0));
    s.pass(1_009);
    assert_eq!(s.promote().await, Promoted { moved: 10, expired: 0, opened: 0, next_due: Some(START_MS + 1_010) });
    assert_eq!(s.claim(100).await.len(), 10);
}

pub async fn a_revoke_outlives_the_workers_that_heard_of_it(s: Subject) {
    s.add_all((1..=2).map(new_job)).await;
    s.claim_as("w1", 1).await;
    assert_eq!(s.cancel(job_id(1)).await, Cancelled::Requested);
    assert_eq!(s.cancel(job_id(2)).await, Cancelled::Revoked);
    // Every worker that heard of it is gone; one that never did comes.
    s.pass(100 * DEFAULT_LEASE_MS);
    s.broker.reap(10).await.unwrap();
    assert!(s.claim_as("w9", 10).await.is_empty());
    assert_eq!((s.state(job_id(1)).await, s.state(job_id(2)).await), (JobState::Revoked, JobState::Revoked));
}

pub async fn one_rate_holds_for_all_workers_and_holds_up_no_other_task(s: Subject) {
    s.add_all((1..=20).map(|n| rated(n, per_second(1, 1)))).await;
    s.add_all((101..=104).map(new_job)).await;
    let mut started = Vec::new();
    for worker in ["w1", "w2", "w3", "w4", "w5"] {
        started.extend(numbers(&s.claim_as(worker, 1).await));
    }
    started.sort_unstable();
    assert_eq!(started, [1, 101, 102, 103, 104]);
    s.pass(1_000);
    s.promote().await;
    let mut second = 0;
    for worker in ["w1", "w2", "w3"] {
        second += s.claim_as(worker, 4).await.len();
    }
    assert_eq!(second, 1);
}

pub async fn a_flood_of_one_tenant_does_not_delay_anothers_job(s: Subject) {
    let flood: Vec<NewJob> = (0..2_900).map(|n| of_tenant("noisy", new_job(n))).collect();
    for some in flood.chunks(500) {
        s.broker.submit(some).await.unwrap();
    }
    s.claim(50).await;
    s.add(of_tenant("quiet", new_job(5_000))).await;
    assert_eq!(s.claim_numbers(3).await, [5_000, 50, 51]);
}

pub async fn the_highest_priority_is_next_for_every_worker(s: Subject) {
    for n in 0..10 {
        s.add(NewJob { priority: n as u8, ..new_job(n) }).await;
    }
    for (worker, expected) in [("w1", 9), ("w2", 8), ("w3", 7), ("w1", 6)] {
        assert_eq!(numbers(&s.claim_as(worker, 1).await), [expected]);
    }
    // What comes now is before all that waits: nobody hoards.
    s.add(NewJob { priority: 9, ..new_job(20) }).await;
    assert_eq!(numbers(&s.claim_as("w2", 1).await), [20]);
}

pub async fn a_job_that_kills_its_worker_is_tried_so_often_and_then_dead_with_the_reason(s: Subject) {
    s.add(NewJob { max_deliveries: 2, ..new_job(1) }).await;
    for retries in 0..2 {
        // A retry is not a lost delivery: it begins to count anew.
        assert_eq!(s.claim_one().await.delivery, 1);
        assert_eq!(s.lose().await.requeued, 1);
        let delivery = s.claim_one().await;
        assert_eq!((delivery.retries, delivery.delivery), (retries, 2));
        if retries == 0 {
            s.settle(&delivery, retry(0)).await;
            s.promote().await;
        }
    }
    assert_eq!(s.lose().await.buried, 1);
    let record = s.read(job_id(1)).await;
    assert_eq!((record.state, record.failure.unwrap().kind.as_str()), (JobState::Failed, "max_deliveries"));
    assert_eq!(s.dead().await, [job_id(1)]);
    assert!(s.claim(10).await.is_empty());
}

pub async fn failed_work_can_be_looked_at_and_done_again(s: Subject) {
    s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    s.settle(&delivery, fail()).await;
    // Longer than its result is kept.
    s.pass(100_000);
    s.prune_all().await;
    assert_eq!(s.dead().await, [job_id(1)]);
    let record = s.read(job_id(1)).await;
    assert_eq!((record.failure.unwrap().kind.as_str(), record.spec), ("Void", new_job(1).spec));
    s.add(NewJob { redrive_of: Some(job_id(1)), ..new_job(2) }).await;
    s.run_numbers(&[2]).await;
    assert!(s.dead().await.is_empty());
}

pub async fn nothing_of_a_job_outlives_its_retention(s: Subject) {
    let mut job = keyed(1, "a", 1);
    if let Some(broker_options) = &mut job.broker_options {
        broker_options.unique = Some(Unique { key: "u".into(), wins: Wins::First, for_ms: 5_000, max_wait_ms: 0 });
        if let Some(limits) = &mut broker_options.limits {
            (limits.rate, limits.key_rate) = (Some(per_second(1, 1)), Some(per_second(1, 1)));
        }
    }
    let idempotency = Idempotency { key: "i".into(), body: "b".into(), ttl_ms: 5_000 };
    s.add(NewJob { idempotency: Some(idempotency), ..job.clone() }).await;
    let delivery = s.claim_one().await;
    s.broker.renew(DEFAULT_LEASE_MS, &[Renewal { logs: vec![line(1)], ..renewal_of(&delivery) }]).await.unwrap();
    s.settle(&delivery, fail()).await;
    // A reader, a late worker and a late answer bring nothing back.
    s.pass(120_000);
    assert_eq!(s.prune_all().await, 1);
    assert_eq!(s.renew(&delivery).await, LeaseState::Lost);
    assert_eq!(s.settle(&delivery, succeed("1")).await, Settled::Lost);
    assert!(s.broker.job(&tenant("t1"), job_id(1)).await.unwrap().is_none());
    assert!(s.broker.logs(&tenant("t1"), job_id(1), 0, 10).await.unwrap().is_empty());
    assert!(s.dead().await.is_empty() && s.broker.jobs(&all_jobs(&tenant("t1"), false)).await.unwrap().jobs.is_empty());
    assert_eq!(s.promote().await.next_due, None);
    // What it was known by is free again.
    s.add(job).await;
}

pub async fn what_runs_is_known_without_asking_the_workers(s: Subject) {
    s.add_all((1..=5).map(new_job)).await;
    s.claim_as("busy", 3).await;
    s.claim_as("stuck", 1).await;
    let of = async |worker: &str| {
        let worker = Some(WorkerId::new(worker).unwrap());
        let query = JobQuery { state: Some(JobState::Running), worker, ..all_jobs(&tenant("t1"), false) };
        s.broker.jobs(&query).await.unwrap().jobs.len()
    };
    assert_eq!((of("busy").await, of("stuck").await), (3, 1));
    let queue = s.queue().await;
    assert_eq!((queue.queued, queue.running), (1, 4));
}

pub async fn a_pause_holds_for_workers_that_come_later(s: Subject) {
    s.add_all([job_of(1, "mail"), in_queue("other", job_of(2, "sms"))]).await;
    s.control(&queue_scope(), paused(true)).await;
    s.control(&task_scope("sms"), paused(true)).await;
    s.pass(1_000 * HOUR_MS);
    s.promote().await;
    s.prune_all().await;
    let late = s.broker.claim(&claim_of("late", &["default", "other"], 10)).await.unwrap();
    assert!(late.is_empty());
    assert_eq!(s.broker.controls(&tenant("t1")).await.unwrap().len(), 2);
}

pub async fn of_many_that_submit_the_same_at_once_one_creates_the_job(s: Subject) {
    let answers = futures::future::join_all((1..=20).map(|n| {
        let broker = s.broker.clone();
        async move { broker.submit(&[unique(n, "k", Wins::First)]).await.unwrap()[0] }
    }));
    let answers = answers.await;
    let created: Vec<u64> = (1..).zip(&answers).filter(|(_, a)| **a == Submitted::Created).map(|(n, _)| n).collect();
    assert_eq!(created.len(), 1);
    let others = answers.iter().filter(|a| **a == Submitted::Duplicate(job_id(created[0]))).count();
    assert_eq!((others, s.queue().await.queued), (19, 1));
}

pub async fn a_retry_is_recorded_in_the_step_that_ends_its_attempt(s: Subject) {
    s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    assert_eq!(s.settle(&delivery, retry(1_000)).await, Settled::Recorded);
    // There is no second message that could fail: the same job waits, once, whoever dies now.
    assert_eq!(s.settle(&delivery, retry(1_000)).await, Settled::AlreadyDone);
    assert_eq!(s.lose().await, Reaped { requeued: 0, buried: 0, failed: 0, revoked: 0 });
    let queue = s.queue().await;
    assert_eq!((queue.delayed, queue.queued, queue.running), (1, 0, 0));
    assert_eq!(s.promote().await.moved, 1);
    assert_eq!(s.promote().await.moved, 0);
    let again = s.claim(10).await;
    assert_eq!((again.len(), again[0].retries), (1, 1));
}

impl Subject {
    /// Lets these jobs, which must be all that is ready, succeed.
    async fn run_numbers(&self, expected: &[u64]) {
        let claimed = self.claim(100).await;
        assert_eq!(numbers(&claimed), expected);
        self.succeed_all(&claimed).await;
    }
}
