//! Queues and workers.

use serde_json::json;
use umbel_broker::WorkerInfo;
use umbel_model::{QueueName, Resolution, WorkerId};

use crate::app::{Answer, TestApp};

#[tokio::test]
async fn depths_are_shown_and_a_queue_can_be_paused_and_resumed() {
    let app = TestApp::with_tasks().await;
    app.submit_add(json!({})).await;
    app.submit_add(json!({"countdown_ms": 60_000})).await;
    let nothing = json!({
        "paused": false, "rate_limit": null, "rate_burst": null, "concurrency": null, "exclusive": false, "operator": null,
    });
    let expected = json!({
        "name": "default", "queued": 1, "running": 0, "delayed": 1, "dead": 0, "paused": false, "control": nothing,
    });
    let mut items = app.get("/v1/queues").await.ok(200)["items"].clone();
    let age = items[0].as_object_mut().unwrap().remove("oldest_ready_age_ms").unwrap();
    assert!(age.as_u64().unwrap() < 60_000);
    assert_eq!(items, json!([expected]));
    assert_eq!(app.post("/v1/queues/default/pause", "").await.ok(200)["paused"], true);
    assert!(app.try_claim().await.is_none());
    assert_eq!(app.post("/v1/queues/default/resume", "").await.ok(200)["paused"], false);
    assert!(app.try_claim().await.is_some());
}

#[tokio::test]
async fn a_queue_that_nobody_used_is_not_found() {
    let app = TestApp::new().await;
    app.post("/v1/queues/nope/purge", "").await.problem(404, "queue_not_found");
    app.post("/v1/queues/a%20b/resume", "").await.problem(404, "queue_not_found");
    // One that is to be paused need not have had a job.
    assert_eq!(app.post("/v1/queues/early/pause", "").await.ok(200)["paused"], true);
}

async fn delete(app: &TestApp) -> Answer {
    app.with_headers("DELETE", "/v1/queues/default", &[], "").await
}

#[tokio::test]
async fn an_empty_queue_can_be_deleted() {
    let app = TestApp::with_tasks().await;
    app.submit_add(json!({})).await;
    delete(&app).await.problem(409, "queue_not_empty");
    let delivery = app.claim().await;
    app.settle(&delivery, Resolution::Succeed { result: None }).await;
    assert_eq!(delete(&app).await.status, 204);
    assert_eq!(app.get("/v1/queues").await.ok(200)["items"], json!([]));
    delete(&app).await.problem(404, "queue_not_found");
    // What has ended is still there, and so is the queue with the next job.
    app.get(&format!("/v1/jobs/{}", delivery.id)).await.ok(200);
    app.submit_add(json!({})).await;
    assert_eq!(app.get("/v1/queues").await.ok(200)["items"][0]["queued"], 1);
}

#[tokio::test]
async fn workers_that_are_alive_are_listed() {
    let app = TestApp::new().await;
    let worker = WorkerInfo {
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
        leases: 2,
        min_slots: 0,
        max_slots: 0,
        exclude: Vec::new(),
        order: 0,
    };
    app.broker.heartbeat(&worker).await.unwrap();
    let item = app.get("/v1/workers").await.ok(200)["items"][0].clone();
    assert_eq!((&item["id"], &item["queues"]), (&json!("w1"), &json!(["default"])));
    assert_eq!(item["started_at"], "1970-01-01T00:00:00.000Z");
}
