//! Actions on many jobs, carried out by hand.

use futures::TryStreamExt as _;
use serde_json::{Value, json};
use umbel_broker::{Broker, Limits};
use umbel_bulk::{Advanced, Carrier, advance, running};
use umbel_model::{Failure, PolicyBounds, Resolution};

use crate::app::{Builder, TestApp, example_module, id_of, module_with};

/// What the control service does, until nothing is left.
async fn carry_out(app: &TestApp) {
    let store = app.store().await;
    let bounds = PolicyBounds::default();
    let carrier = Carrier { broker: &*app.broker as &dyn Broker, store: Some(&store), bounds: &bounds };
    for _ in 0..1_000 {
        let open = running(carrier.broker, None, 100).await.unwrap();
        if open.is_empty() {
            return;
        }
        for (_, tenant, id) in open {
            let advanced = advance(carrier, &tenant, id, umbel_now(), 3).await.unwrap();
            assert_ne!(advanced, Advanced::Waiting);
        }
    }
    panic!("it does not end");
}

fn umbel_now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
}

fn counts(bulk: &Value) -> [u64; 4] {
    ["matched", "done", "skipped", "failed"].map(|name| bulk[name].as_u64().unwrap())
}

async fn shown(app: &TestApp, bulk: &Value) -> Value {
    app.get(&format!("/v1/bulk/{}", id_of(bulk))).await.ok(200)
}

#[tokio::test]
async fn a_filter_is_tried_dry_and_then_carried_out() {
    let app = TestApp::with_tasks().await;
    for n in 0..8 {
        app.submit_add(json!({"tags": [if n % 2 == 0 { "red" } else { "blue" }]})).await;
    }
    let body = json!({"action": "cancel", "filter": {"tag": "red"}, "dry_run": true});
    let dry = app.post("/v1/bulk", body).await.ok(202);
    assert_eq!((&dry["state"], &dry["filter"]), (&json!("running"), &json!({"tag": "red"})));
    carry_out(&app).await;
    let dry = shown(&app, &dry).await;
    assert_eq!((counts(&dry), &dry["state"]), ([4, 0, 0, 0], &json!("done")));
    let wet = app.post("/v1/bulk", json!({"action": "cancel", "filter": {"tag": "red"}})).await.ok(202);
    carry_out(&app).await;
    let wet = shown(&app, &wet).await;
    assert_eq!((counts(&wet), &wet["state"]), ([4, 4, 0, 0], &json!("done")));
    assert!(wet["finished_at"].is_string());
    let left = app.get("/v1/jobs?state=queued").await.ok(200);
    assert!(left["items"].as_array().unwrap().iter().all(|job| job["tags"] == json!(["blue"])));
    let all = app.get("/v1/bulk").await.ok(200);
    let ids: Vec<_> = all["items"].as_array().unwrap().iter().map(id_of).collect();
    assert_eq!(ids, [id_of(&wet), id_of(&dry)], "newest first");
}

