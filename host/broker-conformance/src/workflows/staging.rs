//! Submitting a workflow in steps, each of which may be repeated, and the limits.

use super::*;

const CHAIN: &str = r#"{"chain":[{"task":"a"},{"task":"b"}]}"#;

pub async fn steps_of_a_submission_may_be_repeated(s: Subject) {
    let f = flow(1, CHAIN);
    let (t, id) = (&f.head.tenant, f.head.id);
    s.stage(&f).await;
    s.stage(&f).await;
    assert!(s.flow(id).is_gone().await);
    assert_eq!(s.broker.start_workflow(t, id).await.unwrap(), WorkflowSubmitted::Created);
    // The reply was lost: each step says that it was started.
    let existing = WorkflowSubmitted::Existing(id);
    assert_eq!(s.broker.start_workflow(t, id).await.unwrap(), existing);
    assert_eq!(s.broker.stage_workflow(&f.head).await.unwrap(), existing);
    assert_eq!(s.broker.stage_nodes(t, id, 0, &f.nodes).await.unwrap(), existing);
    assert_eq!(s.flow(id).shown().await, "a:queued b:waiting");
    s.run_all(&["a", "b"]).await;
    assert_eq!(s.broker.start_workflow(t, id).await.unwrap(), existing);
    s.flow(id).is_over(WorkflowState::Succeeded, "a:succeeded b:succeeded").await;
}

