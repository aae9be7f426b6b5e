//! Secrets over HTTP: set, listed and deleted, and never read.

use std::sync::Arc;

use axum::body::Body;
use serde_json::json;
use umbel_api::ApiConfig;

use crate::app::{Answer, Builder, TestApp};

const VALUE: &str = "correct horse battery";

async fn app() -> TestApp {
    let mut masters = umbel_secrets::MasterKeys::default();
    masters.add(&"0123456789abcdef".repeat(4), "test").unwrap();
    let config = ApiConfig { master_keys: Arc::new(masters), ..ApiConfig::default() };
    Builder { config, ..Builder::default() }.build().await
}

impl TestApp {
    async fn secret(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = self.request(method, &format!("/v1/secrets{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }
}

#[tokio::test]
async fn a_secret_is_set_and_shown_without_its_value() {
    let app = app().await;
    let set = app.secret("PUT", "/key?hosts=api.example.com,http://127.0.0.1:8080&body=true", &[], VALUE).await;
    assert_eq!(set.header("etag"), "\"1\"");
    let set = set.ok(200);
    assert_eq!(set["hosts"], json!(["https://api.example.com", "http://127.0.0.1:8080"]));
    assert_eq!((&set["version"], &set["body"], &set["reveal"]), (&json!(1), &json!(true), &json!(false)));
    assert_eq!(app.get("/v1/secrets").await.ok(200)["items"], json!([set]));
    assert_eq!(app.get("/v1/secrets/key").await.ok(200), set);
    for answer in [app.get("/v1/secrets").await, app.get("/v1/secrets/key").await] {
        assert!(!String::from_utf8_lossy(&answer.bytes).contains("horse"));
    }
    app.secret("PUT", "/key?reveal=true", &[("if-match", "\"7\"")], VALUE).await.problem(412, "version_conflict");
    app.secret("PUT", "/key?reveal=true", &[("if-none-match", "*")], VALUE).await.problem(412, "version_conflict");
    let again = app.secret("PUT", "/key?reveal=true", &[("if-match", "\"1\"")], VALUE).await.ok(200);
    assert_eq!((&again["version"], &again["hosts"]), (&json!(2), &json!([])));
    assert_eq!(app.post("/v1/secret-keys/rotate", "").await.ok(200)["sealed"], 1);
    assert_eq!(app.post("/v1/secret-keys/rewrap", "").await.ok(200)["current"], 2);
    assert_eq!(app.secret("DELETE", "/key", &[], Body::empty()).await.status.as_u16(), 204);
    app.get("/v1/secrets/key").await.problem(404, "secret_not_found");
    app.secret("DELETE", "/key", &[], Body::empty()).await.problem(404, "secret_not_found");
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_and_not_repeated() {
    let app = app().await;
    for (query, value, says) in [
        ("hosts=a.test", "horse", "8 to 8192 bytes"),
        ("hosts=a.test", "horse\nhorse", "visible ASCII"),
        ("hosts=a.test/path", "horse horse", "without a path"),
        ("hosts=*", "horse horse", "name the host"),
        ("", "horse horse", "name the hosts"),
        ("body=true&reveal=true", "horse horse", "in"),
    ] {
        let problem = app.secret("PUT", &format!("/key?{query}"), &[], value).await.problem(422, "invalid_secret");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains(says) && !detail.contains("horse"), "{query}: {detail}");
    }
    app.secret("PUT", "/key?reveal=true", &[], "x".repeat(65_537)).await.problem(413, "body_too_large");
    app.secret("PUT", "/a%20b?reveal=true", &[], VALUE).await.problem(404, "secret_not_found");
}

#[tokio::test]
async fn without_a_master_key_or_the_right_nothing_is_set() {
    let plain = TestApp::new().await;
    plain.secret("PUT", "/key?reveal=true", &[], VALUE).await.problem(409, "no_master_key");
    assert_eq!(plain.get("/v1/secrets").await.ok(200)["items"], json!([]));
}
