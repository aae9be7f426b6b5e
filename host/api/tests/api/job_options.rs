//! What a submission may say beyond its arguments, and what becomes of it.

use futures::TryStreamExt as _;
use serde_json::{Value, json};
use umbel_model::{AttemptRecord, Failure, LargeValue, Resolution};

use crate::app::{Answer, Builder, TestApp, example_module, id_of, raw};

async fn submit(app: &TestApp, options: Value) -> Answer {
    app.post("/v1/jobs", json!({"task": "add", "args": [1], "options": options})).await
}

#[tokio::test]
async fn tags_and_header_stamps_are_shown_and_found_by() {
    let app = TestApp::with_tasks().await;
    let job = submit(&app, json!({"tags": ["red", "import-7"], "headers": {"order": "7:a"}})).await.ok(202);
    submit(&app, json!({"tags": ["blue"]})).await.ok(202);
    assert_eq!((&job["tags"], &job["headers"]), (&json!(["red", "import-7"]), &json!({"order": "7:a"})));
    let find = async |query: &str| {
        let page = app.get(&format!("/v1/jobs?{query}")).await.ok(200);
        page["items"].as_array().unwrap().iter().map(id_of).collect::<Vec<_>>()
    };
    assert_eq!(find("tag=red").await, [id_of(&job)]);
    assert_eq!(find("header=order:7:a").await, [id_of(&job)]);
    assert_eq!(find("tag=red&header=order:8").await, [""; 0]);
    assert_eq!(find("tag=green").await, [""; 0]);
    let spec: umbel_model::JobSpec = serde_json::from_str(&app.claim().await.spec).unwrap();
    assert_eq!(spec.v, 1, "workers of the last release can run it");
}

#[tokio::test]
async fn labels_that_could_harm_are_refused_with_their_place() {
    let app = TestApp::with_tasks().await;
    let pointer = async |options: Value| {
        submit(&app, options).await.problem(422, "invalid_option")["errors"][0]["pointer"].as_str().unwrap().to_owned()
    };
    assert_eq!(pointer(json!({"tags": ["ok", "a\nb"]})).await, "/options/tags/1");
    assert_eq!(pointer(json!({"tags": ["x".repeat(65)]})).await, "/options/tags/0");
    assert_eq!(pointer(json!({"tags": vec!["x"; 17]})).await, "/options/tags");
    assert_eq!(pointer(json!({"headers": {"a:b": "c"}})).await, "/options/headers/a:b");
    assert_eq!(pointer(json!({"headers": {"a": "x".repeat(257)}})).await, "/options/headers/a");
    assert_eq!(pointer(json!({"headers": [1]})).await, "/options/headers");
    assert_eq!(pointer(json!({"expires_at": "soon"})).await, "/options/expires_at");
}

#[tokio::test]
async fn jobs_are_found_by_worker_by_time_and_by_several_states() {
    let app = TestApp::with_tasks().await;
    let failed = app.dead_job().await;
    let waiting = app.submit_add(json!({})).await;
    let later = app.submit_add(json!({"countdown_ms": 60_000})).await;
    let find = async |query: &str| {
        let page = app.get(&format!("/v1/jobs?{query}")).await.ok(200);
        page["items"].as_array().unwrap().iter().map(id_of).collect::<Vec<_>>()
    };
    assert_eq!(find("state=queued,failed").await, [waiting.clone(), failed.clone()]);
    assert_eq!(find("worker=w1").await, [&*failed]);
    assert_eq!(find("created_after=2020-01-01T00:00:00Z&limit=1").await, [&*later]);
    assert_eq!(find("created_before=2020-01-01T00:00:00Z").await, [""; 0]);
    for bad in ["state=queued,lost", "created_after=x", "header=novalue", "worker=a%20b"] {
        app.get(&format!("/v1/jobs?{bad}")).await.problem(400, "invalid_query");
    }
}

