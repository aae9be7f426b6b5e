//! Key-value entries over HTTP.

use axum::body::Body;
use serde_json::json;
use umbel_broker::{Limits, StorageLimits};
use umbel_model::TenantId;

use crate::app::{Answer, Builder, TestApp};

impl TestApp {
    async fn kv(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = self.request(method, &format!("/v1/kv{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn put(&self, path: &str, value: &str) -> u64 {
        let stored = self.kv("PUT", path, &[], value.to_owned()).await;
        let tag = stored.header("etag").to_owned();
        let version = stored.ok(200)["version"].as_u64().unwrap();
        assert_eq!(tag, format!("\"{version}\""));
        version
    }
}

#[tokio::test]
async fn a_value_is_read_as_it_was_written_whatever_its_key_and_bytes() {
    let app = TestApp::new().await;
    let bytes: Vec<u8> = (0..=255).collect();
    for key in ["plain", "orders%2F7", "%C3%A9%20x", "a%3Fb%23c%25", "%7B%7D"] {
        let path = format!("/b/{key}");
        app.kv("PUT", &path, &[("content-type", "text/html")], bytes.clone()).await.ok(200);
        let read = app.kv("GET", &path, &[], Body::empty()).await;
        assert_eq!((read.status.as_u16(), &read.bytes[..]), (200, &bytes[..]), "{key}");
        assert_eq!(read.header("content-type"), "application/octet-stream");
        assert_eq!(read.header("x-content-type-options"), "nosniff");
        assert_eq!(read.header("x-expires-at"), "");
        let tag = read.header("etag").to_owned();
        let fresh = app.kv("GET", &path, &[("if-none-match", &tag)], Body::empty()).await;
        assert_eq!((fresh.status.as_u16(), fresh.bytes.len()), (304, 0));
    }
    app.kv("PUT", "/b/empty", &[], Body::empty()).await.ok(200);
    assert_eq!(app.kv("GET", "/b/empty", &[], Body::empty()).await.bytes.len(), 0);
    let listed = app.get("/v1/kv/b").await.ok(200);
    let keys: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|item| item["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["a?b#c%", "empty", "orders/7", "plain", "{}", "é x"]);
    assert_eq!(listed["items"][0]["size_bytes"], 256);
    assert_eq!(app.get("/v1/kv").await.ok(200)["items"], json!([{"name": "b", "entries": 6}]));
    let head = app.kv("HEAD", "/b/plain", &[], Body::empty()).await;
    assert_eq!((head.status.as_u16(), head.bytes.len()), (200, 0));
}

#[tokio::test]
async fn a_write_may_ask_for_a_version_and_a_conflict_says_which_there_is() {
    let app = TestApp::new().await;
    let first = app.put("/b/k", "1").await;
    let absent = app.kv("PUT", "/b/k", &[("if-none-match", "*")], "x").await;
    assert_eq!(absent.header("etag"), format!("\"{first}\""));
    absent.problem(412, "version_conflict");
    app.kv("PUT", "/b/new", &[("if-none-match", "*")], "x").await.ok(200);
    let tag = format!("\"{first}\"");
    let second = app.kv("PUT", "/b/k", &[("if-match", &tag)], "2").await.ok(200)["version"].as_u64().unwrap();
    app.kv("PUT", "/b/k", &[("if-match", &tag)], "3").await.problem(412, "version_conflict");
    app.kv("DELETE", "/b/k", &[("if-match", &tag)], Body::empty()).await.problem(412, "version_conflict");
    let tag = format!("\"{second}\"");
    let deleted = app.kv("DELETE", "/b/k", &[("if-match", &tag)], Body::empty()).await;
    assert_eq!(deleted.status.as_u16(), 204);
    app.kv("DELETE", "/b/k", &[], Body::empty()).await.problem(404, "entry_not_found");
    app.kv("GET", "/b/k", &[], Body::empty()).await.problem(404, "entry_not_found");
    app.kv("PUT", "/b/k", &[("if-match", &tag)], "4").await.problem(412, "version_conflict");
    for headers in [&[("if-match", "7")][..], &[("if-match", "*")], &[("if-none-match", "\"1\"")]] {
        app.kv("PUT", "/b/k", headers, "x").await.problem(400, "invalid_header");
    }
}

#[tokio::test]
async fn a_number_is_added_to() {
    let app = TestApp::new().await;
    let add = async |body: serde_json::Value| app.post("/v1/kv/b/n/increment", body).await;
    assert_eq!(app.kv("POST", "/b/n/increment", &[], Body::empty()).await.ok(200)["value"], 1);
    assert_eq!(add(json!({"by": -5})).await.ok(200)["value"], -4);
    assert_eq!(add(json!({"by": i64::MAX})).await.ok(200)["value"], i64::MAX - 4);
    add(json!({"by": 5})).await.problem(409, "not_a_number");
    app.put("/b/n", "five").await;
    add(json!({})).await.problem(409, "not_a_number");
    let sum = app.post("/v1/kv/b/m/increment", json!({"by": 2, "initial": 40, "ttl": "1h"})).await.ok(200);
    assert_eq!(sum["value"], 42);
    assert_ne!(app.kv("GET", "/b/m", &[], Body::empty()).await.header("x-expires-at"), "");
    add(json!({"by": 1, "to": 2})).await.problem(422, "invalid_body");
}

#[tokio::test]
async fn keys_are_listed_by_prefix_and_a_bucket_is_deleted() {
    let app = TestApp::new().await;
    for n in 0..5 {
        app.put(&format!("/b/order%2F{n}"), "x").await;
    }
    app.put("/b/other", "x").await;
    let first = app.get("/v1/kv/b?prefix=order/&limit=3").await.ok(200);
    assert_eq!(first["items"].as_array().unwrap().len(), 3);
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = app.get(&format!("/v1/kv/b?prefix=order/&limit=3&cursor={cursor}")).await.ok(200);
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next_cursor"]), (2, &json!(null)));
    assert_eq!(rest["items"][0]["key"], "order/3");
    app.get("/v1/kv/b?cursor=%2F").await.problem(400, "invalid_cursor");
    app.get("/v1/kv/b?prefx=a").await.problem(400, "invalid_query");
    app.get("/v1/kv/b?limit=0").await.problem(400, "invalid_query");
    assert_eq!(app.get("/v1/kv/none").await.ok(200)["items"], json!([]));
    let deleted = app.kv("DELETE", "/b", &[], Body::empty()).await.ok(200);
    assert_eq!(deleted, json!({"deleted": 6, "has_more": false}));
    assert_eq!(app.get("/v1/kv").await.ok(200)["items"], json!([]));
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_its_reason() {
    let app = Builder { limits: Limits { max_buckets: 1, ..Limits::default() }, ..Builder::default() }.build().await;
    for path in ["/a%20b/k", "/-/k", "/b/a%0Ab", "/b/%00", &format!("/b/{}", "x".repeat(513))] {
        app.kv("PUT", path, &[], "x").await.problem(400, "invalid_key");
        app.kv("GET", path, &[], Body::empty()).await.problem(400, "invalid_key");
    }
    app.kv("PUT", "/b/%FF", &[], "x").await.problem(400, "invalid_key");
    let large = app.kv("PUT", "/b/k", &[], vec![0; (64 << 10) + 1]).await.problem(413, "value_too_large");
    assert!(large["detail"].as_str().unwrap().contains("65536"), "{large}");
    app.kv("PUT", "/b/k", &[], vec![0; (1 << 20) + 1]).await.problem(413, "body_too_large");
    for ttl in ["0s", "soon", "4000d"] {
        app.kv("PUT", &format!("/b/k?ttl={ttl}"), &[], "x").await.problem(400, "invalid_query");
    }
    app.kv("PUT", "/b/k?ttl=10m", &[], "x").await.ok(200);
    app.kv("PUT", "/c/k", &[], "x").await.problem(429, "too_many_buckets");
    let limits = StorageLimits { kv: 1, ..StorageLimits::default() };
    app.broker.set_storage_limits(&TenantId::new("t1").unwrap(), limits).await.unwrap();
    let full = app.kv("PUT", "/b/l", &[], "x").await.problem(507, "storage_quota");
    assert!(full["detail"].as_str().unwrap().contains("key-value"), "{full}");
    let own = app.get("/v1/tenant/storage").await.ok(200);
    assert_eq!((&own["max_kv_bytes"], own["kv_bytes"].as_u64().unwrap() > 60), (&json!(1), true));
}

#[tokio::test]
async fn entries_of_one_tenant_are_invisible_to_another() {
    let mut app = TestApp::new().await;
    app.put("/b/k", "mine").await;
    app.token = app.other_tenant().await;
    app.kv("GET", "/b/k", &[], Body::empty()).await.problem(404, "entry_not_found");
    assert_eq!(app.get("/v1/kv").await.ok(200)["items"], json!([]));
    app.put("/b/k", "theirs").await;
    assert_eq!(&app.kv("GET", "/b/k", &[], Body::empty()).await.bytes[..], b"theirs");
}