pub async fn nodes_are_stored_in_pieces_and_in_any_order(s: Subject) {
    let f = flow(1, r#"{"chord":[{"task":"a"},{"task":"b"}],"body":{"task":"z"}}"#);
    let (t, id) = (&f.head.tenant, f.head.id);
    s.broker.stage_workflow(&f.head).await.unwrap();
    for first in [3, 1, 0, 2, 1] {
        let nodes = &f.nodes[first as usize..=first as usize];
        assert_eq!(s.broker.stage_nodes(t, id, first, nodes).await.unwrap(), WorkflowSubmitted::Created);
    }
    assert_eq!(s.broker.start_workflow(t, id).await.unwrap(), WorkflowSubmitted::Created);
    s.run_all(&["a", "b", "z"]).await;
    assert_eq!(s.flow(id).state().await, WorkflowState::Succeeded);
}

pub async fn a_workflow_that_is_not_started_does_nothing_and_is_swept(s: Subject) {
    let f = flow(1, CHAIN);
    s.stage(&f).await;
    s.nothing_is_ready().await;
    let staged = s.flow(f.head.id);
    assert!(staged.is_gone().await);
    assert_eq!(staged.cancel().await, WorkflowCancelled::NotFound);
    assert!(listed(&s, None, None, 10).await.0.is_empty());
    s.pass(STAGED_TTL_MS - 1);
    assert_eq!(s.prune_all().await, 0);
    s.pass(1);
    assert!(s.prune_all().await > 0);
    assert_eq!(s.broker.start_workflow(&f.head.tenant, f.head.id).await.unwrap(), WorkflowSubmitted::Unknown);
    let nodes = s.broker.stage_nodes(&f.head.tenant, f.head.id, 0, &f.nodes).await.unwrap();
    assert_eq!(nodes, WorkflowSubmitted::Unknown);
    s.nothing_is_ready().await;
    // It can be submitted anew.
    s.begin(&f).await;
    s.run_all(&["a", "b"]).await;
}

pub async fn the_nodes_of_all_workflows_of_a_tenant_are_limited(s: Subject) {
    let sized = |n: u64, nodes: u32| {
        let mut f = flow(n, CHAIN);
        f.head.nodes = nodes;
        f
    };
    s.broker.stage_workflow(&sized(1, 15_000).head).await.unwrap();
    let more = sized(2, 5_001);
    assert_eq!(s.broker.stage_workflow(&more.head).await.unwrap(), WorkflowSubmitted::TooManyWorkflows);
    s.broker.stage_workflow(&sized(3, 5_000).head).await.unwrap();
    assert_eq!(s.broker.stage_workflow(&sized(4, 1).head).await.unwrap(), WorkflowSubmitted::TooManyWorkflows);
    s.pass(STAGED_TTL_MS);
    while s.prune_all().await > 0 {}
    assert_eq!(s.broker.stage_workflow(&more.head).await.unwrap(), WorkflowSubmitted::Created);
}

pub async fn a_workflow_that_was_started_is_not_swept_as_staged(s: Subject) {
    let f = s.begin_json(CHAIN).await;
    s.pass(STAGED_TTL_MS + KEEP_MS);
    assert_eq!(s.prune_all().await, 0);
    s.run_all(&["a", "b"]).await;
    assert_eq!(f.state().await, WorkflowState::Succeeded);
}

pub async fn an_unknown_workflow_is_not_found(s: Subject) {
    let (t, f) = (tenant("t1"), flow(1, CHAIN));
    assert_eq!(s.broker.start_workflow(&t, f.head.id).await.unwrap(), WorkflowSubmitted::Unknown);
    assert_eq!(s.broker.stage_nodes(&t, f.head.id, 0, &f.nodes).await.unwrap(), WorkflowSubmitted::Unknown);
    let unknown = s.flow(f.head.id);
    assert!(unknown.is_gone().await && unknown.nodes().await.is_empty());
    assert!(matches!(unknown.value(3).await, NodeValue::Missing));
    assert!(s.broker.job(&t, unknown.id_of(0)).await.unwrap().is_none());
}

fn keyed(n: u64, key: &str, body: &str) -> NewWorkflow {
    let mut f = flow(n, r#"{"task":"a"}"#);
    f.head.idempotency = Some(Idempotency { key: key.into(), body: body.into(), ttl_ms: 1_000 });
    f
}

pub async fn an_idempotency_key_answers_with_the_first_workflow(s: Subject) {
    let first = s.begin(&keyed(1, "k", "b")).await.id;
    let again = s.broker.stage_workflow(&keyed(2, "k", "b").head).await.unwrap();
    assert_eq!(again, WorkflowSubmitted::Existing(first));
    let other = s.broker.stage_workflow(&keyed(3, "k", "other").head).await.unwrap();
    assert_eq!(other, WorkflowSubmitted::Conflict(first));
    // Jobs and workflows share the keys.
    let idempotency = Some(Idempotency { key: "k".into(), body: "job".into(), ttl_ms: 1_000 });
    let job = NewJob { idempotency, ..new_job(1) };
    assert_eq!(s.broker.submit(std::slice::from_ref(&job)).await.unwrap(), [Submitted::Conflict(first)]);
    s.pass(1_000);
    s.begin(&keyed(4, "k", "other")).await;
}

pub async fn of_two_submissions_with_one_key_only_one_is_started(s: Subject) {
    let (one, two) = (keyed(1, "k", "b"), keyed(2, "k", "b"));
    s.stage(&one).await;
    // Nothing was started yet, so this one may be the first.
    s.stage(&two).await;
    assert_eq!(s.broker.start_workflow(&two.head.tenant, two.head.id).await.unwrap(), WorkflowSubmitted::Created);
    let answer = s.broker.start_workflow(&one.head.tenant, one.head.id).await.unwrap();
    assert_eq!(answer, WorkflowSubmitted::Existing(two.head.id));
    assert_eq!(s.claim(10).await.len(), 1);
}

pub async fn too_many_workflows_are_refused(s: Subject) {
    for n in 1..=limits().max_workflows {
        s.begin(&flow(n, r#"{"task":"a"}"#)).await;
    }
    let more = flow(100, r#"{"task":"a"}"#);
    assert_eq!(s.broker.stage_workflow(&more.head).await.unwrap(), WorkflowSubmitted::TooManyWorkflows);
    let mut other = more.clone();
    other.head.tenant = tenant("t2");
    s.stage(&other).await;
    // What is over counts until it is deleted.
    s.run_all(&["a"]).await;
    assert_eq!(s.broker.stage_workflow(&more.head).await.unwrap(), WorkflowSubmitted::TooManyWorkflows);
    s.pass(KEEP_MS);
    s.prune_all().await;
    s.begin(&more).await;
}

pub async fn a_workflow_without_room_in_its_queues_is_refused(s: Subject) {
    let mut large = flow(1, r#"{"task":"a"}"#);
    large.head.templates[0].nodes = limits().max_backlog as u32;
    s.stage(&large).await;
    s.add(new_job(1)).await;
    large.head.id = flow_id(2);
    assert_eq!(s.broker.stage_workflow(&large.head).await.unwrap(), WorkflowSubmitted::QueueFull);
    // What runs makes room.
    s.claim_one().await;
    assert_eq!(s.broker.stage_workflow(&large.head).await.unwrap(), WorkflowSubmitted::Created);
    // Templates of one queue count together.
    let mut two = flow(3, CHAIN);
    two.head.templates[0].nodes = limits().max_backlog as u32;
    assert_eq!(s.broker.stage_workflow(&two.head).await.unwrap(), WorkflowSubmitted::QueueFull);
}

pub async fn a_workflow_of_too_many_queues_is_refused(s: Subject) {
    let member = |n: u64| format!(r#"{{"task":"a","options":{{"queue":"q{n}"}}}}"#);
    let group = |count: u64| format!(r#"{{"group":[{}]}}"#, (0..count).map(member).collect::<Vec<_>>().join(","));
    let many = flow(1, &group(limits().max_queues + 1));
    assert_eq!(s.broker.stage_workflow(&many.head).await.unwrap(), WorkflowSubmitted::TooManyQueues);
    s.begin(&flow(2, &group(limits().max_queues))).await;
    // The same ones again are no more.
    s.begin(&flow(3, &group(limits().max_queues))).await;
    s.add(NewJob { queue: queue_name("q0"), ..new_job(1) }).await;
    let refused = s.broker.submit(&[new_job(2)]).await.unwrap();
    assert_eq!(refused, [Submitted::TooManyQueues]);
}

/// The ids of a page of workflows, and where to go on.
pub(super) async fn listed(
    s: &Subject,
    state: Option<WorkflowState>,
    before: Option<WorkflowId>,
    max: u32,
) -> (Vec<WorkflowId>, Option<WorkflowId>) {
    let query = WorkflowQuery { tenant: tenant("t1"), state, before, max };
    let page = s.broker.workflows(&query).await.unwrap();
    assert!(page.workflows.iter().all(|w| w.templates.is_empty()));
    (page.workflows.into_iter().map(|w| w.id).collect(), page.next)
}

pub async fn workflows_are_listed_newest_first_and_paged_without_gaps(s: Subject) {
    for n in 1..=7 {
        s.begin(&flow(n, r#"{"task":"a"}"#)).await;
    }
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let (ids, next) = listed(&s, None, before, 3).await;
        seen.extend(ids);
        before = next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=7).rev().map(flow_id).collect::<Vec<_>>());
    s.run("a", succeed("1")).await;
    s.run("a", fail()).await;
    assert_eq!(listed(&s, Some(WorkflowState::Succeeded), None, 10).await.0, [flow_id(1)]);
    assert_eq!(listed(&s, Some(WorkflowState::Failed), None, 10).await.0, [flow_id(2)]);
    assert_eq!(listed(&s, Some(WorkflowState::Running), None, 10).await.0.len(), 5);
    assert!(listed(&s, Some(WorkflowState::Revoked), None, 10).await.0.is_empty());
}

pub async fn nodes_and_replacements_are_in_no_listing(s: Subject) {
    let f = s.begin_json(r#"{"task":"a"}"#).await;
    let a = s.next("a").await;
    s.replace(&a, 2, r#"{"task":"b"}"#).await;
    assert_eq!(listed(&s, None, None, 10).await.0, [f.id]);
    let query = JobQuery {
        tenant: tenant("t1"),
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

pub async fn a_workflow_is_read_as_it_was_sent(s: Subject) {
    let new = flow(
        1,
        r#"{"chord":[{"task":"a","args":[1]},{"chain":[{"task":"b"},{"task":"c"}],"link_error":[{"task":"e"}]}],"cancel_rest":true,"on_failure":"ignore","body":{"task":"z"}}"#,
    );
    let f = s.begin(&new).await;
    let record = f.record().await;
    assert_eq!((record.spec.as_str(), record.nodes, record.end), (new.head.spec.as_str(), 6, new.head.end));
    assert_eq!((record.created_at, record.keep_ms, record.deadline_at), (START_MS, KEEP_MS, None));
    assert_eq!(record.templates, new.head.templates);
    let nodes = f.nodes().await;
    assert_eq!(nodes.len(), new.nodes.len());
    for ((number, sent), read) in (0..).zip(&new.nodes).zip(&nodes) {
        assert_eq!(
            (read.number, read.when, read.on_failure, read.after, read.group, &read.next),
            (number, sent.when, sent.on_failure, sent.after, sent.group, &sent.next)
        );
        match (&sent.work, &read.work) {
            (
                NewWork::Job { template, arguments, takes, .. },
                NodeWork::Job { record, template: seen, takes: seen_takes },
            ) => {
                assert_eq!((seen, seen_takes), (template, takes));
                assert_eq!(record.node.as_ref().unwrap().arguments, *arguments);
                assert_eq!(
                    (record.id, record.spec.as_str()),
                    (f.id_of(number), new.head.templates[*template as usize].spec.as_str())
                );
            }
            (
                NewWork::Join { members, scope, cancel_rest, pending, .. },
                NodeWork::Join { members: m, scope: s, cancel_rest: c, pending: p, status: None, .. },
            ) => assert_eq!((members, scope, cancel_rest, pending), (m, s, c, p)),
            other => panic!("{other:?}"),
        }
    }
    // In pieces.
    let piece = s.broker.nodes(&tenant("t1"), f.id, 4, 1_000, Results::Omitted).await.unwrap().nodes;
    assert_eq!(piece.iter().map(|n| n.number).collect::<Vec<_>>(), [4, 5]);
    let values = s.broker.values(&tenant("t1"), f.id, 4, 3).await.unwrap();
    assert!(matches!(values[..], [NodeValue::Job { .. }, NodeValue::Job { .. }, NodeValue::Missing]));
}

pub async fn a_tenant_does_not_see_anothers_workflow(s: Subject) {
    let f = s.begin_json(CHAIN).await;
    let t2 = tenant("t2");
    assert!(s.broker.workflow(&t2, f.id).await.unwrap().is_none());
    assert!(s.broker.nodes(&t2, f.id, 0, 10, Results::Included).await.unwrap().nodes.is_empty());
    assert!(matches!(s.broker.values(&t2, f.id, 0, 1).await.unwrap()[..], [NodeValue::Missing]));
    assert_eq!(s.broker.cancel_workflow(&t2, f.id).await.unwrap(), WorkflowCancelled::NotFound);
    assert_eq!(s.broker.start_workflow(&t2, f.id).await.unwrap(), WorkflowSubmitted::Unknown);
    assert_eq!(s.broker.cancel(&t2, f.id_of(0), true).await.unwrap(), Cancelled::NotFound);
    let query = WorkflowQuery { tenant: t2.clone(), state: None, before: None, max: 10 };
    assert!(s.broker.workflows(&query).await.unwrap().workflows.is_empty());
    // Another tenant may use the same id, and neither disturbs the other.
    let mut other = flow(1, CHAIN);
    other.head.tenant = t2.clone();
    s.stage(&other).await;
    assert_eq!(s.broker.start_workflow(&t2, other.head.id).await.unwrap(), WorkflowSubmitted::Created);
    let both = s.claim(10).await;
    assert_eq!(both.len(), 2);
    let mine = both.iter().find(|d| d.tenant.as_str() == "t1").unwrap();
    s.settle(mine, succeed("1")).await;
    assert_eq!(f.shown().await, "a:succeeded b:queued");
    let theirs = s.broker.workflow(&t2, other.head.id).await.unwrap().unwrap();
    assert_eq!(theirs.jobs[JobState::ALL.iter().position(|j| *j == JobState::Running).unwrap()], 1);
}
