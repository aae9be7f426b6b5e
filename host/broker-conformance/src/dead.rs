//! The dead set: what gets in, how much it holds, what leaves it; and jobs that are deleted by hand.

use super::{broker_options::*, *};

/// Lets these jobs, which must be all that is ready, fail.
async fn fail_all(s: &Subject, numbers_of: &[u64]) {
    let claimed = s.claim(100).await;
    assert_eq!(numbers(&claimed), numbers_of);
    for delivery in &claimed {
        s.settle(delivery, fail()).await;
    }
}

pub async fn queues_say_how_many_of_their_jobs_are_dead(s: Subject) {
    s.add_all([new_job(1), new_job(2), of_tenant("t2", new_job(3))]).await;
    fail_all(&s, &[1, 3, 2]).await;
    assert_eq!(s.queue().await.dead, 2);
    s.add(NewJob { redrive_of: Some(job_id(1)), ..new_job(4) }).await;
    assert_eq!(s.queue().await.dead, 1);
    s.forget(job_id(2)).await;
    assert_eq!(s.queue().await.dead, 0);
    fail_all(&s, &[4]).await;
    assert_eq!(s.queue().await.dead, 1);
    s.pass(120_000);
    assert_eq!(s.prune_all().await, 3);
    assert_eq!(s.queue().await.dead, 0);
}

pub async fn a_full_dead_set_lets_its_oldest_go(s: Subject) {
    let max = limits().max_dead;
    s.add_all((1..=max + 2).map(new_job)).await;
    // The oldest are those that were submitted first, in whatever order they failed.
    let mut claimed = s.claim(100).await;
    claimed.reverse();
    for delivery in &claimed {
        s.settle(delivery, fail()).await;
    }
    let dead = s.dead().await;
    assert_eq!((dead.len() as u64, s.queue().await.dead), (max, max));
    assert!(!dead.contains(&job_id(1)) && !dead.contains(&job_id(2)));
    // They are kept as long as a result, and cannot be redriven any more.
    assert_eq!(s.submit_one(NewJob { redrive_of: Some(job_id(1)), ..new_job(100) }).await, Submitted::NotDead);
    s.pass(59_999);
    assert_eq!(s.prune_all().await, 0);
    assert_eq!(s.state(job_id(1)).await, JobState::Failed);
    s.pass(1);
    assert_eq!(s.prune_all().await, 2);
    assert_eq!(s.dead().await.len() as u64, max);
}

pub async fn a_full_dead_set_of_one_tenant_is_not_anothers(s: Subject) {
    s.add_all((1..=limits().max_dead).map(new_job)).await;
    s.add(of_tenant("t2", new_job(0))).await;
    for delivery in s.claim(100).await {
        s.settle(&delivery, fail()).await;
    }
    assert_eq!(s.dead().await.len() as u64, limits().max_dead);
    assert_eq!(s.broker.jobs(&all_jobs(&tenant("t2"), true)).await.unwrap().jobs.len(), 1);
}

pub async fn a_job_without_dead_retention_fails_and_is_in_no_dead_set(s: Subject) {
    s.add(NewJob { dead_ttl_ms: 0, ..new_job(1) }).await;
    fail_all(&s, &[1]).await;
    s.add(NewJob { dead_ttl_ms: 0, max_deliveries: 1, ..new_job(2) }).await;
    s.claim_one().await;
    s.lose().await;
    s.add(NewJob { dead_ttl_ms: 0, ..once(3, umbel_model::OnWorkerLost::Dead) }).await;
    s.claim_one().await;
    s.lose().await;
    for n in 1..=3 {
        assert_eq!(s.state(job_id(n)).await, JobState::Failed);
    }
    assert!(s.dead().await.is_empty());
    assert_eq!(s.queue().await.dead, 0);
    s.pass(60_000);
    assert_eq!(s.prune_all().await, 3);
}

