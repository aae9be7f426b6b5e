//! Canvases through the composer, with tasks that a test makes up.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use serde_json::{Value, json, value::RawValue};
use umbel_broker::{Broker, DocumentKind, Expect, NewWork, NewWorkflow, PutDocument, Start};
use umbel_broker_conformance::MemoryBroker;
use umbel_model::{
    Canvas, Digest, JobId, NodeArguments, NodeSpec, OnFailure, Parameter, ParameterText, PolicyPatch, Stamps,
    TaskDescription, TaskName, TenantId, WorkflowSpec, canvas::workflow_id,
};

use crate::{
    BrokerTasks, Complaints, Composer, Error, Head, Result, Rules, TaskDocument, TaskFacts, TaskSource, ValueChecker,
};

/// `add(x, y)`, `inc(x, by = 1)`, `sum(numbers)`, `now()`; `x` and `y` are numbers.
#[derive(Debug)]
struct Known;

fn facts(name: &str) -> Option<TaskFacts> {
    let plain = |name: &str, default| Parameter { name: name.into(), schema: (&json!(true)).into(), default };
    let parameters = match name {
        "add" => vec![plain("x", None), plain("y", None)],
        "inc" => vec![plain("x", None), plain("by", Some((&json!(1)).into()))],
        "sum" => vec![plain("numbers", None)],
        "now" => vec![],
        _ => return None,
    };
    let policy = PolicyPatch { priority: Some(3), ..PolicyPatch::default() };
    let name = TaskName::new(name).unwrap();
    let numbers = parameters.iter().map(|p: &Parameter| matches!(&*p.name, "x" | "y")).collect();
    let parameters = parameters.iter().map(ParameterText::from).collect();
    let checker: Option<Arc<dyn ValueChecker>> = Some(Arc::new(Numbers(numbers)));
    Some(TaskFacts { digest: Digest::of(name.as_str().as_bytes()), name, policy, parameters, checker })
}

#[async_trait]
impl TaskSource for Known {
    async fn task(&self, _: &TenantId, name: &TaskName) -> Result<Option<Arc<TaskFacts>>> {
        Ok(facts(name.as_str()).map(Arc::new))
    }
}

/// Parameters that take numbers only.
#[derive(Debug)]
struct Numbers(Vec<bool>);

#[async_trait]
impl ValueChecker for Numbers {
    async fn check(&self, at: usize, value: &RawValue) -> Result<(), Complaints> {
        let wants_number = self.0[at];
        match serde_json::from_str(value.get()).unwrap() {
            Value::Number(_) => Ok(()),
            _ if !wants_number => Ok(()),
            _ => Err(Complaints::Wrong(vec![(String::new(), "is no number".into())])),
        }
    }
}

async fn composed_with(rules: &Rules, canvas: Value, stamps: &Stamps) -> Result<NewWorkflow> {
    let tenant = TenantId::new("t").unwrap();
    let composer = Composer { tasks: &Known, rules, tenant: &tenant, stamps, now_ms: 1_000, pointer: "/canvas" };
    let canvas: Canvas = serde_json::from_str(&canvas.to_string()).unwrap();
    composer.workflow(canvas, Head::new(workflow_id(JobId::from_parts(5, 1 << 70)))).await
}

async fn composed(canvas: Value) -> NewWorkflow {
    composed_with(&Rules::default(), canvas, &Stamps::default()).await.unwrap()
}

