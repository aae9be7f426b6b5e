//! Who is next among tasks with limits, keys, plain jobs and tenants.

use super::{broker_options::*, flows::*, *};

pub async fn keys_take_turns_whatever_their_backlog(s: Subject) {
    let keys = ["a", "a", "a", "a", "b", "b", "c"];
    s.add_all((1..).zip(keys).map(|(n, key)| keyed(n, key, 100))).await;
    assert_eq!(s.claim_numbers(10).await, [1, 5, 7, 2, 6, 3, 4]);
}

pub async fn a_key_that_comes_late_does_not_catch_up_on_the_past(s: Subject) {
    s.add_all((1..=6).map(|n| keyed(n, "m", 100))).await;
    assert_eq!(s.claim_numbers(3).await, [1, 2, 3]);
    s.add_all((11..=13).map(|n| keyed(n, "a", 100))).await;
    assert_eq!(s.claim_numbers(6).await, [11, 4, 12, 5, 13, 6]);
}

pub async fn a_key_with_one_job_at_a_time_starves_nobody(s: Subject) {
    s.add_all((1..=3).map(|n| keyed(n, "m", 100))).await;
    s.add(keyed(10, "a", 100)).await;
    let mut served = Vec::new();
    for n in 0..6 {
        let next = s.claim_numbers(1).await[0];
        if next >= 10 {
            s.add(keyed(11 + n, "a", 100)).await;
        }
        served.push(next >= 10);
    }
    assert_eq!(served, [true, false, true, false, true, false]);
}

pub async fn jobs_of_one_key_keep_their_order_by_priority_and_age(s: Subject) {
    let priorities = [5, 1, 9, 5, 9];
    s.add_all((1..).zip(priorities).map(|(n, priority)| NewJob { priority, ..keyed(n, "a", 100) })).await;
    assert_eq!(s.claim_numbers(10).await, [3, 5, 1, 4, 2]);
}

pub async fn an_urgent_job_brings_its_key_forward_also_among_jobs_of_one_batch(s: Subject) {
    s.add(new_job(9)).await;
    assert_eq!(s.claim_numbers(1).await, [9], "the queue is known");
    let urgent = NewJob { priority: 9, ..keyed(3, "b", 100) };
    let answers = s.broker.submit(&[keyed(1, "a", 100), keyed(2, "b", 100), urgent]).await.unwrap();
    assert_eq!(answers, [Submitted::Created; 3]);
    assert_eq!(s.claim_numbers(10).await, [3, 1, 2]);
}

pub async fn jobs_without_a_key_have_a_turn_among_those_with_one(s: Subject) {
    s.add_all([laned(1, "mail"), laned(2, "mail"), keyed(3, "a", 100), keyed(4, "a", 100)]).await;
    assert_eq!(s.claim_numbers(10).await, [1, 3, 2, 4]);
}

pub async fn plain_jobs_and_lanes_take_turns(s: Subject) {
    s.add_all((1..=5).map(new_job)).await;
    s.add_all((11..=13).map(|n| laned(n, "mail"))).await;
    s.add_all((21..=22).map(|n| laned(n, "sms"))).await;
    // Plain jobs are before sub-queues when level, and a sub-queue that opens comes after what was served.
    assert_eq!(s.claim_numbers(20).await, [1, 2, 11, 21, 3, 12, 22, 4, 13, 5]);
}

pub async fn a_lane_that_comes_late_does_not_catch_up_on_the_past(s: Subject) {
    s.add_all((1..=4).map(new_job)).await;
    s.add_all((11..=14).map(|n| laned(n, "mail"))).await;
    assert_eq!(s.claim_numbers(4).await, [1, 2, 11, 3]);
    s.add_all((21..=23).map(|n| laned(n, "sms"))).await;
    assert_eq!(s.claim_numbers(10).await, [12, 4, 13, 21, 14, 22, 23]);
}

