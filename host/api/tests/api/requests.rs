//! What holds for every request.

use axum::body::Body;
use umbel_api::ApiConfig;

use crate::app::{Builder, TestApp};

#[tokio::test]
async fn an_unknown_path_and_a_wrong_method_are_problems() {
    let app = TestApp::new().await;
    app.get("/v1/nope").await.problem(404, "route_not_found");
    app.get("/").await.problem(404, "route_not_found");
    let answer = app.with_headers("DELETE", "/v1/jobs", &[], "").await;
    assert_eq!(answer.header("allow"), "POST,GET,HEAD");
    answer.problem(405, "method_not_allowed");
    app.with_headers("BREW", "/v1/queues", &[], "").await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn every_answer_names_its_request() {
    let app = TestApp::new().await;
    let named = app.with_headers("GET", "/v1/queues", &[("x-request-id", "abc-1")], "").await;
    assert_eq!(named.header("x-request-id"), "abc-1");
    for strange in ["a b", "<script>", &"x".repeat(100)] {
        let answer = app.with_headers("GET", "/v1/queues", &[("x-request-id", strange)], "").await;
        assert_eq!(answer.header("x-request-id").len(), 24);
    }
    assert_ne!(app.get("/version").await.header("x-request-id"), app.get("/version").await.header("x-request-id"));
}

#[tokio::test]
async fn a_body_without_its_media_type_is_refused() {
    let app = TestApp::with_tasks().await;
    let request = app.request("POST", "/v1/jobs").header("content-type", "application/x-www-form-urlencoded");
    app.send(request.body(Body::from("{}")).unwrap()).await.problem(415, "unsupported_media_type");
    let request = app.request("POST", "/v1/jobs").body(Body::from("{}")).unwrap();
    app.send(request).await.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_long_address_is_refused() {
    let app = TestApp::new().await;
    app.get(&format!("/v1/jobs?task={}", "x".repeat(9_000))).await.problem(414, "uri_too_long");
}

#[tokio::test]
async fn a_panic_is_a_problem_and_the_server_goes_on() {
    let app = TestApp::new().await;
    app.push("panic").await.problem(500, "internal");
    app.get("/v1/queues").await.ok(200);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_turned_away() {
    let config = ApiConfig { max_in_flight: 0, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    let answer = app.get("/v1/queues").await;
    assert_eq!(answer.header("retry-after"), "1");
    answer.problem(503, "overloaded");
    app.get("/livez").await.ok(200);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_given_up() {
    let config = ApiConfig { request_timeout_ms: 50, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    app.push(&crate::app::example_module()).await.ok(201);
    let body = serde_json::json!({"task": "add", "args": [1]});
    app.post("/v1/jobs?wait=50s", body).await.problem(503, "request_timeout");
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up() {
    let config = ApiConfig { body_idle_ms: 50, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    let body = Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let request = app.request("POST", "/v1/jobs").header("content-type", "application/json");
    app.send(request.body(body).unwrap()).await.problem(400, "body_unreadable");
}

#[tokio::test]
async fn body_that_is_not_utf8_is_refused() {
    let app = TestApp::with_tasks().await;
    let request = app.request("POST", "/v1/jobs").header("content-type", "application/json");
    let request = request.body(Body::from(&b"{\"task\":\"\xff\"}"[..])).unwrap();
    app.send(request).await.problem(400, "invalid_json");
}
