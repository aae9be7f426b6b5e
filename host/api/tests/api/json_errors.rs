//! What is said of a request that cannot be read: the field, in words for people.

use serde_json::{Value, json};

use crate::app::{Answer, TestApp};

/// What names the tools that we read with, and not what somebody wrote.
const NOISE: [&str; 9] =
    ["u8", "u32", "u64", "struct ", "untagged", "besides", "expected", "deserialize", "digit found"];

#[track_caller]
fn place(answer: Answer, code: &str) -> (String, String) {
    let problem = answer.problem(422, code);
    let error = &problem["errors"][0];
    let (pointer, detail) =
        (error["pointer"].as_str().unwrap_or_default(), error["detail"].as_str().unwrap_or_default());
    for text in [detail, problem["detail"].as_str().unwrap()] {
        assert!(!text.is_empty() && NOISE.iter().all(|noise| !text.contains(noise)), "{problem}");
    }
    (pointer.to_owned(), detail.to_owned())
}

async fn submit(app: &TestApp, options: Value) -> Answer {
    app.post("/v1/jobs", json!({"task": "add", "args": [1], "options": options})).await
}

#[tokio::test]
async fn an_option_of_a_wrong_type_is_named() {
    let app = TestApp::with_tasks().await;
    for (options, pointer) in [
        (json!({"max_retries": "x"}), "/options/max_retries"),
        (json!({"priority": -1}), "/options/priority"),
        (json!({"retry_backoff": 5}), "/options/retry_backoff"),
        (json!({"retry_backoff": {"max_ms": "1s"}}), "/options/retry_backoff/max_ms"),
        (json!({"acks": "never"}), "/options/acks"),
        (json!({"acks": 1}), "/options/acks"),
        (json!({"queue": "a/b"}), "/options/queue"),
        (json!({"prioritty": 1}), "/options/prioritty"),
        (json!([]), "/options"),
    ] {
        assert_eq!(place(submit(&app, options.clone()).await, "invalid_body").0, pointer, "{options}");
    }
    let (_, detail) = place(submit(&app, json!({"prioritty": 1})).await, "invalid_body");
    assert!(detail.contains("`priority`") && detail.contains("`countdown_ms`"), "{detail}");
    assert_eq!(place(submit(&app, json!({"on_success": "mul"})).await, "invalid_canvas").0, "/options/on_success");
    let line = app.batch(r#"{"task":"add","args":[1],"options":{"max_retries":"x"}}"#).await;
    assert!(String::from_utf8_lossy(&line.bytes).contains("/options/max_retries"));
}

#[tokio::test]
async fn what_no_task_can_read_is_refused_with_its_place_at_every_entrance() {
    let app = TestApp::with_tasks().await;
    let dead = app.dead_job().await;
    let redrive = format!("/v1/dead/{dead}/redrive");
    for (path, body, pointer) in [
        ("/v1/jobs", r#"{"task":"echo","args":[{"a/b":1e400}]}"#, "/args/0/a~1b"),
        ("/v1/jobs", r#"{"task":"echo","args":["\ud83d"]}"#, "/args/0"),
        ("/v1/jobs", r#"{"task":"echo","kwargs":{"value":["\udc00x"]}}"#, "/kwargs/value/0"),
        ("/v1/jobs", r#"{"task":"echo","options":{"tags":["\ud83d"]}}"#, "/options/tags/0"),
        (
            "/v1/jobs",
            r#"{"task":"add","args":[1],"options":{"on_success":{"task":"echo","args":[-1e999]}}}"#,
            "/options/on_success/args/0",
        ),
        ("/v1/workflows", r#"{"canvas":{"chain":[{"task":"echo","map":["\ud83d"]}]}}"#, "/canvas/chain/0/map/0"),
        (&redrive, r#"{"policy":{"retry_on":["\ud83d"]}}"#, "/policy/retry_on/0"),
    ] {
        assert_eq!(place(app.post(path, body.to_owned()).await, "invalid_body").0, pointer, "{path} {body}");
    }
    let lines = app.batch("{\"task\":\"echo\",\"args\":[1e400]}\n{\"task\":\"echo\",\"args\":[1]}\n").await;
    let text = String::from_utf8_lossy(&lines.bytes).into_owned();
    let answers: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers[0]["error"]["errors"][0]["pointer"], "/args/0", "{text}");
    assert!(answers[1]["id"].is_string(), "{text}");
}

#[tokio::test]
async fn unique_jobs_are_told_apart_by_all_digits() {
    let app = TestApp::with_tasks().await;
    let submit = async |value: &str| {
        let body = format!(r#"{{"task":"echo","args":[{value}],"options":{{"unique":"first"}}}}"#);
        app.post("/v1/jobs", body).await.header("umbel-unique").to_owned()
    };
    for (first, second, known) in [
        ("100000000000000000000001", "100000000000000000000002", ""),
        ("0.12345678901234567890", "0.12345678901234567891", ""),
        (r#"{"x":1e300}"#, r#"{"x":1000.0e297}"#, "duplicate"),
        (r#"{"a":1,"b":"é"}"#, r#"{"b":"\u00e9","a":1.0}"#, "duplicate"),
    ] {
        assert_eq!((submit(first).await.as_str(), submit(second).await.as_str()), ("", known), "{first} {second}");
    }
}

#[tokio::test]
async fn a_field_of_a_body_that_is_wrong_is_named() {
    let app = TestApp::with_tasks().await;
    let dead = app.dead_job().await;
    let redrive = format!("/v1/dead/{dead}/redrive");
    for (path, body, pointer) in [
        ("/v1/jobs", json!({"task": 1}), "/task"),
        ("/v1/jobs", json!({"args": [1]}), "/task"),
        ("/v1/jobs", json!({"task": "add", "args": {"x": 1}}), "/args"),
        ("/v1/jobs", json!({"task": "add", "kwargs": [1]}), "/kwargs"),
        ("/v1/jobs", json!({"task": "add", "argz": [1]}), "/argz"),
        ("/v1/bulk", json!({"action": "cancel", "filter": {"state": "lost"}}), "/filter/state"),
        ("/v1/bulk", json!({"action": "cancel", "filter": {"state": ["queued", 1]}}), "/filter/state"),
        ("/v1/bulk", json!({"action": "cancel", "filter": []}), "/filter"),
        ("/v1/bulk", json!({"action": "destroy", "filter": {}}), "/action"),
        ("/v1/bulk", json!({"action": "redrive", "filter": {}, "policy": {"fuel": "x"}}), "/policy/fuel"),
        (&redrive, json!({"policy": {"max_retries": "x"}}), "/policy/max_retries"),
        (&redrive, json!({"digest": 3}), "/digest"),
    ] {
        assert_eq!(place(app.post(path, body.clone()).await, "invalid_body").0, pointer, "{path} {body}");
    }
    for (policy, pointer) in [
        (json!({"max_retries": "x"}), "/policy/max_retries"),
        (json!({"prio": null}), "/policy/prio"),
        (json!({"retry_backoff": {"jitter": 1}}), "/policy/retry_backoff/jitter"),
    ] {
        let answer = app.with_headers("PATCH", "/v1/tasks/add", &[], json!({"policy": policy})).await;
        assert_eq!(place(answer, "invalid_policy").0, pointer, "{policy}");
    }
}

#[tokio::test]
async fn a_body_is_an_object_and_no_list_of_its_fields() {
    let app = TestApp::with_tasks().await;
    for body in [json!(["add", [1, 2]]), json!([]), json!("add"), json!(null)] {
        for path in ["/v1/jobs", "/v1/bulk", "/v1/workflows", "/v1/tasks/add/deploy", "/v1/dead/redrive"] {
            let problem = app.post(path, body.to_string()).await.problem(422, "invalid_body");
            assert_eq!(problem["detail"], "send a JSON object", "{path} {body}");
        }
        let put = app.with_headers("PUT", "/v1/routes", &[], body.clone()).await;
        assert_eq!(put.problem(422, "invalid_body")["detail"], "send a JSON object");
        let line = app.batch(&body.to_string()).await;
        assert!(String::from_utf8_lossy(&line.bytes).contains("send a JSON object"), "{body}");
    }
    app.post("/v1/jobs", "[1").await.problem(400, "invalid_json");
}

#[tokio::test]
async fn a_query_that_cannot_be_read_says_the_parameter() {
    let app = TestApp::with_tasks().await;
    for (query, detail) in [
        ("limit=-1", "limit: write a whole number, 0 or more"),
        ("limit=", "limit: write a whole number, 0 or more"),
        ("limit=99999999999", "limit: the number is too large"),
    ] {
        let problem = app.get(&format!("/v1/tasks?{query}")).await.problem(400, "invalid_query");
        assert_eq!(problem["detail"], detail);
    }
    let problem = app.get("/v1/tasks?colour=1").await.problem(400, "invalid_query");
    assert_eq!(problem["detail"], "there is no parameter `colour`; there is `limit` or `cursor`");
}

#[tokio::test]
async fn a_key_of_a_parameter_that_is_not_there_is_refused_with_those_that_are() {
    let app = TestApp::with_tasks().await;
    let policy = async |policy: Value| app.with_headers("PATCH", "/v1/tasks/add", &[], json!({"policy": policy})).await;
    for (options, pointer) in [
        (json!({"unique": "first", "unique_by": ["kwargs.x", "kwargs.order_id"]}), "/unique_by/1"),
        (json!({"unique": "latest", "unique_by": ["args[7]"]}), "/unique_by/0"),
        (json!({"debounce_ms": 5, "unique_by": ["args.2"]}), "/unique_by/0"),
        (json!({"limit_key": "kwargs.z.id", "key_concurrency": 1}), "/limit_key"),
    ] {
        let (found, detail) = place(submit(&app, options.clone()).await, "invalid_option");
        assert_eq!(found, format!("/options{pointer}"), "{options}");
        assert!(detail.ends_with("names no parameter of the task: it has `x`, `y`"), "{detail}");
        let (found, _) = place(policy(options).await, "invalid_option");
        assert_eq!(found, format!("/policy{pointer}"));
    }
    let below = json!({"unique": "first", "unique_by": ["kwargs.x.id", "args[1][3]"], "limit_key": "kwargs.y.a"});
    submit(&app, below.clone()).await.ok(202);
    submit(&app, json!({"unique_by": ["kwargs.order_id"]})).await.ok(202);
    policy(below).await.ok(200);
    let canvas = json!({"canvas": {"task": "add", "args": [1], "options": {"limit_key": "args[2]"}}});
    let (found, _) = place(app.post("/v1/workflows", canvas).await, "invalid_option");
    assert_eq!(found, "/canvas/options/limit_key");
}

#[tokio::test]
async fn new_code_that_counts_by_a_parameter_which_is_not_there_is_not_deployed() {
    let app = TestApp::new().await;
    let task = json!({"name": "t", "parameters": [], "policy": {"limit_key": "kwargs.x"}});
    let warnings = app.push(&json!({"tasks": [task]}).to_string()).await.ok(201)["warnings"].clone();
    assert!(warnings[0].as_str().unwrap().contains("it has none"), "{warnings}");
}
