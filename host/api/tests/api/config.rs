//! Configuration values over HTTP.

use serde_json::json;

use crate::app::TestApp;

#[tokio::test]
async fn values_of_a_tenant_and_of_a_task_are_set_and_taken_away_one_by_one() {
    let app = TestApp::new().await;
    assert_eq!(app.get("/v1/config").await.ok(200), json!({"values": {}}));
    let set = json!({"values": {"api_url": "https://a.test", "region": "eu"}});
    assert_eq!(app.patch("/v1/config", &set).await.ok(200), set);
    let own = json!({"values": {"api_url": "https://b.test", "absent": null}});
    let shown = app.patch("/v1/tasks/import/config", &own).await.ok(200);
    assert_eq!(shown, json!({"values": {"api_url": "https://b.test"}, "inherited": {"region": "eu"}}));
    let taken = app.patch("/v1/config", &json!({"values": {"region": null}})).await.ok(200);
    assert_eq!(taken, json!({"values": {"api_url": "https://a.test"}}));
    assert_eq!(app.get("/v1/tasks/import/config").await.ok(200), json!({"values": {"api_url": "https://b.test"}}));
    app.patch("/v1/tasks/import/config", &json!({"values": {"api_url": null}})).await.ok(200);
    assert_eq!(
        app.get("/v1/tasks/import/config").await.ok(200),
        json!({"values": {}, "inherited": {"api_url": "https://a.test"}})
    );
}

#[tokio::test]
async fn a_change_may_ask_for_a_version_and_what_does_not_fit_is_refused_with_its_place() {
    let app = TestApp::new().await;
    let set = app.patch("/v1/config", &json!({"values": {"a": "1"}})).await;
    let tag = set.header("etag").to_owned();
    set.ok(200);
    let patch = async |tag: &str, values: serde_json::Value| {
        app.with_headers("PATCH", "/v1/config", &[("if-match", tag)], json!({ "values": values })).await
    };
    patch(&tag, json!({"a": "2"})).await.ok(200);
    patch(&tag, json!({"a": "3"})).await.problem(412, "version_conflict");
    let refused = async |values: serde_json::Value, pointer: &str| {
        let problem = app.patch("/v1/config", &json!({ "values": values })).await.problem(422, "invalid_body");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    };
    refused(json!({"a b": "x"}), "/values/a b").await;
    refused(json!({"a": 1}), "/values/a").await;
    refused(json!({"long": "x".repeat(5_000)}), "/values/long").await;
    let many: serde_json::Map<_, _> = (0..101).map(|n| (format!("n{n}"), "x".into())).collect();
    refused(many.into(), "/values").await;
    assert_eq!(app.get("/v1/config").await.ok(200), json!({"values": {"a": "2"}}));
}
