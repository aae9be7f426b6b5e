//! Deploying, rolling back, and the server's policy.

use serde_json::{Value, json};
use umbel_model::Digest;

use crate::{
    app::{TestApp, module_with},
    modules::module_of,
};

async fn push(app: &TestApp, text: &str) -> String {
    app.push(&module_with(text)).await.ok(201)["digest"].as_str().unwrap().to_owned()
}

async fn patch(app: &TestApp, headers: &[(&str, &str)], policy: Value) -> crate::app::Answer {
    app.with_headers("PATCH", "/v1/tasks/add", headers, json!({"policy": policy})).await
}

#[tokio::test]
async fn a_push_moves_the_pointer_and_a_rollback_moves_it_back() {
    let app = TestApp::new().await;
    let one = push(&app, "one").await;
    let two = push(&app, "two").await;
    let three = push(&app, "three").await;
    let task = app.get("/v1/tasks/add").await.ok(200);
    assert_eq!((&task["digest"], &task["description"]), (&json!(three), &json!("three")));
    let back = app.post("/v1/tasks/add/rollback", "").await.ok(200);
    assert_eq!((&back["digest"], &back["description"]), (&json!(two), &json!("two")));
    assert_eq!(back["deploys"][0]["rolled_back"], true);
    assert_eq!(app.post("/v1/tasks/add/rollback", "").await.ok(200)["digest"], one);
    app.post("/v1/tasks/add/rollback", "").await.problem(409, "nothing_to_roll_back");
    let again = app.post("/v1/tasks/add/deploy", json!({"digest": three})).await.ok(200);
    assert_eq!(again["digest"], three);
    assert_eq!(again["deploys"].as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_deploy_changes_new_jobs_and_not_those_in_flight() {
    let app = TestApp::new().await;
    let one = push(&app, "one").await;
    let before = app.submit_add(json!({})).await;
    let two = push(&app, "two").await;
    let after = app.submit_add(json!({})).await;
    assert_eq!(app.get(&format!("/v1/jobs/{before}")).await.ok(200)["digest"], one);
    assert_eq!(app.get(&format!("/v1/jobs/{after}")).await.ok(200)["digest"], two);
}

#[tokio::test]
async fn a_deploy_wants_a_module_that_has_the_task() {
    let app = TestApp::with_tasks().await;
    let unknown = json!({"digest": Digest::of(b"?").to_string()});
    app.post("/v1/tasks/add/deploy", unknown).await.problem(404, "module_not_found");
    let other = json!({"tasks": [{"name": "t", "parameters": []}]}).to_string();
    let digest = app.push(&other).await.ok(201)["digest"].clone();
    app.post("/v1/tasks/add/deploy", json!({"digest": digest})).await.problem(422, "task_not_in_module");
    app.post("/v1/tasks/add/deploy", json!({"digest": "x"})).await.problem(422, "invalid_body");
    app.post("/v1/tasks/nope/rollback", "").await.problem(404, "task_not_found");
}

#[tokio::test]
async fn the_server_sets_policy_over_the_code_and_gives_it_back() {
    let app = TestApp::with_tasks().await;
    let task = patch(&app, &[], json!({"max_retries": 7, "priority": 9})).await.ok(200);
    assert_eq!(task["policy"]["max_retries"], json!({"value": 7, "from": "server"}));
    let job = app.post("/v1/jobs", json!({"task": "add", "args": [1]})).await.ok(202);
    assert_eq!((&job["max_retries"], &job["priority"]), (&json!(7), &json!(9)));
    let task = patch(&app, &[], json!({"max_retries": null})).await.ok(200);
    assert_eq!(task["policy"]["max_retries"], json!({"value": 1, "from": "code"}));
    assert_eq!(task["policy"]["priority"]["from"], "server");
    assert_eq!(task["policy"]["fuel"]["from"], "default");
    // A deploy keeps what the server set.
    push(&app, "two").await;
    assert_eq!(app.get("/v1/tasks/add").await.ok(200)["policy"]["priority"]["value"], 9);
}

#[tokio::test]
async fn a_policy_that_breaks_a_bound_is_refused_by_field() {
    let app = TestApp::with_tasks().await;
    let problem = patch(&app, &[], json!({"priority": 10})).await.problem(422, "invalid_policy");
    assert_eq!(problem["errors"][0]["pointer"], "/policy/priority");
    patch(&app, &[], json!({"memory_bytes": u64::MAX})).await.problem(422, "invalid_policy");
    patch(&app, &[], json!({"prio": 1})).await.problem(422, "invalid_policy");
    patch(&app, &[], json!({"prio": null})).await.problem(422, "invalid_policy");
    patch(&app, &[], json!({"priority": "high"})).await.problem(422, "invalid_policy");
    app.with_headers("PATCH", "/v1/tasks/add", &[], json!({"polici": {}})).await.problem(422, "invalid_body");
    assert_eq!(app.get("/v1/tasks/add").await.ok(200)["version"], 1);
}

#[tokio::test]
async fn a_change_is_made_only_at_the_version_that_was_read() {
    let app = TestApp::with_tasks().await;
    let tag = app.get("/v1/tasks/add").await.header("etag").to_owned();
    patch(&app, &[("if-match", &tag)], json!({"priority": 1})).await.ok(200);
    patch(&app, &[("if-match", &tag)], json!({"priority": 2})).await.problem(412, "version_conflict");
    patch(&app, &[("if-match", "abc")], json!({"priority": 2})).await.problem(400, "invalid_header");
    patch(&app, &[("if-match", "*")], json!({"priority": 2})).await.ok(200);
}

#[tokio::test]
async fn concurrent_changes_all_land() {
    let app = TestApp::with_tasks().await;
    let changes = (0..4_u8).map(|n| {
        let fields = ["priority", "max_retries", "expires_ms", "max_deliveries"];
        let policy = json!({fields[usize::from(n)]: 3});
        let app = &app;
        async move { patch(app, &[], policy).await.ok(200) }
    });
    futures::future::join_all(changes).await;
    let policy = app.get("/v1/tasks/add").await.ok(200)["policy"].clone();
    for field in ["priority", "max_retries", "expires_ms", "max_deliveries"] {
        assert_eq!(policy[field], json!({"value": 3, "from": "server"}));
    }
}

#[tokio::test]
async fn tasks_are_listed_by_name() {
    let app = TestApp::with_tasks().await;
    let first = app.get("/v1/tasks?limit=1").await.ok(200);
    assert_eq!(first["items"][0]["name"], "add");
    assert_eq!(first["items"][0]["parameters"], json!(["x", "y"]));
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = app.get(&format!("/v1/tasks?limit=1&cursor={cursor}")).await.ok(200);
    assert_eq!(second["items"][0]["name"], "echo");
}

#[tokio::test]
async fn new_code_that_the_servers_policy_does_not_fit_stays_undeployed_with_a_warning() {
    let app = TestApp::with_tasks().await;
    patch(&app, &[], json!({"soft_time_limit_ms": 1000})).await.ok(200);
    let mut module: Value = serde_json::from_str(&module_with("short")).unwrap();
    module["tasks"][0]["policy"] = json!({"time_limit_ms": 500});
    let warnings = app.push(&module.to_string()).await.ok(201)["warnings"].clone();
    assert!(warnings[0].as_str().unwrap().contains("`add` was not deployed"), "{warnings}");
    assert_eq!(app.get("/v1/tasks/add").await.ok(200)["description"], "Adds two numbers.");
}

/// A module of one task with three schemas of 60 KB.
fn large_module(name: &str) -> String {
    let parameter = |n: usize| json!({"name": format!("p{n}"), "schema": {"title": "x".repeat(60_000)}});
    json!({"tasks": [{"name": name, "parameters": [parameter(0), parameter(1), parameter(2)]}]}).to_string()
}

#[tokio::test]
async fn a_list_of_large_tasks_comes_in_pages_of_few_bytes() {
    let app = TestApp::new().await;
    for n in 0..10 {
        app.push(&large_module(&format!("t{n}"))).await.ok(201);
    }
    let (mut names, mut pages, mut path) = (Vec::new(), 0, "/v1/tasks?limit=200".to_owned());
    loop {
        let answer = app.get(&path).await;
        assert!(answer.bytes.len() < 10_000, "schemas are no part of a summary");
        let page = answer.ok(200);
        names.extend(page["items"].as_array().unwrap().iter().map(|task| task["name"].as_str().unwrap().to_owned()));
        pages += 1;
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/tasks?limit=200&cursor={cursor}");
    }
    assert_eq!(names, (0..10).map(|n| format!("t{n}")).collect::<Vec<_>>());
    assert_eq!(pages, 2, "1.8 MB of documents are read in pages of a megabyte");
}

#[tokio::test]
async fn a_schema_is_answered_as_it_was_described() {
    let app = TestApp::with_tasks().await;
    let task = app.get("/v1/tasks/add").await.ok(200);
    assert_eq!(task["parameters"][1], json!({"name": "y", "schema": {"type": "integer"}, "default": 2}));
}

#[tokio::test]
async fn a_module_rollback_undoes_a_push_as_a_whole() {
    let app = TestApp::new().await;
    let with = |text: &str, tasks: &[&str]| module_of(text, tasks);
    let one = app.push(&with("1", &["a", "b", "c"])).await.ok(201)["digest"].clone();
    let two = app.push(&with("2", &["a", "b", "new"])).await.ok(201)["digest"].clone();
    let digests = async |names: &[&str]| {
        let mut found = Vec::new();
        for name in names {
            found.push(app.get(&format!("/v1/tasks/{name}")).await.ok(200)["digest"].clone());
        }
        found
    };
    let path = format!("/v1/modules/{}/rollback", two.as_str().unwrap());
    let back = app.post(&path, "").await.ok(200);
    assert_eq!(back["digest"], two);
    assert_eq!(back["tasks"][0], json!({"task": "a", "moved": true, "digest": one}));
    assert_eq!((&back["tasks"][2]["moved"], &back["tasks"][2]["digest"]), (&json!(false), &two));
    assert!(back["tasks"][2]["detail"].as_str().unwrap().contains("no earlier deploy"), "{back}");
    assert_eq!(digests(&["a", "b", "c", "new"]).await, [one.clone(), one.clone(), one.clone(), two.clone()]);
    assert_eq!(app.get("/v1/tasks/a").await.ok(200)["description"], "1");
    // Nothing goes back twice.
    app.post(&path, "").await.problem(409, "nothing_to_roll_back");
    assert_eq!(digests(&["a", "b"]).await, [one.clone(), one.clone()]);
    // What was rolled back by itself stays there.
    let three = app.push(&with("3", &["a", "b", "c"])).await.ok(201)["digest"].clone();
    app.post("/v1/tasks/b/rollback", "").await.ok(200);
    let back = app.post(&format!("/v1/modules/{}/rollback", three.as_str().unwrap()), "").await.ok(200);
    assert_eq!(back["tasks"].as_array().unwrap().len(), 2, "{back}");
    assert_eq!(digests(&["a", "b", "c"]).await, [one.clone(), one.clone(), one]);
    app.post(&format!("/v1/modules/{}/rollback", Digest::of(b"?")), "").await.problem(404, "module_not_found");
}

#[tokio::test]
async fn the_first_digits_of_a_digest_name_a_module() {
    let app = TestApp::new().await;
    let digest = push(&app, "one").await;
    let hex = digest.strip_prefix("sha256:").unwrap();
    for short in [&hex[..8], &hex[..20], hex, &digest[..15], &digest] {
        let shown = app.get(&format!("/v1/modules/{short}")).await;
        assert_eq!(shown.header("etag"), format!("\"{digest}\""));
        assert_eq!(shown.ok(200)["digest"], digest, "{short}");
    }
    let task = app.post("/v1/tasks/add/deploy", json!({"digest": &hex[..8]})).await.ok(200);
    assert_eq!(task["digest"], digest);
    let problem = app.get(&format!("/v1/modules/{}", &hex[..7])).await.problem(404, "module_not_found");
    assert!(problem["detail"].as_str().unwrap().contains("the first 8 or more"), "{problem}");
    let other = if hex.starts_with("0000") { "11111111" } else { "00000000" };
    app.get(&format!("/v1/modules/{other}")).await.problem(404, "module_not_found");
    app.post("/v1/tasks/add/deploy", json!({"digest": "xyz"})).await.problem(422, "invalid_body");
}

#[tokio::test]
async fn digits_that_fit_several_modules_name_none() {
    let app = TestApp::new().await;
    // Records under made-up digests: no test has the time to find modules with the same eight digits.
    for (last, module) in ["0", "1"].iter().zip(["one", "two"]) {
        let info = json!({"digest": format!("sha256:{}{last}", "a".repeat(63)), "size_bytes": 1, "core_module": false,
            "imports": [], "tasks": [], "description": module});
        let put = umbel_broker::PutDocument {
            tenant: umbel_model::TenantId::new("t1").unwrap(),
            kind: umbel_broker::DocumentKind::Module,
            name: info["digest"].as_str().unwrap().into(),
            expect: umbel_broker::Expect::Absent,
            body: Some(info.to_string()),
            held_bytes: 0,
        };
        app.broker.put_document(&put).await.unwrap();
    }
    let problem = app.get("/v1/modules/aaaaaaaaaa").await.problem(409, "ambiguous_digest");
    assert!(problem["detail"].as_str().unwrap().contains("write more of its digits"), "{problem}");
    app.get(&format!("/v1/modules/{}1", "a".repeat(63))).await.ok(200);
    app.post("/v1/modules/aaaaaaaa/rollback", "").await.problem(409, "ambiguous_digest");
}

#[tokio::test]
async fn a_deleted_task_takes_no_new_jobs_and_those_that_are_there_run() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(json!({})).await;
    app.with_headers("PATCH", "/v1/tasks/add/control", &[], json!({"paused": true})).await.ok(200);
    let tag = app.get("/v1/tasks/add").await.header("etag").to_owned();
    patch(&app, &[], json!({"priority": 3})).await.ok(200);
    app.with_headers("DELETE", "/v1/tasks/add", &[("if-match", &tag)], "").await.problem(412, "version_conflict");
    assert_eq!(app.with_headers("DELETE", "/v1/tasks/add", &[], "").await.status, 204);
    app.with_headers("DELETE", "/v1/tasks/add", &[], "").await.problem(404, "task_not_found");
    app.post("/v1/jobs", json!({"task": "add", "args": [1]})).await.problem(404, "task_not_found");
    assert_eq!(app.get("/v1/tasks").await.ok(200)["items"].as_array().unwrap().len(), 1);
    // What holds for its jobs can still be lifted.
    assert!(app.try_claim().await.is_none());
    app.with_headers("PATCH", "/v1/tasks/add/control", &[], json!({"paused": false})).await.ok(200);
    let delivery = app.claim().await;
    assert_eq!(delivery.id.to_string(), id);
    app.settle(&delivery, umbel_model::Resolution::Succeed { result: Some(crate::app::raw("3")) }).await;
    assert_eq!(app.get(&format!("/v1/jobs/{id}")).await.ok(200)["state"], "succeeded");
    let again = app.push(&crate::app::example_module()).await.ok(200);
    assert_eq!(again["changes"][0]["change"], "new");
    app.submit_add(json!({})).await;
}