/// The faults as `kind pointer`.
async fn faults(canvas: Value) -> Vec<String> {
    match composed_with(&Rules::default(), canvas, &Stamps::default()).await {
        Err(Error::Refused(faults)) => {
            faults.into_iter().map(|f| format!("{} {}", f.kind.as_str(), f.pointer)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn calls_of_one_task_with_the_same_options_share_a_template() {
    let canvas = json!({"chord": [
        {"task": "add", "args": [1, 2]}, {"task": "add", "args": [3, 4]},
        {"task": "add", "args": [3, 4], "options": {"queue": "q", "countdown_ms": 5}},
        {"task": "inc", "args": [3]},
    ], "body": {"task": "sum"}});
    let NewWorkflow { head, nodes } = composed(canvas).await;
    let shown: Vec<_> = head.templates.iter().map(|t| (t.task.as_str(), t.queue.as_str(), t.nodes)).collect();
    assert_eq!(shown, [("add", "default", 2), ("add", "q", 1), ("inc", "default", 1), ("sum", "default", 1)]);
    assert_eq!(head.templates[1].start, Start::After(5));
    assert!(head.templates.iter().all(|t| t.priority == 3), "what the code sets holds");
    assert_eq!((head.nodes, nodes.len(), head.end), (6, 6, 5));
}

#[tokio::test]
async fn a_spec_carries_what_running_and_reading_a_node_needs() {
    let stamps = Stamps {
        tags: vec!["nightly".into()],
        headers: BTreeMap::from([("trace".into(), "7".into())]),
        traceparent: Some("00-a-b-01".into()),
        request_id: Some("r".into()),
        schedule: None,
    };
    let canvas = json!({"task": "inc", "args": [1], "label": "first"});
    let NewWorkflow { head, nodes } = composed_with(&Rules::default(), canvas, &stamps).await.unwrap();
    let spec: NodeSpec = serde_json::from_str(&head.templates[0].spec).unwrap();
    assert_eq!(spec.digest, Digest::of(b"inc"));
    assert_eq!(spec.parameters[1].default.as_ref().unwrap().get(), "1");
    assert_eq!(spec.stamps, stamps);
    let spec: WorkflowSpec = serde_json::from_str(&head.spec).unwrap();
    assert_eq!(spec.stamps, stamps);
    let NewWork::Job { arguments, .. } = &nodes[0].work else { panic!() };
    let arguments: NodeArguments = serde_json::from_str(arguments).unwrap();
    assert_eq!((arguments.label.as_deref(), arguments.args[0].get()), (Some("first"), "1"));
}

#[tokio::test]
async fn labels_of_groups_and_chains_are_kept_as_far_as_there_is_room() {
    let spec_of = async |canvas| -> umbel_model::WorkflowSpec {
        serde_json::from_str(&composed(canvas).await.head.spec).unwrap()
    };
    let task = json!({"task": "now", "label": "in its node"});
    let spec =
        spec_of(json!({"chain": [{"group": [task], "label": "g"}, {"task": "now", "immutable": true}], "label": "c"}))
            .await;
    assert_eq!(spec.labels.groups, [(0, "g".to_owned())]);
    assert_eq!(spec.labels.chains, [(2, "c".to_owned())]);
    let many: Vec<_> = (0..200).map(|_| json!({"group": [], "label": "x".repeat(128)})).collect();
    let spec = spec_of(json!({"group": many})).await;
    assert_eq!(spec.labels.groups.len(), 128);
}

#[tokio::test]
async fn members_that_are_added_later_fail_as_their_group_says() {
    let canvas = json!({"group": [{"chain": [{"task": "now"}, {"task": "now", "immutable": true}]}, {"task": "now"}], "on_failure": "continue"});
    let NewWorkflow { head, nodes } = composed(canvas).await;
    for node in nodes.iter().filter(|node| node.group.is_some()) {
        let NewWork::Job { arguments, .. } = &node.work else { panic!() };
        let arguments: NodeArguments = serde_json::from_str(arguments).unwrap();
        assert_eq!(arguments.members_on_failure, Some(OnFailure::Continue));
    }
    assert_eq!(serde_json::from_str::<NodeSpec>(&head.templates[0].spec).unwrap().keep_ms, None);
    let (rules, tenant, stamps) = (Rules::default(), TenantId::new("t").unwrap(), Stamps::default());
    let composer = Composer { tasks: &Known, rules: &rules, tenant: &tenant, stamps: &stamps, now_ms: 1, pointer: "" };
    let added: Vec<Canvas> =
        serde_json::from_value(json!([{"task": "now"}, {"task": "now", "on_failure": "fail"}])).unwrap();
    let members = composer.members(added, 4, Some(OnFailure::Continue), Some(7)).await.unwrap();
    for node in &members.nodes {
        let NewWork::Job { arguments, .. } = &node.work else { panic!() };
        let arguments: NodeArguments = serde_json::from_str(arguments).unwrap();
        assert_eq!(arguments.added_by, Some(4), "a resumed workflow knows what is added again");
    }
    assert_eq!(members.nodes[0].on_failure, OnFailure::Continue);
    assert_eq!(members.nodes[1].on_failure, OnFailure::Fail);
    let spec: NodeSpec = serde_json::from_str(&members.templates[0].spec).unwrap();
    assert_eq!(spec.keep_ms, Some(7), "workflows of its guests are kept as long");
}

#[tokio::test]
async fn every_call_that_does_not_fit_is_refused_with_its_place() {
    for (canvas, expected) in [
        (json!({"task": "add", "args": [1]}), "invalid_arguments /canvas/kwargs/y"),
        (json!({"task": "add", "args": [1, 2, 3]}), "invalid_arguments /canvas/args/2"),
        (json!({"task": "add", "args": [1, "a"]}), "invalid_arguments /canvas/args/1"),
        (json!({"task": "inc", "kwargs": {"x": 1, "y/z": 2}}), "invalid_arguments /canvas/kwargs/y~1z"),
        (json!({"task": "add", "args": [1, 2], "kwargs": {"x": 1}}), "invalid_arguments /canvas/kwargs/x"),
        (json!({"task": "gone"}), "task_not_found /canvas/task"),
        (json!({"task": "now", "options": {"colour": 1}}), "invalid_body /canvas/options/colour"),
        (
            json!({"task": "inc", "args": [1], "options": {"limit_key": "kwargs.y"}}),
            "invalid_option /canvas/options/limit_key",
        ),
        (json!({"task": "now", "options": {"eta": "soon"}}), "invalid_option /canvas/options/eta"),
        (json!({"task": "now", "options": {"idempotency_key": "k"}}), "invalid_option /canvas/options/idempotency_key"),
        (json!({"task": "now", "options": {"time_limit_ms": 0}}), "invalid_policy /canvas/options/time_limit_ms"),
        (json!({"chain": [{"task": "now"}, {"task": "now"}]}), "invalid_arguments /canvas/chain/1"),
        (json!({"chain": [{"task": "now"}, {"task": "add"}]}), "invalid_arguments /canvas/chain/1/kwargs/y"),
        (
            json!({"chain": [{"task": "now"}, {"task": "add", "args": [1, 2]}]}),
            "invalid_arguments /canvas/chain/1/args/1",
        ),
        (
            json!({"chain": [{"task": "now"}, {"task": "inc", "kwargs": {"x": 1}}]}),
            "invalid_arguments /canvas/chain/1/kwargs/x",
        ),
        (json!({"group": [{"task": "now"}, {"task": "inc"}]}), "invalid_arguments /canvas/group/1/kwargs/x"),
        (json!({"chord": [{"task": "inc"}], "body": {"task": "sum"}}), "invalid_arguments /canvas/chord/0/kwargs/x"),
        (json!({"chord": [{"task": "now"}], "body": {"task": "now"}}), "invalid_arguments /canvas/body"),
        (json!({"task": "now", "link": [{"task": "now"}]}), "invalid_arguments /canvas/link/0"),
        (json!({"task": "now", "link_error": [{"task": "now"}]}), "invalid_arguments /canvas/link_error/0"),
        (json!({"task": "inc", "map": [1, "a"]}), "invalid_arguments /canvas/map/1"),
        (json!({"task": "now", "map": [1]}), "invalid_arguments /canvas/map/0"),
        (json!({"task": "inc", "starmap": [[1], [1, 2], [1, 2, 3]]}), "invalid_arguments /canvas/starmap/2"),
        (json!({"task": "add", "starmap": [[1, 2], [1, "a"]]}), "invalid_arguments /canvas/starmap/1/1"),
        (json!({"task": "inc", "chunks": [[1], [1], [1], ["a"]], "size": 2}), "invalid_arguments /canvas/chunks/3/0"),
        (json!({"chain": []}), "invalid_canvas /canvas"),
    ] {
        assert_eq!(faults(canvas.clone()).await, [expected], "{canvas}");
    }
}

#[tokio::test]
async fn calls_that_are_complete_only_with_what_comes_before_are_taken() {
    for canvas in [
        json!({"chain": [{"task": "now"}, {"task": "add", "args": [1]}]}),
        json!({"chain": [{"task": "now"}, {"task": "add", "kwargs": {"y": 1}}]}),
        json!({"chain": [{"task": "now"}, {"task": "now", "immutable": true}]}),
        json!({"chain": [{"group": [{"task": "now"}]}, {"task": "sum"}]}),
        json!({"task": "now", "link_error": [{"task": "sum"}]}),
        json!({"task": "add", "args": [1], "map": [1, 2]}),
        json!({"task": "add", "starmap": []}),
        json!({"group": []}),
    ] {
        composed(canvas).await;
    }
}

#[tokio::test]
async fn sixty_four_faults_are_enough() {
    let members: Vec<Value> = (0..1_000).map(|n| json!({"task": format!("gone{n}")})).collect();
    assert_eq!(faults(json!({"group": members})).await.len(), 64);
}

#[tokio::test]
async fn sizes_have_limits() {
    let mut rules = Rules::default();
    rules.limits.max_arguments_bytes = 40;
    rules.limits.max_bytes = 1_000;
    rules.limits.max_templates = 1;
    let refused = async |canvas: Value| match composed_with(&rules, canvas, &Stamps::default()).await {
        Err(Error::Refused(faults)) => faults[0].detail.clone(),
        other => panic!("{other:?}"),
    };
    assert!(refused(json!({"task": "sum", "args": ["x".repeat(50)]})).await.contains("at most 40"));
    let members = vec![json!({"task": "sum", "args": ["x".repeat(20)]}); 100];
    assert!(refused(json!({"group": members})).await.contains("at most 1000 bytes"));
    assert!(refused(json!({"group": [{"task": "now"}, {"task": "sum", "args": [1]}]})).await.contains("at most 1 "));
}

#[tokio::test]
async fn what_people_write_on_a_workflow_is_checked() {
    let long = "x".repeat(129);
    let stamps = Stamps {
        tags: vec!["ok".into(), String::new(), long],
        headers: BTreeMap::from([("a/b".into(), "line\nbreak".into())]),
        ..Stamps::default()
    };
    let Err(Error::Refused(faults)) = composed_with(&Rules::default(), json!({"task": "now"}), &stamps).await else {
        panic!()
    };
    let pointers: Vec<&str> = faults.iter().map(|f| f.pointer.as_str()).collect();
    assert_eq!(pointers, ["/tags/1", "/tags/2", "/headers/a~1b"]);
}

#[tokio::test]
async fn members_are_numbered_from_zero() {
    let (rules, stamps, tenant) = (Rules::default(), Stamps::default(), TenantId::new("t").unwrap());
    let composer = Composer { tasks: &Known, rules: &rules, tenant: &tenant, stamps: &stamps, now_ms: 0, pointer: "" };
    let members: Vec<Canvas> =
        serde_json::from_str(r#"[{"task":"now"},{"chain":[{"task":"now"},{"task":"inc"}]}]"#).unwrap();
    let made = composer.members(members, 0, None, None).await.unwrap();
    assert_eq!((made.nodes.len(), made.templates.len(), made.ends.len()), (3, 2, 1));
    let wrong: Vec<Canvas> = serde_json::from_str(r#"[{"task":"now"},{"task":"inc"}]"#).unwrap();
    let Err(Error::Refused(faults)) = composer.members(wrong, 0, None, None).await else { panic!() };
    assert_eq!(faults[0].pointer, "/1/kwargs/x");
}

#[tokio::test]
async fn tasks_are_read_from_the_broker_and_remembered_for_a_moment() {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::default());
    let (tenant, name) = (TenantId::new("t").unwrap(), TaskName::new("add").unwrap());
    let tasks = BrokerTasks::new(broker.clone());
    let task: TaskDescription = serde_json::from_str(r#"{"name":"add","parameters":[]}"#).unwrap();
    let mut document = TaskDocument::first(task, Digest::of(b"1"), 0);
    document.policy.priority = Some(7);
    let put = |document: &TaskDocument| PutDocument {
        tenant: tenant.clone(),
        kind: DocumentKind::Task,
        name: name.to_string(),
        expect: Expect::Any,
        body: Some(serde_json::to_string(document).unwrap()),
        held_bytes: 0,
    };
    broker.put_document(&put(&document)).await.unwrap();
    let found = tasks.task(&tenant, &name).await.unwrap().unwrap();
    assert_eq!((found.digest, found.policy.priority), (Digest::of(b"1"), Some(7)));
    document.deploy(document.task.clone(), Digest::of(b"2"), 1);
    broker.put_document(&put(&document)).await.unwrap();
    assert_eq!(tasks.task(&tenant, &name).await.unwrap().unwrap().digest, Digest::of(b"1"), "as it was a moment ago");
    assert_eq!(BrokerTasks::new(broker).task(&tenant, &name).await.unwrap().unwrap().digest, Digest::of(b"2"));
    let other = TenantId::new("other").unwrap();
    assert!(tasks.task(&other, &name).await.unwrap().is_none());
}

/// Says what composing costs; `cargo test -p umbel-compose --release -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn a_hundred_thousand_signatures_take_milliseconds() {
    let members: Vec<Value> = (0..100_000).map(|n| json!({"task": "add", "args": [n, 2]})).collect();
    let text = json!({"chord": members, "body": {"task": "sum"}}).to_string();
    let started = std::time::Instant::now();
    let canvas: Canvas = serde_json::from_str(&text).unwrap();
    println!("parsed in {:?}", started.elapsed());
    let (rules, stamps, tenant) = (Rules::default(), Stamps::default(), TenantId::new("t").unwrap());
    let composer = Composer { tasks: &Known, rules: &rules, tenant: &tenant, stamps: &stamps, now_ms: 0, pointer: "" };
    let started = std::time::Instant::now();
    let made = composer.workflow(canvas, Head::new(workflow_id(JobId::from_parts(5, 0)))).await.unwrap();
    println!("composed {} nodes in {:?}", made.nodes.len(), started.elapsed());
}

#[tokio::test]
async fn what_templates_repeat_is_measured() {
    let calls: Vec<Value> = (0..200).map(|n| json!({"task": "now", "options": {"countdown_ms": n}})).collect();
    let canvas = json!({ "group": calls });
    let header = |n: usize| BTreeMap::from_iter((0..n).map(|n| (format!("h{n}"), "x".repeat(1_000))));
    let stamps = |n| Stamps { headers: header(n), ..Stamps::default() };
    let mut rules = Rules::default();
    composed_with(&rules, canvas.clone(), &stamps(8)).await.unwrap();
    rules.limits.max_bytes = 1 << 20;
    let kind = |answer: Result<NewWorkflow>| answer.map(|_| "").unwrap_or_else(|error| error.kind());
    assert_eq!(kind(composed_with(&rules, canvas.clone(), &stamps(8)).await), "arguments_too_large");
    assert_eq!(kind(composed_with(&rules, canvas, &stamps(9)).await), "invalid_option");
}

#[tokio::test]
async fn a_call_with_many_faults_is_explained_in_few_words() {
    let kwargs: serde_json::Map<String, Value> = (0..20_000).map(|n| (format!("k{n}"), json!(1))).collect();
    assert_eq!(faults(json!({"task": "add", "kwargs": kwargs})).await.len(), 64);
}

/// What a broker is told of each node's policy.
async fn broker_options(canvas: Value) -> Vec<Option<umbel_broker::BrokerOptions>> {
    let nodes = composed(canvas).await.nodes;
    let broker_options = nodes.into_iter().filter_map(|node| match node.work {
        NewWork::Job { broker_options, .. } => Some(broker_options.map(|broker_options| *broker_options)),
        NewWork::Join { .. } => None,
    });
    broker_options.collect()
}

#[tokio::test]
async fn a_nodes_limits_count_by_what_is_known_of_its_arguments() {
    let options = json!({"limit_key": "kwargs.by", "key_concurrency": 1});
    let key = |broker_options: &Option<umbel_broker::BrokerOptions>| {
        broker_options.as_ref().unwrap().limits.clone().unwrap().key.unwrap()
    };
    let inc = |args: Value, kwargs: Value| json!({"task": "inc", "args": args, "kwargs": kwargs, "options": options});
    let group = json!({"group": [
        inc(json!([7]), json!({})), inc(json!([8]), json!({"by": 1})), inc(json!([9, 1]), json!({})), inc(json!([9, 2]), json!({})),
    ]});
    let group = broker_options(group).await;
    assert_eq!((key(&group[0]), key(&group[0])), (key(&group[1]), key(&group[2])), "by name, by position, by default");
    assert_ne!(key(&group[0]), key(&group[3]));
    // The result that a step takes is not known yet: it counts as nothing.
    let taken = json!({"limit_key": "kwargs.x", "key_concurrency": 1});
    let step = json!({"task": "inc", "options": taken});
    let chain = broker_options(json!({"chain": [{"task": "now"}, step, step]})).await;
    assert_eq!(chain[0], None);
    assert_eq!(key(&chain[1]), key(&chain[2]));
}

#[tokio::test]
async fn what_only_a_job_of_its_own_has_is_refused_in_a_step() {
    for (options, pointer) in [
        (json!({"unique": "first"}), "unique"),
        (json!({"debounce_ms": 5}), "debounce_ms"),
        (json!({"tags": ["a"]}), "tags"),
        (json!({"headers": {"a": "b"}}), "headers"),
        (json!({"expires_at": "2026-01-01T00:00:00Z"}), "expires_at"),
        (json!({"on_success": {"task": "now"}}), "on_success"),
        (json!({"idempotency_key": "k"}), "idempotency_key"),
    ] {
        let faults = faults(json!({"task": "now", "options": options})).await;
        assert_eq!(faults, [format!("invalid_option /canvas/options/{pointer}")], "{options}");
    }
    assert_eq!(broker_options(json!({"task": "now", "options": {"unique": "off"}})).await, [None]);
}

#[tokio::test]
async fn nodes_go_where_the_routes_say() {
    let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::default());
    let tenant = TenantId::new("t").unwrap();
    let put = async |kind, name: &str, body: String| {
        let (tenant, name, body) = (tenant.clone(), name.to_owned(), Some(body));
        broker
            .put_document(&PutDocument { tenant, kind, name, expect: Expect::Any, body, held_bytes: 0 })
            .await
            .unwrap();
    };
    let task: TaskDescription =
        serde_json::from_value(json!({"name": "mail.send", "parameters": [], "policy": {"queue": "code"}})).unwrap();
    let document = TaskDocument::first(task, Digest::of(b"1"), 1);
    put(DocumentKind::Task, "mail.send", serde_json::to_string(&document).unwrap()).await;
    let routes = json!({"routes": [{"match": "mail.*", "kind": "glob", "queue": "mail"}]});
    put(DocumentKind::Routes, crate::ROUTES_NAME, routes.to_string()).await;
    let name = TaskName::new("mail.send").unwrap();
    let queue = async || {
        let facts = BrokerTasks::new(broker.clone()).task(&tenant, &name).await.unwrap().unwrap();
        facts.policy.queue.clone().unwrap().to_string()
    };
    assert_eq!(queue().await, "mail", "a route wins over the code");
    let mut document = document;
    document.policy.queue = Some(umbel_model::QueueName::new("server").unwrap());
    put(DocumentKind::Task, "mail.send", serde_json::to_string(&document).unwrap()).await;
    assert_eq!(queue().await, "server");
}
