//! Permissions that modules ask for: manifest, approval, grants.

use serde_json::{Value, json};
use umbel_api::{ApiConfig, NewToken, create_token};
use umbel_model::TenantId;

use crate::app::{Answer, Builder, TestApp, token_of};

/// A module with these tasks, which declares permissions.
fn module(text: &str, tasks: &[&str], declares: &[(Option<&str>, &str)]) -> String {
    let task = |name: &&str| json!({"name": name, "description": text, "parameters": []});
    json!({"tasks": tasks.iter().map(task).collect::<Vec<_>>(), "declares": declares}).to_string()
}

fn digest(pushed: &Value) -> String {
    pushed["digest"].as_str().unwrap().to_owned()
}

async fn approve(app: &TestApp, digest: &str) -> Answer {
    app.post(&format!("/v1/modules/{digest}/approve"), "").await
}

/// The app as a token without rights sees it.
async fn plain(app: &TestApp) -> TestApp {
    let token = token_of(&*app.broker, "t1", false).await;
    let folder = tempfile::tempdir().unwrap();
    TestApp { api: app.api.clone(), router: app.router.clone(), broker: app.broker.clone(), token, folder }
}

#[tokio::test]
async fn a_module_that_asks_is_stored_and_deployed_only_after_somebody_approved_it() {
    let app = TestApp::new().await;
    let pusher = plain(&app).await;
    let asks = module("1", &["a", "b"], &[(None, "kv x"), (Some("a"), "http get https://A.example")]);
    let dry = pusher.push_with("/v1/modules?dry_run=true", &[], &asks).await.ok(200);
    assert_eq!((&dry["approval"]["state"], &dry["changes"][0]["change"]), (&json!("waits"), &json!("not_deployed")));
    let pushed = pusher.push(&asks).await.ok(201);
    let digest = digest(&pushed);
    let line = format!("umbel module approve {digest}");
    assert_eq!(pushed["manifest"]["permissions"], json!(["kv x"]));
    assert_eq!(pushed["manifest"]["tasks"], json!({"a": ["http GET https://a.example/"]}));
    assert_eq!(pushed["manifest"]["pure"], true);
    let missing = json!(["kv x", "http GET https://a.example/"]);
    assert_eq!(pushed["approval"], json!({"state": "waits", "missing": missing, "command": line}));
    let expected = json!([
        {"added": true, "permission": "kv x"},
        {"added": true, "permission": "http GET https://a.example/", "task": "a"},
    ]);
    assert_eq!(pushed["permission_changes"], expected);
    for change in pushed["changes"].as_array().unwrap() {
        assert_eq!(change["change"], "not_deployed");
        assert!(change["detail"].as_str().unwrap().contains(&line), "{change}");
    }
    app.get("/v1/tasks/a").await.problem(404, "task_not_found");
    let deploy = json!({"digest": digest});
    // There is no such task yet; the module has it.
    let refused = pusher.post("/v1/tasks/a/deploy", &deploy).await.problem(409, "approval_needed");
    assert!(refused["detail"].as_str().unwrap().contains(&line), "{refused}");

    let refused = approve(&pusher, &digest).await.problem(403, "grant_needed");
    assert!(refused["detail"].as_str().unwrap().contains("--grant"), "{refused}");
    let approved = approve(&app, &digest).await.ok(200);
    assert_eq!((&approved["approval"]["state"], &approved["approval"]["by"]), (&json!("approved"), &json!("test")));
    assert_eq!(approved["changes"][1], json!({"task": "b", "change": "new", "from": null, "fields": []}));
    assert_eq!(app.get("/v1/tasks/a").await.ok(200)["digest"], digest);
    // Nothing is left to do.
    assert_eq!(approve(&app, &digest).await.ok(200)["changes"], json!([]));
    assert_eq!(pusher.push(&asks).await.ok(200)["approval"]["state"], "approved");
    let shown = app.get(&format!("/v1/modules/{digest}/manifest")).await.ok(200);
    assert_eq!(shown["approval"]["state"], "approved");
    assert!(shown["approval"]["at"].is_string());
}

