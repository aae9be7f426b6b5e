//! Submitting, reading, listing.

use super::*;

fn keyed(n: u64, key: &str, body: &str) -> NewJob {
    let idempotency = Idempotency { key: key.into(), body: body.into(), ttl_ms: 1_000 };
    NewJob { idempotency: Some(idempotency), ..new_job(n) }
}

pub async fn a_submission_repeated_by_id_is_one_job(s: Subject) {
    let answers = s.broker.submit(&[new_job(1), new_job(1)]).await.unwrap();
    assert_eq!(answers, [Submitted::Created, Submitted::Existing(job_id(1))]);
    assert_eq!(s.broker.submit(&[new_job(1)]).await.unwrap(), [Submitted::Existing(job_id(1))]);
    assert_eq!(s.claim(10).await.len(), 1);
}

pub async fn an_idempotency_key_answers_with_the_first_job(s: Subject) {
    s.add(keyed(1, "k", "b")).await;
    assert_eq!(s.broker.submit(&[keyed(2, "k", "b")]).await.unwrap(), [Submitted::Existing(job_id(1))]);
    // Also when the first one has ended.
    let delivery = s.claim_one().await;
    s.settle(&delivery, succeed("1")).await;
    assert_eq!(s.broker.submit(&[keyed(3, "k", "b")]).await.unwrap(), [Submitted::Existing(job_id(1))]);
    // A key belongs to its tenant.
    let other = NewJob { tenant: tenant("t2"), ..keyed(4, "k", "b") };
    assert_eq!(s.broker.submit(&[other]).await.unwrap(), [Submitted::Created]);
}

pub async fn an_idempotency_key_with_another_body_is_a_conflict(s: Subject) {
    let answers = s.broker.submit(&[keyed(1, "k", "b"), keyed(2, "k", "other")]).await.unwrap();
    assert_eq!(answers, [Submitted::Created, Submitted::Conflict(job_id(1))]);
    assert!(s.broker.job(&tenant("t1"), job_id(2)).await.unwrap().is_none());
}

pub async fn an_idempotency_key_is_free_again_after_its_time(s: Subject) {
    s.add(keyed(1, "k", "b")).await;
    s.pass(1_000);
    s.add(keyed(2, "k", "other")).await;
}

pub async fn an_unknown_job_is_not_found(s: Subject) {
    assert!(s.broker.job(&tenant("t1"), job_id(9)).await.unwrap().is_none());
    assert_eq!(s.broker.cancel(&tenant("t1"), job_id(9), true).await.unwrap(), Cancelled::NotFound);
    assert_eq!(s.broker.run_now(&tenant("t1"), job_id(9)).await.unwrap(), RunNow::NotFound);
    assert!(s.broker.logs(&tenant("t1"), job_id(9), 0, 10).await.unwrap().is_empty());
}

pub async fn a_tenant_does_not_see_anothers_job(s: Subject) {
    let id = s.add(new_job(1)).await;
    let other = tenant("t2");
    assert!(s.broker.job(&other, id).await.unwrap().is_none());
    assert_eq!(s.broker.cancel(&other, id, true).await.unwrap(), Cancelled::NotFound);
    assert!(s.broker.queues(&other).await.unwrap().is_empty());
    let query = JobQuery {
        tenant: other,
        dead: false,
        state: None,
        task: None,
        queue: None,
        worker: None,
        labels: Vec::new(),
        before: None,
        max: 10,
    };
    assert!(s.broker.jobs(&query).await.unwrap().jobs.is_empty());
}

pub async fn a_full_queue_refuses_and_says_so(s: Subject) {
    let limit = limits().max_backlog;
    let half = limit / 2;
    let jobs: Vec<NewJob> = (0..=limit)
        .map(|n| NewJob { start: if n < half { Start::After(5_000) } else { Start::Now }, ..new_job(n) })
        .collect();
    let answers = s.broker.submit(&jobs).await.unwrap();
    assert_eq!(answers.iter().filter(|a| **a == Submitted::Created).count() as u64, limit);
    assert_eq!(answers.last(), Some(&Submitted::QueueFull));
    // What runs makes room.
    assert_eq!(s.claim(1).await.len(), 1);
    s.add(new_job(limit + 1)).await;
}

pub async fn too_many_queues_are_refused(s: Subject) {
    let of_queue = |n: u64| NewJob { queue: queue_name(&format!("q{n}")), ..new_job(n) };
    let jobs: Vec<NewJob> = (0..=limits().max_queues).map(of_queue).collect();
    let answers = s.broker.submit(&jobs).await.unwrap();
    assert_eq!(answers.last(), Some(&Submitted::TooManyQueues));
    assert!(answers.iter().rev().skip(1).all(|a| *a == Submitted::Created));
}

