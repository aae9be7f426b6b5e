//! What a workflow looks like to its readers: its nodes, its tree, its picture, its jobs.

use serde_json::{Value, json};
use umbel_broker::{Delivery, Growth, NewWorkflow, Settle, Settled};
use umbel_compose::{BrokerTasks, Composer, Head, Rules};
use umbel_model::{JobId, Resolution, Stamps};

use crate::app::{TestApp, id_of};

pub fn node(delivery: &Delivery) -> u32 {
    delivery.node.as_ref().unwrap().node
}

pub async fn submit(app: &TestApp, canvas: Value) -> String {
    id_of(&app.post("/v1/workflows", json!({ "canvas": canvas })).await.ok(202))
}

pub async fn workflow(app: &TestApp, id: &str) -> Value {
    app.get(&format!("/v1/workflows/{id}")).await.ok(200)
}

pub fn chord() -> Value {
    json!({"chord": [{"task": "add", "args": [1]}, {"task": "add", "args": [3]}], "body": {"task": "echo"}})
}

#[tokio::test]
async fn a_nodes_job_says_where_it_belongs() {
    let app = TestApp::with_tasks().await;
    let canvas = json!({"chain": [
        {"task": "add", "args": [1], "kwargs": {"y": 5}, "label": "first", "options": {"priority": 9}},
        {"task": "echo"},
    ]});
    let body = json!({"canvas": canvas, "tags": ["t"], "headers": {"k": "v"}});
    let id = id_of(&app.post("/v1/workflows", body).await.ok(202));
    let jobs = app.get(&format!("/v1/jobs?workflow={id}&limit=1")).await.ok(200);
    let job = app.get(&format!("/v1/jobs/{}", id_of(&jobs["items"][0]))).await.ok(200);
    assert_eq!(job["workflow"], id);
    assert_eq!(job["node"], json!({"number": 0, "label": "first", "tags": ["t"], "headers": {"k": "v"}}));
    assert_eq!(job["call"], json!({"args": [1], "kwargs": {"y": 5}}));
    assert_eq!((&job["priority"], &job["policy"]["priority"]), (&json!(9), &json!(9)));
    let cursor = jobs["next_cursor"].as_str().unwrap();
    let rest = app.get(&format!("/v1/jobs?workflow={id}&cursor={cursor}")).await.ok(200);
    assert_eq!((&rest["items"][0]["state"], &rest["next_cursor"]), (&json!("waiting"), &Value::Null));
    let none = app.get(&format!("/v1/jobs?workflow={id}&state=failed")).await.ok(200);
    assert_eq!(none["items"], json!([]));
    assert_eq!(app.get("/v1/jobs").await.ok(200)["items"], json!([]), "nodes are not among the jobs");
    app.get("/v1/jobs?workflow=01ARZ3NDEKTSV4RRFFQ69G5FAV").await.problem(404, "workflow_not_found");
}

#[tokio::test]
async fn nodes_are_listed_with_their_edges() {
    let app = TestApp::with_tasks().await;
    let id = submit(&app, chord()).await;
    let page = app.get(&format!("/v1/workflows/{id}/nodes?from=0&max=2")).await.ok(200);
    assert_eq!(page["next_from"], 2);
    let join = &page["items"][0];
    assert_eq!((&join["kind"], &join["state"]), (&json!("gate"), &json!("waiting")));
    assert_eq!(join["members"], json!([{"first": 1, "count": 2}]));
    assert_eq!(join["next"], json!([{"first": 3, "count": 1}]));
    let member = &page["items"][1];
    assert_eq!((&member["kind"], &member["task"], &member["group"]), (&json!("job"), &json!("add"), &json!(0)));
    let rest = app.get(&format!("/v1/workflows/{id}/nodes?from=2")).await.ok(200);
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_from"]), (2, &Value::Null));
    assert_eq!((&rest["items"][1]["after"], &rest["items"][1]["takes"]), (&json!(0), &json!(true)));
    app.get(&format!("/v1/workflows/{id}/nodes?max=0")).await.problem(400, "invalid_query");
    app.get("/v1/workflows/x/nodes").await.problem(404, "workflow_not_found");
}

#[tokio::test]
async fn the_tree_and_the_picture_show_what_was_written() {
    let app = TestApp::with_tasks().await;
    let members: Vec<Value> = (0..300).map(|n| json!({"task": "add", "args": [n]})).collect();
    let canvas = json!({
        "chord": members, "label": "<script>", "body": {"task": "echo", "link_error": [{"task": "echo"}]},
    });
    let id = submit(&app, canvas).await;
    app.run(|d| (node(d) < 5).then(|| json!(1))).await;
    let tree = app.get(&format!("/v1/workflows/{id}/tree")).await.ok(200);
    assert_eq!((&tree["kind"], &tree["count"], &tree["label"]), (&json!("chord"), &json!(300), &json!("<script>")));
    assert_eq!((&tree["nodes"], &tree["nodes_shown"], &tree["nodes_left_out"]), (&json!(303), &json!(303), &json!(0)));
    assert_eq!(tree["members"][0]["state"], "succeeded");
    assert!(tree["members"][0]["finished_at"].is_string());
    assert_eq!(tree["members"][299]["error"], "Void");
    assert_eq!(tree["body"]["link_error"][0]["task"], "echo");
    let picture = app.get(&format!("/v1/workflows/{id}/graph.svg")).await;
    assert_eq!(picture.header("content-type"), "image/svg+xml; charset=utf-8");
    assert!(picture.header("content-security-policy").starts_with("default-src 'none'"));
    let svg = String::from_utf8(picture.bytes.to_vec()).unwrap();
    assert!(svg.contains("… 288 more") && svg.contains("on error") && !svg.contains("<script"), "{svg}");
}