#[tokio::test]
async fn filters_of_ours_go_on_over_pages_and_lose_nothing() {
    let app = TestApp::with_tasks().await;
    let mut red = Vec::new();
    for n in 0..30 {
        let tag = if n % 3 == 0 { "red" } else { "blue" };
        let id = app.submit_add(json!({"tags": [tag]})).await;
        if tag == "red" {
            red.insert(0, id);
        }
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/jobs?tag=red&limit=3".to_owned());
    loop {
        let page = app.get(&path).await.ok(200);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 3);
        seen.extend(items.iter().map(id_of));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/jobs?tag=red&limit=3&cursor={cursor}");
    }
    assert_eq!(seen, red);
}

#[tokio::test]
async fn a_job_that_is_too_late_by_the_clock_is_never_run() {
    let app = TestApp::with_tasks().await;
    let job = submit(&app, json!({"expires_at": "2020-01-01T00:00:00Z"})).await.json();
    assert!(app.try_claim().await.is_none());
    assert_eq!(app.get(&format!("/v1/jobs/{}", id_of(&job))).await.ok(200)["state"], "expired");
}

#[tokio::test]
async fn a_unique_job_answers_with_the_one_that_is_there() {
    let app = TestApp::with_tasks().await;
    let unique = json!({"unique": "first"});
    let first = submit(&app, unique.clone()).await;
    assert_eq!(first.header("umbel-unique"), "");
    let first = first.ok(202);
    let second = submit(&app, unique.clone()).await;
    assert_eq!((second.header("umbel-unique"), second.header("idempotent-replayed")), ("duplicate", ""));
    assert_eq!(id_of(&second.ok(200)), id_of(&first));
    let line = r#"{"task":"add","args":[1],"options":{"unique":"first"}}"#;
    let batch = app.batch(line).await;
    let expected = json!({"id": id_of(&first), "duplicate": true});
    assert_eq!(serde_json::from_slice::<Value>(&batch.bytes).unwrap(), expected);
    let delivery = app.claim().await;
    app.settle(&delivery, Resolution::Succeed { result: None }).await;
    assert_ne!(id_of(&submit(&app, unique).await.ok(202)), id_of(&first), "it has ended");
}

#[tokio::test]
async fn arguments_that_were_not_given_count_for_uniqueness_with_their_defaults() {
    let app = TestApp::with_tasks().await;
    let post = async |body: Value| app.post("/v1/jobs", body).await;
    let options = json!({"unique": "first"});
    let first = post(json!({"task": "add", "args": [1], "options": options})).await.ok(202);
    let same = post(json!({"task": "add", "kwargs": {"y": 2, "x": 1}, "options": options})).await;
    assert_eq!(id_of(&same.ok(200)), id_of(&first));
    post(json!({"task": "add", "args": [1, 3], "options": options})).await.ok(202);
    let by = json!({"unique": "first", "unique_by": ["kwargs.x"]});
    let first = post(json!({"task": "add", "args": [5, 1], "options": by})).await.ok(202);
    assert_eq!(id_of(&post(json!({"task": "add", "args": [5, 2], "options": by})).await.ok(200)), id_of(&first));
}

#[tokio::test]
async fn the_last_of_a_burst_takes_the_place_of_those_before() {
    let app = TestApp::with_tasks().await;
    let first = submit(&app, json!({"debounce_ms": 60_000})).await.ok(202);
    assert_eq!(first["state"], "scheduled");
    let last = submit(&app, json!({"debounce_ms": 60_000})).await.ok(202);
    assert_ne!(id_of(&first), id_of(&last));
    let first = app.get(&format!("/v1/jobs/{}", id_of(&first))).await.ok(200);
    assert_eq!((&first["state"], &first["error"]["kind"]), (&json!("revoked"), &json!("superseded")));
}

#[tokio::test]
async fn the_longest_wait_of_a_burst_does_not_bound_a_delay_of_the_calls_own() {
    let app = TestApp::with_tasks().await;
    let day = async |options: Value| {
        let id = id_of(&submit(&app, options).await.ok(202));
        let job = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
        let date = |name: &str| job[name].as_str().unwrap()[..10].to_owned();
        date("created_at") == date("due_at")
    };
    let own = json!({"debounce_ms": 1, "debounce_max_wait_ms": 2, "countdown_ms": 86_400_000});
    assert!(!day(own).await);
}

