//! Large groups: one outcome is recorded at once, and what it means to thousands of nodes is done in many steps.

use super::*;

/// More than two steps ready.
const MANY: u32 = 2 * ADVANCE + ADVANCE / 2;

fn many(task: &str) -> String {
    vec![format!(r#"{{"task":"{task}"}}"#); MANY as usize].join(",")
}

pub async fn a_large_fan_out_is_readied_in_steps_that_claims_and_promotions_take(s: Subject) {
    let json = format!(r#"{{"chain":[{{"task":"x"}},{{"group":[{}]}},{{"task":"z"}}]}}"#, many("m"));
    let f = s.begin_json(&json).await;
    assert_eq!(s.broker.promote(10).await.unwrap().next_due, None);
    s.run_all(&["x"]).await;
    assert_eq!(s.queue().await.queued, u64::from(ADVANCE));
    // Promote takes a step and says that there is more.
    let promoted = s.broker.promote(10).await.unwrap();
    assert_eq!(promoted, Promoted { moved: 0, expired: 0, opened: 0, next_due: Some(START_MS) });
    assert_eq!(s.queue().await.queued, u64::from(2 * ADVANCE));
    // So does a claim, and it hands out what is ready.
    let first = s.claim(1).await;
    assert_eq!(s.queue().await.queued, u64::from(MANY - 1));
    assert_eq!(s.broker.promote(10).await.unwrap().next_due, None);
    assert_eq!(f.record().await.jobs[index(JobState::Queued)], MANY - 1);
    s.settle(&first[0], succeed("1")).await;
    let mut ids = vec![first[0].id];
    loop {
        let members = s.claim(500).await;
        if members.iter().any(|d| task_of(d) == "z") {
            assert_eq!(members.len(), 1);
            s.settle(&members[0], succeed("1")).await;
            break;
        }
        ids.extend(members.iter().map(|d| d.id));
        assert!(members.iter().all(|d| input(d) == value("\"x\"")));
        let settles: Vec<Settle> = members.iter().map(|d| settle_of(d, succeed("1"))).collect();
        let (settled, _) = s.broker.settle(&settles, None).await.unwrap();
        assert!(!settled.is_empty() && settled.iter().all(|s| *s == Settled::Recorded));
    }
    // Each once, in the order of the members.
    assert_eq!(ids, (2..MANY + 2).map(|n| f.id_of(n)).collect::<Vec<_>>());
    assert_eq!(f.state().await, WorkflowState::Succeeded);
    assert_eq!(f.record().await.jobs[index(JobState::Succeeded)], MANY + 2);
    s.pass(KEEP_MS);
    while s.broker.prune(1_000).await.unwrap() > 0 {}
    assert!(f.is_gone().await && f.nodes().await.is_empty());
}

fn index(state: JobState) -> usize {
    JobState::ALL.iter().position(|s| *s == state).unwrap()
}

pub async fn a_large_workflow_is_cancelled_in_steps(s: Subject) {
    let f = s.begin_json(&format!(r#"{{"chord":[{}],"body":{{"task":"z"}}}}"#, many("m"))).await;
    let held = s.claim(1).await;
    assert_eq!(f.cancel().await, WorkflowCancelled::Requested);
    for _ in 0..20 {
        if s.broker.promote(10).await.unwrap().next_due.is_none() {
            break;
        }
    }
    assert_eq!(s.queue().await.queued, 0);
    assert_eq!(f.record().await.jobs[index(JobState::Revoked)], MANY);
    assert_eq!(f.state().await, WorkflowState::Running);
    s.settle(&held[0], Resolution::Revoke).await;
    s.nothing_is_ready().await;
    assert_eq!(f.state().await, WorkflowState::Revoked);
    assert_eq!(f.record().await.jobs[index(JobState::Revoked)], MANY + 1);
}

pub async fn a_workflow_cancelled_in_the_middle_of_a_fan_out_readies_no_more(s: Subject) {
    let f = s.begin_json(&format!(r#"{{"chain":[{{"task":"x"}},{{"group":[{}]}}]}}"#, many("m"))).await;
    s.run_all(&["x"]).await;
    f.cancel().await;
    // Its nodes are cancelled by number, before what was left to be readied has its turn: `x` and the join are the first.
    assert_eq!(s.queue().await.queued, 2);
    assert_eq!(f.record().await.jobs[index(JobState::Revoked)], ADVANCE - 2);
    for _ in 0..20 {
        if s.broker.promote(10).await.unwrap().next_due.is_none() {
            break;
        }
    }
    s.nothing_is_ready().await;
    assert_eq!(f.record().await.jobs[index(JobState::Revoked)], MANY);
    assert_eq!(f.state().await, WorkflowState::Revoked);
}

pub async fn a_large_failure_is_passed_on_in_steps(s: Subject) {
    let json = format!(
        r#"{{"chain":[{{"task":"x"}},{{"group":[{}]}},{{"task":"z","link_error":[{{"task":"e"}}]}}]}}"#,
        many("m")
    );
    let f = s.begin_json(&json).await;
    let x = s.run("x", fail()).await;
    assert_eq!(f.record().await.jobs[index(JobState::Failed)], 1 + ADVANCE);
    for _ in 0..20 {
        if s.broker.promote(10).await.unwrap().next_due.is_none() {
            break;
        }
    }
    assert_eq!(f.job_at(1 + MANY + 1).await.state, JobState::Failed);
    assert_eq!(f.record().await.jobs[index(JobState::Failed)], MANY + 2);
    assert_eq!(s.dead().await, [x.id]);
    s.run_all(&["e"]).await;
    assert_eq!(f.state().await, WorkflowState::Failed);
}

pub async fn what_is_left_of_the_work_list_is_done_before_what_comes_later(s: Subject) {
    let f = s.begin_json(&format!(r#"{{"chain":[{{"task":"x"}},{{"group":[{}]}}]}}"#, many("m"))).await;
    s.run_all(&["x"]).await;
    // One that is cancelled before its turn came stays as it is.
    let last = f.id_of(MANY + 1);
    assert_eq!(s.state(last).await, JobState::Waiting);
    assert_eq!(s.cancel(last).await, Cancelled::Revoked);
    let other = s.begin(&flow(2, r#"{"task":"y"}"#)).await;
    for _ in 0..20 {
        if s.broker.promote(10).await.unwrap().next_due.is_none() {
            break;
        }
    }
    assert_eq!(s.state(last).await, JobState::Revoked);
    assert_eq!(other.shown().await, "y:queued");
    assert_eq!(s.queue().await.queued, u64::from(MANY));
}

pub async fn what_a_batch_makes_ready_is_in_front_of_the_jobs_that_follow_in_it(s: Subject) {
    s.begin_json(&format!(r#"{{"chain":[{{"task":"x"}},{{"group":[{}]}}]}}"#, many("m"))).await;
    s.run_all(&["x"]).await;
    let batch = [new_job(1), new_job(2)];
    assert_eq!(s.broker.submit(&batch).await.unwrap(), [Submitted::Created, Submitted::Created]);
    let mut place = Vec::new();
    for n in 0.. {
        let Some(delivery) = s.claim(1).await.pop() else { break };
        if batch.iter().any(|job| job.id == delivery.id) {
            place.push((n, delivery.id));
        }
        s.settle(&delivery, succeed("1")).await;
        if place.len() == batch.len() {
            break;
        }
    }
    // What was ready, the first job, what it made ready, the second.
    assert_eq!(place, [(ADVANCE, batch[0].id), (2 * ADVANCE + 1, batch[1].id)]);
}

pub async fn a_guest_adds_many_members_at_once(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"}],"body":{"task":"z"}}"#).await;
    let a = s.next("a").await;
    let more = format!("[{}]", vec![r#"{"task":"m"}"#; MAX_GROWTH as usize].join(","));
    assert_eq!(s.settle_grown(&a, succeed("1"), grow_members(&more)).await, Settled::Recorded);
    assert_eq!(f.record().await.nodes, 3 + MAX_GROWTH);
    let mut count = 0;
    loop {
        let members = s.claim(500).await;
        if members.iter().any(|d| task_of(d) == "z") {
            break;
        }
        count += members.len();
        let settles: Vec<Settle> = members.iter().map(|d| settle_of(d, succeed("1"))).collect();
        s.broker.settle(&settles, None).await.unwrap();
        assert!(!members.is_empty());
    }
    assert_eq!(count, MAX_GROWTH as usize);
}

/// What one step adds comes before what is stored: a large fan-out holds up no other workflow.
pub async fn a_fan_out_does_not_hold_up_another_workflow(s: Subject) {
    let large = s.begin_json(&format!(r#"{{"group":[{}]}}"#, many("m"))).await;
    let chain =
        flow(2, r#"{"chain":[{"task":"a","options":{"queue":"other"}},{"task":"b","options":{"queue":"other"}}]}"#);
    s.begin(&chain).await;
    assert_eq!(s.flow(chain.head.id).shown().await, "a:queued b:waiting");
    assert!(large.record().await.jobs[index(JobState::Waiting)] > 0);
}