#[tokio::test]
async fn a_purge_cancels_what_waits_and_leaves_what_runs() {
    let app = TestApp::with_tasks().await;
    app.post("/v1/queues/default/purge", "").await.problem(404, "queue_not_found");
    let running = app.submit_add(json!({})).await;
    app.claim().await;
    for options in [json!({}), json!({"countdown_ms": 60_000}), json!({"queue": "other"})] {
        app.submit_add(options).await;
    }
    let purge = app.post("/v1/queues/default/purge", "").await.ok(202);
    carry_out(&app).await;
    assert_eq!(counts(&shown(&app, &purge).await), [2, 2, 0, 0]);
    assert_eq!(app.get(&format!("/v1/jobs/{running}")).await.ok(200)["cancel_requested"], false);
    assert_eq!(app.get("/v1/jobs?state=queued").await.ok(200)["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_purge_and_a_bulk_cancel_take_nodes_of_workflows_along() {
    let app = TestApp::with_tasks().await;
    let group = |queue: &str| {
        let members = vec![json!({"task": "add", "args": [1, 2], "options": {"queue": queue}}); 50];
        json!({"canvas": {"group": members}})
    };
    let mut ids = Vec::new();
    for queue in ["a", "b", "a", "c"] {
        ids.push(id_of(&app.post("/v1/workflows", group(queue)).await.ok(202)).to_owned());
    }
    app.submit_add(json!({"queue": "a"})).await;
    let purge = app.post("/v1/queues/a/purge", "").await.ok(202);
    carry_out(&app).await;
    assert_eq!(counts(&shown(&app, &purge).await), [101, 101, 0, 0]);
    let body = json!({"action": "cancel", "filter": {"queue": "b"}});
    let cancel = app.post("/v1/bulk", body).await.ok(202);
    carry_out(&app).await;
    assert_eq!(counts(&shown(&app, &cancel).await), [50, 50, 0, 0]);
    for (id, state) in ids.iter().zip(["failed", "failed", "failed", "running"]) {
        let workflow = app.get(&format!("/v1/workflows/{id}")).await.ok(200);
        assert!(workflow["state"] == state || state == "failed" && workflow["state"] == "revoked", "{workflow}");
    }
    let queues = app.get("/v1/queues").await.ok(200);
    let queued =
        |name: &str| queues["items"].as_array().unwrap().iter().find(|q| q["name"] == name).unwrap()["queued"].clone();
    assert_eq!([queued("a"), queued("b"), queued("c")], [json!(0), json!(0), json!(50)]);
}

#[tokio::test]
async fn dead_jobs_are_redriven_with_the_code_of_today_and_another_policy() {
    let app = TestApp::with_tasks().await;
    let dead = app.dead_job().await;
    app.push(&module_with("Another text.")).await.ok(201);
    let today = app.get("/v1/tasks/add").await.ok(200)["digest"].clone();
    let body =
        json!({"action": "redrive", "filter": {}, "digest": "current", "policy": {"max_retries": 9, "queue": "again"}});
    let bulk = app.post("/v1/bulk", body).await.ok(202);
    carry_out(&app).await;
    assert_eq!(counts(&shown(&app, &bulk).await), [1, 1, 0, 0]);
    let new = &app.get("/v1/jobs?queue=again").await.ok(200)["items"][0];
    assert_eq!((&new["redrive_of"], &new["digest"], &new["max_retries"]), (&json!(dead), &today, &json!(9)));
    let again = app.post("/v1/bulk", json!({"action": "redrive", "filter": {"ids": [dead]}})).await.ok(202);
    carry_out(&app).await;
    assert_eq!(counts(&shown(&app, &again).await), [1, 0, 1, 0], "it is not dead any more");
}

#[tokio::test]
async fn one_dead_job_is_redriven_pinned_or_current_with_its_policy_edited() {
    let app = TestApp::with_tasks().await;
    let (first, second) = (app.dead_job().await, app.dead_job().await);
    let pinned = app.get(&format!("/v1/jobs/{first}")).await.ok(200)["digest"].clone();
    app.push(&module_with("Another text.")).await.ok(201);
    let redrive = async |id: &str, body: Value| app.post(&format!("/v1/dead/{id}/redrive"), body).await;
    let edited = redrive(&first, json!({"policy": {"priority": 8}})).await.ok(202);
    assert_eq!((&edited["digest"], &edited["priority"]), (&pinned, &json!(8)));
    redrive(&second, json!({"policy": {"priority": 10}})).await.problem(422, "invalid_policy");
    let current = redrive(&second, json!({"digest": "current"})).await.ok(202);
    assert_eq!(current["digest"], app.get("/v1/tasks/add").await.ok(200)["digest"]);
    redrive(&first, json!({"digest": "newest"})).await.problem(422, "invalid_body");
}

#[tokio::test]
async fn arguments_that_the_code_of_today_does_not_take_are_not_redriven() {
    let app = TestApp::with_tasks().await;
    let dead = app.dead_job().await;
    let other = json!({"tasks": [{"name": "add", "parameters": [{"name": "z", "schema": true}]}]});
    app.push(&other.to_string()).await.ok(201);
    let how = json!({"digest": "current"});
    app.post(&format!("/v1/dead/{dead}/redrive"), how).await.problem(422, "invalid_arguments");
    let bulk = app.post("/v1/bulk", json!({"action": "redrive", "filter": {}, "digest": "current"})).await.ok(202);
    carry_out(&app).await;
    let bulk = shown(&app, &bulk).await;
    assert_eq!(counts(&bulk), [1, 0, 0, 1]);
    assert!(bulk["error"].as_str().unwrap().contains(&dead), "{bulk}");
    app.post(&format!("/v1/dead/{dead}/redrive"), "").await.ok(202);
}

#[tokio::test]
async fn a_new_parameter_with_a_default_is_filled_in_when_redriven() {
    let app = TestApp::with_tasks().await;
    let dead = app.dead_job().await;
    let other = json!({"tasks": [{"name": "add", "parameters": [
        {"name": "x", "schema": true}, {"name": "y", "schema": true}, {"name": "z", "schema": true, "default": {"a": 1}},
    ]}]});
    app.push(&other.to_string()).await.ok(201);
    let new = app.post(&format!("/v1/dead/{dead}/redrive"), json!({"digest": "current"})).await.ok(202);
    assert_eq!(new["arguments"], json!({"x": 1, "y": 2, "z": {"a": 1}}));
}

#[tokio::test]
async fn ended_jobs_are_forgotten_and_delayed_ones_run_now() {
    let app = TestApp::with_tasks().await;
    app.dead_job().await;
    let waiting = app.submit_add(json!({"countdown_ms": 60_000})).await;
    let forget = app.post("/v1/bulk", json!({"action": "forget", "filter": {"state": "failed"}})).await.ok(202);
    let run = app.post("/v1/bulk", json!({"action": "run_now", "filter": {"task": "add"}})).await.ok(202);
    carry_out(&app).await;
    assert_eq!(counts(&shown(&app, &forget).await), [1, 1, 0, 0]);
    assert_eq!(counts(&shown(&app, &run).await), [1, 1, 0, 0]);
    let left = app.get("/v1/jobs").await.ok(200);
    assert_eq!((left["items"].as_array().unwrap().len(), id_of(&left["items"][0])), (1, waiting));
    assert_eq!(left["items"][0]["state"], "queued");
}

#[tokio::test]
async fn the_nodes_of_a_workflow_are_cancelled_by_its_id() {
    let app = TestApp::with_tasks().await;
    let canvas = json!({"group": [{"task": "echo", "args": [1]}, {"task": "echo", "args": [2]}]});
    let workflow = app.post("/v1/workflows", json!({"canvas": canvas})).await.ok(202);
    let body = json!({"action": "cancel", "filter": {"workflow_id": id_of(&workflow)}});
    let bulk = app.post("/v1/bulk", body).await.ok(202);
    carry_out(&app).await;
    assert_eq!(counts(&shown(&app, &bulk).await), [2, 2, 0, 0]);
    assert!(app.try_claim().await.is_none());
}

#[tokio::test]
async fn an_action_is_stopped_and_says_what_it_did() {
    let app = TestApp::with_tasks().await;
    for _ in 0..7 {
        app.submit_add(json!({})).await;
    }
    let bulk = app.post("/v1/bulk", json!({"action": "cancel", "filter": {}})).await.ok(202);
    let bounds = PolicyBounds::default();
    let carrier = Carrier { broker: &*app.broker as &dyn Broker, store: None, bounds: &bounds };
    let (_, tenant, id) = running(carrier.broker, None, 1).await.unwrap().pop().unwrap();
    assert_eq!(advance(carrier, &tenant, id, umbel_now(), 3).await.unwrap(), Advanced::Working);
    let path = format!("/v1/bulk/{}/abort", id_of(&bulk));
    assert_eq!(app.post(&path, "").await.ok(200)["state"], "aborted");
    carry_out(&app).await;
    assert_eq!(counts(&shown(&app, &bulk).await), [3, 3, 0, 0]);
    assert_eq!(app.get("/v1/jobs?state=queued").await.ok(200)["items"].as_array().unwrap().len(), 4);
    assert_eq!(app.post(&path, "").await.ok(200)["state"], "aborted", "twice is the same as once");
    let done = app.post("/v1/bulk", json!({"action": "cancel", "filter": {"tag": "none"}})).await.ok(202);
    carry_out(&app).await;
    app.post(&format!("/v1/bulk/{}/abort", id_of(&done)), "").await.problem(409, "bulk_ended");
}

#[tokio::test]
async fn an_action_is_one_tenants_and_its_submission_can_be_repeated() {
    let mut app = TestApp::with_tasks().await;
    let body = json!({"action": "cancel", "filter": {}});
    let key = [("idempotency-key", "k")];
    let first = app.with_headers("POST", "/v1/bulk", &key, &body).await.ok(202);
    let second = app.with_headers("POST", "/v1/bulk", &key, &body).await.ok(200);
    assert_eq!(id_of(&first), id_of(&second));
    let other = json!({"action": "forget", "filter": {}});
    app.with_headers("POST", "/v1/bulk", &key, &other).await.problem(422, "idempotency_conflict");
    app.token = app.other_tenant().await;
    app.get(&format!("/v1/bulk/{}", id_of(&first))).await.problem(404, "bulk_not_found");
    app.post(&format!("/v1/bulk/{}/abort", id_of(&first)), "").await.problem(404, "bulk_not_found");
    assert_eq!(app.get("/v1/bulk").await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn an_action_that_means_nothing_is_refused() {
    let app = TestApp::with_tasks().await;
    for body in [
        json!({"action": "cancel"}),
        json!({"action": "destroy", "filter": {}}),
        json!({"action": "cancel", "filter": {"tsk": "add"}}),
        json!({"action": "cancel", "filter": {"header": "x"}}),
        json!({"action": "cancel", "filter": {"created_after": "x"}}),
        json!({"action": "forget", "filter": {}, "terminate": true}),
        json!({"action": "cancel", "filter": {}, "policy": {}}),
        json!({"action": "cancel", "filter": {"ids": vec!["01ARZ3NDEKTSV4RRFFQ69G5FAV"; 1_001]}}),
    ] {
        app.post("/v1/bulk", body).await.problem(422, "invalid_body");
    }
    let body = json!({"action": "redrive", "filter": {}, "policy": {"priority": 10}});
    app.post("/v1/bulk", body).await.problem(422, "invalid_policy");
    for _ in 0..10 {
        app.post("/v1/bulk", json!({"action": "cancel", "filter": {}})).await.ok(202);
    }
    app.post("/v1/bulk", json!({"action": "cancel", "filter": {}})).await.problem(429, "too_many_bulks");
    for path in ["/v1/bulk/nope", "/v1/bulk/01ARZ3NDEKTSV4RRFFQ69G5FAV"] {
        app.get(path).await.problem(404, "bulk_not_found");
    }
}

#[tokio::test]
async fn a_redrive_that_waits_for_room_keeps_its_copies_of_large_arguments_young() {
    let limits = Limits { max_backlog: 1, ..Limits::default() };
    let app = Builder { limits, ..Builder::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    let big = "x".repeat(100_000);
    app.post("/v1/jobs", json!({"task": "echo", "args": [big]})).await.ok(202);
    let delivery = app.claim().await;
    app.settle(&delivery, Resolution::Fail { failure: Failure::new("Void", "") }).await;
    app.post("/v1/jobs", json!({"task": "echo", "args": ["y"]})).await.ok(202);
    app.post("/v1/bulk", json!({"action": "redrive", "filter": {}})).await.ok(202);

    let (store, bounds) = (app.store().await, PolicyBounds::default());
    let carrier = Carrier { broker: &*app.broker as &dyn Broker, store: Some(&store), bounds: &bounds };
    let (_, tenant, id) = running(carrier.broker, None, 1).await.unwrap().remove(0);
    assert_eq!(advance(carrier, &tenant, id, umbel_now(), 3).await.unwrap(), Advanced::Waiting);
    let values: Vec<_> = store.values().try_collect().await.unwrap();
    let copy = values.iter().find(|value| value.job != delivery.id).unwrap().job;
    let folder = app.folder.path().join(format!("values/{tenant}/{copy}"));
    let path = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(7_200);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    // Its next try, and the one after that, for which there is room.
    assert_eq!(advance(carrier, &tenant, id, umbel_now() + 10_000, 3).await.unwrap(), Advanced::Waiting);
    assert!(path.metadata().unwrap().modified().unwrap().elapsed().unwrap().as_secs() < 3_600, "it was copied again");
    app.claim().await;
    assert_eq!(advance(carrier, &tenant, id, umbel_now() + 20_000, 3).await.unwrap(), Advanced::Ended);
    let spec: umbel_model::JobSpec = serde_json::from_str(&app.claim().await.spec).unwrap();
    let text = store.value(&tenant, &spec.stored_arguments.unwrap()).await.unwrap();
    assert!(text.contains(&big));
}