#[tokio::test]
async fn a_limited_job_stays_behind_and_blocks_nobody() {
    let app = TestApp::with_tasks().await;
    let capped = json!({"limit_key": "kwargs.x", "key_concurrency": 1});
    let submit = async |x: u64| {
        id_of(&app.post("/v1/jobs", json!({"task": "add", "args": [x], "options": capped})).await.ok(202))
    };
    let (first, second, other) = (submit(1).await, submit(1).await, submit(2).await);
    let running = app.claim().await;
    assert_eq!(running.id.to_string(), first);
    assert_eq!(app.claim().await.id.to_string(), other);
    assert!(app.try_claim().await.is_none(), "the key is at its cap");
    app.settle(&running, Resolution::Succeed { result: None }).await;
    assert_eq!(app.claim().await.id.to_string(), second);
}

#[tokio::test]
async fn a_job_may_be_left_to_end_when_it_is_cancelled() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let delivery = app.claim().await;
    let job = app.post(&format!("/v1/jobs/{id}/cancel"), json!({"terminate": false})).await.ok(202);
    assert_eq!((&job["let_end"], &job["state"]), (&json!(true), &json!("running")));
    app.settle(&delivery, Resolution::Succeed { result: Some(raw("7")) }).await;
    assert_eq!(app.get(&format!("/v1/jobs/{id}")).await.ok(200)["state"], "succeeded");
    app.post(&format!("/v1/jobs/{id}/cancel?terminate=x"), "").await.problem(400, "invalid_query");
}

#[tokio::test]
async fn a_job_that_ended_can_be_forgotten() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let path = format!("/v1/jobs/{id}");
    app.with_headers("DELETE", &path, &[], "").await.problem(409, "job_not_ended");
    let delivery = app.claim().await;
    app.settle(&delivery, Resolution::Succeed { result: None }).await;
    let answer = app.with_headers("DELETE", &path, &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.bytes.len()), (204, 0));
    app.get(&path).await.problem(404, "job_not_found");
    app.with_headers("DELETE", &path, &[], "").await.problem(404, "job_not_found");
}

#[tokio::test]
async fn a_result_can_be_had_by_itself() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let path = format!("/v1/jobs/{id}/result");
    app.get(&path).await.problem(409, "job_not_ended");
    let delivery = app.claim().await;
    app.settle(&delivery, Resolution::Succeed { result: Some(raw("[1,2.50]")) }).await;
    let answer = app.get(&path).await;
    assert_eq!((answer.status.as_u16(), &answer.bytes[..]), (200, &b"[1,2.50]"[..]));
    let dead = app.dead_job().await;
    app.get(&format!("/v1/jobs/{dead}/result")).await.problem(404, "no_result");
}

#[tokio::test]
async fn large_arguments_lie_beside_the_modules_and_come_back() {
    let app = TestApp::with_tasks().await;
    let big = "x".repeat(100_000);
    let job = app.post("/v1/jobs", json!({"task": "echo", "args": [big]})).await.ok(202);
    assert_eq!(job["arguments"]["value"], big.as_str());
    let delivery = app.claim().await;
    assert!(delivery.spec.len() < 1_000, "the broker has a reference only");
    let spec: umbel_model::JobSpec = serde_json::from_str(&delivery.spec).unwrap();
    assert_eq!((spec.v, spec.arguments.get()), (2, "{}"));
    let stored = spec.stored_arguments.unwrap();
    assert_eq!(stored.of, delivery.id);
    let text = app.store().await.value(&delivery.tenant, &stored).await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({"value": big}));
    // A repetition has its own copy.
    app.settle(&delivery, Resolution::Fail { failure: Failure::new("Void", "") }).await;
    let new = app.post(&format!("/v1/dead/{}/redrive", delivery.id), "").await.ok(202);
    assert_eq!(new["arguments"]["value"], big.as_str());
    let spec: umbel_model::JobSpec = serde_json::from_str(&app.claim().await.spec).unwrap();
    assert_eq!(spec.stored_arguments.unwrap().of.to_string(), id_of(&new));
}

