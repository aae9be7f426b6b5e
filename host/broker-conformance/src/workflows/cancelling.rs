//! Cancelling members and workflows, and the deadline.

use super::*;

pub async fn a_cancelled_member_is_a_failure_like_any_other(s: Subject) {
    let json = r#"{"chord":[{"task":"a","link_error":[{"task":"e"}]},{"task":"b"}],"body":{"task":"z"}}"#;
    let f = s.begin_json(json).await;
    let a = f.job("a").await.id;
    assert_eq!(s.cancel(a).await, Cancelled::Revoked);
    assert_eq!(s.cancel(a).await, Cancelled::AlreadyEnded(JobState::Revoked));
    assert_eq!(f.job("z").await.state, JobState::Waiting);
    s.run("b", succeed("1")).await;
    assert_eq!(f.job("z").await.failure.unwrap().kind, UPSTREAM_FAILED);
    assert_eq!(input(&s.run("e", succeed("1")).await), Input::Error(1));
    f.is_over(WorkflowState::Failed, "a:revoked b:succeeded z:failed e:succeeded").await;
    assert!(s.dead().await.is_empty());
}

pub async fn a_cancelled_member_that_may_fail_does_not_stop_the_body(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"},{"task":"b"}],"on_failure":"ignore","body":{"task":"z"}}"#).await;
    s.cancel(f.job("a").await.id).await;
    let b = s.next("b").await;
    assert_eq!(s.cancel(b.id).await, Cancelled::Requested);
    assert_eq!(s.renew(&b).await, LeaseState::Cancel);
    s.settle(&b, Resolution::Revoke).await;
    s.run_all(&["z"]).await;
    f.is_over(WorkflowState::Succeeded, "a:revoked b:revoked z:succeeded").await;
}

pub async fn a_node_that_waits_for_its_source_can_be_cancelled(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"},{"task":"c"}]}"#).await;
    assert_eq!(s.cancel(f.job("b").await.id).await, Cancelled::Revoked);
    assert_eq!(f.shown().await, "a:queued b:revoked c:failed");
    // The end has ended, but a job runs still.
    assert_eq!(f.state().await, WorkflowState::Running);
    s.run_all(&["a"]).await;
    f.is_over(WorkflowState::Failed, "a:succeeded b:revoked c:failed").await;
    s.nothing_is_ready().await;
}

