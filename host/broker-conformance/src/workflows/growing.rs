//! What a guest adds while it runs: its replacement, workflows, members of its group.

use super::*;

pub async fn a_replaced_job_waits_for_the_workflow_in_its_place(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let child = s.replace(&job, 1, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    let record = s.read(id).await;
    assert_eq!((record.state, record.child), (JobState::Waiting, Some(child.id)));
    let head = child.record().await;
    assert_eq!((head.parent, head.depth, head.state), (Some(id), 1, WorkflowState::Running));
    let queue = s.queue().await;
    assert_eq!((queue.queued, queue.running), (1, 0));
    let a = s.run("a", succeed("1")).await;
    assert_eq!(a.node.unwrap().depth, 1);
    s.pass(50);
    s.run("b", succeed("2")).await;
    let record = s.read(id).await;
    assert_eq!((record.state, record.finished_at), (JobState::Succeeded, Some(START_MS + 50)));
    // The result is the child's, by reference.
    assert!(record.result.is_none());
    assert_eq!(record.child, Some(child.id));
    assert_eq!(child.state().await, WorkflowState::Succeeded);
    s.nothing_is_ready().await;
}

pub async fn a_replaced_job_fails_when_the_workflow_in_its_place_does(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let child = s.replace(&job, 1, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    let a = s.run("a", fail()).await;
    let record = s.read(id).await;
    assert_eq!(record.state, JobState::Failed);
    assert_eq!(record.failure.unwrap().kind, UPSTREAM_FAILED);
    assert_eq!(child.state().await, WorkflowState::Failed);
    // Nobody else tells of a job on its own.
    assert_eq!(s.dead().await, [a.id, id]);
}

pub async fn a_replaced_node_keeps_its_place(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"},{"task":"b"}],"body":{"task":"z"}}"#).await;
    let a = s.next("a").await;
    s.run_all(&["b"]).await;
    let child = s.replace(&a, 2, r#"{"group":[{"task":"c"},{"task":"d"}]}"#).await;
    assert_eq!(f.shown().await, "a:waiting b:succeeded z:waiting");
    s.run_all(&["c", "d"]).await;
    let NodeValue::Job { state: JobState::Succeeded, result: None, child: Some(seen), .. } = f.value(1).await else {
        panic!("a job that was replaced")
    };
    assert_eq!(seen, child.id);
    s.run_all(&["z"]).await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded b:succeeded z:succeeded").await;
}

pub async fn the_result_of_a_replaced_step_is_read_by_reference(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    let a = s.next("a").await;
    s.replace(&a, 2, r#"{"task":"c"}"#).await;
    s.run("c", succeed("1")).await;
    assert_eq!(input(&s.run("b", succeed("1")).await), Input::Result(0));
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn replacements_may_be_replaced(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"z"}]}"#).await;
    let a = s.next("a").await;
    let outer = s.replace(&a, 2, r#"{"task":"b"}"#).await;
    let b = s.next("b").await;
    let inner = s.replace(&b, 3, r#"{"task":"c"}"#).await;
    assert_eq!(inner.record().await.depth, 2);
    s.run_all(&["c"]).await;
    assert_eq!(inner.state().await, WorkflowState::Succeeded);
    assert_eq!(outer.state().await, WorkflowState::Succeeded);
    s.run_all(&["z"]).await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded z:succeeded").await;
}

pub async fn the_error_callback_of_a_replaced_node_runs_when_its_replacement_fails(s: Subject) {
    let f = s.begin_json(r#"{"task":"a","link_error":[{"task":"e"}]}"#).await;
    let a = s.next("a").await;
    s.replace(&a, 2, r#"{"task":"b","link_error":[{"task":"g"}]}"#).await;
    s.run("b", fail()).await;
    for callback in ["g", "e"] {
        assert_eq!(input(&s.run(callback, succeed("1")).await), Input::Error(0));
    }
    f.is_over(WorkflowState::Failed, "a:failed e:succeeded").await;
}

pub async fn a_replaced_job_waits_for_the_callbacks_of_its_replacement(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"z"}]}"#).await;
    let a = s.next("a").await;
    let outer = s.replace(&a, 2, r#"{"task":"b","link":[{"task":"l"}],"link_error":[{"task":"e"}]}"#).await;
    s.run("b", succeed("1")).await;
    assert_eq!(f.shown().await, "a:waiting z:waiting");
    assert_eq!(f.state().await, WorkflowState::Running);
    // The callback is replaced by a workflow with a callback of its own.
    let l = s.next("l").await;
    let inner = s.replace(&l, 3, r#"{"task":"c","link":[{"task":"d"}]}"#).await;
    s.run("c", succeed("1")).await;
    assert_eq!(outer.shown().await, "b:succeeded e:skipped l:waiting");
    // A callback that fails fails nothing.
    s.run("d", fail()).await;
    assert_eq!(inner.state().await, WorkflowState::Succeeded);
    outer.is_over(WorkflowState::Succeeded, "b:succeeded e:skipped l:succeeded").await;
    s.run("z", succeed("1")).await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded z:succeeded").await;
    s.nothing_is_ready().await;
}

pub async fn callbacks_of_a_replacement_are_cancelled_with_what_it_replaced(s: Subject) {
    let f = s.begin_json(r#"{"task":"a"}"#).await;
    let a = s.next("a").await;
    let child = s.replace(&a, 2, r#"{"task":"b","link":[{"task":"l"},{"task":"m"}]}"#).await;
    s.run("b", succeed("1")).await;
    let running = s.claim_one().await;
    assert_eq!(f.cancel().await, WorkflowCancelled::Requested);
    assert_eq!(s.renew(&running).await, LeaseState::Cancel);
    s.settle(&running, Resolution::Revoke).await;
    assert!(child.shown().await.matches("revoked").count() == 2, "{}", child.shown().await);
    f.is_over(WorkflowState::Revoked, "a:revoked").await;
    s.nothing_is_ready().await;
}

pub async fn a_deadline_reaches_the_callbacks_of_a_replacement(s: Subject) {
    let mut late = flow(1, r#"{"task":"a"}"#);
    late.head.deadline_ms = 1_000;
    let f = s.begin(&late).await;
    let a = s.next("a").await;
    let child = s.replace(&a, 2, r#"{"task":"b","link":[{"task":"l"}]}"#).await;
    s.run("b", succeed("1")).await;
    s.pass(1_000);
    s.broker.promote(10).await.unwrap();
    assert_eq!(child.shown().await, "b:succeeded l:expired");
    f.is_over(WorkflowState::Expired, "a:expired").await;
    s.nothing_is_ready().await;
}

pub async fn a_replacement_whose_failure_is_not_minded_is_a_success(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    s.replace(&job, 1, r#"{"task":"a","on_failure":"ignore"}"#).await;
    s.run("a", fail()).await;
    assert_eq!(s.state(id).await, JobState::Succeeded);
}

pub async fn cancelling_a_replaced_job_cancels_its_replacement(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let child = s.replace(&job, 1, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    assert_eq!(s.cancel(id).await, Cancelled::Revoked);
    assert_eq!(s.state(id).await, JobState::Revoked);
    child.is_over(WorkflowState::Revoked, "a:revoked b:revoked").await;
    s.nothing_is_ready().await;
}

pub async fn cancelling_a_workflow_cancels_what_replaced_its_nodes(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"z"}]}"#).await;
    let a = s.next("a").await;
    let child = s.replace(&a, 2, r#"{"group":[{"task":"b"},{"task":"c"}]}"#).await;
    let b = s.next("b").await;
    assert_eq!(f.cancel().await, WorkflowCancelled::Requested);
    assert_eq!(child.shown().await, "b:running c:revoked");
    assert_eq!(s.renew(&b).await, LeaseState::Cancel);
    s.settle(&b, Resolution::Revoke).await;
    assert_eq!(child.state().await, WorkflowState::Revoked);
    assert_eq!(f.job("z").await.state, JobState::Revoked);
    assert_eq!(f.state().await, WorkflowState::Revoked);
}

pub async fn a_deadline_reaches_what_replaced_a_node(s: Subject) {
    let mut late = flow(1, r#"{"task":"a"}"#);
    late.head.deadline_ms = 1_000;
    let f = s.begin(&late).await;
    let a = s.next("a").await;
    let child = s.replace(&a, 2, r#"{"task":"b"}"#).await;
    s.pass(1_000);
    s.broker.promote(10).await.unwrap();
    assert!(child.state().await.is_terminal());
    assert_eq!(f.state().await, WorkflowState::Expired);
    s.nothing_is_ready().await;
}

pub async fn a_replacement_is_settled_once(s: Subject) {
    s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let child = child_of(&job, 1, r#"{"task":"a"}"#);
    let replaced = Resolution::Replace { workflow: child.head.id };
    for expected in [Settled::Recorded, Settled::AlreadyDone] {
        assert_eq!(s.settle_grown(&job, replaced.clone(), grow(vec![child.clone()])).await, expected);
    }
    assert_eq!(s.claim(10).await.len(), 1);
    assert_eq!(s.lose().await, Reaped { requeued: 1, buried: 0, failed: 0, revoked: 0 });
}

pub async fn a_guest_submits_workflows_with_its_outcome(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let mut new = flow(1, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#);
    new.head.depth = 1;
    for expected in [Settled::Recorded, Settled::AlreadyDone] {
        assert_eq!(s.settle_grown(&job, succeed("1"), grow(vec![new.clone()])).await, expected);
    }
    assert_eq!(s.state(id).await, JobState::Succeeded);
    let f = s.flow(new.head.id);
    assert_eq!((f.record().await.parent, f.record().await.depth), (None, 1));
    s.run_all(&["a", "b"]).await;
    f.is_over(WorkflowState::Succeeded, "a:succeeded b:succeeded").await;
    s.nothing_is_ready().await;
}

pub async fn what_a_guest_asked_for_is_dropped_unless_it_succeeds(s: Subject) {
    let cases = [retry(0), Resolution::Snooze { delay_ms: 0 }, Resolution::Release, fail(), Resolution::Revoke];
    for (n, resolution) in (1..).zip(cases) {
        let id = s.add(new_job(n)).await;
        s.broker.promote(10).await.unwrap();
        let job = s.claim_one().await;
        let new = flow(n, r#"{"task":"a"}"#);
        assert_eq!(s.settle_grown(&job, resolution, grow(vec![new.clone()])).await, Settled::Recorded);
        assert!(s.flow(new.head.id).is_gone().await);
        s.cancel(id).await;
        s.nothing_is_ready().await;
    }
}

pub async fn what_a_lost_delivery_asked_for_is_dropped(s: Subject) {
    s.add(new_job(1)).await;
    let job = s.claim_one().await;
    s.lose().await;
    let new = flow(1, r#"{"task":"a"}"#);
    assert_eq!(s.settle_grown(&job, succeed("1"), grow(vec![new.clone()])).await, Settled::Lost);
    let child = child_of(&job, 2, r#"{"task":"a"}"#);
    let replaced = Resolution::Replace { workflow: child.head.id };
    assert_eq!(s.settle_grown(&job, replaced, grow(vec![child.clone()])).await, Settled::Lost);
    assert!(s.flow(new.head.id).is_gone().await && s.flow(child.head.id).is_gone().await);
    assert_eq!(s.claim(10).await.iter().map(task_of).collect::<Vec<_>>(), ["a plain job"]);
}

pub async fn a_member_adds_members_to_its_group(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"},{"task":"b"}],"body":{"task":"z"}}"#).await;
    let a = s.next("a").await;
    let more = r#"[{"task":"c"},{"chain":[{"task":"d"},{"task":"e"}]}]"#;
    for expected in [Settled::Recorded, Settled::AlreadyDone] {
        assert_eq!(s.settle_grown(&a, succeed("1"), grow_members(more)).await, expected);
    }
    assert_eq!(f.record().await.nodes, 7);
    s.run_all(&["b"]).await;
    assert_eq!(f.job("z").await.state, JobState::Waiting);
    let mut ready = s.claim(10).await;
    ready.sort_by_key(task_of);
    assert_eq!(ready.iter().map(task_of).collect::<Vec<_>>(), ["c", "d"]);
    for delivery in &ready {
        let node = delivery.node.as_ref().unwrap();
        assert_eq!((node.workflow, node.group, &node.input), (f.id, Some(0), &Input::Nothing));
        s.settle(delivery, succeed("1")).await;
    }
    assert_eq!(f.job("z").await.state, JobState::Waiting);
    assert_eq!(input(&s.run("e", succeed("7")).await), value("1"));
    // They are behind the others, in their order.
    let NodeValue::Join { members, .. } = f.value(0).await else { panic!("a gate") };
    let names: Vec<_> = members_names(&f, &members).await;
    assert_eq!(names, ["a", "b", "c", "e"]);
    s.run_all(&["z"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

async fn members_names(f: &Flow<'_>, members: &[umbel_model::canvas::Range]) -> Vec<String> {
    let mut names = Vec::new();
    for number in members.iter().flat_map(|range| range.iter()) {
        let NodeValue::Job { task, .. } = f.value(number).await else { panic!("a job") };
        names.push(task.to_string());
    }
    names
}

pub async fn a_member_that_was_added_may_add_members_and_fail_the_body(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"}],"body":{"task":"z"}}"#).await;
    let a = s.next("a").await;
    s.settle_grown(&a, succeed("1"), grow_members(r#"[{"task":"b"}]"#)).await;
    let b = s.next("b").await;
    assert_eq!(
        s.settle_grown(&b, succeed("1"), grow_members(r#"[{"task":"c"},{"task":"d"}]"#)).await,
        Settled::Recorded
    );
    s.run("c", fail()).await;
    assert_eq!(f.job("z").await.state, JobState::Waiting);
    s.run_all(&["d"]).await;
    f.is_over(WorkflowState::Failed, "a:succeeded z:failed b:succeeded c:failed d:succeeded").await;
}

pub async fn members_that_were_added_are_cancelled_with_the_rest(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"},{"task":"b"}],"cancel_rest":true,"body":{"task":"z"}}"#).await;
    let a = s.next("a").await;
    s.settle_grown(&a, succeed("1"), grow_members(r#"[{"task":"c"}]"#)).await;
    s.run("b", fail()).await;
    f.is_over(WorkflowState::Failed, "a:succeeded b:failed z:failed c:revoked").await;
    s.nothing_is_ready().await;
}

pub async fn an_empty_list_of_members_adds_nothing(s: Subject) {
    let f = s.begin_json(r#"{"group":[{"task":"a"}]}"#).await;
    let a = s.next("a").await;
    assert_eq!(s.settle_grown(&a, succeed("1"), grow_members("[]")).await, Settled::Recorded);
    f.is_over(WorkflowState::Succeeded, "a:succeeded").await;
}

/// Settles with this growth, which is refused; then, without it, the lease is still good.
async fn refused(s: &Subject, delivery: &Delivery, growth: Growth, why: &str) {
    let ids: Vec<WorkflowId> = growth.workflows.iter().map(|w| w.head.id).collect();
    assert_eq!(s.settle_grown(delivery, succeed("1"), growth).await, Settled::NoCapacity, "{why}");
    for id in ids {
        assert!(s.flow(id).is_gone().await, "{why}");
    }
    let record = s.read(delivery.id).await;
    assert_eq!((record.state, record.history.len()), (JobState::Running, 0), "{why}");
    assert_eq!(s.renew(delivery).await, LeaseState::Held, "{why}");
}

pub async fn members_without_a_group_are_refused_and_change_nothing(s: Subject) {
    s.add(new_job(1)).await;
    let plain = s.claim_one().await;
    refused(&s, &plain, grow_members(r#"[{"task":"b"}]"#), "a plain job is in no group").await;
    assert_eq!(s.settle(&plain, succeed("1")).await, Settled::Recorded);
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    let a = s.next("a").await;
    let both = Growth { workflows: vec![flow(2, r#"{"task":"c"}"#)], members: Some(members(r#"[{"task":"b"}]"#)) };
    refused(&s, &a, both, "a step of a chain is in no group").await;
    assert_eq!(f.record().await.nodes, 2);
    assert_eq!(s.settle(&a, succeed("1")).await, Settled::Recorded);
    s.run_all(&["b"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn growth_without_room_is_refused_and_changes_nothing(s: Subject) {
    s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let full = |n: u64| {
        let mut new = flow(n, r#"{"task":"a"}"#);
        new.head.templates[0].nodes = limits().max_backlog as u32 + 1;
        new
    };
    refused(&s, &job, grow(vec![full(1)]), "the queue would be full").await;
    let many = (1..=limits().max_workflows + 1).map(|n| flow(n, r#"{"task":"a"}"#)).collect();
    refused(&s, &job, grow(many), "too many workflows").await;
    let queues = |n: u64| flow(n, &format!(r#"{{"task":"a","options":{{"queue":"q{n}"}}}}"#));
    refused(&s, &job, grow((1..=limits().max_queues).map(queues).collect()), "too many queues").await;
    let group = format!(r#"{{"group":[{}]}}"#, vec![r#"{"task":"a"}"#; MAX_GROWTH as usize].join(","));
    refused(&s, &job, grow(vec![flow(1, &group)]), "too many nodes").await;
    // One that has room is not taken either when it comes with one that has none.
    refused(&s, &job, grow(vec![flow(1, r#"{"task":"a"}"#), full(2)]), "all or nothing").await;
    assert_eq!(s.queue().await.queued, 0);
    assert_eq!(s.broker.queues(&tenant("t1")).await.unwrap().len(), 1);
    assert_eq!(s.settle(&job, succeed("1")).await, Settled::Recorded);
    s.nothing_is_ready().await;
}

pub async fn a_replacement_without_room_is_refused_and_the_lease_is_held(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let mut child = child_of(&job, 1, r#"{"task":"a"}"#);
    child.head.templates[0].nodes = limits().max_backlog as u32 + 1;
    let replaced = Resolution::Replace { workflow: child.head.id };
    assert_eq!(s.settle_grown(&job, replaced, grow(vec![child.clone()])).await, Settled::NoCapacity);
    assert!(s.flow(child.head.id).is_gone().await);
    assert_eq!(s.renew(&job).await, LeaseState::Held);
    s.settle(&job, fail()).await;
    assert_eq!(s.state(id).await, JobState::Failed);
}

pub async fn what_replaces_a_job_does_not_count_against_the_workflows_of_a_tenant(s: Subject) {
    for n in 1..=limits().max_workflows {
        s.begin(&flow(n, r#"{"task":"a"}"#)).await;
    }
    let a = s.next("a").await;
    let child = s.replace(&a, 100, r#"{"task":"b"}"#).await;
    assert_eq!(child.state().await, WorkflowState::Running);
}

pub async fn a_group_that_has_ended_takes_no_more_members(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"}],"body":{"task":"z"}}"#).await;
    let a = s.next("a").await;
    s.settle_grown(&a, succeed("1"), grow_members(r#"[{"task":"b","link":[{"task":"l"}]}]"#)).await;
    s.run_all(&["b"]).await;
    assert_eq!(f.joins().await, [Some(Status::Ok)]);
    let mut ready = s.claim(2).await;
    ready.sort_by_key(task_of);
    assert_eq!(ready.iter().map(task_of).collect::<Vec<_>>(), ["l", "z"]);
    refused(&s, &ready[0], grow_members(r#"[{"task":"c"}]"#), "the group is over").await;
    for delivery in &ready {
        assert_eq!(s.settle(delivery, succeed("1")).await, Settled::Recorded);
    }
    f.is_over(WorkflowState::Succeeded, "a:succeeded z:succeeded b:succeeded l:succeeded").await;
}

pub async fn a_job_that_was_cancelled_is_not_replaced(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    assert_eq!(s.cancel(id).await, Cancelled::Requested);
    let child = child_of(&job, 1, r#"{"task":"a"}"#);
    let replaced = Resolution::Replace { workflow: child.head.id };
    for expected in [Settled::Recorded, Settled::AlreadyDone] {
        assert_eq!(s.settle_grown(&job, replaced.clone(), grow(vec![child.clone()])).await, expected);
    }
    let record = s.read(id).await;
    assert_eq!((record.state, record.child), (JobState::Revoked, None));
    assert!(s.flow(child.head.id).is_gone().await);
    s.nothing_is_ready().await;
}

pub async fn a_replacement_that_is_not_there_is_refused(s: Subject) {
    let id = s.add(new_job(1)).await;
    let job = s.claim_one().await;
    let stranger = flow(1, r#"{"task":"a"}"#);
    let replaced = Resolution::Replace { workflow: stranger.head.id };
    // Without it, and with one that is not meant for this job.
    assert_eq!(s.settle(&job, replaced.clone()).await, Settled::NoCapacity);
    assert_eq!(s.settle_grown(&job, replaced, grow(vec![stranger.clone()])).await, Settled::NoCapacity);
    assert!(s.flow(stranger.head.id).is_gone().await);
    assert_eq!(s.settle(&job, succeed("1")).await, Settled::Recorded);
    assert_eq!(s.state(id).await, JobState::Succeeded);
}
