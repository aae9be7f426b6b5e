//! What a failure, a lost worker, an expiry or a retry of a node means to the others.

use super::*;

/// The failure of a node that did not run.
async fn is_upstream(f: &Flow<'_>, task: &str) {
    let failure = f.job(task).await.failure.unwrap();
    assert_eq!((failure.kind.as_str(), failure.message.as_str()), (UPSTREAM_FAILED, UPSTREAM_FAILED_MESSAGE), "{task}");
}

pub async fn a_failed_step_fails_what_waits_for_it(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"},{"task":"c"}]}"#).await;
    s.pass(5);
    let a = s.run("a", fail()).await;
    f.is_over(WorkflowState::Failed, "a:failed b:failed c:failed").await;
    is_upstream(&f, "b").await;
    is_upstream(&f, "c").await;
    assert_eq!(f.job("c").await.finished_at, Some(START_MS + 5));
    assert_eq!(f.job("a").await.failure.unwrap().kind, "Void");
    // Only what failed by itself is in the dead set.
    assert_eq!(s.dead().await, [a.id]);
    s.nothing_is_ready().await;
}

pub async fn a_failed_member_fails_the_body_once_when_all_members_ended(s: Subject) {
    let f = s
        .begin_json(
            r#"{"chord":[{"task":"a"},{"task":"b"},{"task":"c"}],"body":{"task":"z","link_error":[{"task":"e"}]}}"#,
        )
        .await;
    s.run("a", fail()).await;
    assert_eq!(f.job("z").await.state, JobState::Waiting);
    s.run("b", succeed("1")).await;
    s.run("c", fail()).await;
    is_upstream(&f, "z").await;
    assert_eq!(f.joins().await, [Some(Status::Failed)]);
    let body = f.id_of(4);
    assert_eq!(s.read(body).await.task.as_str(), "z");
    assert_eq!(input(&s.run("e", succeed("1")).await), Input::Error(4));
    s.nothing_is_ready().await;
    f.is_over(WorkflowState::Failed, "a:failed b:succeeded c:failed z:failed e:succeeded").await;
    assert_eq!(s.dead().await.len(), 2);
}

