//! What is kept of a workflow, for how long, and what a resumed one begins with.

use super::*;

pub async fn retention_deletes_a_workflow_and_all_that_is_its_own(s: Subject) {
    let json = r#"{"chord":[{"task":"a"},{"task":"b"}],"body":{"task":"z","link_error":[{"task":"e"}]}}"#;
    let f = s.begin_json(json).await;
    let a = s.next("a").await;
    let settle = Settle { logs: vec![line(1)], ..settle_of(&a, fail()) };
    s.broker.settle(&[settle], None).await.unwrap();
    s.pass(1_000);
    s.run_all(&["b", "e"]).await;
    assert_eq!(f.state().await, WorkflowState::Failed);
    assert_eq!(s.dead().await, [a.id]);
    assert_eq!(s.broker.logs(&tenant("t1"), a.id, 0, 10).await.unwrap(), [line(1)]);
    s.pass(KEEP_MS - 1);
    assert_eq!(s.prune_all().await, 0);
    s.pass(1);
    assert!(s.prune_all().await > 0);
    nothing_is_left(&s, &f, 6).await;
    assert!(s.broker.logs(&tenant("t1"), a.id, 0, 10).await.unwrap().is_empty());
    assert_eq!(s.settle(&a, fail()).await, Settled::Lost);
    let redrive = NewJob { redrive_of: Some(a.id), ..new_job(1) };
    assert_eq!(s.broker.submit(&[redrive]).await.unwrap(), [Submitted::NotDead]);
    // Its id is free again.
    s.begin_json(json).await;
}

async fn nothing_is_left(s: &Subject, f: &Flow<'_>, nodes: u32) {
    assert!(f.is_gone().await && f.nodes().await.is_empty());
    for number in 0..nodes {
        assert!(matches!(f.value(number).await, NodeValue::Missing));
        assert!(s.broker.job(&tenant("t1"), f.id_of(number)).await.unwrap().is_none());
    }
    assert!(s.dead().await.is_empty());
    assert!(staging::listed(s, None, None, 10).await.0.is_empty());
    let queue = s.queue().await;
    assert_eq!((queue.queued, queue.running, queue.delayed), (0, 0, 0));
    assert_eq!(s.broker.promote(10).await.unwrap(), Promoted { moved: 0, expired: 0, opened: 0, next_due: None });
}

