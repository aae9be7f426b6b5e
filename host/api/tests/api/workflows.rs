//! Workflows: submitted, waited for, cancelled, resumed.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use crate::{
    app::{Builder, TestApp, id_of},
    broken::Broken,
    canvases::{chord, node, submit, workflow},
};

#[tokio::test]
async fn a_workflow_runs_and_gives_its_result() {
    let app = TestApp::with_tasks().await;
    let body = json!({
        "canvas": chord(), "name": "nightly", "tags": ["a", "b"], "headers": {"k": "v"}, "deadline_ms": 60_000,
        "keep_ms": 5_000,
    });
    let answer = app.post("/v1/workflows", body).await;
    let location = answer.header("location").to_owned();
    let made = answer.ok(202);
    let id = id_of(&made);
    assert_eq!(location, format!("/v1/workflows/{id}"));
    assert_eq!(
        (&made["state"], &made["name"], &made["tags"]),
        (&json!("running"), &json!("nightly"), &json!(["a", "b"]))
    );
    assert_eq!((&made["headers"], &made["keep_ms"]), (&json!({"k": "v"}), &json!(5_000)));
    assert!(made["deadline_at"].is_string());
    assert_eq!(
        (&made["progress"]["total"], &made["progress"]["queued"], &made["progress"]["waiting"]),
        (&json!(3), &json!(2), &json!(1))
    );
    assert_eq!(app.run(|d| Some(json!([node(d)]))).await, 3);
    let done = workflow(&app, &id).await;
    assert_eq!((&done["state"], &done["result"]), (&json!("succeeded"), &json!([3])));
    assert_eq!((&done["progress"]["done"], &done["progress"]["succeeded"]), (&json!(3), &json!(3)));
    assert!(done["finished_at"].is_string());
    assert_eq!(done["links"]["graph"], format!("/v1/workflows/{id}/graph.svg"));
}

#[tokio::test]
async fn a_group_gives_the_list_of_its_members_results() {
    let app = TestApp::with_tasks().await;
    let id = submit(&app, json!({"group": [{"task": "echo", "args": [1]}, {"task": "echo", "args": [2]}]})).await;
    app.run(|d| Some(json!(node(d) * 10))).await;
    assert_eq!(workflow(&app, &id).await["result"], json!([10, 20]));
    let empty = app.post("/v1/workflows", json!({"canvas": {"group": []}})).await;
    let empty = empty.json();
    assert_eq!(workflow(&app, &id_of(&empty)).await["result"], json!([]));
}

#[tokio::test]
async fn a_wait_ends_with_the_workflow() {
    let app = TestApp::with_tasks().await;
    let id = submit(&app, json!({"task": "add", "args": [1]})).await;
    let path = format!("/v1/workflows/{id}?wait=30s");
    let (waited, _) = tokio::join!(app.get(&path), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        app.run(|_| Some(json!(3))).await
    });
    assert_eq!(waited.ok(200)["state"], "succeeded");
}

#[tokio::test]
async fn an_idempotency_key_answers_with_the_first_workflow() {
    let app = TestApp::with_tasks().await;
    let key = [("idempotency-key", "k1")];
    let body = json!({"canvas": chord()});
    let first = id_of(&app.with_headers("POST", "/v1/workflows", &key, &body).await.ok(202));
    let again = app.with_headers("POST", "/v1/workflows", &key, &body).await;
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(id_of(&again.ok(200)), first);
    let other = json!({"canvas": {"task": "add", "args": [1]}});
    app.with_headers("POST", "/v1/workflows", &key, other).await.problem(422, "idempotency_conflict");
    let in_body = json!({"canvas": chord(), "idempotency_key": "k2"});
    let second = id_of(&app.post("/v1/workflows", &in_body).await.ok(202));
    assert_eq!(id_of(&app.post("/v1/workflows", &in_body).await.ok(200)), second);
    let two = [("idempotency-key", "k3")];
    app.with_headers("POST", "/v1/workflows", &two, in_body).await.problem(400, "invalid_header");
}