pub async fn a_waiting_node_cannot_be_run_now_but_a_delayed_one_can(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a","options":{"delay_ms":60000}},{"task":"b"}]}"#).await;
    let t = tenant("t1");
    let b = f.job("b").await.id;
    assert_eq!(s.broker.run_now(&t, b).await.unwrap(), RunNow::NotWaiting(JobState::Waiting));
    assert_eq!(s.broker.run_now(&t, f.job("a").await.id).await.unwrap(), RunNow::Queued);
    s.run_all(&["a", "b"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn cancelling_a_workflow_revokes_what_waits_and_asks_what_runs(s: Subject) {
    let json = r#"{"chain":[{"task":"x"},{"group":[{"task":"a"},{"task":"b"},{"task":"c","options":{"delay_ms":60000}}]},{"task":"z","link_error":[{"task":"e"}]}]}"#;
    let f = s.begin_json(json).await;
    s.run_all(&["x"]).await;
    let a = s.next("a").await;
    assert_eq!(f.cancel().await, WorkflowCancelled::Requested);
    let record = f.record().await;
    assert_eq!((record.state, record.cancel_requested), (WorkflowState::Running, true));
    assert_eq!(f.job("b").await.state, JobState::Revoked);
    assert_eq!(f.job("c").await.state, JobState::Revoked);
    assert_eq!(s.renew(&a).await, LeaseState::Cancel);
    let queue = s.queue().await;
    assert_eq!((queue.queued, queue.running, queue.delayed), (0, 1, 0));
    // What runs may still end well; nothing follows it.
    s.settle(&a, succeed("1")).await;
    s.nothing_is_ready().await;
    assert_eq!(f.job("z").await.state, JobState::Revoked);
    assert_eq!(f.job("e").await.state, JobState::Revoked);
    assert_eq!(f.state().await, WorkflowState::Revoked);
    assert_eq!(f.cancel().await, WorkflowCancelled::AlreadyEnded(WorkflowState::Revoked));
    assert!(s.dead().await.is_empty());
}

pub async fn a_cancelled_workflow_whose_end_went_well_has_succeeded(s: Subject) {
    let f = s.begin_json(r#"{"task":"a"}"#).await;
    let a = s.next("a").await;
    f.cancel().await;
    assert_eq!(f.cancel().await, WorkflowCancelled::Requested);
    s.settle(&a, succeed("1")).await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded").await;
}

pub async fn a_job_of_a_cancelled_workflow_does_not_come_back(s: Subject) {
    for (n, resolution) in [(1, retry(0)), (2, Resolution::Snooze { delay_ms: 0 }), (3, Resolution::Release)] {
        let f = s.begin(&flow(n, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#)).await;
        let a = s.next("a").await;
        f.cancel().await;
        s.settle(&a, resolution).await;
        f.is_over(WorkflowState::Revoked, "a:revoked b:revoked").await;
    }
    let f = s.begin(&flow(4, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#)).await;
    s.next("a").await;
    f.cancel().await;
    assert_eq!(s.lose().await.revoked, 1);
    f.is_over(WorkflowState::Revoked, "a:revoked b:revoked").await;
}

pub async fn a_workflow_that_is_over_or_unknown_is_not_cancelled(s: Subject) {
    let f = s.begin_json(r#"{"task":"a"}"#).await;
    s.run_all(&["a"]).await;
    assert_eq!(f.cancel().await, WorkflowCancelled::AlreadyEnded(WorkflowState::Succeeded));
    assert!(!f.record().await.cancel_requested);
    assert_eq!(s.flow(flow_id(9)).cancel().await, WorkflowCancelled::NotFound);
}

pub async fn a_workflow_that_is_not_over_at_its_deadline_expires(s: Subject) {
    let json = r#"{"chain":[{"group":[{"task":"a"},{"task":"b"}]},{"task":"c"}]}"#;
    let mut late = flow(1, json);
    late.head.deadline_ms = 1_000;
    let f = s.begin(&late).await;
    assert_eq!(f.record().await.deadline_at, Some(START_MS + 1_000));
    let a = s.next("a").await;
    s.pass(999);
    assert_eq!(s.broker.promote(10).await.unwrap().next_due, Some(START_MS + 1_000));
    assert_eq!(f.state().await, WorkflowState::Running);
    s.pass(1);
    s.broker.promote(10).await.unwrap();
    assert_eq!(f.job("b").await.state, JobState::Expired);
    assert_eq!(s.renew(&a).await, LeaseState::Cancel);
    s.settle(&a, Resolution::Revoke).await;
    assert_eq!(f.job("c").await.state, JobState::Expired);
    assert_eq!(f.state().await, WorkflowState::Expired);
    assert_eq!(f.record().await.finished_at, Some(START_MS + 1_000));
}

pub async fn a_workflow_that_is_over_before_its_deadline_is_left_alone(s: Subject) {
    let mut early = flow(1, r#"{"task":"a"}"#);
    early.head.deadline_ms = 1_000;
    let f = s.begin(&early).await;
    s.run_all(&["a"]).await;
    s.pass(1_000);
    assert_eq!(s.broker.promote(10).await.unwrap(), Promoted { moved: 0, expired: 0, opened: 0, next_due: None });
    f.is_over(WorkflowState::Succeeded, "a:succeeded").await;
    assert!(!f.record().await.cancel_requested);
}

pub async fn a_cancelled_workflow_is_not_looked_at_at_its_deadline(s: Subject) {
    let mut late = flow(1, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#);
    late.head.deadline_ms = 1_000;
    let f = s.begin(&late).await;
    let a = s.next("a").await;
    f.cancel().await;
    assert_eq!(s.broker.promote(10).await.unwrap(), Promoted { moved: 0, expired: 0, opened: 0, next_due: None });
    s.pass(1_000);
    assert_eq!(s.broker.promote(10).await.unwrap(), Promoted { moved: 0, expired: 0, opened: 0, next_due: None });
    s.settle(&a, Resolution::Revoke).await;
    f.is_over(WorkflowState::Revoked, "a:revoked b:revoked").await;
    assert_eq!(f.record().await.deadline_at, Some(START_MS + 1_000));
}