#[tokio::test]
async fn a_large_result_comes_back_as_if_it_were_small() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let delivery = app.claim().await;
    let big = format!("\"{}\"", "y".repeat(100_000));
    let stored = app.store().await.put_value(&delivery.tenant, delivery.id, &big).await.unwrap();
    app.settle(&delivery, Resolution::Succeed { result: Some(raw(&stored.reference())) }).await;
    let job = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["result"].as_str().unwrap().len(), 100_000);
    assert_eq!(app.get(&format!("/v1/jobs/{id}/result")).await.bytes, big.as_bytes());
    app.store().await.delete_values(&delivery.tenant, delivery.id).await.unwrap();
    let job = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
    assert_eq!((&job["result"], &job["result_omitted"]), (&Value::Null, &json!("gone")));
    app.get(&format!("/v1/jobs/{id}/result")).await.problem(410, "value_lost");
}

#[tokio::test]
async fn a_reference_reaches_no_other_tenants_value() {
    let app = TestApp::with_tasks().await;
    let other = umbel_model::TenantId::new("t2").unwrap();
    let id = app.submit_add(json!({})).await;
    let delivery = app.claim().await;
    let stored: LargeValue = app.store().await.put_value(&other, delivery.id, "\"secret\"").await.unwrap();
    app.settle(&delivery, Resolution::Succeed { result: Some(raw(&stored.reference())) }).await;
    app.get(&format!("/v1/jobs/{id}/result")).await.problem(410, "value_lost");
}

#[tokio::test]
async fn a_callback_runs_with_the_result_or_with_the_error() {
    let app = TestApp::with_tasks().await;
    let echo = json!({"task": "echo"});
    let both = json!({"on_success": echo, "on_failure": [{"task": "echo", "label": "sorry"}], "tags": ["t"]});
    let job = submit(&app, both).await.ok(202);
    assert_eq!((&job["task"], &job["tags"]), (&json!("add"), &json!(["t"])));
    let workflow = job["workflow"].as_str().unwrap();
    let delivery = app.claim().await;
    assert_eq!(delivery.id.to_string(), id_of(&job));
    app.settle(&delivery, Resolution::Succeed { result: Some(raw("7")) }).await;
    let next = app.claim().await;
    assert_eq!(next.node.as_ref().unwrap().input, umbel_broker::Input::Value("7".into()));
    app.settle(&next, Resolution::Succeed { result: None }).await;
    let page = app.get(&format!("/v1/jobs?workflow={workflow}")).await.ok(200);
    let of = |job: &Value| (job["node"]["label"].clone(), job["state"].clone());
    let states: Vec<_> = page["items"].as_array().unwrap().iter().map(of).collect();
    let expected = [(Value::Null, "succeeded"), (json!("sorry"), "skipped"), (Value::Null, "succeeded")];
    assert_eq!(states, expected.map(|(label, state)| (label, json!(state))));
}

#[tokio::test]
async fn a_wrong_callback_is_refused_where_it_was_written() {
    let app = TestApp::with_tasks().await;
    let place = |problem: Value| problem["errors"][0]["pointer"].as_str().unwrap().to_owned();
    let unknown = submit(&app, json!({"on_success": [{"task": "nope"}]})).await.problem(404, "task_not_found");
    assert_eq!(place(unknown), "/options/on_success/0/task");
    let shape = submit(&app, json!({"on_failure": {"tusk": "echo"}})).await.problem(422, "invalid_canvas");
    assert_eq!(place(shape), "/options/on_failure/tusk");
    let many = json!({"on_success": vec![json!({"task": "echo"}); 17]});
    assert_eq!(place(submit(&app, many).await.problem(422, "invalid_option")), "/options/on_success");
    let unique = json!({"on_success": {"task": "echo"}, "unique": "first"});
    assert_eq!(place(submit(&app, unique).await.problem(422, "invalid_option")), "/options/unique");
    let key = json!({"on_success": {"task": "echo"}, "idempotency_key": "k"});
    let first = submit(&app, key.clone()).await.ok(202);
    let second = submit(&app, key).await;
    assert_eq!(second.header("idempotent-replayed"), "true");
    assert_eq!(id_of(&second.ok(200)), id_of(&first));
    let line = r#"{"task":"add","args":[1],"options":{"on_success":{"task":"echo"}}}"#;
    let refused: Value = serde_json::from_slice(&app.batch(line).await.bytes).unwrap();
    assert_eq!(refused["error"]["code"], "invalid_option");
}

