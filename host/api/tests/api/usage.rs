//! Sums of usage over HTTP.

use axum::{body::Body, http::Request};
use serde_json::{Value, json};
use umbel_broker::Settle;
use umbel_model::{AttemptRecord, Resolution, Usage, WorkerId};

use crate::app::{TestApp, id_of, raw, token_of};

impl TestApp {
    /// Runs a job of this task that uses so much fuel, and more.
    async fn uses(&self, task: &str, fuel: u64) -> String {
        let job = self.post("/v1/jobs", json!({"task": task, "args": [1, 2]})).await.ok(202);
        let delivery = self.claim().await;
        let usage = Usage { fuel, memory_bytes: 9, duration_us: 7, cpu_us: 3, kv_operations: 2, ..Usage::default() };
        let record = AttemptRecord {
            attempt: 1,
            delivery: 1,
            worker: WorkerId::new("w1").unwrap(),
            ended_at: 0,
            outcome: "succeeded".into(),
            failure: None,
            usage,
        };
        let resolution = Resolution::Succeed { result: Some(raw("3")) };
        let (tenant, id, token) = (delivery.tenant.clone(), delivery.id, delivery.token.clone());
        let (progress, logs, growth) = (None, Vec::new(), None);
        let settle = Settle {
            tenant,
            id,
            token,
            resolution,
            record: Some(record),
            progress,
            logs,
            growth,
            blobs: Default::default(),
        };
        self.broker.settle(&[settle], None).await.unwrap();
        id_of(&job)
    }

    async fn sums(&self, query: &str) -> Value {
        self.get(&format!("/v1/usage{query}")).await.ok(200)["items"].clone()
    }
}

#[tokio::test]
async fn sums_are_by_hour_task_or_all_and_exact() {
    let app = TestApp::with_tasks().await;
    let large = (1 << 52) + 1;
    let id = app.uses("add", large).await;
    app.uses("add", 1).await;
    let sums = app.sums("?by=task").await;
    let sum = json!({
        "task": "add", "attempts": 2, "succeeded": 2, "failed": 0, "retried": 0, "other": 0, "lost": 0,
        "fuel": large + 1, "cpu_us": 6, "duration_us": 14, "memory_kib_ms": 0, "http_requests": 0, "http_bytes_out": 0,
        "http_bytes_in": 0, "kv_operations": 4, "blob_bytes_read": 0, "blob_bytes_written": 0,
    });
    assert_eq!(sums, json!([sum]));
    let total = app.sums("?by=total").await;
    assert_eq!(
        (&total[0]["fuel"], &total[0]["task"], &total[0]["hour"]),
        (&json!(large + 1), &Value::Null, &Value::Null)
    );
    let hours = app.get("/v1/usage").await.ok(200);
    assert_eq!((&hours["items"][0]["attempts"], &hours["next_cursor"]), (&json!(2), &Value::Null));
    let (hour, from) = (hours["items"][0]["hour"].as_str().unwrap(), hours["from"].as_str().unwrap());
    assert!(hour.ends_with(":00:00.000Z") && from < hour, "{hours}");
    // The hour that is asked for is there as a whole.
    assert_eq!(app.sums(&format!("?from={hour}&to={hour}")).await[0]["attempts"], 2);
    assert_eq!(app.sums("?to=2020-01-01T00:00:00Z").await, json!([]));
    assert_eq!(
        (app.sums("?task=add").await[0]["attempts"].clone(), app.sums("?task=mul").await),
        (json!(2), json!([]))
    );
    assert_eq!(app.sums("?since=10m&by=total").await[0]["attempts"], 2);
    let attempt = &app.get(&format!("/v1/jobs/{id}")).await.ok(200)["history"][0];
    let numbers = [&attempt["fuel"], &attempt["cpu_us"], &attempt["kv_operations"], &attempt["http_requests"]];
    assert_eq!(numbers, [&json!(large), &json!(3), &json!(2), &Value::Null], "zeros are left out");
}

#[tokio::test]
async fn only_operators_see_what_others_used() {
    let app = TestApp::with_tasks().await;
    app.uses("add", 5).await;
    let operator = token_of(&*app.broker, "other", true).await;
    let other = app.other_tenant().await;
    let ask = async |token: &str, path: &str| {
        let request = Request::builder().uri(path).header("authorization", format!("Bearer {token}"));
        app.send(request.body(Body::empty()).unwrap()).await
    };
    let seen = ask(&operator, "/v1/tenants/t1/usage?by=total").await.ok(200);
    assert_eq!(seen["items"][0]["fuel"], 5);
    ask(&other, "/v1/tenants/t1/usage?by=total").await.problem(403, "operator_needed");
    assert_eq!(ask(&other, "/v1/usage?by=total").await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn a_query_that_makes_no_sense_names_its_part() {
    let app = TestApp::new().await;
    for (query, part) in [
        ("by=minute", "by"),
        ("task=%20", "task"),
        ("from=yesterday", "from"),
        ("to=7", "to"),
        ("since=7", "since"),
        ("since=1h&from=2026-01-01T00:00:00Z", "from"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "from"),
        ("limit=0", "limit"),
    ] {
        let problem = app.get(&format!("/v1/usage?{query}")).await.problem(400, "invalid_query");
        assert!(problem["detail"].as_str().unwrap().contains(part), "{query}: {problem}");
    }
    app.get("/v1/usage?by=hour&cursor=eA").await.problem(400, "invalid_cursor");
}