pub async fn a_dead_job_is_kept_by_the_longer_of_its_two_retentions(s: Subject) {
    s.add(NewJob { result_ttl_ms: 500, dead_ttl_ms: 1_000, ..new_job(1) }).await;
    s.add(NewJob { result_ttl_ms: 1_500, dead_ttl_ms: 1_000, ..new_job(2) }).await;
    fail_all(&s, &[1, 2]).await;
    s.pass(1_000);
    assert_eq!(s.prune_all().await, 1);
    assert_eq!(s.dead().await, [job_id(2)]);
    s.pass(500);
    assert_eq!(s.prune_all().await, 1);
    assert!(s.dead().await.is_empty());
}

pub async fn a_job_that_has_ended_can_be_forgotten(s: Subject) {
    s.add_all([new_job(1), new_job(2), new_job(3)]).await;
    let claimed = s.claim(2).await;
    let settle = Settle { logs: vec![line(1)], ..settle_of(&claimed[0], succeed("1")) };
    s.broker.settle(&[settle], None).await.unwrap();
    s.settle(&claimed[1], fail()).await;
    assert_eq!(s.forget(job_id(1)).await, Forgot::Forgotten);
    assert_eq!(s.forget(job_id(1)).await, Forgot::NotFound);
    assert!(s.broker.job(&tenant("t1"), job_id(1)).await.unwrap().is_none());
    assert!(s.broker.logs(&tenant("t1"), job_id(1), 0, 10).await.unwrap().is_empty());
    assert_eq!(s.forget(job_id(2)).await, Forgot::Forgotten);
    assert!(s.dead().await.is_empty());
    assert_eq!(s.forget(job_id(3)).await, Forgot::NotEnded(JobState::Queued));
    assert_eq!(s.broker.forget(&tenant("t2"), job_id(3)).await.unwrap(), Forgot::NotFound);
    // Its id is free, and a settle that comes late finds nothing.
    assert_eq!(s.settle(&claimed[0], succeed("1")).await, Settled::Lost);
    s.add(new_job(1)).await;
    assert_eq!(s.broker.jobs(&all_jobs(&tenant("t1"), false)).await.unwrap().jobs.len(), 2);
}

pub async fn a_node_is_not_forgotten_before_its_workflow(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    s.run_all(&["a"]).await;
    assert_eq!(s.forget(f.id_of(0)).await, Forgot::Node);
    assert_eq!(s.forget(f.id_of(1)).await, Forgot::Node);
}

pub async fn what_replaced_a_job_is_forgotten_with_it(s: Subject) {
    s.add(new_job(1)).await;
    let delivery = s.claim_one().await;
    let child = s.replace(&delivery, 2, r#"{"task":"c","link":[{"task":"late"}]}"#).await;
    assert_eq!(s.forget(job_id(1)).await, Forgot::NotEnded(JobState::Waiting));
    s.run_all(&["c"]).await;
    assert_eq!(s.forget(job_id(1)).await, Forgot::NotEnded(JobState::Waiting));
    s.run_all(&["late"]).await;
    assert_eq!(s.state(job_id(1)).await, JobState::Succeeded);
    assert_eq!(s.forget(job_id(1)).await, Forgot::Forgotten);
    assert!(s.prune_all().await > 0);
    assert!(child.is_gone().await);
    assert!(s.broker.jobs(&all_jobs(&tenant("t1"), false)).await.unwrap().jobs.is_empty());
}

pub async fn jobs_are_listed_by_the_worker_of_their_last_delivery(s: Subject) {
    s.add_all((1..=3).map(new_job)).await;
    let one = s.claim_as("w1", 2).await;
    s.claim_as("w2", 1).await;
    let of = async |worker: &str| -> Vec<JobId> {
        let query = JobQuery { worker: Some(WorkerId::new(worker).unwrap()), ..all_jobs(&tenant("t1"), false) };
        s.broker.jobs(&query).await.unwrap().jobs.into_iter().map(|job| job.id).collect()
    };
    assert_eq!(of("w1").await, [2, 1].map(job_id));
    assert_eq!(of("w2").await, [job_id(3)]);
    s.settle(&one[0], Resolution::Release).await;
    s.claim_as("w2", 1).await;
    s.succeed_all(&one[1..]).await;
    // Also when it has ended.
    assert_eq!(of("w1").await, [job_id(2)]);
    assert_eq!(of("w2").await, [3, 1].map(job_id));
    assert!(of("w3").await.is_empty());
}
