//! Blobs over HTTP.

use axum::body::Body;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use sha2::Digest as _;
use umbel_api::ApiConfig;
use umbel_broker::{Limits, StorageLimits};
use umbel_model::{Digest, TenantId};

use crate::app::{Answer, Builder, TestApp};

impl TestApp {
    async fn blobs(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = self.request(method, &format!("/v1/blobs{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    async fn put_blob(&self, bytes: &[u8]) -> String {
        let put = self.blobs("PUT", "", &[], bytes.to_vec()).await;
        assert!(put.status.is_success());
        put.json()["digest"].as_str().unwrap().to_owned()
    }

    fn stored_files(&self) -> usize {
        let folder = self.folder.path().join("blobs/t1");
        std::fs::read_dir(folder).map_or(0, |files| files.count())
    }
}

#[tokio::test]
async fn a_blob_is_read_as_it_was_put_whole_and_in_ranges() {
    let app = TestApp::new().await;
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let digest = Digest::of(&bytes).to_string();
    let put = app.blobs("PUT", "", &[("content-type", "text/html")], bytes.clone()).await;
    assert_eq!(put.header("location"), format!("/v1/blobs/{digest}"));
    assert_eq!(put.header("etag"), format!("\"{digest}\""));
    let blob = put.ok(201);
    assert_eq!((&blob["digest"], &blob["size_bytes"]), (&json!(digest), &json!(300_000)));
    assert_eq!((&blob["content_type"], &blob["references"]), (&json!("text/html"), &json!(0)));
    app.blobs("PUT", "", &[("content-type", "text/plain")], bytes.clone()).await.ok(200);
    let path = format!("/{digest}");
    let read = app.blobs("GET", &path, &[], Body::empty()).await;
    assert_eq!((read.status.as_u16(), &read.bytes[..]), (200, &bytes[..]));
    assert_eq!(read.header("content-type"), "text/html", "that of the first put");
    // No browser shows what a user sent.
    assert!(read.header("content-disposition").starts_with("attachment; filename="));
    assert_eq!(read.header("x-content-type-options"), "nosniff");
    assert!(read.header("content-security-policy").contains("sandbox"));
    assert_eq!((read.header("accept-ranges"), read.header("content-length")), ("bytes", "300000"));
    for (range, content_range, part) in [
        ("bytes=0-0", "bytes 0-0/300000", 0..1),
        ("bytes=299990-", "bytes 299990-299999/300000", 299_990..300_000),
        ("bytes=-262150", "bytes 37850-299999/300000", 37_850..300_000),
    ] {
        let read = app.blobs("GET", &path, &[("range", range)], Body::empty()).await;
        assert_eq!((read.status.as_u16(), read.header("content-range")), (206, content_range));
        assert_eq!(&read.bytes[..], &bytes[part]);
    }
    let outside = app.blobs("GET", &path, &[("range", "bytes=300000-")], Body::empty()).await;
    assert_eq!(outside.header("content-range"), "bytes */300000");
    outside.problem(416, "invalid_range");
    let tag = format!("\"{digest}\"");
    let known = app.blobs("GET", &path, &[("if-none-match", &tag)], Body::empty()).await;
    assert_eq!((known.status.as_u16(), known.bytes.len()), (304, 0));
    let other = app.blobs("GET", &path, &[("range", "bytes=0-0"), ("if-range", "\"x\"")], Body::empty()).await;
    assert_eq!((other.status.as_u16(), other.bytes.len()), (200, 300_000));
    let head = app.blobs("HEAD", &path, &[], Body::empty()).await;
    assert_eq!((head.status.as_u16(), head.bytes.len(), head.header("content-length")), (200, 0, "300000"));
    let empty = app.put_blob(b"").await;
    assert_eq!(app.blobs("GET", &format!("/{empty}"), &[], Body::empty()).await.bytes.len(), 0);
}

#[tokio::test]
async fn a_digest_that_is_said_is_compared_and_what_is_too_large_or_no_header_is_refused() {
    let config = ApiConfig { max_blob_bytes: 1_000, ..ApiConfig::default() };
    let app = Builder { config, ..Builder::default() }.build().await;
    let digest = Digest::of(b"some").to_string();
    let repr = format!("sha-256=:{}:", STANDARD.encode(sha2::Sha256::digest(b"some")));
    app.blobs("PUT", &format!("?digest={digest}"), &[], "some").await.ok(201);
    app.blobs("PUT", "", &[("repr-digest", &repr)], "some").await.ok(200);
    app.blobs("PUT", &format!("?digest={digest}"), &[], "other").await.problem(400, "digest_mismatch");
    app.blobs("PUT", "", &[("repr-digest", &repr)], "other").await.problem(400, "digest_mismatch");
    app.blobs("PUT", "", &[("repr-digest", "sha-256=:x:")], "other").await.problem(400, "invalid_header");
    app.blobs("PUT", "?digest=sha256:12", &[], "some").await.problem(400, "invalid_query");
    app.blobs("PUT", "", &[], vec![0; 1_001]).await.problem(413, "blob_too_large");
    app.blobs("PUT", "", &[("content-type", &"x".repeat(129))], "some").await.problem(400, "invalid_header");
    // Its length is not known before.
    let pieces = futures::stream::iter((0..11).map(|_| Ok::<_, std::io::Error>(vec![0; 100])));
    app.blobs("PUT", "", &[], Body::from_stream(pieces)).await.problem(413, "blob_too_large");
    assert_eq!(app.stored_files(), 1, "nothing of a refused one is there");
}

#[tokio::test]
async fn blobs_are_listed_in_pages_and_deleted_unless_a_job_refers_to_them() {
    let app = TestApp::with_tasks().await;
    let mut digests = Vec::new();
    for n in 0..5 {
        digests.push(app.put_blob(format!("blob {n}").as_bytes()).await);
    }
    digests.sort();
    let first = app.get("/v1/blobs?limit=3").await.ok(200);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = app.get(&format!("/v1/blobs?limit=3&cursor={cursor}")).await.ok(200);
    let items = first["items"].as_array().unwrap().iter().chain(second["items"].as_array().unwrap());
    assert_eq!(items.map(|item| item["digest"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), digests);
    assert!(second["next_cursor"].is_null());
    let path = format!("/{}", digests[0]);
    assert_eq!(app.get(&format!("/v1/blobs{path}/info")).await.ok(200)["size_bytes"], 6);
    assert_eq!(app.blobs("DELETE", &path, &[], Body::empty()).await.status.as_u16(), 204);
    for (method, path) in [("DELETE", path.clone()), ("GET", path.clone()), ("GET", format!("{path}/info"))] {
        app.blobs(method, &path, &[], Body::empty()).await.problem(404, "blob_not_found");
    }
    app.blobs("GET", "/no-digest", &[], Body::empty()).await.problem(404, "blob_not_found");
    assert_eq!(app.stored_files(), 4);
    // Another tenant has none of them.
    let other = app.other_tenant().await;
    let request = app.request("GET", &format!("/v1/blobs/{}", digests[1]));
    let mut request = request.body(Body::empty()).unwrap();
    request.headers_mut().insert("authorization", format!("Bearer {other}").parse().unwrap());
    app.send(request).await.problem(404, "blob_not_found");
}

#[tokio::test]
async fn a_tenant_without_room_stores_no_more_and_is_told_what_it_has() {
    let limits = Limits { max_blobs: 2, ..Limits::default() };
    let app = Builder { limits, ..Builder::default() }.build().await;
    app.put_blob(b"1").await;
    app.put_blob(b"2").await;
    app.blobs("PUT", "", &[], "3").await.problem(429, "too_many_blobs");
    app.blobs("PUT", "", &[], "2").await.ok(200);
    let limits = StorageLimits { blobs: 1_000, ..StorageLimits::default() };
    app.broker.set_storage_limits(&TenantId::new("t1").unwrap(), limits).await.unwrap();
    let refused = app.blobs("PUT", "", &[], vec![0; 900]).await.problem(507, "storage_quota");
    assert!(refused["detail"].as_str().unwrap().contains("blobs"), "{refused}");
    assert_eq!(app.stored_files(), 2);
    // What it has may be put again when its digest is said, though nothing is free.
    let limits = StorageLimits { blobs: 1, ..StorageLimits::default() };
    app.broker.set_storage_limits(&TenantId::new("t1").unwrap(), limits).await.unwrap();
    app.blobs("PUT", "", &[], "2").await.problem(507, "storage_quota");
    let again = format!("?digest={}", Digest::of(b"2"));
    app.blobs("PUT", &again, &[], "2").await.ok(200);
    app.blobs("PUT", &again, &[], "22").await.problem(400, "digest_mismatch");
    app.blobs("PUT", &format!("?digest={}", Digest::of(b"3")), &[], "3").await.problem(507, "storage_quota");
}

#[tokio::test]
async fn bytes_that_are_lost_are_named_and_put_again() {
    let app = TestApp::new().await;
    let digest = app.put_blob(b"some").await;
    std::fs::remove_file(app.folder.path().join("blobs/t1").join(&digest[7..])).unwrap();
    app.get(&format!("/v1/blobs/{digest}")).await.problem(410, "blob_lost");
    app.blobs("PUT", "", &[], "some").await.ok(200);
    assert_eq!(app.get(&format!("/v1/blobs/{digest}")).await.bytes.len(), 4);
}

#[tokio::test]
async fn arguments_refer_to_blobs_and_wrong_references_are_named_with_their_place() {
    let app = TestApp::with_tasks().await;
    let digest = app.put_blob(b"some").await;
    let missing = Digest::of(b"missing").to_string();
    let submit = async |value: serde_json::Value| app.post("/v1/jobs", json!({"task": "echo", "args": [value]})).await;
    let job = submit(json!({"in": [{"$blob": digest}]})).await;
    job.ok(202);
    assert_eq!(app.get(&format!("/v1/blobs/{digest}/info")).await.ok(200)["references"], 1);
    app.blobs("DELETE", &format!("/{digest}"), &[], Body::empty()).await.problem(409, "blob_in_use");
    let refused = submit(json!({"$blob": missing})).await.problem(422, "missing_blob");
    assert!(refused["detail"].as_str().unwrap().contains(&missing), "{refused}");
    let refused = submit(json!({"a/b": {"$blob": "x"}})).await.problem(422, "invalid_arguments");
    assert_eq!(refused["errors"][0]["pointer"], "/args/0/a~1b", "{refused}");
}
