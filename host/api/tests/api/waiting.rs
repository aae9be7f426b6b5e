//! Waiting for a job to end.

use std::time::{Duration, Instant};

use serde_json::json;
use umbel_api::ApiConfig;
use umbel_model::Resolution;

use crate::app::{Builder, TestApp, example_module, id_of, raw};

#[tokio::test]
async fn a_submission_that_waits_is_answered_when_the_job_ends() {
    let app = TestApp::with_tasks().await;
    let submission = app.post("/v1/jobs?wait=30s", json!({"task": "add", "args": [1]}));
    let worker = async {
        let mut work = app.broker.signals(umbel_broker::Topic::Work).await.unwrap();
        let delivery = loop {
            match app.try_claim().await {
                Some(delivery) => break delivery,
                None => drop(work.recv().await),
            }
        };
        app.settle(&delivery, Resolution::Succeed { result: Some(raw("3")) }).await;
    };
    let started = Instant::now();
    let (answer, ()) = tokio::join!(submission, worker);
    let job = answer.ok(200);
    assert_eq!((&job["state"], &job["result"]), (&json!("succeeded"), &json!(3)));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_wait_that_is_over_answers_with_the_job_as_it_stands() {
    let app = TestApp::with_tasks().await;
    let job = app.post("/v1/jobs?wait=20ms", json!({"task": "add", "args": [1]})).await.ok(202);
    assert_eq!(job["state"], "queued");
    let shown = app.get(&format!("/v1/jobs/{}?wait=20ms", id_of(&job))).await.ok(200);
    assert_eq!(shown["state"], "queued");
}

#[tokio::test]
async fn a_wait_beyond_the_limit_is_refused() {
    let app = TestApp::with_tasks().await;
    for wait in ["61s", "10", "-1s", "1y", ""] {
        let answer = app.post(&format!("/v1/jobs?wait={wait}"), json!({"task": "add", "args": [1]})).await;
        answer.problem(400, "invalid_query");
    }
}

#[tokio::test]
async fn waiting_for_an_ended_job_answers_at_once() {
    let app = TestApp::with_tasks().await;
    let id = app.dead_job().await;
    let started = Instant::now();
    assert_eq!(app.get(&format!("/v1/jobs/{id}?wait=60s")).await.ok(200)["state"], "failed");
    assert!(started.elapsed() < Duration::from_secs(10));
}

async fn limited(config: ApiConfig) -> TestApp {
    let app = Builder { config, ..Default::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    app
}

#[tokio::test]
async fn a_request_that_waits_leaves_its_place_to_others() {
    let config = ApiConfig { max_tenant_in_flight: 1, tenant_reserved_in_flight: 0, ..Default::default() };
    let app = std::sync::Arc::new(limited(config).await);
    let id = app.submit_add(json!({})).await;
    let (waits, path) = (app.clone(), format!("/v1/jobs/{id}?wait=50s"));
    let waiting = tokio::spawn(async move { waits.get(&path).await });
    // Refused only until the other one has begun to wait.
    while app.get("/v1/queues").await.status != 200 {
        tokio::task::yield_now().await;
    }
    app.post(&format!("/v1/jobs/{id}/cancel"), "").await.ok(200);
    assert_eq!(waiting.await.unwrap().ok(200)["state"], "revoked");
}

#[tokio::test]
async fn a_submission_is_stored_when_no_more_requests_may_wait() {
    let app = limited(ApiConfig { max_tenant_waits: 0, ..Default::default() }).await;
    let started = Instant::now();
    let job = app.post("/v1/jobs?wait=50s", json!({"task": "add", "args": [1]})).await.ok(202);
    let canvas = json!({"canvas": {"task": "add", "args": [1]}});
    app.post("/v1/workflows?wait=50s", canvas).await.ok(202);
    assert!(started.elapsed() < Duration::from_secs(40), "neither waited");
    let refused = app.get(&format!("/v1/jobs/{}?wait=50s", id_of(&job))).await;
    assert_eq!(refused.header("retry-after"), "1");
    refused.problem(429, "too_many_requests");
    app.get(&format!("/v1/jobs/{}", id_of(&job))).await.ok(200);
}
