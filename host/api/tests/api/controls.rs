//! Controls, routes, workers: what is set while the service runs.

use serde_json::{Value, json};
use umbel_broker::{Shutdown, WorkerInfo};
use umbel_model::{QueueName, Resolution, WorkerId};

use crate::app::{TestApp, id_of};

async fn patch(app: &TestApp, path: &str, body: Value) -> crate::app::Answer {
    app.with_headers("PATCH", path, &[], body).await
}

#[tokio::test]
async fn a_queue_is_limited_at_run_time_and_freed_again() {
    let app = TestApp::with_tasks().await;
    // Nothing to set for a queue that nobody used, and then something before its first job.
    patch(&app, "/v1/queues/default", json!({"concurrency": null})).await.problem(404, "queue_not_found");
    assert_eq!(patch(&app, "/v1/queues/default", json!({"concurrency": 1})).await.ok(200)["queued"], 0);
    app.submit_add(json!({})).await;
    app.submit_add(json!({})).await;
    let queue =
        patch(&app, "/v1/queues/default", json!({"concurrency": 1, "rate_limit": "100/m", "exclusive": true})).await;
    let control = json!({
        "paused": false, "rate_limit": "100/m", "rate_burst": 1, "concurrency": 1, "exclusive": true, "operator": null,
    });
    assert_eq!(queue.ok(200)["control"], control);
    assert!(app.try_claim().await.is_some());
    assert!(app.try_claim().await.is_none(), "one at a time");
    let free = json!({"concurrency": null, "rate_limit": null, "exclusive": false});
    let control = json!({
        "paused": false, "rate_limit": null, "rate_burst": null, "concurrency": null, "exclusive": false, "operator": null,
    });
    assert_eq!(patch(&app, "/v1/queues/default", free).await.ok(200)["control"], control);
    assert!(app.try_claim().await.is_some());
}

#[tokio::test]
async fn a_control_that_cannot_be_is_refused_by_name() {
    let app = TestApp::with_tasks().await;
    for (path, body, pointer) in [
        ("/v1/tenant", json!({"exclusive": true}), "/exclusive"),
        ("/v1/tenant", json!({"rate_limit": "5/d"}), "/rate_limit"),
        ("/v1/tenant", json!({"rate_burst": 5}), "/rate_burst"),
        ("/v1/tasks/add/control", json!({"rate_limit": "5/s", "rate_burst": 0}), "/rate_burst"),
    ] {
        let problem = patch(&app, path, body).await.problem(422, "invalid_control");
        assert_eq!(problem["errors"][0]["pointer"], pointer);
    }
    patch(&app, "/v1/tenant", json!({"pause": true})).await.problem(422, "invalid_body");
    patch(&app, "/v1/tasks/nope/control", json!({"paused": true})).await.problem(404, "task_not_found");
}

#[tokio::test]
async fn a_task_and_a_tenant_can_be_paused_for_jobs_that_are_queued() {
    let app = TestApp::with_tasks().await;
    app.submit_add(json!({})).await;
    assert_eq!(patch(&app, "/v1/tasks/add/control", json!({"paused": true})).await.ok(200)["paused"], true);
    assert_eq!(app.get("/v1/tasks/add").await.ok(200)["control"]["paused"], true);
    assert!(app.try_claim().await.is_none());
    patch(&app, "/v1/tasks/add/control", json!({"paused": false})).await.ok(200);
    patch(&app, "/v1/tenant", json!({"paused": true})).await.ok(200);
    assert_eq!(app.get("/v1/tenant").await.ok(200)["paused"], true);
    assert!(app.try_claim().await.is_none());
    patch(&app, "/v1/tenant", json!({"paused": null})).await.ok(200);
    assert!(app.try_claim().await.is_some());
}