#[tokio::test]
async fn a_wrong_canvas_is_refused_with_its_place() {
    let app = TestApp::with_tasks().await;
    for (body, status, code, pointer) in [
        (json!({"canvas": {"chain": [{"task": "add"}]}}), 422, "invalid_arguments", "/canvas/chain/0/kwargs/x"),
        (json!({"canvas": {"task": "add", "args": ["a"]}}), 422, "invalid_arguments", "/canvas/args/0"),
        (
            json!({"canvas": {"chain": [{"task": "echo", "args": [1]}, {"task": "add", "kwargs": {"y": "b"}}]}}),
            422,
            "invalid_arguments",
            "/canvas/chain/1/kwargs/y",
        ),
        (json!({"canvas": {"task": "add", "map": [1, 2.5]}}), 422, "invalid_arguments", "/canvas/map/1"),
        (json!({"canvas": {"group": [{"task": "none"}]}}), 404, "task_not_found", "/canvas/group/0/task"),
        (json!({"canvas": {"group": [{"tusk": "add"}]}}), 422, "invalid_canvas", "/canvas/group/0"),
        (json!({"canvas": {"chain": []}}), 422, "invalid_canvas", "/canvas"),
        (json!({"canvas": chord(), "tags": [""]}), 422, "invalid_option", "/tags/0"),
        (json!({"canvas": chord(), "name": ""}), 422, "invalid_option", "/name"),
        (json!({"canvas": chord(), "headers": {"a": "\n"}}), 422, "invalid_option", "/headers/a"),
        (json!({"canvas": chord(), "keep_ms": 1_u64 << 50}), 422, "invalid_option", "/keep_ms"),
        (json!({"canvas": chord(), "deadline_ms": 0}), 422, "invalid_option", "/deadline_ms"),
        (json!({"canvas": chord(), "idempotency_key": ""}), 422, "invalid_option", "/idempotency_key"),
        (
            json!({"canvas": {"task": "add", "args": [1], "options": {"fuel": 0}}}),
            422,
            "invalid_policy",
            "/canvas/options/fuel",
        ),
    ] {
        let problem = app.post("/v1/workflows", &body).await.problem(status, code);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    app.post("/v1/workflows", json!({"canvas": chord(), "colour": 1})).await.problem(422, "invalid_body");
    app.post("/v1/workflows", json!({})).await.problem(422, "invalid_body");
    app.post("/v1/workflows", "{").await.problem(400, "invalid_json");
    assert_eq!(app.get("/v1/workflows").await.ok(200)["items"], json!([]), "nothing of a refused workflow is stored");
}

#[tokio::test]
async fn a_result_that_is_ignored_is_for_the_steps_behind_it_and_for_no_reader() {
    let app = TestApp::with_tasks().await;
    let ignoring = json!({"task": "add", "args": [1], "options": {"ignore_result": true}});
    let body = json!({"canvas": {"chain": [ignoring, {"task": "echo"}]}});
    let open = id_of(&app.post("/v1/workflows", &body).await.ok(202));
    let shut = id_of(&app.post("/v1/workflows", json!({"canvas": ignoring})).await.ok(202));
    app.run(|_| Some(json!(7))).await;
    assert_eq!(app.get(&format!("/v1/workflows/{open}")).await.ok(200)["result"], 7);
    let shut = app.get(&format!("/v1/workflows/{shut}")).await.ok(200);
    assert_eq!((&shut["state"], &shut["result"]), (&json!("succeeded"), &json!(null)));
    let nodes = app.get(&format!("/v1/workflows/{open}/nodes")).await.ok(200);
    let ids: Vec<&str> = nodes["items"].as_array().unwrap().iter().map(|node| node["job"].as_str().unwrap()).collect();
    let jobs = [
        app.get(&format!("/v1/jobs/{}", ids[0])).await.ok(200),
        app.get(&format!("/v1/jobs/{}", ids[1])).await.ok(200),
    ];
    assert_eq!((&jobs[0]["result"], &jobs[1]["result"]), (&json!(null), &json!(7)));
    app.get(&format!("/v1/jobs/{}/result", ids[0])).await.problem(404, "no_result");
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused() {
    let mut builder = Builder::default();
    builder.config.max_workflow_bytes = 100;
    let app = builder.build().await;
    let body = json!({"canvas": {"task": "add", "args": ["x".repeat(100)]}});
    app.post("/v1/workflows", body).await.problem(413, "body_too_large");
}

#[tokio::test]
async fn a_failed_workflow_names_what_failed() {
    let app = TestApp::with_tasks().await;
    let id = submit(&app, chord()).await;
    app.run(|d| (node(d) != 2).then(|| json!(1))).await;
    let failed = workflow(&app, &id).await;
    assert_eq!((&failed["state"], &failed["error"]["kind"]), (&json!("failed"), &json!("upstream_failed")));
    let named = &failed["error"]["details"]["failed"];
    assert_eq!((&named[0]["node"], &named[0]["kind"]), (&json!(2), &json!("Void")));
    let jobs = app.get(&format!("/v1/jobs?workflow={id}")).await.ok(200);
    let states: Vec<&str> = jobs["items"].as_array().unwrap().iter().map(|j| j["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["succeeded", "failed", "failed"]);
    let body = app.get(&format!("/v1/jobs/{}", id_of(&jobs["items"][2]))).await.ok(200);
    assert_eq!(body["error"]["kind"], "upstream_failed");
    assert_eq!(body["error"]["details"]["failed"][0]["node"], 2);
}

#[tokio::test]
async fn a_cancelled_workflow_is_revoked() {
    let app = TestApp::with_tasks().await;
    let id = submit(&app, chord()).await;
    let path = format!("/v1/workflows/{id}/cancel");
    let answer = app.post(&path, "").await;
    assert!(matches!(answer.status.as_u16(), 200 | 202), "{:?}", answer.status);
    assert_eq!(app.run(|_| Some(json!(1))).await, 0, "nothing of it runs");
    assert_eq!(workflow(&app, &id).await["state"], "revoked");
    assert_eq!(app.post(&path, "").await.ok(200)["state"], "revoked");
    let done = submit(&app, json!({"task": "add", "args": [1]})).await;
    app.run(|_| Some(json!(1))).await;
    app.post(&format!("/v1/workflows/{done}/cancel"), "").await.problem(409, "workflow_ended");
    app.post("/v1/workflows/01ARZ3NDEKTSV4RRFFQ69G5FAV/cancel", "").await.problem(404, "workflow_not_found");
}

#[tokio::test]
async fn a_failed_workflow_is_resumed_and_keeps_what_succeeded() {
    let app = TestApp::with_tasks().await;
    let body = json!({"canvas": chord(), "tags": ["t"], "name": "n"});
    let id = id_of(&app.post("/v1/workflows", body).await.ok(202));
    let resume = format!("/v1/workflows/{id}/resume");
    app.post(&resume, json!({})).await.problem(409, "not_resumable");
    app.run(|d| (node(d) != 2).then(|| json!("kept"))).await;
    let new = app.post(&resume, json!({"digest": "pinned"})).await.ok(202);
    assert_eq!((&new["resume_of"], &new["tags"], &new["name"]), (&json!(id), &json!(["t"]), &json!("n")));
    let new = id_of(&new);
    let ran = std::sync::Mutex::new(Vec::new());
    app.run(|d| {
        ran.lock().unwrap().push(node(d));
        Some(json!("again"))
    })
    .await;
    assert_eq!(*ran.lock().unwrap(), [2, 3]);
    let done = workflow(&app, &new).await;
    assert_eq!((&done["state"], &done["result"]), (&json!("succeeded"), &json!("again")));
    let kept = app.get(&format!("/v1/jobs?workflow={new}")).await.ok(200);
    let kept = app.get(&format!("/v1/jobs/{}", id_of(&kept["items"][0]))).await.ok(200);
    assert_eq!((&kept["state"], &kept["result"]), (&json!("succeeded"), &json!("kept")));
    app.post(&format!("/v1/workflows/{new}/resume"), json!({})).await.problem(409, "not_resumable");
    app.post(&resume, json!({"digest": "newest"})).await.problem(422, "invalid_body");
}

#[tokio::test]
async fn a_workflow_is_resumed_with_the_code_of_today_when_asked() {
    let app = TestApp::with_tasks().await;
    let id = submit(&app, json!({"chain": [{"task": "add", "args": [1]}, {"task": "echo"}]})).await;
    let old = app.get("/v1/tasks/add").await.ok(200)["digest"].clone();
    app.run(|_| None).await;
    app.push(&crate::app::module_with("Adds better.")).await.ok(201);
    let digest_of = async |new: Value| {
        let jobs = app.get(&format!("/v1/jobs?workflow={}", id_of(&new))).await.ok(200);
        jobs["items"][0]["digest"].clone()
    };
    let resume = format!("/v1/workflows/{id}/resume");
    let pinned = app.post(&resume, json!({})).await.ok(202);
    assert_eq!(digest_of(pinned).await, old);
    let current = app.post(&resume, json!({"digest": "current"})).await.ok(202);
    assert_eq!(digest_of(current).await, app.get("/v1/tasks/add").await.ok(200)["digest"]);
    let other = json!({"tasks": [{"name": "add", "parameters": [{"name": "z", "schema": true}, {"name": "u", "schema": true}]}]});
    app.push(&other.to_string()).await.ok(201);
    let problem = app.post(&resume, json!({"digest": "current"})).await.problem(422, "invalid_arguments");
    assert_eq!(problem["errors"][0]["pointer"], "/nodes/0/kwargs/u");
}

#[tokio::test]
async fn a_workflows_node_is_not_redriven_alone() {
    let app = TestApp::with_tasks().await;
    let id = submit(&app, json!({"task": "add", "args": [1]})).await;
    app.run(|_| None).await;
    let dead = app.get("/v1/dead").await.ok(200);
    let job = id_of(&dead["items"][0]);
    assert_eq!(dead["items"][0]["workflow"], id);
    app.post(&format!("/v1/dead/{job}/redrive"), "").await.problem(409, "workflow_node");
    app.post(&format!("/v1/jobs/{job}/retry"), "").await.problem(409, "workflow_node");
    let alone = app.dead_job().await;
    let many = app.post("/v1/dead/redrive", json!({"all": true})).await.ok(200);
    assert_eq!(many["refused"], json!([{"id": job, "code": "workflow_node"}]));
    assert_eq!(many["items"][0]["redrive_of"], alone);
}

#[tokio::test]
async fn another_tenant_sees_nothing_of_a_workflow() {
    let mut app = TestApp::with_tasks().await;
    let id = submit(&app, chord()).await;
    app.token = app.other_tenant().await;
    for (method, part) in [
        ("GET", ""),
        ("GET", "/nodes"),
        ("GET", "/tree"),
        ("GET", "/graph.svg"),
        ("POST", "/cancel"),
        ("POST", "/resume"),
    ] {
        let path = format!("/v1/workflows/{id}{part}");
        app.with_headers(method, &path, &[], "{}").await.problem(404, "workflow_not_found");
    }
    assert_eq!(app.get("/v1/workflows").await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn a_stored_workflow_is_answered_even_when_it_cannot_be_read_back() {
    let broken = Broken::shared();
    let app = Builder { broker: Some(broken.clone()), ..Builder::default() }.build().await;
    app.push(&crate::app::example_module()).await.ok(201);
    *broken.fail_after_submit.lock().unwrap() = Some(umbel_broker::Error::Unavailable("gone".into()));
    let stored = app.post("/v1/workflows", json!({"canvas": chord()})).await.ok(202);
    broken.heal();
    assert_eq!(workflow(&app, &id_of(&stored)).await["state"], "running");
}

#[tokio::test]
async fn canvases_that_are_too_deep_are_refused_and_break_nothing() {
    let app = TestApp::with_tasks().await;
    let nested = |depth: usize| {
        let (mut text, mut end) = (String::new(), String::new());
        for _ in 0..depth {
            text.push_str(r#"{"group":["#);
            end.push_str("]}");
        }
        format!(r#"{{"canvas":{text}{{"task":"echo","args":[1]}}{end}}}"#)
    };
    let deep = app.post("/v1/workflows", nested(47)).await.ok(202);
    let tree = app.get(&format!("/v1/workflows/{}/tree", id_of(&deep))).await.ok(200);
    assert_eq!(tree["nodes_shown"], 48);
    app.get(&format!("/v1/workflows/{}/graph.svg", id_of(&deep))).await;
    for depth in [48, 60] {
        app.post("/v1/workflows", nested(depth)).await.problem(422, "invalid_canvas");
    }
    app.post("/v1/workflows", nested(64)).await.problem(400, "json_too_deep");
    let wrong = nested(60).replace("task", "tusk");
    let problem = app.post("/v1/workflows", wrong).await.problem(422, "invalid_canvas");
    assert!(problem["errors"][0]["pointer"].as_str().unwrap().starts_with("/canvas/group/0/group/0"));
}

/// Says what it costs; `cargo test -p umbel-api --release --test api -- --ignored --nocapture workflows`.
#[tokio::test]
#[ignore = "a measurement"]
async fn a_hundred_thousand_signatures_are_stored_in_a_moment() {
    let app = TestApp::with_tasks().await;
    let members: Vec<Value> = (0..100_000).map(|n| json!({"task": "add", "args": [n]})).collect();
    let body = json!({"canvas": {"chord": members, "body": {"task": "echo"}}}).to_string();
    let started = std::time::Instant::now();
    app.post("/v1/workflows", body).await.ok(202);
    println!("{:?}", started.elapsed());
}

#[tokio::test]
async fn a_result_that_is_too_large_for_an_answer_is_said_to_be() {
    let mut builder = Builder::default();
    builder.config.max_result_bytes = 10;
    let app = builder.build().await;
    app.push(&crate::app::example_module()).await.ok(201);
    let id = submit(&app, json!({"task": "add", "args": [1]})).await;
    app.run(|_| Some(json!("x".repeat(20)))).await;
    let done = workflow(&app, &id).await;
    assert_eq!((&done["state"], &done["result_omitted"]), (&json!("succeeded"), &json!("too_large")));
}

#[tokio::test]
async fn a_step_with_many_callbacks_is_shown_at_once() {
    let app = TestApp::with_tasks().await;
    let links = vec![json!({"task": "echo"}); 24_000];
    let id = submit(&app, json!({"task": "add", "args": [1], "link": links})).await;
    let started = std::time::Instant::now();
    let tree = app.get(&format!("/v1/workflows/{id}/tree")).await.ok(200);
    assert_eq!((&tree["nodes_shown"], &tree["nodes_left_out"]), (&json!(2_000), &json!(22_001)));
    assert_eq!(tree["link"][1_998]["task"], "echo");
    assert_eq!(app.get(&format!("/v1/workflows/{id}/graph.svg")).await.status, 200);
    assert!(started.elapsed() < std::time::Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn pages_of_nodes_go_on_where_those_of_the_broker_end() {
    let app = TestApp::with_tasks().await;
    // Together more than a page of the broker has; their results are not read.
    let text = "y".repeat(15_000);
    let members: Vec<Value> = (0..100).map(|_| json!({"task": "echo", "args": [text]})).collect();
    let id = submit(&app, json!({ "group": members })).await;
    app.run(|_| Some(json!("x".repeat(500_000)))).await;
    for path in [format!("/v1/workflows/{id}/nodes?max=1000"), format!("/v1/jobs?workflow={id}&limit=200")] {
        let page = app.get(&path).await.ok(200);
        let job = |item: &Value| item["job"].as_str().or(item["id"].as_str()).map(str::to_owned);
        let jobs: BTreeSet<String> = page["items"].as_array().unwrap().iter().filter_map(job).collect();
        assert_eq!((jobs.len(), &page["next_from"], &page["next_cursor"]), (100, &Value::Null, &Value::Null), "{path}");
    }
    let rest = app.get(&format!("/v1/workflows/{id}/nodes?max=1000&from=95")).await.ok(200);
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["items"][0]["number"]), (6, &json!(95)));
    assert_eq!(app.get(&format!("/v1/workflows/{id}/tree")).await.ok(200)["nodes_shown"], 101);
}

#[tokio::test]
async fn a_resumption_that_is_repeated_is_one() {
    let app = TestApp::with_tasks().await;
    let id = submit(&app, chord()).await;
    app.run(|_| None).await;
    let resume = format!("/v1/workflows/{id}/resume");
    let again = async |body: Value| app.with_headers("POST", &resume, &[("idempotency-key", "k")], body).await;
    let first = again(json!({})).await;
    assert_eq!(first.header("idempotent-replayed"), "");
    let second = again(json!({"digest": "pinned"})).await;
    assert_eq!(second.header("idempotent-replayed"), "true");
    assert_eq!(id_of(&first.ok(202)), id_of(&second.ok(200)));
    again(json!({"digest": "current"})).await.problem(422, "idempotency_conflict");
}

#[tokio::test]
async fn a_workflow_is_kept_for_as_long_as_its_key_answers_with_it() {
    let app = TestApp::with_tasks().await;
    let body = json!({"canvas": {"task": "add", "args": [1]}, "keep_ms": 0, "idempotency_key": "k"});
    let id = id_of(&app.post("/v1/workflows", &body).await.ok(202));
    app.run(|_| Some(json!(1))).await;
    app.broker.prune(1_000).await.unwrap();
    app.get(&format!("/v1/workflows/{id}")).await.ok(200);
    let replayed = app.post("/v1/workflows", &body).await;
    assert_eq!(replayed.header("idempotent-replayed"), "true");
    assert_eq!(id_of(&replayed.ok(200)), id);
}

#[tokio::test]
async fn bodies_of_too_many_values_are_refused_before_they_are_parsed() {
    let app = TestApp::with_tasks().await;
    let items = vec!["1"; 2_000_000].join(",");
    let body = format!(r#"{{"canvas":{{"task":"add","map":[{items}]}}}}"#);
    let problem = app.post("/v1/workflows", body).await.problem(422, "invalid_canvas");
    assert!(problem["detail"].as_str().unwrap().contains("commas"));
}

#[tokio::test]
async fn a_workflow_is_forgotten_once_it_is_over() {
    let app = TestApp::with_tasks().await;
    let id = id_of(&app.post("/v1/workflows", json!({"canvas": chord()})).await.ok(202));
    let path = format!("/v1/workflows/{id}");
    app.with_headers("DELETE", &path, &[], "").await.problem(409, "workflow_not_over");
    let nodes = app.get(&format!("{path}/nodes")).await.ok(200)["items"].as_array().unwrap().clone();
    let first = nodes.iter().find_map(|node| node["job"].as_str().map(str::to_owned)).unwrap();
    app.run(|d| Some(json!([node(d)]))).await;
    let other = app.other_tenant().await;
    let request = axum::http::Request::builder().method("DELETE").uri(&path);
    let request = request.header("authorization", format!("Bearer {other}"));
    app.send(request.body(axum::body::Body::empty()).unwrap()).await.problem(404, "workflow_not_found");
    assert_eq!(app.with_headers("DELETE", &path, &[], "").await.status, 204);
    app.with_headers("DELETE", &path, &[], "").await.problem(404, "workflow_not_found");
    app.get(&path).await.problem(404, "workflow_not_found");
    app.get(&format!("/v1/jobs/{first}")).await.problem(404, "job_not_found");
}
