//! What callers see of a broker or a store that fails.

use axum::http::Request;
use serde_json::json;
use umbel_broker::Error;

use crate::{
    app::{Builder, TestApp, example_module},
    broken::Broken,
};

async fn with(error: Error) -> (TestApp, std::sync::Arc<Broken>) {
    let broker = Broken::shared();
    let app = Builder { broker: Some(broker.clone()), ..Default::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    broker.fail(error);
    (app, broker)
}

#[tokio::test]
async fn a_broker_that_is_down_is_503_and_the_server_recovers() {
    let (app, broker) = with(Error::Unavailable("secret-host:6379".into())).await;
    for path in ["/v1/jobs", "/v1/tasks", "/v1/queues", "/v1/workers", "/v1/dead", "/readyz"] {
        let answer = app.get(path).await;
        assert_eq!(answer.header("retry-after"), "1");
        let problem = answer.problem(503, "broker_unavailable");
        assert!(problem["retryable"].as_bool().unwrap() && !problem.to_string().contains("secret"));
    }
    app.send(Request::builder().uri("/livez").body(axum::body::Body::empty()).unwrap()).await.ok(200);
    broker.heal();
    app.get("/readyz").await.ok(200);
    app.submit_add(json!({})).await;
}

#[tokio::test]
async fn a_stored_job_is_answered_by_its_id_when_it_cannot_be_read_back() {
    let (app, broker) = with(Error::Unavailable("x".into())).await;
    broker.heal();
    *broker.fail_after_submit.lock().unwrap() = Some(Error::Unavailable("x".into()));
    let answer = app.post("/v1/jobs", json!({"task": "add", "args": [1]})).await;
    let location = answer.header("location").to_owned();
    let stored = answer.ok(202);
    broker.heal();
    let id = stored["id"].as_str().unwrap();
    assert_eq!(location, format!("/v1/jobs/{id}"));
    app.get(&location).await.ok(200);
}

#[tokio::test]
async fn a_full_broker_is_507_and_a_damaged_record_500() {
    let (app, broker) = with(Error::Full("disk".into())).await;
    app.post("/v1/jobs", json!({"task": "add", "args": [1]})).await.problem(507, "broker_full");
    broker.fail(Error::Corrupt("x".into()));
    app.get("/v1/jobs").await.problem(500, "record_unreadable");
    broker.fail(Error::Refused("maxmemory-policy".into()));
    app.get("/readyz").await.problem(503, "broker_refused");
}

#[tokio::test]
async fn a_batch_names_the_failure_on_each_line_after_it() {
    let (app, broker) = with(Error::Unavailable("x".into())).await;
    broker.heal();
    // The task and the token are in their caches now; the failure meets the submission itself.
    app.submit_add(json!({})).await;
    broker.fail(Error::Unavailable("x".into()));
    let answer = app.batch(&"{\"task\":\"add\",\"args\":[1]}\n".repeat(1_200)).await;
    let text = String::from_utf8(answer.bytes.to_vec()).unwrap();
    assert_eq!(text.lines().count(), 1_200);
    assert!(text.lines().all(|line| line.contains("broker_unavailable")), "{}", text.lines().next().unwrap());
}

#[tokio::test]
async fn a_store_that_cannot_be_written_refuses_the_push_and_serves_the_rest() {
    let app = TestApp::new().await;
    // A file where the store wants a folder: works for root, whom permissions do not stop.
    std::fs::remove_dir_all(app.folder.path()).unwrap();
    std::fs::write(app.folder.path(), b"").unwrap();
    let answer = app.push(&example_module()).await;
    assert!(answer.status.is_server_error());
    let problem = answer.json();
    assert!(problem["code"].as_str().unwrap().starts_with("storage_"), "{problem}");
    assert!(!problem.to_string().contains(&*app.folder.path().to_string_lossy()), "paths stay in the log");
    assert_eq!(app.get("/v1/modules").await.ok(200)["items"], json!([]));
    std::fs::remove_file(app.folder.path()).unwrap();
    std::fs::create_dir_all(app.folder.path()).unwrap();
    app.push(&example_module()).await.ok(201);
}

#[tokio::test]
async fn a_batch_is_stored_in_steps_of_few_bytes() {
    let broker = Broken::shared();
    let app = Builder { broker: Some(broker.clone()), ..Default::default() }.build().await;
    app.push(&example_module()).await.ok(201);
    let line = json!({"task": "echo", "args": ["x".repeat(60_000)]}).to_string();
    let answer = app.batch(&vec![line; 200].join("\n")).await;
    assert_eq!(answer.bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count(), 200);
    let steps = broker.submitted_bytes.lock().unwrap().clone();
    assert!(steps.len() == 3 && steps.iter().all(|bytes| *bytes < 5 << 20), "{steps:?}");
}
