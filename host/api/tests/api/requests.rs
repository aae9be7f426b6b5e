//! What holds for every request.

use std::sync::atomic::{AtomicUsize, Ordering};

use axum::{body::Body, http::Request};
use futures::future::join_all;
use umbel_api::ApiConfig;

use crate::{
    app::{Builder, TestApp},
    broken::Broken,
};

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
    let config = ApiConfig { max_in_flight: 0, reserved_in_flight: 0, ..Default::default() };
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

#[tokio::test]
async fn one_tenants_requests_leave_places_for_another() {
    let config = ApiConfig { max_tenant_in_flight: 0, tenant_reserved_in_flight: 0, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    let answer = app.get("/v1/queues").await;
    assert_eq!(answer.header("retry-after"), "1");
    answer.problem(429, "too_many_requests");
    app.get("/livez").await.ok(200);
}

#[tokio::test]
async fn a_stranger_that_sends_slowly_takes_no_place() {
    let config = ApiConfig { max_in_flight: 1, ..Default::default() };
    let app = std::sync::Arc::new(Builder { config, ..Default::default() }.build().await);
    let (polled, mut was_polled) = tokio::sync::mpsc::unbounded_channel();
    let body = Body::from_stream(futures::stream::poll_fn(move |_| {
        let _ = polled.send(());
        std::task::Poll::<Option<Result<bytes::Bytes, std::io::Error>>>::Pending
    }));
    let request = axum::http::Request::builder().method("POST").uri("/v1/jobs").body(body).unwrap();
    let stranger = app.clone();
    let stranger = tokio::spawn(async move { stranger.send(request).await });
    was_polled.recv().await.unwrap();
    app.get("/v1/queues").await.ok(200);
    stranger.await.unwrap().problem(401, "missing_token");
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up() {
    let config = ApiConfig { body_grace_ms: 50, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    for (path, media_type) in [
        ("/v1/jobs", "application/json"),
        ("/v1/jobs/batch", "application/x-ndjson"),
        ("/v1/modules", "application/wasm"),
    ] {
        let mut ticks = tokio::time::interval(std::time::Duration::from_millis(5));
        let trickle = futures::stream::poll_fn(move |context| {
            ticks.poll_tick(context).map(|_| Some(Ok::<_, std::io::Error>(bytes::Bytes::from_static(b" "))))
        });
        let request = app.request("POST", path).header("content-type", media_type);
        let answer = app.send(request.body(Body::from_stream(trickle)).unwrap()).await;
        answer.problem(408, "body_too_slow");
    }
}

#[tokio::test]
async fn a_parameter_that_a_route_does_not_know_is_refused_before_anything_is_done() {
    let app = TestApp::with_tasks().await;
    app.submit_add(serde_json::json!({})).await;
    let purge = app.post("/v1/queues/default/purge?dry_run=true", "").await.problem(400, "invalid_query");
    assert_eq!(purge["detail"], "there is no parameter `dry_run`; this route takes no parameters");
    assert_eq!(app.get("/v1/queues").await.ok(200)["items"][0]["queued"], 1);
    let tenant = app.with_headers("PATCH", "/v1/tenant?tenant=t2", &[], r#"{"paused":true}"#).await;
    tenant.problem(400, "invalid_query");
    assert_eq!(app.get("/v1/tenant").await.ok(200)["paused"], false);
}

/// Every route of the document, called with a parameter that none has.
#[tokio::test]
async fn every_route_refuses_an_unknown_parameter() {
    let app = TestApp::new().await;
    let document = umbel_api::openapi();
    let mut refused = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "put", "post", "delete", "patch"].iter().filter(|method| item.get(**method).is_some()) {
            let path = path.replace("{id}", "x").replace("{name}", "x").replace("{digest}", "x");
            let answer = app.with_headers(&method.to_uppercase(), &format!("{path}?nobody_knows=1"), &[], "").await;
            answer.problem(400, "invalid_query");
            refused += 1;
        }
    }
    assert!(refused > 50, "{refused}");
}

/// Reads no more of an answer than its head.
async fn head_of(app: &TestApp, path: &str) -> axum::response::Response {
    use tower::ServiceExt as _;
    app.router.clone().oneshot(app.request("GET", path).body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_large_answer_holds_its_place_until_its_reader_has_it() {
    let config = ApiConfig { max_tenant_in_flight: 1, tenant_reserved_in_flight: 0, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    app.push(&crate::app::module_with(&"x".repeat(16_000))).await.ok(201);
    app.push(&crate::app::example_module()).await.ok(201);
    let held = head_of(&app, "/v1/openapi.json").await;
    assert_eq!(held.status(), 200);
    app.get("/v1/queues").await.problem(429, "too_many_requests");
    let whole = axum::body::to_bytes(held.into_body(), usize::MAX).await.unwrap();
    assert!(whole.len() > 16 << 10);
    app.get("/v1/queues").await.ok(200);
}

#[tokio::test]
async fn the_bytes_of_answers_of_a_tenant_that_nobody_reads_have_a_limit() {
    let config = ApiConfig { max_tenant_answer_bytes: 0, permit_wait_ms: 20, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    let mut held = Vec::new();
    let refused = loop {
        let answer = head_of(&app, "/v1/openapi.json").await;
        if answer.status() != 200 {
            break answer.status();
        }
        held.push(answer);
        assert!(held.len() < 20, "there is room for a megabyte of small answers");
    };
    assert_eq!(refused, 503);
    let other = app.other_tenant().await;
    let request =
        axum::http::Request::builder().uri("/v1/openapi.json").header("authorization", format!("Bearer {other}"));
    assert_eq!(app.send(request.body(Body::empty()).unwrap()).await.status, 200);
    drop(held);
    assert_eq!(head_of(&app, "/v1/openapi.json").await.status(), 200);
}

#[tokio::test]
async fn bodies_of_a_tenant_that_come_slowly_have_a_limit_of_bytes_together() {
    let config = ApiConfig { max_tenant_bodies_bytes: 0, permit_wait_ms: 20, ..Default::default() };
    let app = std::sync::Arc::new(Builder { config, ..Default::default() }.build().await);
    app.push(&crate::app::example_module()).await.ok(201);
    let (polled, mut was_polled) = tokio::sync::mpsc::unbounded_channel();
    // All of the room for small bodies: no length is declared, so it may be as long as one can be.
    let body = Body::from_stream(futures::stream::poll_fn(move |_| {
        let _ = polled.send(());
        std::task::Poll::<Option<Result<bytes::Bytes, std::io::Error>>>::Pending
    }));
    let request = app.request("POST", "/v1/jobs").header("content-type", "application/json").body(body).unwrap();
    let slow = app.clone();
    let slow = tokio::spawn(async move { slow.send(request).await });
    was_polled.recv().await.unwrap();
    let submit = |bytes: usize| serde_json::json!({"task": "echo", "args": ["x".repeat(bytes)]}).to_string();
    let length = |body: &str| body.len().to_string();
    let large = submit(100_000);
    let answer = app.with_headers("POST", "/v1/jobs", &[("content-length", &length(&large))], &large).await;
    answer.problem(503, "overloaded");
    let small = submit(10);
    app.with_headers("POST", "/v1/jobs", &[("content-length", &length(&small))], &small).await.ok(202);
    slow.abort();
    assert!(slow.await.is_err());
    app.with_headers("POST", "/v1/jobs", &[("content-length", &length(&large))], &large).await.ok(202);
}

/// On one thread: whatever is done there delays everybody.
#[tokio::test]
async fn a_request_of_another_tenant_is_served_before_all_long_bodies_are_checked() {
    let app = TestApp::with_tasks().await;
    let others = app.other_tenant().await;
    let names: Vec<String> = (0..50_000).map(|i| format!("\"{i}\":0")).collect();
    let body = format!(r#"{{"task":"add","kwargs":{{{}}}}}"#, names.join(","));
    let answered = AtomicUsize::new(0);
    let long = join_all((0..10).map(|_| async {
        app.post("/v1/jobs", &body).await.problem(422, "invalid_body");
        answered.fetch_add(1, Ordering::SeqCst);
    }));
    let short = async {
        let request = Request::get("/v1/tenant").header("authorization", format!("Bearer {others}"));
        app.send(request.body(Body::empty()).unwrap()).await.ok(200);
        answered.load(Ordering::SeqCst)
    };
    let (_, before) = tokio::join!(long, short);
    assert!(before < 10, "{before} long bodies were checked before it");
}

#[tokio::test]
async fn lists_of_a_tenant_are_read_one_after_the_other_and_those_of_others_beside_them() {
    let broker = Broken::shared();
    let app = Builder { broker: Some(broker.clone()), ..Default::default() }.build().await;
    let others = app.other_tenant().await;
    let list = async |token: &str| {
        let request = Request::get("/v1/jobs").header("authorization", format!("Bearer {token}"));
        app.send(request.body(Body::empty()).unwrap()).await.ok(200);
    };
    join_all((0..10).map(|_| list(&app.token))).await;
    assert_eq!(broker.lists.lock().unwrap().1, 1);
    join_all((0..10).map(|i| list(if i % 2 == 0 { &app.token } else { &others }))).await;
    assert_eq!(broker.lists.lock().unwrap().1, 2);
}

#[tokio::test]
async fn a_tenant_that_uploads_large_modules_slowly_leaves_places_for_others() {
    let config = ApiConfig { max_uploads: 2, permit_wait_ms: 20, ..Default::default() };
    let app = std::sync::Arc::new(Builder { config, ..Default::default() }.build().await);
    let (polled, mut was_polled) = tokio::sync::mpsc::unbounded_channel();
    // No length is declared, so it may be a large one.
    let body = Body::from_stream(futures::stream::poll_fn(move |_| {
        let _ = polled.send(());
        std::task::Poll::<Option<Result<bytes::Bytes, std::io::Error>>>::Pending
    }));
    let push = |body| app.request("POST", "/v1/modules").header("content-type", "application/wasm").body(body).unwrap();
    let (slow, request) = (app.clone(), push(body));
    let slow = tokio::spawn(async move { slow.send(request).await });
    was_polled.recv().await.unwrap();
    let module = || {
        let pieces = [Ok::<_, std::io::Error>(bytes::Bytes::from(crate::app::example_module()))];
        Body::from_stream(futures::stream::iter(pieces))
    };
    app.send(push(module())).await.problem(503, "overloaded");
    let mut of_another = push(module());
    let token = format!("Bearer {}", app.other_tenant().await);
    of_another.headers_mut().insert("authorization", token.parse().unwrap());
    app.send(of_another).await.ok(201);
    slow.abort();
    assert!(slow.await.is_err());
}