pub async fn a_line_that_lost_its_last_lane_begins_its_turns_anew(s: Subject) {
    s.add_all([new_job(1), new_job(2), laned(11, "mail")]).await;
    assert_eq!(s.claim_numbers(3).await, [1, 2, 11]);
    s.add_all([new_job(4), new_job(5), new_job(6), laned(14, "mail"), laned(15, "mail")]).await;
    assert_eq!(s.claim_numbers(6).await, [4, 5, 14, 6, 15]);
}

/// A sub-queue, older than all that comes, whose jobs are less urgent than the 5 that are served before them.
async fn with_a_lane_that_was_passed_over(s: &Subject) {
    s.add_all((1..=2).map(|n| NewJob { priority: 1, ..laned(n, "z") })).await;
    s.add_all((11..=15).map(|n| NewJob { priority: 9, ..laned(n, "mail") })).await;
    assert_eq!(s.claim_numbers(5).await, [11, 12, 13, 14, 15]);
}

pub async fn plain_jobs_that_come_late_do_not_catch_up_on_the_past(s: Subject) {
    with_a_lane_that_was_passed_over(&s).await;
    s.add_all((21..=22).map(|n| NewJob { priority: 1, ..new_job(n) })).await;
    assert_eq!(s.claim_numbers(5).await, [1, 21, 22, 2]);
}

pub async fn a_lane_that_was_passed_over_has_one_turn_before_those_that_came_later(s: Subject) {
    with_a_lane_that_was_passed_over(&s).await;
    s.add_all((21..=22).map(|n| NewJob { priority: 1, ..laned(n, "a") })).await;
    assert_eq!(s.claim_numbers(5).await, [1, 21, 2, 22]);
}

pub async fn a_key_that_was_passed_over_has_one_turn_before_those_that_came_later(s: Subject) {
    let at = |n: u64, key: &str, priority: u8| NewJob { priority, ..keyed(n, key, 100) };
    s.add_all([at(1, "z", 1), at(2, "z", 1)]).await;
    s.add_all((11..=15).map(|n| at(n, "m", 9))).await;
    assert_eq!(s.claim_numbers(5).await, [11, 12, 13, 14, 15]);
    s.add_all([at(21, "a", 1), at(22, "a", 1)]).await;
    assert_eq!(s.claim_numbers(5).await, [1, 21, 2, 22]);
}

pub async fn priorities_hold_across_lanes_and_plain_jobs(s: Subject) {
    let at = |priority: u8, job: NewJob| NewJob { priority, ..job };
    s.add_all([
        at(5, new_job(1)),
        at(6, laned(2, "mail")),
        at(9, laned(3, "sms")),
        at(7, new_job(4)),
        at(9, new_job(5)),
        at(8, keyed(6, "a", 100)),
        at(0, keyed(7, "a", 100)),
    ])
    .await;
    assert_eq!(s.claim_numbers(20).await, [5, 3, 6, 4, 2, 1, 7]);
}

pub async fn an_urgent_job_of_a_key_that_is_full_does_not_lend_its_priority_to_others(s: Subject) {
    s.add(NewJob { priority: 9, ..keyed(1, "a", 1) }).await;
    assert_eq!(s.claim_numbers(1).await, [1]);
    s.add(NewJob { priority: 9, ..keyed(2, "a", 1) }).await;
    s.add(NewJob { priority: 4, ..keyed(3, "b", 1) }).await;
    s.add(NewJob { priority: 5, ..new_job(4) }).await;
    assert_eq!(s.claim_numbers(10).await, [4, 3]);
}

pub async fn tenants_take_turns_by_jobs_and_not_by_lanes(s: Subject) {
    for n in 1..=6 {
        s.add(of_tenant("many", laned(n, ["mail", "sms", "fax"][n as usize % 3]))).await;
    }
    s.add_all((11..=13).map(|n| of_tenant("plain", new_job(n)))).await;
    let tenants: Vec<_> = s.claim(6).await.into_iter().map(|d| d.tenant.as_str().to_owned()).collect();
    assert_eq!(tenants, ["many", "plain", "many", "plain", "many", "plain"]);
}