#[tokio::test]
async fn workflows_are_listed_newest_first_by_state() {
    let app = TestApp::with_tasks().await;
    let first = submit(&app, json!({"task": "add", "args": [1]})).await;
    app.run(|_| Some(json!(1))).await;
    let second = submit(&app, json!({"task": "add", "args": [1]})).await;
    let ids = |page: &Value| page["items"].as_array().unwrap().iter().map(id_of).collect::<Vec<_>>();
    let all = app.get("/v1/workflows").await.ok(200);
    assert_eq!(ids(&all), [second.clone(), first.clone()]);
    assert_eq!(ids(&app.get("/v1/workflows?state=succeeded").await.ok(200)), std::slice::from_ref(&first));
    let page = app.get("/v1/workflows?limit=1").await.ok(200);
    let next = page["next_cursor"].as_str().unwrap();
    assert_eq!(ids(&app.get(&format!("/v1/workflows?limit=1&cursor={next}")).await.ok(200)), [first]);
    app.get("/v1/workflows?state=done").await.problem(400, "invalid_query");
}

#[tokio::test]
async fn a_replaced_job_gives_the_result_of_what_replaced_it() {
    let app = TestApp::with_tasks().await;
    for (succeeds, state) in [(true, "succeeded"), (false, "failed")] {
        let id = app.submit_add(json!({})).await;
        let job = app.claim().await;
        replace(&app, &job).await;
        let waiting = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
        assert_eq!((&waiting["state"], &waiting["result"]), (&json!("waiting"), &Value::Null));
        let child = workflow(&app, waiting["replaced_by"].as_str().unwrap()).await;
        assert_eq!((&child["parent"], &child["depth"]), (&json!(id), &json!(1)));
        app.run(|_| succeeds.then(|| json!("from the child"))).await;
        let done = app.get(&format!("/v1/jobs/{id}")).await.ok(200);
        assert_eq!(done["state"], state);
        if succeeds {
            assert_eq!(done["result"], "from the child");
        } else {
            let child = waiting["replaced_by"].as_str().unwrap();
            app.post(&format!("/v1/workflows/{child}/resume"), "{}").await.problem(409, "not_resumable");
            assert_eq!(done["error"]["kind"], "upstream_failed");
            assert_eq!(done["error"]["details"]["failed"][0]["kind"], "Void");
        }
    }
    assert_eq!(app.get("/v1/workflows").await.ok(200)["items"], json!([]), "it is part of its job");
}

/// Settles a job as replaced by a call of `add`.
async fn replace(app: &TestApp, job: &Delivery) {
    let broker = app.broker.clone();
    let (tasks, rules, stamps) = (BrokerTasks::new(broker), Rules::default(), Stamps::default());
    let (tenant, now_ms, pointer) = (&job.tenant, 0, "");
    let composer = Composer { tasks: &tasks, rules: &rules, tenant, stamps: &stamps, now_ms, pointer };
    // Not made of the job's id: two jobs of one millisecond differ in the bits only that number a workflow's nodes.
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    let random = u128::from(u64::from_le_bytes(random)) << 8;
    let workflow = umbel_model::canvas::workflow_id(JobId::from_parts(5, random));
    let head = Head { parent: Some(job.id), depth: 1, ..Head::new(workflow) };
    let canvas = serde_json::from_value(json!({"task": "add", "args": [1]})).unwrap();
    let NewWorkflow { head, nodes } = composer.workflow(canvas, head).await.unwrap();
    let settle = Settle {
        tenant: job.tenant.clone(),
        id: job.id,
        token: job.token.clone(),
        resolution: Resolution::Replace { workflow },
        record: None,
        progress: None,
        logs: Vec::new(),
        growth: Some(Box::new(Growth { workflows: vec![NewWorkflow { head, nodes }], members: None })),
        blobs: None,
    };
    assert_eq!(app.broker.settle(&[settle], None).await.unwrap().0, [Settled::Recorded]);
}

#[tokio::test]
async fn a_group_of_thousands_is_stored_and_shown_in_pieces() {
    let app = TestApp::with_tasks().await;
    let members: Vec<Value> = (0..5_000).map(|n| json!({"task": "add", "args": [n]})).collect();
    let id =
        submit(&app, json!({"chain": [{"task": "echo", "args": [0]}, {"group": members}, {"task": "echo"}]})).await;
    let tree = app.get(&format!("/v1/workflows/{id}/tree")).await.ok(200);
    assert_eq!((&tree["kind"], &tree["nodes"], &tree["nodes_shown"]), (&json!("chain"), &json!(5_003), &json!(2_000)));
    let chord = &tree["steps"][1];
    assert_eq!((&chord["kind"], &chord["count"], &chord["left_out"]), (&json!("chord"), &json!(5_000), &json!(3_003)));
    assert_eq!(chord["body"]["task"], "echo");
    let nodes = app.get(&format!("/v1/workflows/{id}/nodes?from=4900&max=1000")).await.ok(200);
    assert_eq!((nodes["items"].as_array().unwrap().len(), &nodes["next_from"]), (103, &Value::Null));
}
