//! The dead set.

use serde_json::json;

use crate::app::{TestApp, id_of, module_with};

#[tokio::test]
async fn a_dead_job_is_listed_and_redriven_once() {
    let app = TestApp::with_tasks().await;
    let id = app.dead_job().await;
    let dead = app.get("/v1/dead").await.ok(200);
    assert_eq!(id_of(&dead["items"][0]), id);
    assert_eq!(dead["items"][0]["error"]["kind"], "Void");
    let new = app.post(&format!("/v1/dead/{id}/redrive"), "").await.ok(202);
    assert_eq!(new["redrive_of"], id);
    assert_eq!(new["arguments"], json!({"x": 1, "y": 2}));
    app.post(&format!("/v1/dead/{id}/redrive"), "").await.problem(409, "not_dead");
    assert_eq!(app.get("/v1/dead").await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn a_failed_job_is_retried_with_its_own_module_or_with_that_of_now() {
    let app = TestApp::with_tasks().await;
    let (own, now) = (app.dead_job().await, app.dead_job().await);
    let old = app.get(&format!("/v1/jobs/{own}")).await.ok(200)["digest"].clone();
    app.push(&module_with("Another text.")).await.ok(201);
    let new = app.get("/v1/tasks/add").await.ok(200)["digest"].clone();
    assert_ne!(old, new);
    let retry = async |id: &str, body: serde_json::Value| app.post(&format!("/v1/jobs/{id}/retry"), body).await;
    assert_eq!(retry(&own, json!({})).await.ok(202)["digest"], old);
    assert_eq!(retry(&now, json!({"digest": "current"})).await.ok(202)["digest"], new);
    let waiting = app.submit_add(json!({"countdown_ms": 60_000})).await;
    retry(&waiting, json!({"digest": "current"})).await.problem(409, "job_not_waiting");
    retry(&waiting, json!({"digest": "newest"})).await.problem(422, "invalid_body");
}

#[tokio::test]
async fn a_job_that_did_not_fail_cannot_be_redriven() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    let problem = app.post(&format!("/v1/dead/{id}/redrive"), "").await.problem(409, "not_dead");
    assert!(problem["detail"].as_str().unwrap().contains("is queued"), "{problem}");
}

#[tokio::test]
async fn all_dead_jobs_are_redriven_up_to_a_maximum() {
    let app = TestApp::with_tasks().await;
    for _ in 0..5 {
        app.dead_job().await;
    }
    let some = app.post("/v1/dead/redrive", json!({"all": true, "max": 3})).await.ok(200);
    assert_eq!((some["items"].as_array().unwrap().len(), &some["more"]), (3, &json!(true)));
    let rest = app.post("/v1/dead/redrive", json!({"all": true})).await.ok(200);
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["more"]), (2, &json!(false)));
}

#[tokio::test]
async fn chosen_dead_jobs_are_redriven_and_the_others_are_named() {
    let app = TestApp::with_tasks().await;
    let (one, two) = (app.dead_job().await, app.dead_job().await);
    let queued = app.submit_add(json!({})).await;
    let unknown = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let answer = app.post("/v1/dead/redrive", json!({"ids": [one, two, queued, unknown]})).await.ok(200);
    assert_eq!(answer["items"].as_array().unwrap().len(), 2);
    let refused = json!([{"id": queued, "code": "not_dead"}, {"id": unknown, "code": "job_not_found"}]);
    assert_eq!(answer["refused"], refused);
}

#[tokio::test]
async fn a_redrive_that_says_nothing_or_both_is_refused() {
    let app = TestApp::new().await;
    for body in [
        json!({}),
        json!({"all": true, "ids": ["01ARZ3NDEKTSV4RRFFQ69G5FAV"]}),
        json!({"all": true, "max": 0}),
        json!({"all": true, "max": 10_001}),
        json!({"ids": ["x"]}),
        json!({"every": true}),
    ] {
        app.post("/v1/dead/redrive", body).await.problem(422, "invalid_body");
    }
}