pub async fn lanes_belong_to_a_tenant_and_a_queue(s: Subject) {
    s.add_all([capped(1, "mail", 1), of_tenant("t2", capped(2, "mail", 1))]).await;
    s.add(in_queue("other", laned(3, "mail"))).await;
    // The cap of the task counts per tenant, in all its queues.
    assert_eq!(s.claim_numbers(10).await, [1, 2]);
    assert_eq!(numbers(&s.claim_from("other", 10).await), [3]);
}

pub async fn a_released_job_of_a_lane_keeps_its_place(s: Subject) {
    s.add_all([laned(1, "mail"), laned(2, "mail"), laned(3, "mail")]).await;
    let first = s.claim_one().await;
    s.settle(&first, Resolution::Release).await;
    assert_eq!(s.claim_numbers(10).await, [1, 2, 3]);
}

pub async fn a_job_of_a_lane_whose_worker_was_lost_comes_back_into_its_lane(s: Subject) {
    s.add_all([keyed(1, "a", 1), keyed(2, "a", 1), keyed(3, "b", 1)]).await;
    assert_eq!(s.claim_numbers(10).await, [1, 3]);
    assert_eq!(s.lose().await.requeued, 2);
    let again = s.claim(10).await;
    // Its key's place is free again, and it is before the younger one.
    assert_eq!(numbers(&again), [1, 3]);
    s.succeed_all(&again).await;
    assert_eq!(s.claim_numbers(10).await, [2]);
}

pub async fn a_retried_job_comes_back_into_its_lane(s: Subject) {
    s.add(capped(1, "mail", 1)).await;
    let first = s.claim_one().await;
    s.settle(&first, retry(500)).await;
    s.add(capped(2, "mail", 1)).await;
    let second = s.claim_one().await;
    s.pass(500);
    assert_eq!(s.promote().await.moved, 1);
    assert!(s.claim(10).await.is_empty(), "the task runs once at a time");
    s.succeed_all(&[second]).await;
    assert_eq!(s.claim_numbers(10).await, [1]);
}

pub async fn a_delayed_job_enters_its_lane_when_it_is_due_or_told_to_run(s: Subject) {
    let later = |n: u64, ms| NewJob { start: Start::After(ms), ..capped(n, "mail", 1) };
    s.add_all([later(1, 1_000), later(2, 2_000), later(3, 3_000)]).await;
    assert_eq!(s.broker.run_now(&tenant("t1"), job_id(3)).await.unwrap(), RunNow::Queued);
    s.pass(2_000);
    assert_eq!(s.promote().await.moved, 2);
    for expected in [3, 1, 2] {
        let next = s.claim(10).await;
        assert_eq!(numbers(&next), [expected]);
        s.succeed_all(&next).await;
    }
}

pub async fn a_cancelled_job_leaves_its_lane(s: Subject) {
    s.add_all([keyed(1, "a", 1), keyed(2, "a", 1), keyed(3, "a", 1), capped(4, "sms", 1)]).await;
    let first = s.claim_one().await;
    assert_eq!(s.claim_numbers(10).await, [4]);
    assert_eq!(s.cancel(job_id(2)).await, Cancelled::Revoked);
    assert_eq!(s.queue().await.queued, 1);
    s.succeed_all(&[first]).await;
    assert_eq!(s.claim_numbers(10).await, [3]);
}

pub async fn a_lane_that_loses_its_last_job_is_forgotten_with_what_parked_it(s: Subject) {
    s.add_all([rated(1, per_second(1, 1)), rated(2, per_second(1, 1))]).await;
    assert_eq!(s.claim_numbers(10).await, [1]);
    assert_eq!(s.next_due().await, Some(START_MS + 1_000));
    s.cancel(job_id(2)).await;
    assert_eq!(s.next_due().await, None);
    // The rate is not forgotten: the next job meets it, and blocks its sub-queue again.
    s.add(rated(3, per_second(1, 1))).await;
    assert_eq!(s.ready().await, ["default"]);
    assert!(s.claim(10).await.is_empty());
    assert!(s.ready().await.is_empty());
    assert_eq!(s.next_due().await, Some(START_MS + 1_000));
}