#[tokio::test]
async fn routes_stand_between_the_code_and_the_server() {
    let app = TestApp::with_tasks().await;
    let first = app.get("/v1/routes").await;
    assert_eq!(first.header("etag"), "\"0\"");
    assert_eq!(first.ok(200), json!({"routes": []}));
    let routes = json!({"routes": [
        {"match": "ad?", "kind": "glob", "queue": "routed"}, {"match": "echo", "kind": "name", "queue": "echoes"},
    ]});
    let put = app.with_headers("PUT", "/v1/routes", &[("if-match", "\"0\"")], &routes).await;
    assert_eq!(put.header("etag"), "\"1\"");
    assert_eq!(put.ok(200), routes);
    app.with_headers("PUT", "/v1/routes", &[("if-match", "\"0\"")], &routes).await.problem(412, "version_conflict");
    let queue_of = async |options: Value| {
        app.post("/v1/jobs", json!({"task": "add", "args": [1], "options": options})).await.ok(202)["queue"].clone()
    };
    assert_eq!(queue_of(json!({})).await, "routed");
    assert_eq!(queue_of(json!({"queue": "mine"})).await, "mine");
    let policy = &app.get("/v1/tasks/add").await.ok(200)["policy"];
    assert_eq!(policy["queue"], json!({"value": "routed", "from": "routes"}));
    let node = app.post("/v1/workflows", json!({"canvas": {"task": "echo", "args": [1]}})).await.ok(202);
    let nodes = app.get(&format!("/v1/jobs?workflow={}", id_of(&node))).await.ok(200);
    assert_eq!(nodes["items"][0]["queue"], "echoes", "nodes are routed by the same rule");
    patch(&app, "/v1/tasks/add", json!({"policy": {"queue": "server"}})).await.ok(200);
    assert_eq!(queue_of(json!({})).await, "server");
}

#[tokio::test]
async fn a_route_that_is_none_is_refused_with_its_place() {
    let app = TestApp::new().await;
    let put = async |routes: Value| app.with_headers("PUT", "/v1/routes", &[], json!({"routes": routes})).await;
    let bad = json!([{"match": "a", "queue": "q"}, {"match": "(a{1000}){1000}", "kind": "regex", "queue": "q"}]);
    assert_eq!(put(bad).await.problem(422, "invalid_route")["errors"][0]["pointer"], "/routes/1/match");
    put(json!([{"match": "a", "queue": "a b"}])).await.problem(422, "invalid_body");
    put(json!(vec![json!({"match": "a", "queue": "q"}); 257])).await.problem(422, "invalid_route");
}

#[tokio::test]
async fn so_many_routes_may_be_regular_expressions() {
    let app = TestApp::with_tasks().await;
    let put = async |routes: &[Value]| app.with_headers("PUT", "/v1/routes", &[], json!({"routes": routes})).await;
    let regex = |n: usize| json!({"match": format!("^add{n}?$"), "kind": "regex", "queue": "q"});
    let mut routes = vec![json!({"match": "x*", "kind": "glob", "queue": "q"})];
    routes.extend((0..33).map(regex));
    let refused = put(&routes).await.problem(422, "invalid_route");
    assert_eq!(refused["errors"][0]["pointer"], "/routes/33/match");
    assert!(refused["detail"].as_str().unwrap().contains("at most 32"), "{refused}");
    put(&routes[..33]).await.ok(200);
    // More of them that an earlier release stored go on to work.
    let stored = umbel_broker::PutDocument {
        tenant: umbel_model::TenantId::new("t1").unwrap(),
        kind: umbel_broker::DocumentKind::Routes,
        name: "routes".into(),
        expect: umbel_broker::Expect::Any,
        body: Some(json!({"routes": (0..40).map(regex).collect::<Vec<_>>()}).to_string()),
        held_bytes: 0,
    };
    let older = TestApp::with_tasks().await;
    older.broker.put_document(&stored).await.unwrap();
    assert_eq!(older.post("/v1/jobs", json!({"task": "add", "args": [1]})).await.ok(202)["queue"], "q");
}

