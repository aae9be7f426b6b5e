//! Pushing, listing and showing modules.

use base64::Engine as _;
use serde_json::{Value, json};
use umbel_broker::Limits;
use umbel_model::Digest;

use crate::app::{Builder, TestApp, example_module, module_with};

#[tokio::test]
async fn a_pushed_module_is_described_stored_and_deployed() {
    let app = TestApp::new().await;
    let answer = app.push(&example_module()).await;
    let digest = Digest::of(example_module().as_bytes()).to_string();
    assert_eq!(answer.header("etag"), format!("\"{digest}\""));
    assert_eq!(answer.header("location"), format!("/v1/modules/{digest}"));
    let module = answer.ok(201);
    assert_eq!(module["digest"], digest);
    assert_eq!(module["tasks"][0]["name"], "add");
    assert_eq!(module["tasks"][0]["parameters"][1]["default"], 2);
    assert_eq!(module["imports"], json!(["umbel:task/context@0.1.0"]));
    assert_eq!(module["warnings"], json!([]));
    assert_eq!(app.get("/v1/tasks/add").await.ok(200)["digest"], digest);
    let shown = app.get(&format!("/v1/modules/{digest}")).await.ok(200);
    assert_eq!(shown["tasks"], module["tasks"]);
    let listed = app.get("/v1/modules").await.ok(200);
    assert_eq!(listed["items"][0]["tasks"], json!(["add", "echo"]));
}

#[tokio::test]
async fn the_same_bytes_twice_are_one_module() {
    let app = TestApp::new().await;
    app.push(&example_module()).await.ok(201);
    let version = app.get("/v1/tasks/add").await.ok(200)["version"].clone();
    app.push(&example_module()).await.ok(200);
    assert_eq!(app.get("/v1/tasks/add").await.ok(200)["version"], version);
    assert_eq!(app.get("/v1/modules").await.ok(200)["items"].as_array().unwrap().len(), 1);
    let again = app.push_with("/v1/modules", &[("if-none-match", "*")], &example_module()).await;
    again.problem(412, "module_exists");
}

#[tokio::test]
async fn a_module_can_be_pushed_without_deploying_it() {
    let app = TestApp::new().await;
    app.push_with("/v1/modules?deploy=false", &[], &example_module()).await.ok(201);
    app.get("/v1/tasks/add").await.problem(404, "task_not_found");
}

#[tokio::test]
async fn a_refused_module_leaves_nothing_behind() {
    let app = TestApp::new().await;
    for code in ["not_wasm", "invalid_module", "no_contract", "unknown_import", "module_too_complex", "describe_failed"]
    {
        let problem = app.push(&format!("refuse {code}")).await.problem(422, code);
        assert_eq!(problem["detail"], format!("refused for {code}"));
    }
    app.push("refuse module_too_large").await.problem(413, "module_too_large");
    let problem = app.push("refuse compile_timeout").await.problem(503, "compile_timeout");
    assert_eq!(problem["retryable"], true);
    assert_eq!(app.get("/v1/modules").await.ok(200)["items"], json!([]));
    assert!(!app.folder.path().join("sha256").exists(), "no blob is stored");
}

#[tokio::test]
async fn a_module_over_the_size_limit_is_refused_declared_or_not() {
    let config = umbel_api::ApiConfig { max_module_bytes: 100, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    app.push(&"x".repeat(101)).await.problem(413, "module_too_large");
    let chunks = (0..11).map(|_| Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"0123456789")));
    let body = axum::body::Body::from_stream(futures::stream::iter(chunks));
    let request = app.request("POST", "/v1/modules").header("content-type", "application/wasm");
    app.send(request.body(body).unwrap()).await.problem(413, "module_too_large");
}