pub async fn a_job_with_a_delay_waits_for_its_time(s: Subject) {
    let after = s.add(NewJob { start: Start::After(1_000), ..new_job(1) }).await;
    let at = s.add(NewJob { start: Start::At(START_MS + 2_000), ..new_job(2) }).await;
    let past = s.add(NewJob { start: Start::At(START_MS - 1), ..new_job(3) }).await;
    assert_eq!(s.state(past).await, JobState::Queued);
    let record = s.read(after).await;
    assert_eq!((record.state, record.due_at), (JobState::Scheduled, Some(START_MS + 1_000)));
    assert_eq!(s.claim(10).await.len(), 1);

    s.pass(999);
    let nothing = Promoted { moved: 0, expired: 0, opened: 0, next_due: Some(START_MS + 1_000) };
    assert_eq!(s.broker.promote(10).await.unwrap(), nothing);
    s.pass(1);
    let one = Promoted { moved: 1, expired: 0, opened: 0, next_due: Some(START_MS + 2_000) };
    assert_eq!(s.broker.promote(10).await.unwrap(), one);
    assert_eq!(s.claim_one().await.id, after);
    s.pass(5_000);
    assert_eq!(s.broker.promote(10).await.unwrap(), Promoted { moved: 1, expired: 0, opened: 0, next_due: None });
    let record = s.read(at).await;
    assert_eq!((record.state, record.due_at), (JobState::Queued, None));
}

pub async fn a_job_that_expires_while_queued_never_runs(s: Subject) {
    let id = s.add(NewJob { expires_ms: 1_000, ..new_job(1) }).await;
    s.pass(1_000);
    assert_eq!(s.broker.promote(10).await.unwrap(), Promoted { moved: 0, expired: 1, opened: 0, next_due: None });
    let record = s.read(id).await;
    assert_eq!((record.state, record.finished_at), (JobState::Expired, Some(START_MS + 1_000)));
    assert!(s.claim(10).await.is_empty());
    assert_eq!(s.queue().await.queued, 0);
}

pub async fn a_job_that_expires_while_scheduled_never_runs(s: Subject) {
    let id = s.add(NewJob { expires_ms: 500, start: Start::After(1_000), ..new_job(1) }).await;
    s.pass(500);
    assert_eq!(s.broker.promote(10).await.unwrap().expired, 1);
    assert_eq!(s.state(id).await, JobState::Expired);
    assert_eq!(s.queue().await.delayed, 0);
}

pub async fn a_claim_buries_the_expired_and_hands_out_the_rest(s: Subject) {
    let old = s.add(NewJob { expires_ms: 1_000, ..new_job(1) }).await;
    let good = s.add(new_job(2)).await;
    let running = s.add(NewJob { expires_ms: 2_000, ..new_job(3) }).await;
    s.pass(1_500);
    let ids: Vec<JobId> = s.claim(10).await.into_iter().map(|d| d.id).collect();
    assert_eq!(ids, [good, running]);
    assert_eq!(s.state(old).await, JobState::Expired);
    // What has started does not expire.
    s.pass(1_000);
    assert_eq!(s.broker.promote(10).await.unwrap(), Promoted { moved: 0, expired: 0, opened: 0, next_due: None });
    assert_eq!(s.state(running).await, JobState::Running);
}

fn query(before: Option<JobId>, max: u32) -> JobQuery {
    JobQuery {
        tenant: tenant("t1"),
        dead: false,
        state: None,
        task: None,
        queue: None,
        worker: None,
        labels: Vec::new(),
        before,
        max,
    }
}

pub async fn listing_is_newest_first_and_pages_without_gaps(s: Subject) {
    for n in 0..7 {
        s.add(new_job(n)).await;
    }
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = s.broker.jobs(&query(before, 3)).await.unwrap();
        seen.extend(page.jobs.iter().map(|j| j.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..7).rev().map(job_id).collect::<Vec<_>>());
}

pub async fn listing_filters_by_state_task_and_queue(s: Subject) {
    s.add(new_job(1)).await;
    s.add(NewJob { task: TaskName::new("mul").unwrap(), ..new_job(2) }).await;
    s.add(NewJob { queue: queue_name("other"), ..new_job(3) }).await;
    s.claim_one().await;
    let ids = |page: JobPage| page.jobs.into_iter().map(|j| j.id).collect::<Vec<_>>();
    let running = JobQuery { state: Some(JobState::Running), ..query(None, 10) };
    assert_eq!(ids(s.broker.jobs(&running).await.unwrap()), [job_id(1)]);
    let mul = JobQuery { task: Some(TaskName::new("mul").unwrap()), ..query(None, 10) };
    assert_eq!(ids(s.broker.jobs(&mul).await.unwrap()), [job_id(2)]);
    let both = JobQuery { queue: Some(queue_name("other")), state: Some(JobState::Queued), ..query(None, 10) };
    assert_eq!(ids(s.broker.jobs(&both).await.unwrap()), [job_id(3)]);
}