#[tokio::test]
async fn a_job_says_what_holds_it_back() {
    let app = TestApp::with_tasks().await;
    let reasons = async |id: &str| {
        let job = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
        let all = job["waits_for"].as_array().cloned().unwrap_or_default();
        let reasons: Vec<String> = all.iter().map(|what| what["reason"].as_str().unwrap().to_owned()).collect();
        (reasons.join(" "), job["waits_since"] == job["created_at"])
    };
    let limited = app.submit_add(json!({"queue": "mail", "concurrency": 2})).await;
    assert_eq!(reasons(&limited).await, ("limit no_worker".into(), true));
    patch(&app, "/v1/tenant", json!({"paused": true})).await.ok(200);
    app.post("/v1/queues/mail/pause", "").await.ok(200);
    assert_eq!(reasons(&limited).await.0, "tenant_paused queue_paused limit no_worker");
    patch(&app, "/v1/tenant", json!({"paused": false})).await.ok(200);
    let later = app.submit_add(json!({"countdown_ms": 60_000})).await;
    assert_eq!(reasons(&later).await.0, "time");
    let turn = app.submit_add(json!({})).await;
    let worker = WorkerInfo { queues: vec!["default".parse().unwrap()], ..worker() };
    app.broker.heartbeat(&worker).await.unwrap();
    assert_eq!(reasons(&turn).await.0, "turn");
    let detail = app.get(&format!("/v1/jobs/{limited}")).await.ok(200)["waits_for"].to_string();
    assert!(detail.contains("umbel queue resume mail") && detail.contains("umbel worker -Q mail"), "{detail}");
    app.claim().await;
    assert_eq!(reasons(&turn).await, (String::new(), false));
}

fn worker() -> WorkerInfo {
    WorkerInfo {
        id: WorkerId::new("w1").unwrap(),
        host: "h".into(),
        pid: 7,
        version: "0.1.0".into(),
        queues: vec![QueueName::default()],
        slots: 4,
        running: 1,
        state: "running".into(),
        started_at: 0,
        settled: 9,
        rss_bytes: 10,
        leases: 3,
        min_slots: 2,
        max_slots: 8,
        exclude: Vec::new(),
        order: 0,
    }
}

#[tokio::test]
async fn a_tenant_cannot_lift_what_an_operator_set_and_the_stricter_of_both_holds() {
    let app = TestApp::with_tasks().await;
    app.submit_add(json!({})).await;
    let of_operator = "/v1/tenants/t1/control";
    for scope in ["", "?queue=default", "?task=add"] {
        patch(&app, &format!("{of_operator}{scope}"), json!({"paused": true})).await.ok(200);
    }
    for path in ["/v1/tenant", "/v1/queues/default", "/v1/tasks/add/control"] {
        let answer = patch(&app, path, json!({"paused": false})).await.ok(200);
        let control = answer.get("control").unwrap_or(&answer);
        assert_eq!((&control["paused"], &control["operator"]["paused"]), (&json!(true), &json!(true)), "{path}");
    }
    app.post("/v1/queues/default/resume", "").await.ok(200);
    assert!(app.try_claim().await.is_none());

    let limited = json!({"paused": false, "rate_limit": "100/m", "concurrency": 5});
    patch(&app, of_operator, limited).await.ok(200);
    let own = patch(&app, "/v1/tenant", json!({"rate_limit": "10/s", "concurrency": 2})).await.ok(200);
    assert_eq!((&own["rate_limit"], &own["concurrency"], &own["paused"]), (&json!("100/m"), &json!(2), &json!(false)));
    let freed = patch(&app, "/v1/tenant", json!({"rate_limit": null, "concurrency": null})).await.ok(200);
    assert_eq!((&freed["rate_limit"], &freed["concurrency"]), (&json!("100/m"), &json!(5)));

    // What the tenant set for itself holds again when the operator takes his part back.
    patch(&app, "/v1/tenant", json!({"concurrency": 2})).await.ok(200);
    patch(&app, of_operator, json!({"rate_limit": null, "concurrency": null})).await.ok(200);
    for scope in ["?queue=default", "?task=add"] {
        patch(&app, &format!("{of_operator}{scope}"), json!({"paused": false})).await.ok(200);
    }
    let left = app.get("/v1/tenant").await.ok(200);
    assert_eq!((&left["concurrency"], &left["operator"]), (&json!(2), &json!(null)));
    assert!(app.try_claim().await.is_some());
}