#[tokio::test]
async fn an_upload_that_breaks_off_stores_nothing() {
    let app = TestApp::new().await;
    let chunks = [Ok(bytes::Bytes::from_static(b"{")), Err(std::io::Error::other("gone"))];
    let body = axum::body::Body::from_stream(futures::stream::iter(chunks));
    let request = app.request("POST", "/v1/modules").header("content-type", "application/wasm");
    app.send(request.body(body).unwrap()).await.problem(400, "body_unreadable");
    assert_eq!(app.get("/v1/modules").await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn other_bytes_than_announced_are_refused() {
    use sha2::Digest as _;
    let app = TestApp::new().await;
    let digest = |bytes: &str| base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(bytes));
    let wrong = format!("sha-256=:{}:", digest("other"));
    app.push_with("/v1/modules", &[("repr-digest", &wrong)], &example_module()).await.problem(400, "digest_mismatch");
    let right = format!("sha-512=:AAAA:, sha-256=:{}:", digest(&example_module()));
    app.push_with("/v1/modules", &[("repr-digest", &right)], &example_module()).await.ok(201);
}

#[tokio::test]
async fn a_schema_that_cannot_be_used_is_refused_at_push() {
    let app = TestApp::new().await;
    for schema in [json!({"type": 7}), json!({"$ref": "#"}), json!({"$ref": "https://example.com/x"}), json!(false)] {
        let module = json!({"tasks": [{"name": "t", "parameters": [{"name": "x", "schema": schema}]}]}).to_string();
        if schema == json!(false) {
            app.push(&module).await.ok(201);
        } else {
            let problem = app.push(&module).await.problem(422, "schema_invalid");
            assert!(problem["detail"].as_str().unwrap().contains("`x`"), "{problem}");
        }
    }
}

#[tokio::test]
async fn what_is_known_is_not_sent_again() {
    let app = TestApp::with_tasks().await;
    let path = format!("/v1/modules/{}", Digest::of(example_module().as_bytes()));
    let tag = app.get(&path).await.header("etag").to_owned();
    let request = app.request("GET", &path).header("if-none-match", tag);
    assert_eq!(app.send(request.body(axum::body::Body::empty()).unwrap()).await.status, 304);
}

#[tokio::test]
async fn a_module_under_another_media_type_is_refused() {
    let app = TestApp::new().await;
    app.post("/v1/modules", example_module()).await.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn modules_are_paged_and_limited() {
    let limits = Limits { max_documents: 5, ..Default::default() };
    let app = Builder { limits, ..Default::default() }.build().await;
    for n in 0..5 {
        app.push(&module_with(&n.to_string())).await.ok(201);
    }
    app.push(&module_with("one too many")).await.problem(409, "too_many_documents");
    let mut digests = Vec::new();
    let mut path = "/v1/modules?limit=2".to_owned();
    loop {
        let page = app.get(&path).await.ok(200);
        digests.extend(page["items"].as_array().unwrap().iter().map(|m| m["digest"].as_str().unwrap().to_owned()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/modules?limit=2&cursor={cursor}");
    }
    assert_eq!(digests.len(), 5);
    assert!(digests.is_sorted_by(|a, b| a < b));
}

#[tokio::test]
async fn an_unknown_module_is_not_found() {
    let app = TestApp::new().await;
    for digest in [Digest::of(b"x").to_string(), "sha256:xyz".into(), "..%2F..%2Fetc".into()] {
        app.get(&format!("/v1/modules/{digest}")).await.problem(404, "module_not_found");
    }
}

#[tokio::test]
async fn a_rate_limit_is_enforced_and_no_warning() {
    let app = TestApp::new().await;
    let module = json!({"tasks": [{"name": "t", "parameters": [], "policy": {"rate_limit": "100/m"}}]}).to_string();
    assert_eq!(app.push(&module).await.ok(201)["warnings"], json!([]));
}

#[tokio::test]
async fn a_tenant_without_room_for_a_module_leaves_no_bytes() {
    let limits = umbel_broker::Limits { max_documents: 1, ..Default::default() };
    let app = crate::app::Builder { limits, ..Default::default() }.build().await;
    app.push_with("/v1/modules?deploy=false", &[], &crate::app::module_with("first")).await.ok(201);
    let stored = files(app.folder.path());
    for n in 0..3 {
        let module = crate::app::module_with(&format!("further {n}"));
        app.push_with("/v1/modules?deploy=false", &[], &module).await.problem(409, "too_many_documents");
    }
    assert_eq!(files(app.folder.path()), stored);
}

fn files(folder: &std::path::Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

#[tokio::test]
async fn a_default_that_every_call_would_carry_is_bounded() {
    let app = TestApp::new().await;
    let module = |size: usize| {
        let parameter = json!({"name": "x", "schema": true, "default": "x".repeat(size)});
        json!({"tasks": [{"name": "t", "parameters": [parameter]}]}).to_string()
    };
    app.push(&module(65_000)).await.ok(201);
    let problem = app.push(&module(66_000)).await.problem(422, "schema_invalid");
    assert!(problem["detail"].as_str().unwrap().contains("default of `x`"));
}

/// A module with these tasks, told apart from others of the same tasks by `text`.
pub fn module_of(text: &str, tasks: &[&str]) -> String {
    let task = |name: &&str| json!({"name": name, "description": text, "parameters": []});
    json!({"tasks": tasks.iter().map(task).collect::<Vec<_>>()}).to_string()
}

/// Each task of a push's answer with what the push did to it.
fn changes(pushed: &Value) -> Vec<(String, String)> {
    let text = |change: &Value, field: &str| change[field].as_str().unwrap().to_owned();
    let changes = pushed["changes"].as_array().unwrap();
    changes.iter().map(|change| (text(change, "task"), text(change, "change"))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(task, change)| ((*task).to_owned(), (*change).to_owned())).collect()
}

#[tokio::test]
async fn a_push_that_would_take_a_task_of_another_module_is_refused_and_stores_nothing() {
    let app = TestApp::new().await;
    let first = app.push(&module_of("a", &["hello", "world", "moon"])).await.ok(201)["digest"].clone();
    let other = module_of("b", &["hello", "order", "pay"]);
    let problem = app.push(&other).await.problem(409, "task_of_another_module");
    let detail = problem["detail"].as_str().unwrap();
    for part in ["`hello`", first.as_str().unwrap(), "hello, moon, world", "--take-over", "take_over=true"] {
        assert!(detail.contains(part), "{part}: {detail}");
    }
    assert_eq!(app.get("/v1/modules").await.ok(200)["items"].as_array().unwrap().len(), 1);
    app.get("/v1/tasks/order").await.problem(404, "task_not_found");
    assert_eq!(app.get("/v1/tasks/hello").await.ok(200)["digest"], first);
    // Without deploying it takes nothing.
    app.push_with("/v1/modules?deploy=false", &[], &other).await.ok(201);

    let taken = app.push_with("/v1/modules?take_over=true", &[], &other).await.ok(200);
    assert_eq!(changes(&taken), pairs(&[("hello", "taken_over"), ("order", "new"), ("pay", "new")]));
    assert_eq!(taken["changes"][0]["from"], first);
    assert_eq!(app.get("/v1/tasks/hello").await.ok(200)["digest"], taken["digest"]);
    // Now it is the first one that would take it.
    app.push(&module_of("c", &["hello", "world", "moon"])).await.problem(409, "task_of_another_module");
}

#[tokio::test]
async fn a_new_version_may_have_more_tasks_or_fewer() {
    let app = TestApp::new().await;
    let first = app.push(&module_of("1", &["a"])).await.ok(201);
    assert_eq!(changes(&first), pairs(&[("a", "new")]));
    let more = app.push(&module_of("2", &["a", "b", "c", "d"])).await.ok(201);
    assert_eq!(changes(&more), pairs(&[("a", "updated"), ("b", "new"), ("c", "new"), ("d", "new")]));
    assert_eq!(more["changes"][0]["fields"], json!([{"field": "description", "change": "changed"}]));
    let fewer = app.push(&module_of("3", &["b", "c", "x"])).await.ok(201);
    let left = [("b", "updated"), ("c", "updated"), ("x", "new"), ("a", "not_in_module"), ("d", "not_in_module")];
    assert_eq!(changes(&fewer), pairs(&left));
    assert_eq!(fewer["changes"][3]["from"], more["digest"]);
    assert_eq!(app.get("/v1/tasks/a").await.ok(200)["digest"], more["digest"], "it stays deployed");
    let again = app.push(&module_of("3", &["b", "c", "x"])).await.ok(200);
    assert_eq!(changes(&again), pairs(&[("b", "unchanged"), ("c", "unchanged"), ("x", "unchanged")]));
}

#[tokio::test]
async fn a_push_that_joins_two_modules_takes_over_the_smaller_part() {
    let app = TestApp::new().await;
    app.push(&module_of("a", &["hello"])).await.ok(201);
    app.push(&module_of("b", &["order", "pay"])).await.ok(201);
    let both = module_of("both", &["hello", "order", "pay"]);
    let detail = app.push(&both).await.problem(409, "task_of_another_module")["detail"].to_string();
    assert!(detail.contains("`hello`") && !detail.contains("`pay`"), "{detail}");
    let taken = app.push_with("/v1/modules?take_over=true", &[], &both).await.ok(201);
    assert_eq!(changes(&taken), pairs(&[("hello", "taken_over"), ("order", "updated"), ("pay", "updated")]));
}

#[tokio::test]
async fn a_dry_run_tells_what_a_push_would_change_and_stores_nothing() {
    let app = TestApp::new().await;
    let path = "/v1/modules?dry_run=true";
    let none = app.push_with(path, &[], &example_module()).await;
    assert_eq!(none.header("location"), "");
    let none = none.ok(200);
    assert_eq!((&none["dry_run"], changes(&none)), (&json!(true), pairs(&[("add", "new"), ("echo", "new")])));
    assert_eq!(app.get("/v1/modules").await.ok(200)["items"], json!([]));
    app.get("/v1/tasks/add").await.problem(404, "task_not_found");
    assert_eq!(files(app.folder.path()), 0);

    let first = app.push(&example_module()).await.ok(201);
    assert_eq!(first["dry_run"], false);
    let mut next: Value = serde_json::from_str(&example_module()).unwrap();
    next["tasks"][0]["policy"] = json!({"max_retries": 4, "queue": "sums"});
    next["tasks"][0]["parameters"][1]["default"] = json!(3);
    let next = next.to_string();
    let told = app.push_with(path, &[], &next).await.ok(200);
    let fields = json!([
        {"field": "parameters.y", "change": "changed"},
        {"field": "policy.max_retries", "change": "changed", "from": 1, "to": 4},
        {"field": "policy.queue", "change": "added", "to": "sums"},
    ]);
    assert_eq!((&told["changes"][0]["fields"], &told["changes"][0]["from"]), (&fields, &first["digest"]));
    assert_eq!(told["changes"][1], json!({"task": "echo", "change": "updated", "from": first["digest"], "fields": []}));
    assert_eq!(app.get("/v1/tasks/add").await.ok(200)["version"], 1);
    // The push does what was told.
    let mut done = app.push(&next).await.ok(201);
    done["dry_run"] = json!(true);
    assert_eq!(done, told);
}

#[tokio::test]
async fn a_dry_run_checks_what_a_push_checks() {
    let app = TestApp::new().await;
    app.push(&module_of("a", &["hello", "world", "moon"])).await.ok(201);
    let dry = |module: String| async { app.push_with("/v1/modules?dry_run=true", &[], &{ module }).await };
    dry(module_of("b", &["hello", "x", "y"])).await.problem(409, "task_of_another_module");
    dry("refuse invalid_module".into()).await.problem(422, "invalid_module");
    let schema = json!({"tasks": [{"name": "t", "parameters": [{"name": "x", "schema": {"type": 7}}]}]});
    dry(schema.to_string()).await.problem(422, "schema_invalid");
    app.with_headers("PATCH", "/v1/tasks/hello", &[], json!({"policy": {"soft_time_limit_ms": 1000}})).await.ok(200);
    let mut module: Value = serde_json::from_str(&module_of("c", &["hello", "world", "moon"])).unwrap();
    module["tasks"][0]["policy"] = json!({"time_limit_ms": 500});
    let told = dry(module.to_string()).await.ok(200);
    assert_eq!(changes(&told)[0], ("hello".into(), "not_deployed".into()));
    assert!(told["warnings"][0].as_str().unwrap().contains("`hello` was not deployed"), "{told}");
}

#[tokio::test]
async fn of_two_pushes_at_once_that_want_the_same_task_one_is_refused() {
    // Each push reads that the task is nobody's; one is faster.
    for round in 0..20 {
        let app = TestApp::new().await;
        let one = module_of(&format!("a{round}"), &["hello", "world", "moon"]);
        let other = module_of(&format!("b{round}"), &["hello", "order", "pay"]);
        let (one, other) = futures::future::join(app.push(&one), app.push(&other)).await;
        let refused = [&one, &other].iter().filter(|answer| answer.status == 409).count();
        assert_eq!(refused, 1, "{} {}", one.status, other.status);
        let winner = if one.status == 201 { one } else { other };
        assert_eq!(app.get("/v1/tasks/hello").await.ok(200)["digest"], winner.ok(201)["digest"]);
    }
}