#[tokio::test]
async fn a_version_that_asks_for_no_more_inherits_the_approval_and_a_larger_one_waits() {
    let app = TestApp::new().await;
    let first = digest(&app.push(&module("1", &["a"], &[(None, "kv *"), (None, "secret s")])).await.ok(201));
    approve(&app, &first).await.ok(200);
    let smaller = app.push(&module("2", &["a"], &[(Some("a"), "kv x read")])).await.ok(201);
    assert_eq!(
        (&smaller["approval"]["state"], &smaller["changes"][0]["change"]),
        (&json!("approved"), &json!("updated"))
    );
    assert_eq!(smaller["approval"]["inherited_from"], first);
    let told: Vec<_> =
        smaller["permission_changes"].as_array().unwrap().iter().map(|c| (&c["added"], &c["permission"])).collect();
    assert_eq!(
        told,
        [(&json!(true), &json!("kv x read")), (&json!(false), &json!("kv *")), (&json!(false), &json!("secret s"))]
    );
    // The approval of what is deployed counts, not that of what was.
    let back = app.push(&module("3", &["a"], &[(None, "kv x")])).await.ok(201);
    assert_eq!(back["approval"]["state"], "waits");
    assert_eq!(app.get("/v1/tasks/a").await.ok(200)["digest"], smaller["digest"]);
    // Nor that of another module, unless its tasks are taken over.
    let other = module("4", &["a", "x", "y", "z"], &[(None, "kv x read")]);
    let wide = digest(&app.push(&module("5", &["x", "y", "z"], &[(None, "blob")])).await.ok(201));
    approve(&app, &wide).await.ok(200);
    app.push(&other).await.problem(409, "task_of_another_module");
    let taken = app.push_with("/v1/modules?take_over=true", &[], &other).await.ok(201);
    assert_eq!(taken["approval"]["inherited_from"], smaller["digest"]);
    // What asks for nothing needs nobody.
    assert_eq!(app.push(&module("6", &["lonely"], &[])).await.ok(201)["approval"]["state"], "not_needed");
    app.get("/v1/tasks/lonely").await.ok(200);
}

#[tokio::test]
async fn a_revoked_approval_is_needed_again_for_deploys_rollbacks_and_pushes() {
    let app = TestApp::new().await;
    let (one, two) = (module("1", &["a"], &[(None, "kv x")]), module("2", &["a"], &[(None, "kv x"), (None, "blob")]));
    let first = digest(&app.push(&one).await.ok(201));
    approve(&app, &first).await.ok(200);
    let second = digest(&app.push(&two).await.ok(201));
    approve(&app, &second).await.ok(200);
    let revoke = format!("/v1/modules/{first}/approval");
    plain(&app).await.with_headers("DELETE", &revoke, &[], "").await.problem(403, "grant_needed");
    assert_eq!(app.with_headers("DELETE", &revoke, &[], "").await.status, 204);
    assert_eq!(app.get(&format!("/v1/modules/{first}/manifest")).await.ok(200)["approval"]["state"], "waits");
    app.post("/v1/tasks/a/rollback", "").await.problem(409, "approval_needed");
    app.post("/v1/tasks/a/deploy", json!({"digest": first})).await.problem(409, "approval_needed");
    app.post(&format!("/v1/modules/{second}/rollback"), "").await.problem(409, "nothing_to_roll_back");
    // The deployed version was approved for as much.
    assert_eq!(app.push(&one).await.ok(200)["approval"]["inherited_from"], second);
    app.with_headers("DELETE", &format!("/v1/modules/{first}/approval"), &[], "").await;
    app.with_headers("DELETE", &format!("/v1/modules/{second}/approval"), &[], "").await;
    assert_eq!(app.push(&one).await.ok(200)["changes"][0]["change"], "unchanged");
    assert_eq!(app.push(&two).await.ok(200)["changes"][0]["change"], "not_deployed");
}

#[tokio::test]
async fn a_push_in_dev_is_approved_and_says_so() {
    let config = ApiConfig { approve_pushes: true, ..Default::default() };
    let app = Builder { config, ..Default::default() }.build().await;
    let pushed = app.push(&module("1", &["a"], &[(None, "kv x")])).await.ok(201);
    assert_eq!((&pushed["approval"]["state"], &pushed["approval"]["by"]), (&json!("approved"), &json!("umbel dev")));
    app.get("/v1/tasks/a").await.ok(200);
}

#[tokio::test]
async fn tenants_do_not_share_approvals_and_a_token_may_have_the_right_alone() {
    let app = TestApp::new().await;
    let asks = module("1", &["a"], &[(None, "kv x")]);
    let digest = digest(&app.push(&asks).await.ok(201));
    approve(&app, &digest).await.ok(200);
    let tenant = TenantId::new("t2").unwrap();
    let new = NewToken { tenant: &tenant, name: "granter", operator: false, grant: true, lives_ms: None };
    let token = create_token(&*app.broker, new).await.unwrap();
    let other = TestApp { token, ..plain(&app).await };
    assert_eq!(other.push(&asks).await.ok(201)["approval"]["state"], "waits");
    assert_eq!(approve(&other, &digest).await.ok(200)["approval"]["by"], "granter");
    let tokens = other.get("/v1/tokens").await.ok(200);
    assert_eq!((&tokens["items"][0]["grant"], &tokens["items"][0]["operator"]), (&json!(true), &json!(false)));
}