#[tokio::test]
async fn only_operators_reach_the_controls_of_a_tenant_by_its_name() {
    let mut app = TestApp::with_tasks().await;
    patch(&app, "/v1/tenants/t2/control", json!({"paused": true})).await.ok(200);
    assert_eq!(app.get("/v1/tenants/t2/control").await.ok(200)["operator"]["paused"], true);
    assert_eq!(app.get("/v1/tenant").await.ok(200)["paused"], false, "the operator's own tenant is another one");
    let both = "/v1/tenants/t2/control?queue=a&task=b";
    patch(&app, both, json!({"paused": true})).await.problem(400, "invalid_query");
    app.token = app.other_tenant().await;
    app.get("/v1/tenants/t2/control").await.problem(403, "operator_needed");
    patch(&app, "/v1/tenants/t2/control", json!({"paused": false})).await.problem(403, "operator_needed");
    let own = patch(&app, "/v1/tenant", json!({"paused": false})).await.ok(200);
    assert_eq!((&own["paused"], &own["operator"]["paused"]), (&json!(true), &json!(true)));
}

#[tokio::test]
async fn an_operator_orders_a_worker_with_its_next_heartbeat() {
    let app = TestApp::new().await;
    app.post("/v1/workers/w1/drain", "").await.problem(404, "worker_not_found");
    app.broker.heartbeat(&worker()).await.unwrap();
    assert_eq!(app.get("/v1/workers/w1").await.ok(200)["leases"], 3);
    assert_eq!(app.post("/v1/workers/w1/drain", "").await.ok(202), json!({"order": 1}));
    patch(&app, "/v1/workers/w1", json!({"slots": 6})).await.ok(202);
    patch(&app, "/v1/workers/w1", json!({"queues": ["a", "b"]})).await.ok(202);
    app.post("/v1/workers/w1/shutdown", json!({"mode": "soft"})).await.ok(202);
    let order = app.broker.heartbeat(&worker()).await.unwrap().unwrap();
    assert_eq!((order.number, order.drain, order.slots), (4, Some(true), Some((6, 6))));
    assert_eq!((order.shutdown, order.queues.unwrap().len()), (Some(Shutdown::Soft), 2));
    patch(&app, "/v1/workers/w1", json!({"min_slots": 1, "max_slots": 9})).await.ok(202);
    app.post("/v1/workers/w1/resume", "").await.ok(202);
    let order = app.broker.heartbeat(&worker()).await.unwrap().unwrap();
    assert_eq!((order.drain, order.slots), (Some(false), Some((1, 9))));
    for bad in
        [json!({}), json!({"slots": 0}), json!({"min_slots": 3, "max_slots": 2}), json!({"slots": 1, "min_slots": 1})]
    {
        patch(&app, "/v1/workers/w1", bad).await.problem(422, "invalid_body");
    }
    app.post("/v1/workers/w1/shutdown", json!({"mode": "now"})).await.problem(422, "invalid_body");
}

#[tokio::test]
async fn others_than_operators_see_a_little_of_workers_and_order_nothing() {
    let mut app = TestApp::new().await;
    app.broker.heartbeat(&worker()).await.unwrap();
    app.token = app.other_tenant().await;
    let brief = json!({"id": "w1", "state": "running", "version": "0.1.0"});
    assert_eq!(app.get("/v1/workers").await.ok(200)["items"], json!([brief]));
    assert_eq!(app.get("/v1/workers/w1").await.ok(200), brief);
    for order in ["drain", "resume", "shutdown"] {
        app.post(&format!("/v1/workers/w1/{order}"), "").await.problem(403, "operator_needed");
    }
    patch(&app, "/v1/workers/w1", json!({"slots": 1})).await.problem(403, "operator_needed");
    assert!(app.broker.heartbeat(&worker()).await.unwrap().is_none());
}

