//! Who may ask.

use axum::{body::Body, http::Request};

use crate::app::TestApp;

async fn with_token(app: &TestApp, header: Option<&str>) -> crate::app::Answer {
    let mut request = Request::builder().uri("/v1/queues");
    if let Some(header) = header {
        request = request.header("authorization", header);
    }
    app.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_request_without_a_token_is_told_how_to_send_one() {
    let app = TestApp::new().await;
    let answer = with_token(&app, None).await;
    assert_eq!(answer.header("www-authenticate"), r#"Bearer realm="umbel""#);
    answer.problem(401, "missing_token");
}

#[tokio::test]
async fn a_bad_token_is_refused_whatever_is_bad_about_it() {
    let app = TestApp::new().await;
    let unknown = TestApp::new().await.token;
    for bad in [
        format!("Basic {}", app.token),
        format!("Bearer {}x", app.token),
        format!("Bearer {}", &app.token[..20]),
        format!("Bearer {unknown}"),
        "Bearer".to_owned(),
        "Bearer é".to_owned(),
    ] {
        let answer = with_token(&app, Some(&bad)).await;
        assert!(answer.header("www-authenticate").contains("invalid_token"));
        let problem = answer.problem(401, "invalid_token");
        assert!(!problem.to_string().contains(&app.token), "a problem does not repeat the token");
    }
    with_token(&app, Some(&format!("bearer {}", app.token))).await.ok(200);
}

#[tokio::test]
async fn everything_but_livez_wants_a_token() {
    let app = TestApp::new().await;
    for path in ["/v1/openapi.json", "/readyz", "/version", "/nowhere", "/v1/jobs"] {
        let answer = app.send(Request::builder().uri(path).body(Body::empty()).unwrap()).await;
        answer.problem(401, "missing_token");
        assert_ne!(app.get(path).await.status, 401, "{path}");
    }
    app.send(Request::builder().uri("/livez").body(Body::empty()).unwrap()).await.ok(200);
}

#[tokio::test]
async fn a_tenant_sees_nothing_of_anothers() {
    let app = TestApp::with_tasks().await;
    let id = app.submit_add(serde_json::json!({})).await;
    let digest = app.get("/v1/tasks/add").await.ok(200)["digest"].as_str().unwrap().to_owned();
    let other = TestApp { token: app.other_tenant().await, ..app };
    other.get(&format!("/v1/jobs/{id}")).await.problem(404, "job_not_found");
    other.post(&format!("/v1/jobs/{id}/cancel"), "").await.problem(404, "job_not_found");
    other.post(&format!("/v1/dead/{id}/redrive"), "").await.problem(404, "job_not_found");
    other.get(&format!("/v1/jobs/{id}/logs")).await.problem(404, "job_not_found");
    other.get("/v1/tasks/add").await.problem(404, "task_not_found");
    other.get(&format!("/v1/modules/{digest}")).await.problem(404, "module_not_found");
    let body = format!(r#"{{"digest":"{digest}"}}"#);
    other.post("/v1/tasks/add/deploy", body).await.problem(404, "module_not_found");
    for list in ["/v1/jobs", "/v1/tasks", "/v1/modules", "/v1/queues", "/v1/dead"] {
        assert_eq!(other.get(list).await.ok(200)["items"], serde_json::json!([]), "{list}");
    }
}

#[tokio::test]
async fn a_tenant_lists_and_revokes_its_own_tokens_and_an_operator_those_of_all() {
    let app = TestApp::new().await;
    let other = app.other_tenant().await;
    let as_other = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {other}"));
        app.send(request.body(Body::empty()).unwrap()).await
    };
    let own = app.get("/v1/tokens").await.ok(200);
    assert_eq!(own["items"].as_array().unwrap().len(), 1);
    assert_eq!((&own["items"][0]["tenant"], &own["items"][0]["operator"]), (&"t1".into(), &true.into()));
    let id = own["items"][0]["id"].as_str().unwrap().to_owned();
    assert!(!own.to_string().contains(&app.token));
    as_other("GET", "/v1/tokens?tenant=t1").await.problem(403, "operator_needed");
    as_other("GET", "/v1/tokens?all=true").await.problem(403, "operator_needed");
    as_other("DELETE", &format!("/v1/tokens/{id}")).await.problem(404, "token_not_found");
    let first = app.get("/v1/tokens?all=true&limit=1").await.ok(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = app.get(&format!("/v1/tokens?all=true&limit=1&cursor={cursor}")).await.ok(200);
    assert_eq!((first["items"].as_array().unwrap().len(), second["next_cursor"].is_null()), (1, true));
    let others = app.get("/v1/tokens?tenant=t2").await.ok(200)["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(app.with_headers("DELETE", &format!("/v1/tokens/{others}"), &[], "").await.status, 204);
    app.with_headers("DELETE", &format!("/v1/tokens/{others}"), &[], "").await.problem(404, "token_not_found");
}