#[tokio::test]
async fn a_tenants_grants_and_the_operators_bounds_are_two_lists() {
    let app = TestApp::new().await;
    let tenant = plain(&app).await;
    let shown = tenant.get("/v1/tenant/grants").await.ok(200);
    let default = json!(["http https://*:*/", "secret * reveal", "kv *", "blob"]);
    assert_eq!(shown, json!({"permissions": null, "bounds": default, "default_bounds": true}));
    let put = |list: Value| json!({ "permissions": list }).to_string();
    let own = "/v1/tenant/grants";
    tenant.with_headers("PUT", own, &[], put(json!(["kv x"]))).await.problem(403, "grant_needed");
    let set = app.with_headers("PUT", own, &[], put(json!(["kv x", "kv x read"]))).await;
    let etag = set.header("etag").to_owned();
    assert_eq!(set.ok(200)["permissions"], json!(["kv x"]));
    app.with_headers("PUT", own, &[("if-match", "\"7\"")], put(json!([]))).await.problem(412, "version_conflict");
    let cleared = app.with_headers("PUT", own, &[("if-match", &etag)], put(Value::Null)).await.ok(200);
    assert_eq!(cleared["permissions"], Value::Null);

    let bad = app.with_headers("PUT", own, &[], put(json!(["kv x", "kv", "network 10.0.0.0/8"]))).await;
    let bad = bad.problem(422, "invalid_permission");
    assert_eq!(bad["errors"][0]["pointer"], "/permissions/1");
    assert!(bad["errors"][1]["detail"].as_str().unwrap().contains("only an operator"), "{bad}");
    let many: Vec<String> = (0..129).map(|n| format!("kv b{n}")).collect();
    app.with_headers("PUT", own, &[], put(json!(many))).await.problem(422, "invalid_permission");
    app.with_headers("PUT", own, &[], json!({})).await.problem(422, "invalid_body");

    let bounds = "/v1/tenants/t1/grants";
    tenant.with_headers("PUT", bounds, &[], put(json!([]))).await.problem(403, "operator_needed");
    tenant.get(bounds).await.problem(403, "operator_needed");
    let set = app.with_headers("PUT", bounds, &[], put(json!(["network 10.0.0.0/8", "http http://*:*"]))).await.ok(200);
    assert_eq!(set["default_bounds"], false);
    let shown = tenant.get(own).await.ok(200);
    assert_eq!(shown["bounds"], json!(["network 10.0.0.0/8", "http http://*:*/"]));
    assert_eq!(app.get("/v1/tenants/t2/grants").await.ok(200)["default_bounds"], true);
    assert_eq!(app.with_headers("PUT", bounds, &[], put(Value::Null)).await.ok(200)["default_bounds"], true);
}

#[tokio::test]
async fn what_a_module_declares_wrong_is_refused_at_the_push() {
    let app = TestApp::new().await;
    let refused = app.push(&module("1", &["a"], &[(Some("a"), "kv")])).await.problem(422, "invalid_permission");
    assert_eq!(refused["detail"], "task \"a\": permission \"kv\": write `kv BUCKET` or `kv BUCKET read`");
}

#[tokio::test]
async fn a_module_that_an_older_release_stored_is_asked_when_it_is_pushed_again() {
    use umbel_broker::{DocumentKind, Expect, PutDocument};
    let app = TestApp::new().await;
    let asks = module("1", &["a"], &[(None, "kv x")]);
    let digest = digest(&app.push(&asks).await.ok(201));
    let tenant = TenantId::new("t1").unwrap();
    let stored = app.broker.document(&tenant, DocumentKind::Module, &digest).await.unwrap().unwrap();
    let mut record: Value = serde_json::from_str(&stored.body).unwrap();
    record.as_object_mut().unwrap().remove("permissions").unwrap();
    let (kind, name, body) = (DocumentKind::Module, digest.clone(), Some(record.to_string()));
    app.broker
        .put_document(&PutDocument { tenant, kind, name, expect: Expect::Any, body, held_bytes: 0 })
        .await
        .unwrap();
    let shown = app.get(&format!("/v1/modules/{digest}/manifest")).await.ok(200);
    assert_eq!(shown["approval"]["state"], "not_needed");
    assert_eq!(app.push(&asks).await.ok(200)["approval"]["state"], "waits");
    let shown = app.get(&format!("/v1/modules/{digest}/manifest")).await.ok(200);
    assert_eq!(shown["manifest"]["permissions"], json!(["kv x"]));
}
