//! The OpenAPI document: a snapshot, so that a change of the API is seen in review.

use std::path::Path;

use crate::app::TestApp;

#[tokio::test]
async fn the_document_is_the_snapshot() {
    let served = TestApp::new().await.get("/v1/openapi.json").await.ok(200);
    let text = format!("{}\n", serde_json::to_string_pretty(&served).unwrap());
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi.json");
    if std::env::var_os("UMBEL_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == text, "the API changed: look at it, then run the test with UMBEL_UPDATE_SNAPSHOTS=1");
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let document = serde_json::to_value(umbel_api::openapi()).unwrap();
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        match value {
            serde_json::Value::Object(map) => {
                if let Some(reference) = map.get("$ref").and_then(|r| r.as_str()) {
                    assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                }
                open.extend(map.values());
            }
            serde_json::Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
}

#[tokio::test]
async fn every_documented_operation_is_routed() {
    let app = TestApp::new().await;
    let document = serde_json::to_value(umbel_api::openapi()).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(names.insert(operation["operationId"].as_str().unwrap()), "{}", operation["operationId"]);
            let path = path.replace("{id}", "x").replace("{name}", "x").replace("{digest}", "x");
            // No id of an event: a stream that has no end is refused.
            let answer = app.with_headers(&method.to_uppercase(), &path, &[("last-event-id", "x")], "").await;
            let code = answer.json()["code"].clone();
            assert!(code != "route_not_found" && code != "method_not_allowed", "{method} {path}: {code}");
        }
    }
    assert!(names.len() >= 22, "{names:?}");
}
