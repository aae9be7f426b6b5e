//! Chains, groups and chords that go well: order, inputs, results.

use umbel_model::canvas::Range;

use super::*;

pub async fn a_chain_runs_its_steps_one_after_the_other(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"},{"task":"c"}]}"#).await;
    assert_eq!(f.shown().await, "a:queued b:waiting c:waiting");
    assert_eq!(input(&s.run("a", succeed("1")).await), Input::Nothing);
    assert_eq!(f.shown().await, "a:succeeded b:queued c:waiting");
    assert_eq!(input(&s.run("b", succeed("[2]")).await), value("1"));
    assert_eq!(f.state().await, WorkflowState::Running);
    assert_eq!(input(&s.run("c", succeed("3")).await), value("[2]"));
    f.is_over(WorkflowState::Succeeded, "a:succeeded b:succeeded c:succeeded").await;
    s.nothing_is_ready().await;
}

pub async fn a_node_is_delivered_with_its_template_and_place(s: Subject) {
    let f = s.begin_json(r#"{"group":[{"task":"a","args":[1,{"x":"é"}],"label":"first"},{"task":"b"}]}"#).await;
    let a = s.next("a").await;
    assert_eq!((a.id, a.retries, a.delivery, a.spec.as_str()), (f.id_of(1), 0, 1, r#"{"task":"a"}"#));
    let node = a.node.clone().unwrap();
    assert_eq!((node.workflow, node.node, node.group, node.depth), (f.id, 1, Some(0), 0));
    assert_eq!(node.arguments, r#"{"args":[1,{"x":"é"}],"label":"first"}"#);
    // Read as a job, it says the same.
    let record = s.read(a.id).await;
    let place = record.node.unwrap();
    assert_eq!((place.workflow, place.number, place.arguments), (f.id, 1, node.arguments));
    assert_eq!((record.state, record.spec, record.created_at), (JobState::Running, a.spec, START_MS));
    // A plain job has no place.
    s.add(new_job(1)).await;
    s.next("b").await;
    assert_eq!(s.claim_one().await.node, None);
}

pub async fn a_group_runs_its_members_at_once_and_keeps_their_order(s: Subject) {
    let f = s.begin_json(r#"{"group":[{"task":"a"},{"task":"b"},{"task":"c"}]}"#).await;
    assert_eq!(f.shown().await, "a:queued b:queued c:queued");
    let members = s.claim(3).await;
    assert_eq!(members.iter().map(task_of).collect::<Vec<_>>(), ["a", "b", "c"]);
    for (member, result) in members.iter().zip(["1", "2", "3"]).rev() {
        assert_eq!(f.state().await, WorkflowState::Running);
        s.settle(member, succeed(result)).await;
    }
    f.is_over(WorkflowState::Succeeded, "a:succeeded b:succeeded c:succeeded").await;
    let NodeValue::Join { after: None, members, status: Some(Status::Ok), .. } = f.value(0).await else {
        panic!("a gate")
    };
    assert_eq!(members, [Range { first: 1, count: 3 }]);
    for (number, expected) in [(1, "1"), (2, "2"), (3, "3")] {
        let NodeValue::Job { result, .. } = f.value(number).await else { panic!("a job") };
        assert_eq!(result.unwrap().get(), expected);
    }
}

pub async fn a_chords_body_runs_once_after_all_members(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"},{"task":"b"}],"body":{"task":"z"}}"#).await;
    s.run_all(&["a"]).await;
    assert_eq!(f.shown().await, "a:succeeded b:queued z:waiting");
    s.run_all(&["b"]).await;
    assert_eq!(f.joins().await, [Some(Status::Ok)]);
    assert_eq!(input(&s.run("z", succeed("0")).await), Input::Result(0));
    f.is_over(WorkflowState::Succeeded, "a:succeeded b:succeeded z:succeeded").await;
    s.nothing_is_ready().await;
}

pub async fn a_groups_members_all_get_what_was_before_it(s: Subject) {
    let json = r#"{"chain":[{"task":"x"},{"group":[{"task":"a"},{"chain":[{"task":"b"},{"task":"c"}]},{"task":"d","immutable":true}]},{"task":"z"}]}"#;
    let f = s.begin_json(json).await;
    s.run("x", succeed("7")).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let delivery = s.claim_one().await;
        seen.push((task_of(&delivery), input(&delivery)));
        s.settle(&delivery, succeed("8")).await;
    }
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [("a", value("7")), ("b", value("7")), ("d", Input::Nothing)];
    assert_eq!(seen, expected.map(|(task, input)| (task.to_owned(), input)));
    assert_eq!(input(&s.run("c", succeed("9")).await), value("8"));
    assert_eq!(input(&s.run("z", succeed("0")).await), Input::Result(1));
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn groups_in_groups_end_from_the_inside_out(s: Subject) {
    let json = r#"{"chord":[{"task":"a"},{"group":[{"task":"b"},{"chord":[{"task":"c"},{"task":"d"}],"body":{"task":"e"}}]}],"body":{"task":"z"}}"#;
    let f = s.begin_json(json).await;
    let mut ready: Vec<String> = s.claim(10).await.iter().map(task_of).collect();
    ready.sort();
    assert_eq!(ready, ["a", "b", "c", "d"]);
    s.lose().await;
    for _ in 0..4 {
        let delivery = s.claim_one().await;
        assert_eq!(f.state().await, WorkflowState::Running);
        s.settle(&delivery, succeed("1")).await;
    }
    s.run_all(&["e", "z"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
    assert_eq!(f.joins().await, [Some(Status::Ok); 3]);
}

pub async fn an_empty_group_ends_at_once_and_runs_its_body(s: Subject) {
    let f = s.begin_json(r#"{"chord":[],"body":{"task":"z"}}"#).await;
    assert_eq!(f.joins().await, [Some(Status::Ok)]);
    assert_eq!(input(&s.run("z", succeed("1")).await), Input::Result(0));
    f.is_over(WorkflowState::Succeeded, "z:succeeded").await;
    let f = s.begin(&flow(2, r#"{"chain":[{"task":"a"},{"group":[]},{"task":"b"}]}"#)).await;
    assert_eq!(f.joins().await, [None]);
    s.run_all(&["a", "b"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
    let f = s.begin(&flow(3, r#"{"chain":[{"task":"a"},{"group":[]},{"task":"b"}]}"#)).await;
    s.run("a", fail()).await;
    f.is_over(WorkflowState::Failed, "a:failed b:failed").await;
    assert_eq!(f.joins().await, [Some(Status::Failed)]);
}

pub async fn a_workflow_of_nothing_is_over_when_it_is_started(s: Subject) {
    let f = s.begin_json(r#"{"group":[]}"#).await;
    f.is_over(WorkflowState::Succeeded, "").await;
    assert_eq!(f.record().await.finished_at, Some(START_MS));
    let f = s.begin(&flow(2, r#"{"group":[{"group":[]},{"group":[]}]}"#)).await;
    f.is_over(WorkflowState::Succeeded, "").await;
}

pub async fn a_group_of_one_gives_a_list(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"}],"body":{"task":"z"}}"#).await;
    s.run_all(&["a"]).await;
    assert_eq!(input(&s.next("z").await), Input::Result(0));
    let NodeValue::Join { members, .. } = f.value(0).await else { panic!("a gate") };
    assert_eq!(members, one(1));
}

pub async fn a_small_result_comes_with_the_delivery_and_a_large_one_by_reference(s: Subject) {
    let text = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
    let cases = [(INLINE_INPUT_BYTES, true), (INLINE_INPUT_BYTES + 1, false)];
    for (n, (len, inlined)) in (1..).zip(cases) {
        let f = s.begin(&flow(n, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#)).await;
        s.run("a", succeed(&text(len))).await;
        let got = input(&s.run("b", succeed("1")).await);
        assert_eq!(got, if inlined { value(&text(len)) } else { Input::Result(0) });
        let NodeValue::Job { result, .. } = f.value(0).await else { panic!("a job") };
        assert_eq!(result.unwrap().get(), text(len));
    }
    // What was not kept is `null`.
    s.begin(&flow(3, r#"{"chain":[{"task":"a"},{"task":"b"}]}"#)).await;
    s.run("a", Resolution::Succeed { result: None }).await;
    assert_eq!(input(&s.next("b").await), value("null"));
}

pub async fn links_start_when_a_step_succeeded_and_are_not_waited_for_by_the_next(s: Subject) {
    let json = r#"{"chain":[{"task":"a","link":[{"task":"l"},{"chain":[{"task":"m"},{"task":"n"}]}]},{"task":"b"}]}"#;
    let f = s.begin_json(json).await;
    s.run("a", succeed("5")).await;
    let mut ready = Vec::new();
    let mut held = Vec::new();
    for delivery in s.claim(10).await {
        assert_eq!(input(&delivery), value("5"));
        ready.push(task_of(&delivery));
        held.push(delivery);
    }
    ready.sort();
    assert_eq!(ready, ["b", "l", "m"]);
    held.sort_by_key(task_of);
    s.settle(&held[0], succeed("1")).await;
    // The end has ended, but callbacks run still.
    assert_eq!(f.state().await, WorkflowState::Running);
    s.settle(&held[1], succeed("2")).await;
    s.settle(&held[2], succeed("3")).await;
    assert_eq!(input(&s.run("n", succeed("4")).await), value("3"));
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn priorities_and_queues_of_nodes_are_their_templates(s: Subject) {
    let json = r#"{"group":[{"task":"low","options":{"priority":1}},{"task":"high","options":{"priority":9}},{"task":"else","options":{"queue":"other"}}]}"#;
    s.begin_json(json).await;
    assert_eq!(s.queue().await.queued, 2);
    s.run_all(&["high", "low"]).await;
    s.nothing_is_ready().await;
    let other = s.broker.claim(&claim_of("w1", &["other"], 10)).await.unwrap();
    assert_eq!(other.iter().map(task_of).collect::<Vec<_>>(), ["else"]);
    let queues: Vec<_> =
        s.broker.queues(&tenant("t1")).await.unwrap().into_iter().map(|q| q.name.to_string()).collect();
    assert_eq!(queues, ["default", "other"]);
}

pub async fn settling_a_node_and_claiming_what_it_readied_is_one_step(s: Subject) {
    s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    let a = s.next("a").await;
    let claim = claim_of("w1", &["default"], 5);
    let (settled, claimed) = s.broker.settle(&[settle_of(&a, succeed("1"))], Some(&claim)).await.unwrap();
    assert_eq!(settled, [Settled::Recorded]);
    assert_eq!(claimed.iter().map(task_of).collect::<Vec<_>>(), ["b"]);
    assert_eq!(input(&claimed[0]), value("1"));
}

pub async fn members_settled_in_one_call_ready_the_body_once_and_in_the_same_step(s: Subject) {
    let f = s.begin_json(r#"{"chord":[{"task":"a"},{"task":"b"},{"task":"c"}],"body":{"task":"z"}}"#).await;
    let members = s.claim(3).await;
    let mut settles: Vec<Settle> = members.iter().map(|d| settle_of(d, succeed("1"))).collect();
    settles.push(settles[0].clone());
    let (settled, claimed) = s.broker.settle(&settles, Some(&claim_of("w1", &["default"], 5))).await.unwrap();
    assert_eq!(settled, [Settled::Recorded, Settled::Recorded, Settled::Recorded, Settled::AlreadyDone]);
    assert_eq!(claimed.iter().map(task_of).collect::<Vec<_>>(), ["z"]);
    s.settle(&claimed[0], succeed("1")).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn members_settled_at_the_same_time_ready_the_body_once(s: Subject) {
    let members = vec![r#"{"task":"m"}"#; 20].join(",");
    let f = s.begin_json(&format!(r#"{{"chord":[{members}],"body":{{"task":"z"}}}}"#)).await;
    let held = s.claim(20).await;
    // Each twice, as if every reply had been lost.
    let all = held.iter().chain(&held).map(|delivery| s.settle(delivery, succeed("1")));
    let answers = futures::future::join_all(all).await;
    assert_eq!(answers.iter().filter(|answer| **answer == Settled::Recorded).count(), 20);
    assert_eq!(answers.iter().filter(|answer| **answer == Settled::AlreadyDone).count(), 20);
    s.run_all(&["z"]).await;
    s.nothing_is_ready().await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn nodes_in_a_paused_queue_wait_for_it(s: Subject) {
    let f = s.begin_json(r#"{"chain":[{"task":"a"},{"task":"b"}]}"#).await;
    let (t, q) = (tenant("t1"), queue_name("default"));
    s.broker.set_paused(&t, &q, true).await.unwrap();
    s.nothing_is_ready().await;
    s.broker.set_paused(&t, &q, false).await.unwrap();
    s.run_all(&["a", "b"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}