#[tokio::test]
async fn a_retrying_job_says_when_it_is_tried_again_and_each_attempt_what_it_took() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let delivery = app.claim().await;
    let failure = Failure::new("Timeout", "slow");
    let record = AttemptRecord {
        attempt: 1,
        delivery: 1,
        worker: umbel_model::WorkerId::new("w1").unwrap(),
        ended_at: 5,
        outcome: "error".into(),
        failure: Some(failure.clone()),
        usage: umbel_model::Usage { fuel: 1, memory_bytes: 2, duration_us: 3, ..umbel_model::Usage::default() },
    };
    let settle = umbel_broker::Settle {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        resolution: Resolution::Retry { delay_ms: 60_000, failure },
        record: Some(record),
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    };
    app.broker.settle(&[settle], None).await.unwrap();
    let job = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
    assert_eq!((&job["state"], &job["retry_at"]), (&json!("retrying"), &job["due_at"]));
    assert!(job["retry_at"].is_string());
    let attempt = &job["history"][0];
    assert_eq!(
        (&attempt["worker"], &attempt["memory_bytes"], &attempt["error"]["kind"]),
        (&json!("w1"), &json!(2), &json!("Timeout"))
    );
}

#[tokio::test]
async fn large_arguments_of_a_job_that_was_refused_are_deleted() {
    let limits = umbel_broker::Limits { max_backlog: 1, ..Default::default() };
    let app = Builder { limits, ..Builder::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    let big = "x".repeat(100_000);
    let body = json!({"task": "echo", "args": [big]});
    let keyed = async |body: &Value| app.with_headers("POST", "/v1/jobs", &[("idempotency-key", "k")], body).await;
    let job = keyed(&body).await.ok(202);
    // The queue is full; the same request again; another one with its key.
    app.post("/v1/jobs", &body).await.problem(429, "queue_full");
    assert_eq!(id_of(&keyed(&body).await.ok(200)), id_of(&job));
    let other = json!({"task": "echo", "args": [format!("{big}y")]});
    keyed(&other).await.problem(422, "idempotency_conflict");
    let values: Vec<_> = app.store().await.values().try_collect().await.unwrap();
    let left: Vec<String> = values.iter().map(|value| value.job.to_string()).collect();
    assert_eq!(left, [id_of(&job)], "those of the one job that was stored");
}

#[tokio::test]
async fn a_reader_of_a_large_result_holds_its_turn_and_a_piece_of_it_until_it_has_it() {
    let config = umbel_api::ApiConfig { permit_wait_ms: 50, max_tenant_answer_bytes: 2_500_000, ..Default::default() };
    let app = Builder { config, ..Builder::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    let id = app.submit_add(json!({})).await;
    let delivery = app.claim().await;
    let big = format!("\"{}\"", "y".repeat(1_200_000));
    let stored = app.store().await.put_value(&delivery.tenant, delivery.id, &big).await.unwrap();
    app.settle(&delivery, Resolution::Succeed { result: Some(raw(&stored.reference())) }).await;
    let path = format!("/v1/jobs/{id}/result");
    let unread = async || {
        let request = axum::http::Request::get(&path).header("authorization", format!("Bearer {}", app.token));
        let request = request.body(axum::body::Body::empty()).unwrap();
        tower::ServiceExt::oneshot(app.router.clone(), request).await.unwrap()
    };
    let mut held = Vec::new();
    let refused = loop {
        match unread().await {
            answer if answer.status() == 200 => held.push(answer),
            answer => break answer,
        }
        assert!(held.len() < 100);
    };
    assert_eq!(refused.status(), 503);
    assert!(held.len() > 2, "each holds a piece, and not the whole: {}", held.len());
    held.pop();
    held.push(unread().await);
    assert_eq!(held.last().unwrap().status(), 200, "one that went away gave its turn back");
    assert_eq!(unread().await.status(), 503);
    for answer in held {
        assert!(axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap() == big.as_bytes());
    }
    assert!(app.get(&path).await.bytes == big.as_bytes());
}