#[tokio::test]
async fn the_jobs_that_a_worker_runs_are_listed_for_their_tenant() {
    let mut app = TestApp::with_tasks().await;
    let running = app.submit_add(json!({})).await;
    let delivery = app.claim().await;
    let done = app.submit_add(json!({})).await;
    let other = app.claim().await;
    app.settle(&other, Resolution::Succeed { result: None }).await;
    let page = app.get("/v1/workers/w1/jobs").await.ok(200);
    assert_eq!(page["items"].as_array().unwrap().iter().map(id_of).collect::<Vec<_>>(), [running]);
    let page = app.get("/v1/workers/w1/jobs?state=succeeded").await.ok(200);
    assert_eq!(page["items"].as_array().unwrap().iter().map(id_of).collect::<Vec<_>>(), [done]);
    assert_eq!(app.get("/v1/workers/w9/jobs").await.ok(200)["items"], json!([]));
    app.token = app.other_tenant().await;
    assert_eq!(app.get("/v1/workers/w1/jobs").await.ok(200)["items"], json!([]));
    drop(delivery);
}

#[tokio::test]
async fn a_tenant_sees_what_it_has_stored_and_an_operator_sets_how_much_it_may() {
    let app = TestApp::with_tasks().await;
    let own = app.get("/v1/tenant/storage").await.ok(200);
    assert_eq!((&own["job_bytes"], &own["max_job_bytes"]), (&json!(0), &json!(16_u64 << 30)));
    let modules = own["module_bytes"].as_u64().unwrap();
    assert!(modules > 0 && own["document_bytes"].as_u64().unwrap() > modules, "{own}");
    let id = app.submit_add(json!({})).await;
    let used = app.get("/v1/tenant/storage").await.ok(200)["job_bytes"].as_u64().unwrap();
    assert!(used > 50, "{used}");

    let of_operator = "/v1/tenants/t1/storage";
    let set = patch(&app, of_operator, json!({"max_job_bytes": used, "max_document_bytes": 1})).await.ok(200);
    assert_eq!((&set["max_job_bytes"], &set["max_document_bytes"]), (&json!(used), &json!(1)));
    let refused = app.post("/v1/jobs", json!({"task": "add", "args": [1]})).await.problem(507, "storage_quota");
    let numbers = format!("({used} of {used} bytes are stored, see `GET /v1/tenant/storage`)");
    assert!(refused["detail"].as_str().unwrap().contains(&numbers), "{refused}");
    let workflow = json!({"canvas": {"task": "add", "args": [1]}});
    let refused = app.post("/v1/workflows", workflow).await.problem(507, "storage_quota");
    assert!(refused["detail"].as_str().unwrap().contains(&numbers), "{refused}");
    patch(&app, of_operator, json!({"max_job_bytes": null})).await.ok(200);
    app.post("/v1/jobs", json!({"task": "add", "args": [1]})).await.ok(202);
    app.post(&format!("/v1/jobs/{id}/cancel"), json!({})).await;

    for (body, pointer) in [
        (json!({"max_job_bytes": 0}), "/max_job_bytes"),
        (json!({"max_document_bytes": 1_u64 << 53}), "/max_document_bytes"),
    ] {
        let refused = patch(&app, of_operator, body).await.problem(422, "invalid_control");
        assert_eq!(refused["errors"][0]["pointer"], pointer);
    }
}

#[tokio::test]
async fn only_operators_say_how_much_a_tenant_may_store() {
    let mut app = TestApp::with_tasks().await;
    app.token = app.other_tenant().await;
    patch(&app, "/v1/tenants/t1/storage", json!({"max_job_bytes": 5})).await.problem(403, "operator_needed");
    app.get("/v1/tenants/t1/storage").await.problem(403, "operator_needed");
    assert_eq!(app.get("/v1/tenant/storage").await.ok(200)["job_bytes"], 0);
}
