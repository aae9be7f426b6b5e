//! Many submissions in one request.

use axum::body::Body;
use bytes::Bytes;
use serde_json::{Value, json};
use umbel_api::ApiConfig;

use crate::app::{Answer, Builder, TestApp, example_module, module_with};

#[track_caller]
fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.bytes));
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let text = std::str::from_utf8(&answer.bytes).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn each_line_is_answered_in_order() {
    let app = TestApp::with_tasks().await;
    let body = [
        r#"{"task":"add","args":[1]}"#,
        r#"{"task":"add","args":["x"]}"#,
        "",
        r#"{"task":"nope"}"#,
        "oops",
        r#" {"task":"echo","kwargs":{"value":[null]},"options":{"priority":9}} "#,
        r#"{"task":"add","args":[1],"options":{"priority":99}}"#,
    ];
    let answers = lines(&app.batch(&body.join("\r\n")).await);
    let code = |n: usize| answers[n]["error"]["code"].as_str().unwrap();
    assert_eq!(answers.len(), 6);
    assert_eq!(code(1), "invalid_arguments");
    assert_eq!(answers[1]["error"]["errors"][0]["pointer"], "/args/0");
    assert_eq!((code(2), code(3), code(5)), ("task_not_found", "invalid_json", "invalid_policy"));
    let job = app.get(&format!("/v1/jobs/{}", answers[4]["id"].as_str().unwrap())).await.ok(200);
    assert_eq!((&job["priority"], &job["arguments"]), (&json!(9), &json!({"value": [null]})));
    app.get(&format!("/v1/jobs/{}", answers[0]["id"].as_str().unwrap())).await.ok(200);
}

#[tokio::test]
async fn thousands_of_lines_cross_chunks_and_network_reads_in_order() {
    let app = TestApp::with_tasks().await;
    let text: String = (0..2_345).map(|n| format!("{{\"task\":\"add\",\"args\":[{n}]}}\n")).collect();
    let pieces: Vec<_> =
        text.as_bytes().chunks(1_013).map(|c| Ok::<_, std::io::Error>(Bytes::copy_from_slice(c))).collect();
    let request = app.request("POST", "/v1/jobs/batch").header("content-type", "application/x-ndjson");
    let body = Body::from_stream(futures::stream::iter(pieces));
    let answers = lines(&app.send(request.body(body).unwrap()).await);
    assert_eq!(answers.len(), 2_345);
    let ids: Vec<&str> = answers.iter().map(|a| a["id"].as_str().unwrap()).collect();
    assert!(ids.is_sorted_by(|a, b| a < b));
    for at in [0, 499, 500, 2_344] {
        let job = app.get(&format!("/v1/jobs/{}", ids[at])).await.ok(200);
        assert_eq!(job["arguments"]["x"], at);
    }
}

#[tokio::test]
async fn a_line_may_have_an_idempotency_key() {
    let app = TestApp::with_tasks().await;
    let line = |n: u8| format!(r#"{{"task":"add","args":[{n}],"options":{{"idempotency_key":"k"}}}}"#);
    let answers = lines(&app.batch(&[line(1), line(1), line(2)].join("\n")).await);
    assert_eq!(answers[0]["id"], answers[1]["id"]);
    assert_eq!(answers[1]["replayed"], true);
    assert_eq!(answers[2]["error"]["code"], "idempotency_conflict");
    let request = app.request("POST", "/v1/jobs/batch").header("content-type", "application/x-ndjson");
    let request = request.header("idempotency-key", "k").body(Body::from(line(1))).unwrap();
    app.send(request).await.problem(400, "invalid_header");
}

#[tokio::test]
async fn limits_on_lines_and_bytes_keep_what_was_stored() {
    let config = ApiConfig { max_batch_lines: 3, max_batch_bytes: 1_000, max_body_bytes: 200, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    let line = "{\"task\":\"add\",\"args\":[1]}\n";
    let answers = lines(&app.batch(&line.repeat(5)).await);
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[3]["error"]["code"], "too_many_lines");
    assert!(answers[..3].iter().all(|a| a["id"].is_string()));
    app.batch(&" ".repeat(1_001)).await.problem(413, "body_too_large");
    let long = format!("{line}{}", "x".repeat(500));
    let answers = lines(&app.batch(&long).await);
    assert!(answers[0]["id"].is_string());
    assert_eq!(answers[1]["error"]["code"], "body_too_large");
}

#[tokio::test]
async fn a_body_that_breaks_off_says_so_after_what_was_stored() {
    let app = TestApp::with_tasks().await;
    let pieces =
        [Ok(Bytes::from_static(b"{\"task\":\"add\",\"args\":[1]}\n{\"ta")), Err(std::io::Error::other("gone"))];
    let request = app.request("POST", "/v1/jobs/batch").header("content-type", "application/x-ndjson");
    let body = Body::from_stream(futures::stream::iter(pieces));
    let answers = lines(&app.send(request.body(body).unwrap()).await);
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[1]["error"]["code"], "body_unreadable");
}

#[tokio::test]
async fn a_batch_sees_the_deploy_that_came_before_it() {
    let app = TestApp::with_tasks().await;
    lines(&app.batch(r#"{"task":"add","args":[1]}"#).await);
    let digest = app.push(&module_with("two")).await.ok(201)["digest"].clone();
    let answers = lines(&app.batch(r#"{"task":"add","args":[1]}"#).await);
    let job = app.get(&format!("/v1/jobs/{}", answers[0]["id"].as_str().unwrap())).await.ok(200);
    assert_eq!(job["digest"], digest);
}

#[tokio::test]
async fn an_empty_batch_is_answered_with_nothing() {
    let app = TestApp::with_tasks().await;
    assert!(lines(&app.batch("\n\n").await).is_empty());
    app.post("/v1/jobs/batch", "{}").await.problem(415, "unsupported_media_type");
}

/// Not a test: prints how fast lines are taken, with the in-memory broker's own time in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn the_rate_of_a_batch() {
    let app = TestApp::with_tasks().await;
    for line in [r#"{"task":"echo","args":[{"order_id":1}]}"#, r#"{"task":"add","kwargs":{"x":1}}"#] {
        let text = format!("{line}\n").repeat(20_000);
        let started = std::time::Instant::now();
        let answer = app.batch(&text).await;
        assert_eq!(answer.bytes.iter().filter(|b| **b == b'\n').count(), 20_000);
        println!("{:.0} lines/s: {line}", 20_000.0 / started.elapsed().as_secs_f64());
    }
}