pub async fn a_workflow_that_is_over_can_be_forgotten_at_once(s: Subject) {
    let forget = |id| {
        let broker = s.broker.clone();
        async move { broker.forget_workflow(&tenant("t1"), id).await.unwrap() }
    };
    let json = r#"{"chain":[{"task":"a"},{"task":"b"}]}"#;
    assert_eq!(forget(flow_id(1)).await, WorkflowForgot::NotFound);
    let f = s.begin_json(json).await;
    let a = s.next("a").await;
    assert_eq!(forget(f.id).await, WorkflowForgot::NotEnded);
    // What replaced a job goes with that job's workflow, and not before.
    let child = s.replace(&a, 2, r#"{"task":"c"}"#).await;
    assert_eq!(forget(child.id).await, WorkflowForgot::Replaces);
    let failed = s.run("c", fail()).await;
    assert_eq!(forget(child.id).await, WorkflowForgot::Replaces);
    assert_eq!(s.dead().await, [failed.id]);
    assert_eq!(forget(f.id).await, WorkflowForgot::Forgotten);
    assert_eq!(forget(f.id).await, WorkflowForgot::NotFound);
    s.prune_all().await;
    assert!(child.is_gone().await);
    nothing_is_left(&s, &f, 2).await;
    // Of other tenants nobody's is found, nor one that is staged.
    let staged = flow(3, json);
    s.broker.stage_workflow(&staged.head).await.unwrap();
    assert_eq!(forget(staged.head.id).await, WorkflowForgot::NotFound);
}

pub async fn a_large_workflow_is_forgotten_in_steps_and_not_found_from_the_first_one_on(s: Subject) {
    let members = vec![r#"{"task":"a"}"#; ADVANCE as usize + 500].join(",");
    let f = s.begin_json(&format!(r#"{{"group":[{members}]}}"#)).await;
    s.broker.cancel_workflow(&tenant("t1"), f.id).await.unwrap();
    for _ in 0..4 {
        s.broker.promote(10).await.unwrap();
    }
    assert_eq!(f.state().await, WorkflowState::Revoked);
    assert_eq!(s.broker.forget_workflow(&tenant("t1"), f.id).await.unwrap(), WorkflowForgot::Forgotten);
    assert!(f.is_gone().await);
    assert!(staging::listed(&s, None, None, 10).await.0.is_empty());
    let left = s.prune_all().await;
    assert!((500..=502).contains(&left), "{left}");
    nothing_is_left(&s, &f, 10).await;
}

pub async fn a_workflow_is_deleted_in_steps_and_not_found_from_the_first_one_on(s: Subject) {
    let f = s.begin_json(r#"{"group":[{"task":"a"},{"task":"b"},{"task":"c"}]}"#).await;
    s.run_all(&["a", "b", "c"]).await;
    s.pass(KEEP_MS);
    let mut total = 0;
    loop {
        let pruned = s.broker.prune(1).await.unwrap();
        assert!(pruned <= 1);
        total += pruned;
        if pruned == 0 {
            break;
        }
        assert!(f.is_gone().await);
        assert!(staging::listed(&s, None, None, 10).await.0.is_empty());
    }
    assert!(total >= 3, "{total}");
    nothing_is_left(&s, &f, 4).await;
}

pub async fn a_node_is_kept_with_its_workflow_and_not_longer_or_shorter(s: Subject) {
    let mut short = flow(1, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#);
    short.head.keep_ms = 0;
    let f = s.begin(&short).await;
    s.run_all(&["a"]).await;
    s.pass(10 * KEEP_MS);
    assert_eq!(s.prune_all().await, 0);
    assert_eq!(f.job("a").await.state, JobState::Succeeded);
    s.run_all(&["b"]).await;
    assert!(s.prune_all().await > 0);
    nothing_is_left(&s, &f, 2).await;
}

pub async fn a_replacement_is_kept_as_long_as_the_job_that_owns_it(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let mut child = child_of(&job, 1, r#"{"task":"a"}"#);
    child.head.keep_ms = 0;
    let replaced = Resolution::Replace { workflow: child.head.id };
    s.settle_grown(&job, replaced, grow(vec![child.clone()])).await;
    s.run_all(&["a"]).await;
    let child = s.flow(child.head.id);
    s.pass(59_999);
    assert_eq!(s.prune_all().await, 0);
    assert_eq!(child.shown().await, "a:succeeded");
    assert_eq!(s.state(id).await, JobState::Succeeded);
    s.pass(1);
    assert!(s.prune_all().await >= 2);
    assert!(s.broker.job(&tenant("t1"), id).await.unwrap().is_none());
    nothing_is_left(&s, &child, 1).await;
}

pub async fn a_replacement_that_outlives_its_job_is_deleted_when_it_is_over(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let child = s.replace(&job, 1, r#"{"task":"a","link":[{"task":"l"}]}"#).await;
    let a = s.next("a").await;
    // The job is revoked at once, and what replaced it when its worker has stopped.
    assert_eq!(s.cancel(id).await, Cancelled::Revoked);
    s.pass(KEEP_MS);
    assert_eq!(s.prune_all().await, 1);
    assert!(s.broker.job(&tenant("t1"), id).await.unwrap().is_none());
    assert_eq!(child.shown().await, "a:running l:revoked");
    s.settle(&a, Resolution::Revoke).await;
    assert!(s.prune_all().await > 0);
    nothing_is_left(&s, &child, 2).await;
}

pub async fn replacements_of_nodes_are_deleted_with_their_workflow(s: Subject) {
    let f = s.begin_json(r#"{"task":"a"}"#).await;
    let a = s.next("a").await;
    let outer = s.replace(&a, 2, r#"{"task":"b"}"#).await;
    let b = s.next("b").await;
    let inner = s.replace(&b, 3, r#"{"task":"c"}"#).await;
    s.run_all(&["c"]).await;
    s.pass(KEEP_MS - 1);
    assert_eq!(s.prune_all().await, 0);
    s.pass(1);
    s.prune_all().await;
    for gone in [f, outer, inner] {
        nothing_is_left(&s, &gone, 1).await;
    }
}

const RESUMED: &str = r#"{"chain":[{"task":"x"},{"chord":[{"task":"a"},{"task":"b"},{"task":"c","link_error":[{"task":"e"}]}],"body":{"task":"y"}},{"task":"z"}]}"#;

pub async fn a_resumed_workflow_does_again_only_what_failed(s: Subject) {
    let end_of = |task: &str| match task {
        "x" => (JobState::Succeeded, Some("\"X\"")),
        "a" => (JobState::Succeeded, Some("\"A\"")),
        "b" => (JobState::Succeeded, None),
        "e" => (JobState::Succeeded, Some("\"E\"")),
        _ => (JobState::Failed, None),
    };
    let f = s.begin(&resumed(1, RESUMED, end_of)).await;
    assert_eq!(f.shown().await, "x:succeeded a:succeeded b:succeeded c:queued y:waiting z:waiting e:waiting");
    assert_eq!(f.job("a").await.result.unwrap().get(), "\"A\"");
    assert!(f.job("b").await.result.is_none());
    assert_eq!(input(&s.run("c", succeed("1")).await), value("\"X\""));
    assert_eq!(input(&s.run("y", succeed("2")).await), Input::Result(1));
    assert_eq!(input(&s.run("z", succeed("3")).await), value("2"));
    let shown = "x:succeeded a:succeeded b:succeeded c:succeeded y:succeeded z:succeeded e:skipped";
    f.is_over(WorkflowState::Succeeded, shown).await;
}

pub async fn a_resumed_workflow_goes_on_behind_its_last_success(s: Subject) {
    let end_of = |task: &str| match task {
        "z" => (JobState::Failed, None),
        "e" => (JobState::Skipped, None),
        _ => (JobState::Succeeded, Some("1")),
    };
    let f = s.begin(&resumed(1, RESUMED, end_of)).await;
    assert_eq!(f.joins().await, [Some(Status::Ok)]);
    assert_eq!(input(&s.run("z", succeed("3")).await), value("1"));
    let shown = "x:succeeded a:succeeded b:succeeded c:succeeded y:succeeded z:succeeded e:skipped";
    f.is_over(WorkflowState::Succeeded, shown).await;
}

pub async fn a_failure_that_is_kept_is_not_in_the_dead_set_again(s: Subject) {
    let json =
        r#"{"chain":[{"chord":[{"task":"a","on_failure":"continue"},{"task":"b"}],"body":{"task":"y"}},{"task":"z"}]}"#;
    let end_of = |task: &str| match task {
        "a" | "z" => (JobState::Failed, None),
        _ => (JobState::Succeeded, Some("1")),
    };
    let f = s.begin(&resumed(1, json, end_of)).await;
    assert_eq!(f.job("a").await.failure.unwrap().kind, "Kept");
    assert!(s.dead().await.is_empty());
    s.run_all(&["z"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn kept_nodes_cannot_be_cancelled_and_go_with_their_workflow(s: Subject) {
    let end_of = |task: &str| if task == "z" { (JobState::Failed, None) } else { (JobState::Succeeded, Some("1")) };
    let f = s.begin(&resumed(1, RESUMED, end_of)).await;
    assert_eq!(s.cancel(f.id_of(0)).await, Cancelled::AlreadyEnded(JobState::Succeeded));
    f.cancel().await;
    assert_eq!(f.state().await, WorkflowState::Revoked);
    assert_eq!(f.job("a").await.state, JobState::Succeeded);
    s.pass(KEEP_MS);
    s.prune_all().await;
    nothing_is_left(&s, &f, 8).await;
}