pub async fn a_failure_that_is_continue_or_ignore_does_not_stop_the_body(s: Subject) {
    for (n, policy) in [(1, "continue"), (2, "ignore")] {
        let json =
            format!(r#"{{"chord":[{{"task":"a","on_failure":"{policy}"}},{{"task":"b"}}],"body":{{"task":"z"}}}}"#);
        let f = s.begin(&flow(n, &json)).await;
        s.run("a", fail()).await;
        s.run_all(&["b"]).await;
        assert_eq!(f.joins().await, [Some(Status::Ok)]);
        assert_eq!(input(&s.run("z", succeed("1")).await), Input::Result(0));
        f.is_over(WorkflowState::Succeeded, "a:failed b:succeeded z:succeeded").await;
        let NodeValue::Job { state, on_failure, result: None, failure: Some(failure), .. } = f.value(1).await else {
            panic!("a failed job")
        };
        assert_eq!((state, failure.kind.as_str()), (JobState::Failed, "Void"));
        assert_eq!(on_failure, if n == 1 { OnFailure::Continue } else { OnFailure::Ignore });
    }
}

pub async fn a_step_of_a_chain_that_may_fail_gives_its_error_to_the_next(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a","on_failure":"continue"},{"task":"b"}]}"#).await;
    s.run("a", fail()).await;
    assert_eq!(input(&s.run("b", succeed("1")).await), Input::Result(0));
    f.is_over(WorkflowState::Succeeded, "a:failed b:succeeded").await;
}

pub async fn an_end_that_may_fail_does_not_fail_its_workflow(s: Subject) {
    for (n, policy, state) in [
        (1, "ignore", WorkflowState::Succeeded),
        (2, "continue", WorkflowState::Succeeded),
        (3, "fail", WorkflowState::Failed),
    ] {
        let f = s.begin(&flow(n, &format!(r#"{{"task":"a","on_failure":"{policy}"}}"#))).await;
        s.run("a", fail()).await;
        f.is_over(state, "a:failed").await;
    }
}

pub async fn a_failure_is_minded_where_it_is_said_and_passes_on_otherwise(s: Subject) {
    // The inner chain's end may fail, whatever failed before it in the chain.
    let json =
        r#"{"chord":[{"chain":[{"task":"a"},{"task":"b"}]},{"task":"c"}],"on_failure":"continue","body":{"task":"z"}}"#;
    let f = s.begin_json(json).await;
    let mut members = s.claim(2).await;
    members.sort_by_key(task_of);
    s.settle(&members[0], fail()).await;
    s.settle(&members[1], succeed("1")).await;
    is_upstream(&f, "b").await;
    s.run_all(&["z"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn the_first_failure_cancels_the_rest_where_that_is_asked_for(s: Subject) {
    let json = r#"{"chord":[{"task":"a"},{"task":"b"},{"chain":[{"task":"c"},{"task":"d"}]},{"task":"f"}],"cancel_rest":true,"body":{"task":"z"}}"#;
    let f = s.begin_json(json).await;
    let mut held = s.claim(2).await;
    held.sort_by_key(task_of);
    assert_eq!(held.iter().map(task_of).collect::<Vec<_>>(), ["a", "b"]);
    s.settle(&held[0], fail()).await;
    // What waits is revoked; what runs is asked to stop.
    for task in ["c", "d", "f"] {
        assert_eq!(f.job(task).await.state, JobState::Revoked, "{task}");
    }
    assert_eq!(s.renew(&held[1]).await, LeaseState::Cancel);
    assert_eq!(f.job("z").await.state, JobState::Waiting);
    assert_eq!(s.queue().await.queued, 0);
    s.settle(&held[1], Resolution::Revoke).await;
    is_upstream(&f, "z").await;
    assert_eq!(f.state().await, WorkflowState::Failed);
    assert_eq!(s.dead().await, [held[0].id]);
}

pub async fn a_failure_that_is_not_minded_cancels_nothing(s: Subject) {
    let json = r#"{"chord":[{"task":"a","on_failure":"ignore"},{"task":"b"}],"cancel_rest":true,"body":{"task":"z"}}"#;
    let f = s.begin_json(json).await;
    s.run("a", fail()).await;
    s.run_all(&["b", "z"]).await;
    f.is_over(WorkflowState::Succeeded, "a:failed b:succeeded z:succeeded").await;
}

pub async fn cancelling_the_rest_leaves_callbacks_and_other_groups_alone(s: Subject) {
    let json = r#"{"group":[{"group":[{"task":"a","link_error":[{"task":"e"}]},{"task":"b"}],"cancel_rest":true},{"task":"c"}]}"#;
    let f = s.begin_json(json).await;
    let mut held = s.claim(3).await;
    held.sort_by_key(task_of);
    s.settle(&held[0], fail()).await;
    assert_eq!(s.renew(&held[1]).await, LeaseState::Cancel);
    assert_eq!(s.renew(&held[2]).await, LeaseState::Held);
    s.settle(&held[1], Resolution::Revoke).await;
    s.settle(&held[2], succeed("1")).await;
    s.run_all(&["e"]).await;
    assert_eq!(f.state().await, WorkflowState::Failed);
    assert_eq!(f.job("c").await.state, JobState::Succeeded);
}

pub async fn an_error_callback_runs_exactly_once_with_the_error(s: Subject) {
    let f = s
        .begin_json(r#"{"task":"a","link":[{"task":"l"}],"link_error":[{"task":"e"},{"task":"g","immutable":true}]}"#)
        .await;
    let a = s.next("a").await;
    for expected in [Settled::Recorded, Settled::AlreadyDone] {
        assert_eq!(s.settle(&a, fail()).await, expected);
    }
    assert_eq!(f.job("l").await.state, JobState::Failed);
    is_upstream(&f, "l").await;
    let mut callbacks = s.claim(10).await;
    callbacks.sort_by_key(task_of);
    let seen: Vec<_> = callbacks.iter().map(|d| (task_of(d), input(d))).collect();
    assert_eq!(seen, [("e".to_owned(), Input::Error(0)), ("g".to_owned(), Input::Nothing)]);
    s.settle(&callbacks[0], succeed("1")).await;
    assert_eq!(f.state().await, WorkflowState::Running);
    // A callback's own failure is its own.
    s.settle(&callbacks[1], fail()).await;
    assert_eq!(f.state().await, WorkflowState::Failed);
    s.nothing_is_ready().await;
}

pub async fn an_error_callback_without_an_error_is_skipped_with_all_that_follows_it(s: Subject) {
    let json = r#"{"task":"a","link_error":[{"chain":[{"task":"e"},{"group":[{"task":"g"},{"task":"h"}]},{"task":"i","link_error":[{"task":"j"}]}]}]}"#;
    let f = s.begin_json(json).await;
    s.run("a", succeed("1")).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
    for task in ["e", "g", "h", "i", "j"] {
        assert_eq!(f.job(task).await.state, JobState::Skipped, "{task}");
    }
    assert_eq!(f.joins().await, [Some(Status::Skipped)]);
    s.nothing_is_ready().await;
    assert!(s.dead().await.is_empty());
    assert_eq!(s.cancel(f.job("e").await.id).await, Cancelled::AlreadyEnded(JobState::Skipped));
}

pub async fn error_callbacks_see_a_failure_that_others_do_not_mind(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a","on_failure":"ignore","link":[{"task":"l"}],"link_error":[{"task":"e"}]},{"task":"b"}]}"#).await;
    s.run("a", fail()).await;
    let mut ready: Vec<_> = s.claim(10).await;
    ready.sort_by_key(task_of);
    assert_eq!(ready.iter().map(task_of).collect::<Vec<_>>(), ["b", "e"]);
    for delivery in &ready {
        s.settle(delivery, succeed("1")).await;
    }
    f.is_over(WorkflowState::Succeeded, "a:failed b:succeeded e:succeeded l:skipped").await;
}

pub async fn a_link_never_runs_beside_the_error_callbacks_of_its_step(s: Subject) {
    let callbacks = r#""link":[{"chain":[{"task":"l"},{"task":"m"}]},{"group":[]},{"group":[{"task":"k"}]}],"link_error":[{"task":"e"}]"#;
    for (n, policy) in [(1, "continue"), (3, "ignore")] {
        let task = format!(r#"{{"chain":[{{"task":"a","on_failure":"{policy}",{callbacks}}},{{"task":"z"}}]}}"#);
        let group = format!(
            r#"{{"chain":[{{"group":[{{"group":[{{"task":"a"}}],{callbacks}}}],"on_failure":"{policy}"}},{{"task":"z"}}]}}"#
        );
        for (n, json) in [(n, task), (n + 1, group)] {
            let f = s.begin(&flow(n, &json)).await;
            s.run("a", fail()).await;
            let mut ready = s.claim(10).await;
            ready.sort_by_key(task_of);
            assert_eq!(ready.iter().map(task_of).collect::<Vec<_>>(), ["e", "z"], "{json}");
            for delivery in &ready {
                s.settle(delivery, succeed("1")).await;
            }
            for task in ["l", "m", "k"] {
                assert_eq!(f.job(task).await.state, JobState::Skipped, "{task} of {json}");
            }
            assert_eq!(f.state().await, WorkflowState::Succeeded);
            s.nothing_is_ready().await;
        }
    }
}

pub async fn a_link_that_is_resumed_starts_with_the_workflow(s: Subject) {
    let json = r#"{"task":"a","on_failure":"ignore","link":[{"task":"l"}],"link_error":[{"task":"e"}]}"#;
    // It failed itself, after a step that succeeded.
    let resumed = resumed(1, json, |task| match task {
        "a" => (JobState::Succeeded, Some("1")),
        "l" => (JobState::Failed, None),
        _ => (JobState::Skipped, None),
    });
    let f = s.begin(&resumed).await;
    s.run("l", succeed("1")).await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded e:skipped l:succeeded").await;
}

pub async fn an_error_callback_of_a_step_that_never_ran_runs_too(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b","link_error":[{"task":"e"}]}]}"#).await;
    s.run("a", fail()).await;
    assert_eq!(input(&s.run("e", succeed("1")).await), Input::Error(1));
    f.is_over(WorkflowState::Failed, "a:failed b:failed e:succeeded").await;
}

pub async fn an_error_callback_that_is_a_group_runs_all_its_members(s: Subject) {
    let f =
        s.begin_json(r#"{"task":"a","link_error":[{"chord":[{"task":"e"},{"task":"g"}],"body":{"task":"h"}}]}"#).await;
    s.run("a", fail()).await;
    for task in ["e", "g"] {
        assert_eq!(input(&s.run(task, succeed("1")).await), Input::Error(0));
    }
    s.run_all(&["h"]).await;
    assert_eq!(f.state().await, WorkflowState::Failed);
    assert_eq!(f.job("h").await.state, JobState::Succeeded);
}

pub async fn a_node_expires_counted_from_when_it_was_ready(s: Subject) {
    let f = s
        .begin_json(
            r#"{"chain":[{"task":"a"},{"task":"b","options":{"expires_ms":1000},"link_error":[{"task":"e"}]}]}"#,
        )
        .await;
    s.pass(5_000);
    assert_eq!(s.broker.promote(10).await.unwrap().expired, 0);
    s.run("a", succeed("1")).await;
    assert_eq!(f.job("b").await.expires_at, Some(START_MS + 6_000));
    s.pass(999);
    assert_eq!(s.broker.promote(10).await.unwrap().expired, 0);
    s.pass(1);
    let promoted = s.broker.promote(10).await.unwrap();
    assert_eq!(promoted.expired, 1);
    assert_eq!(f.job("b").await.state, JobState::Expired);
    s.run_all(&["e"]).await;
    f.is_over(WorkflowState::Failed, "a:succeeded b:expired e:succeeded").await;
    assert!(s.dead().await.is_empty());
}

pub async fn an_expired_node_that_a_claim_meets_readies_what_waits_for_it(s: Subject) {
    let f = s
        .begin_json(
            r#"{"chord":[{"task":"a","options":{"expires_ms":1000},"on_failure":"ignore"}],"body":{"task":"z"}}"#,
        )
        .await;
    s.pass(1_000);
    // The first claim may find nothing else yet: what the expired one readies comes behind it.
    let mut got = s.claim(1).await;
    if got.is_empty() {
        got = s.claim(1).await;
    }
    assert_eq!(task_of(&got[0]), "z");
    s.settle(&got[0], succeed("1")).await;
    f.is_over(WorkflowState::Succeeded, "a:expired z:succeeded").await;
}

pub async fn a_node_with_a_delay_waits_from_when_it_was_ready(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b","options":{"delay_ms":1000}}]}"#).await;
    s.pass(300);
    s.run("a", succeed("1")).await;
    let b = f.job("b").await;
    assert_eq!((b.state, b.due_at), (JobState::Scheduled, Some(START_MS + 1_300)));
    assert_eq!(s.queue().await.delayed, 1);
    s.pass(1_000);
    s.broker.promote(10).await.unwrap();
    assert_eq!(input(&s.run("b", succeed("1")).await), value("1"));
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn a_node_that_is_retried_or_snoozed_has_not_ended(s: Subject) {
    let f =
        s.begin_json(r#"{"chord":[{"task":"a","link_error":[{"task":"e"}]},{"task":"b"}],"body":{"task":"z"}}"#).await;
    let mut a = s.next("a").await;
    s.run_all(&["b"]).await;
    for (resolution, retries) in [(retry(10), 1), (Resolution::Snooze { delay_ms: 10 }, 1), (retry(10), 2)] {
        s.settle(&a, resolution).await;
        assert_eq!(f.job("z").await.state, JobState::Waiting);
        s.nothing_is_ready().await;
        s.pass(10);
        s.broker.promote(10).await.unwrap();
        a = s.next("a").await;
        assert_eq!(a.retries, retries);
        assert_eq!(a.node.as_ref().unwrap().node, 1);
    }
    s.settle(&a, Resolution::Release).await;
    s.run_all(&["a", "z"]).await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded b:succeeded z:succeeded e:skipped").await;
}

pub async fn a_node_whose_workers_are_lost_is_buried_and_fails_the_body(s: Subject) {
    let json = r#"{"chord":[{"task":"a","options":{"max_deliveries":2},"link_error":[{"task":"e"}]}],"body":{"task":"z","link_error":[{"task":"g"}]}}"#;
    let f = s.begin_json(json).await;
    let first = s.next("a").await;
    assert_eq!(s.lose().await, Reaped { requeued: 1, buried: 0, failed: 0, revoked: 0 });
    assert_eq!(f.job("z").await.state, JobState::Waiting);
    let second = s.next("a").await;
    assert_eq!((second.delivery, second.id), (2, first.id));
    assert_eq!(s.lose().await, Reaped { requeued: 0, buried: 1, failed: 0, revoked: 0 });
    assert_eq!(s.dead().await, [first.id]);
    assert_eq!(f.job("a").await.failure.unwrap().kind, "max_deliveries");
    is_upstream(&f, "z").await;
    // What comes too late changes nothing.
    for late in [&first, &second] {
        assert_eq!(s.settle(late, succeed("1")).await, Settled::Lost);
    }
    let mut callbacks: Vec<String> = s.claim(10).await.iter().map(task_of).collect();
    callbacks.sort();
    assert_eq!(callbacks, ["e", "g"]);
}

pub async fn a_node_that_is_lost_once_gives_its_result_once(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"},{"task":"b"}],"body":{"task":"z"}}"#).await;
    let lost = s.next("a").await;
    s.lose().await;
    let again = s.next("a").await;
    assert_eq!(s.settle(&lost, succeed("1")).await, Settled::Lost);
    assert_eq!(s.settle(&again, succeed("2")).await, Settled::Recorded);
    assert_eq!(s.settle(&again, succeed("2")).await, Settled::AlreadyDone);
    assert_eq!(f.job("z").await.state, JobState::Waiting);
    s.run_all(&["b", "z"]).await;
    s.nothing_is_ready().await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded b:succeeded z:succeeded").await;
}

pub async fn a_failed_node_is_redriven_as_a_job_of_its_own(s: Subject) {
    let f = s.begin_json(r#"{"task":"a"}"#).await;
    let a = s.run("a", fail()).await;
    assert_eq!(s.dead().await, [a.id]);
    s.add(NewJob { redrive_of: Some(a.id), ..new_job(1) }).await;
    assert!(s.dead().await.is_empty());
    f.is_over(WorkflowState::Failed, "a:failed").await;
}

pub async fn a_failed_group_calls_back_once_with_its_error(s: Subject) {
    let f = s
        .begin_json(r#"{"group":[{"task":"a"},{"task":"b"}],"link_error":[{"task":"e"}],"link":[{"task":"l"}]}"#)
        .await;
    s.run("a", fail()).await;
    s.run("b", fail()).await;
    assert_eq!(input(&s.run("e", succeed("1")).await), Input::Error(0));
    s.nothing_is_ready().await;
    assert_eq!(f.state().await, WorkflowState::Failed);
    is_upstream(&f, "l").await;
    let error: serde_json::Value = serde_json::from_str(&error_of(f.at(0)).await.unwrap()).unwrap();
    assert_eq!((error["kind"].as_str(), error["count"].as_u64()), (Some(UPSTREAM_FAILED), Some(2)));
    assert_eq!((&error["failed"][0]["task"], &error["failed"][1]["task"]), (&"a".into(), &"b".into()));
}

pub async fn a_group_in_a_group_that_may_fail_gives_its_error_in_its_place(s: Subject) {
    let json =
        r#"{"chord":[{"group":[{"task":"a"},{"task":"b"}]},{"task":"c"}],"on_failure":"continue","body":{"task":"z"}}"#;
    let f = s.begin_json(json).await;
    let mut held = s.claim(3).await;
    held.sort_by_key(task_of);
    s.settle(&held[0], fail()).await;
    s.settle(&held[1], succeed("1")).await;
    s.settle(&held[2], succeed("2")).await;
    assert_eq!(input(&s.run("z", succeed("3")).await), Input::Result(0));
    assert_eq!(f.state().await, WorkflowState::Succeeded);
    let inner = NodeValue::Join {
        after: None,
        members: vec![umbel_model::canvas::Range { first: 3, count: 2 }],
        on_failure: OnFailure::Continue,
        status: Some(Status::Failed),
    };
    assert_eq!(format!("{:?}", f.value(1).await), format!("{inner:?}"));
    let list: serde_json::Value = serde_json::from_str(&value_of(f.at(0), 10_000).await.unwrap()).unwrap();
    assert_eq!((&list[0]["error"]["failed"][0]["task"], &list[1]), (&"a".into(), &2.into()));
}

pub async fn a_failure_before_a_group_is_named_once(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"x"},{"group":[{"task":"a"},{"task":"b"},{"group":[]}]}]}"#).await;
    s.run("x", fail()).await;
    let error: serde_json::Value = serde_json::from_str(&error_of(f.at(1)).await.unwrap()).unwrap();
    assert_eq!((error["count"].as_u64(), &error["failed"][0]["task"]), (Some(1), &"x".into()));
}

pub async fn an_empty_group_waits_for_a_failure_as_a_job_would(s: Subject) {
    let json = r#"{"task":"a","link_error":[{"chord":[],"body":{"task":"e"}}]}"#;
    let f = s.begin(&flow(1, json)).await;
    s.run("a", fail()).await;
    s.run_all(&["e"]).await;
    f.is_over(WorkflowState::Failed, "a:failed e:succeeded").await;
    let f = s.begin(&flow(2, json)).await;
    s.run_all(&["a"]).await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded e:skipped").await;
}