pub async fn a_job_that_expires_in_a_lane_never_runs_and_takes_from_no_limit(s: Subject) {
    let soon = |n: u64| NewJob { expires_ms: 100, ..rated(n, per_second(1, 1)) };
    s.add_all([soon(1), soon(2), rated(3, per_second(1, 1))]).await;
    s.pass(100);
    assert_eq!(s.claim_numbers(10).await, [3]);
    assert_eq!((s.state(job_id(1)).await, s.state(job_id(2)).await), (JobState::Expired, JobState::Expired));
}

pub async fn a_job_that_expires_in_a_parked_lane_is_ended_by_the_promoter(s: Subject) {
    s.add_all([capped(1, "mail", 1), NewJob { expires_ms: 100, ..capped(2, "mail", 1) }]).await;
    assert_eq!(s.claim_numbers(10).await, [1]);
    s.pass(100);
    assert_eq!(s.promote().await.expired, 1);
    assert_eq!(s.state(job_id(2)).await, JobState::Expired);
    assert_eq!(s.queue().await.queued, 0);
}

pub async fn expired_jobs_of_a_lane_have_had_their_turn(s: Subject) {
    s.add_all([NewJob { expires_ms: 1, ..laned(1, "fax") }, laned(2, "fax"), laned(3, "mail")]).await;
    s.pass(1);
    assert_eq!(s.claim_numbers(10).await, [3, 2]);
}

pub async fn jobs_in_lanes_count_as_queued_and_against_the_backlog(s: Subject) {
    s.add_all([laned(1, "mail"), keyed(2, "a", 1), keyed(3, "a", 1), new_job(4)]).await;
    assert_eq!(s.queue().await.queued, 4);
    assert_eq!(s.claim(10).await.len(), 3);
    let queue = s.queue().await;
    assert_eq!((queue.queued, queue.running), (1, 3));
    let many: Vec<NewJob> = (10..10 + limits().max_backlog).map(|n| keyed(n, "a", 1)).collect();
    let answers = s.broker.submit(&many).await.unwrap();
    assert_eq!(answers.iter().filter(|a| **a == Submitted::QueueFull).count(), 1);
}

pub async fn nodes_of_a_workflow_wait_in_lanes(s: Subject) {
    let step =
        |name: &str, broker_options: &str| format!(r#"{{"task":"{name}","options":{{"knobs":{broker_options}}}}}"#);
    let one = step("mail", r#"{"limits":{"concurrency":1}}"#);
    let json = format!(
        r#"{{"chord":[{one},{one},{one},{{"task":"plain"}}],"body":{}}}"#,
        step("z", r#"{"limits":{"key":"k","key_concurrency":1}}"#)
    );
    let f = s.begin_json(&json).await;
    let first = s.claim(10).await;
    assert_eq!(first.iter().map(task_of).collect::<Vec<_>>(), ["plain", "mail"]);
    s.succeed_all(&first).await;
    s.run_all(&["mail", "mail", "z"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn cancelling_a_workflow_takes_its_nodes_out_of_their_lanes(s: Subject) {
    let one = r#"{"task":"mail","options":{"knobs":{"limits":{"concurrency":1}}}}"#;
    let f = s.begin_json(&format!(r#"{{"group":[{one},{one},{one}]}}"#)).await;
    let running = s.next("mail").await;
    f.cancel().await;
    assert_eq!(s.queue().await.queued, 0);
    s.settle(&running, Resolution::Revoke).await;
    assert_eq!(f.state().await, WorkflowState::Revoked);
    s.add(capped(1, "mail", 1)).await;
    assert_eq!(s.claim_numbers(10).await, [1]);
}
