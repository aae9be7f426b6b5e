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
    let document = umbel_api::openapi();
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

#[test]
fn the_document_fits_what_the_server_takes_and_answers() {
    let document = umbel_api::openapi();
    let fits = |schema: &str, value: serde_json::Value| {
        let whole =
            serde_json::json!({"$ref": format!("#/components/schemas/{schema}"), "components": document["components"]});
        jsonschema::validator_for(&whole).unwrap().is_valid(&value)
    };
    // Both shapes: an operator's answer is a summary, too.
    assert!(fits("WorkerItem", serde_json::json!({"id": "w", "state": "running", "version": "1"})));
    let mut whole = serde_json::json!({"id": "w", "host": "h", "pid": 1, "version": "1", "queues": [], "exclude": [], "state": "running"});
    for number in ["slots", "min_slots", "max_slots", "running", "leases", "settled", "rss_bytes", "order"] {
        whole[number] = 4_000_000_000_u64.into();
    }
    whole["started_at"] = "2026-01-01T00:00:00Z".into();
    assert!(fits("WorkerItem", whole));
    assert!(fits("PolicyFields", serde_json::json!({"priority": 9, "memory_bytes": 65_536, "retry_on": ["Timeout"]})));
    for wrong in [
        serde_json::json!({"priority": 10}),
        serde_json::json!({"fuel": 0}),
        serde_json::json!({"max_retries": -1}),
        serde_json::json!({"throws": [1]}),
    ] {
        assert!(!fits("PolicyFields", wrong.clone()), "{wrong}");
    }
    for (path, operations) in document["paths"].as_object().unwrap() {
        for operation in operations.as_object().unwrap().values() {
            let body = operation["requestBody"]["content"]["application/json"]["schema"].to_string();
            assert!(!body.contains(r#""null""#), "{path} declares a body of null and refuses it");
        }
    }
    assert!(!document.to_string().contains(r#""format":"int32","minimum":0"#));
}

#[tokio::test]
async fn every_documented_operation_is_routed() {
    let app = TestApp::new().await;
    let document = umbel_api::openapi();
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

#[test]
fn names_are_as_long_as_the_document_says() {
    let document = umbel_api::openapi();
    let length = |pointer: &str| document.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap() as usize;
    let of = |schema: &str, field: &str| length(&format!("/components/schemas/{schema}/properties/{field}/maxLength"));
    let path = |path: &str| length(&format!("/paths/{}/get/parameters/0/schema/maxLength", path.replace('/', "~1")));
    let longest = "a".repeat(200);
    let task = of("Submission", "task");
    assert!(
        umbel_model::TaskName::new(&longest[..task]).is_ok() && umbel_model::TaskName::new(&longest[..=task]).is_err()
    );
    let queue = of("PolicyFields", "queue");
    assert!(
        umbel_model::QueueName::new(&longest[..queue]).is_ok()
            && umbel_model::QueueName::new(&longest[..=queue]).is_err()
    );
    let tenant = path("/v1/tenants/{tenant}/control");
    assert!(
        umbel_model::TenantId::new(&longest[..tenant]).is_ok()
            && umbel_model::TenantId::new(&longest[..=tenant]).is_err()
    );
    let worker = path("/v1/workers/{id}");
    assert!(
        umbel_model::WorkerId::new(&longest[..worker]).is_ok()
            && umbel_model::WorkerId::new(&longest[..=worker]).is_err()
    );
    assert_eq!(path("/v1/modules/{digest}"), umbel_model::Digest::of(b"").to_string().len());
    assert_eq!(path("/v1/jobs/{id}"), umbel_model::JobId::from_parts(1, 1).to_string().len());
    assert_eq!(path("/v1/tasks/{name}"), of("TaskStep", "task"));
}
