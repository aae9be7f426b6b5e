//! Deleting modules, and what that means for jobs and workflows that use them.

use serde_json::{Value, json};

use crate::{
    app::{Answer, TestApp, example_module, id_of, module_with},
    modules::module_of,
};

async fn delete(app: &TestApp, digest: &Value) -> Answer {
    app.with_headers("DELETE", &format!("/v1/modules/{}", digest.as_str().unwrap()), &[], "").await
}

/// An app whose tasks point at a newer module than the one that is answered.
async fn with_old_module() -> (TestApp, Value) {
    let app = TestApp::with_tasks().await;
    let old = app.get("/v1/tasks/add").await.ok(200)["digest"].clone();
    (app, old)
}

#[tokio::test]
async fn a_module_is_deleted_when_no_task_points_at_it() {
    let (app, old) = with_old_module().await;
    let problem = delete(&app, &old).await.problem(409, "module_in_use");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("`add`, `echo`") && detail.contains("umbel task delete"), "{detail}");
    app.push(&module_with("newer")).await.ok(201);
    assert_eq!(delete(&app, &old).await.status, 204);
    assert_eq!(delete(&app, &old).await.status, 204, "it is deleted already");
    let shown = app.get(&format!("/v1/modules/{}", old.as_str().unwrap())).await.ok(200);
    assert!(shown["deleted_at"].is_string(), "{shown}");
    let listed = app.get("/v1/modules").await.ok(200)["items"].as_array().unwrap().clone();
    assert_eq!(listed.iter().filter(|module| module["deleted_at"].is_string()).count(), 1);
    delete(&app, &json!(format!("sha256:{}", "0".repeat(64)))).await.problem(404, "module_not_found");
}

#[tokio::test]
async fn nothing_new_uses_a_deleted_module_and_its_jobs_run() {
    let (app, old) = with_old_module().await;
    let waiting = app.submit_add(json!({})).await;
    app.push(&module_with("newer")).await.ok(201);
    assert_eq!(delete(&app, &old).await.status, 204);
    app.post("/v1/tasks/add/deploy", json!({"digest": old})).await.problem(410, "module_deleted");
    app.post("/v1/tasks/add/rollback", "").await.problem(410, "module_deleted");
    let delivery = app.claim().await;
    assert_eq!(delivery.id.to_string(), waiting);
    assert!(delivery.spec.contains(old.as_str().unwrap()));
    app.settle(&delivery, umbel_model::Resolution::Succeed { result: Some(crate::app::raw("3")) }).await;
    assert_eq!(app.get(&format!("/v1/jobs/{waiting}")).await.ok(200)["state"], "succeeded");
}

#[tokio::test]
async fn a_redrive_of_a_deleted_module_asks_for_the_current_one() {
    let (app, old) = with_old_module().await;
    let dead = app.dead_job().await;
    let newer = app.push(&module_with("newer")).await.ok(201)["digest"].clone();
    assert_eq!(delete(&app, &old).await.status, 204);
    for path in [format!("/v1/dead/{dead}/redrive"), format!("/v1/jobs/{dead}/retry")] {
        let problem = app.post(&path, json!({})).await.problem(410, "module_deleted");
        assert!(problem["detail"].as_str().unwrap().contains("--current"), "{problem}");
    }
    let again = app.post(&format!("/v1/dead/{dead}/redrive"), json!({"digest": "current"})).await.ok(202);
    assert_eq!(again["digest"], newer);
}

#[tokio::test]
async fn a_resume_of_a_deleted_module_asks_for_the_current_one() {
    let (app, old) = with_old_module().await;
    let canvas = json!({"canvas": {"chain": [{"task": "add", "args": [1]}, {"task": "echo"}]}});
    let id = id_of(&app.post("/v1/workflows", canvas).await.ok(202));
    app.run(|_| None).await;
    app.push(&module_with("newer")).await.ok(201);
    assert_eq!(delete(&app, &old).await.status, 204);
    let path = format!("/v1/workflows/{id}/resume");
    let problem = app.post(&path, json!({})).await.problem(410, "module_deleted");
    assert!(problem["detail"].as_str().unwrap().contains("--current"), "{problem}");
    app.post(&path, json!({"digest": "current"})).await.ok(202);
}

#[tokio::test]
async fn a_push_of_a_deleted_module_brings_it_back() {
    let (app, old) = with_old_module().await;
    app.push(&module_with("newer")).await.ok(201);
    assert_eq!(delete(&app, &old).await.status, 204);
    let dry = app.push_with("/v1/modules?dry_run=true", &[], &example_module()).await.ok(200);
    assert_eq!(dry["changes"][0]["change"], "updated");
    let path = format!("/v1/modules/{}", old.as_str().unwrap());
    assert!(app.get(&path).await.ok(200)["deleted_at"].is_string(), "a dry run changes nothing");
    let pushed = app.push_with("/v1/modules", &[("if-none-match", "*")], &example_module()).await.ok(201);
    assert_eq!((&pushed["digest"], &pushed["deleted_at"]), (&old, &Value::Null));
    assert_eq!(app.get(&path).await.ok(200)["deleted_at"], Value::Null);
    assert_eq!(app.get("/v1/tasks/add").await.ok(200)["digest"], old);
}

#[tokio::test]
async fn a_push_stores_the_bytes_again_that_are_missing() {
    let (app, old) = with_old_module().await;
    let (store, digest) = (app.store().await, old.as_str().unwrap().parse().unwrap());
    store.delete(&digest).await.unwrap();
    app.push(&example_module()).await.ok(200);
    assert!(store.exists(&digest).await.unwrap());
}

#[tokio::test]
async fn of_a_deletion_and_a_deploy_at_once_the_deploy_wins_or_the_deletion_is_first() {
    for round in 0..20 {
        let app = TestApp::new().await;
        let tasks = ["a", "b"];
        let one = app.push(&module_of(&format!("1 {round}"), &tasks)).await.ok(201)["digest"].clone();
        app.push(&module_of(&format!("2 {round}"), &tasks)).await.ok(201);
        let deploy = app.post("/v1/tasks/a/deploy", json!({"digest": one}));
        let (deployed, deleted) = futures::future::join(deploy, delete(&app, &one)).await;
        let module = app.get(&format!("/v1/modules/{}", one.as_str().unwrap())).await.ok(200);
        let points_there = app.get("/v1/tasks/a").await.ok(200)["digest"] == one;
        assert_eq!(points_there, deployed.status == 200);
        assert_eq!(module["deleted_at"].is_string(), !points_there, "{} {}", deployed.status, deleted.status);
    }
}

#[tokio::test]
async fn a_tenant_without_room_for_documents_can_delete_modules() {
    let (app, old) = with_old_module().await;
    app.push(&module_with("newer")).await.ok(201);
    let used = app.get("/v1/tenant/storage").await.ok(200)["document_bytes"].clone();
    let limit = json!({"max_document_bytes": used});
    app.with_headers("PATCH", "/v1/tenants/t1/storage", &[("content-type", "application/json")], &limit).await.ok(200);
    let refused = app.push(&module_with("newest")).await.problem(507, "storage_quota");
    assert!(refused["detail"].as_str().unwrap().contains(&format!("({used} of {used} bytes are stored")), "{refused}");
    assert_eq!(delete(&app, &old).await.status, 204);
}
