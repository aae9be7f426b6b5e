//! Bad input over HTTP: each has a clear error with a stable code, and the service keeps serving the others.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use umbel_tests::{Answer, Client, Dev, guest, wasm};

/// The answer is a problem (RFC 9457) with this status and one of these codes, and says something.
fn is_problem(what: &str, answer: &Answer, status: u16, codes: &[&str]) {
    assert_eq!(answer.status, status, "{what}: {}", answer.text);
    let kind = answer.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert!(kind.starts_with("application/problem+json"), "{what}: content type {kind}");
    let problem = answer.json();
    assert!(codes.contains(&answer.code().as_str()), "{what}: code {} is not among {codes:?}", problem["code"]);
    assert_eq!(problem["status"], status, "{what}");
    assert!(problem["detail"].as_str().is_some_and(|d| d.len() > 5), "{what}: no detail in {problem}");
    assert!(problem["request_id"].is_string() || answer.headers.contains_key("x-request-id"), "{what}: {problem}");
}

async fn still_serves(client: &Client) -> Result<()> {
    assert_eq!(client.result("add", json!([20, 22])).await?, 42);
    Ok(())
}

#[tokio::test]
async fn bytes_that_are_no_module_are_refused_by_name() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("numbers").await?;
    let numbers = guest("numbers")?;
    for (what, bytes, codes) in [
        ("a text", b"#!/bin/sh\necho hello\n".to_vec(), &["not_wasm"][..]),
        ("nothing", Vec::new(), &["not_wasm"]),
        ("a truncated module", wasm::truncated(&numbers), &["invalid_module"]),
        ("a module without the contract", wasm::core_module()?, &["no_contract"]),
        ("an empty component", wasm::empty_component()?, &["no_contract"]),
    ] {
        is_problem(what, &client.upload(bytes).await?, 422, codes);
    }
    let unknown = client.upload(wasm::unknown_import()?).await?;
    is_problem("an unknown import", &unknown, 422, &["unknown_import"]);
    ensure!(unknown.json()["detail"].to_string().contains("acme:rockets/launch"), "{}", unknown.text);
    assert_eq!(client.get("/v1/modules").await?.good()?["items"].as_array().map(Vec::len), Some(1));
    still_serves(client).await
}

#[tokio::test]
async fn a_module_over_the_size_limit_is_refused_before_it_is_read_whole() -> Result<()> {
    let dev = Dev::start().await?;
    let mut large = b"\0asm\x01\0\0\0".to_vec();
    large.resize(40 << 20, 0);
    // The server may close while we still send: that is an answer too, if it says so on a new connection.
    if let Ok(answer) = dev.client.upload(large).await {
        is_problem("an oversized module", &answer, 413, &["module_too_large"]);
    }
    dev.client.push("numbers").await?;
    still_serves(&dev.client).await
}

#[tokio::test]
async fn compile_bombs_are_contained_and_others_are_served_meanwhile() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("numbers").await?;
    let codes = ["module_too_complex", "compile_timeout", "compile_memory", "no_contract", "module_too_large"];
    for (what, bomb) in [
        ("a million functions", wasm::many_functions(1_000_000)),
        ("one huge function", wasm::huge_function(6_000_000)),
    ] {
        let upload = client.upload(bomb);
        let (answer, served) = tokio::join!(upload, still_serves(client));
        is_problem(what, &answer?, 422, &codes);
        served.with_context(|| format!("beside {what}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn arguments_that_do_not_fit_name_the_place() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("numbers").await?;
    client.push("orders").await?;
    let submit = |body: Value| async move { client.post("/v1/jobs", &body).await };
    is_problem("an unknown task", &submit(json!({"task": "no_such_task"})).await?, 404, &["task_not_found"]);
    for (what, body, pointer) in [
        ("too few", json!({"task": "add", "args": [1]}), ""),
        ("too many", json!({"task": "add", "args": [1, 2, 3]}), "/args/2"),
        ("an unknown name", json!({"task": "add", "kwargs": {"x": 1, "y": 2, "z": 3}}), "/kwargs/z"),
        ("given twice", json!({"task": "add", "args": [1, 2], "kwargs": {"y": 3}}), "/kwargs/y"),
        ("a text for a number", json!({"task": "add", "args": [1, "two"]}), "/args/1"),
        ("by name", json!({"task": "add", "kwargs": {"x": 1, "y": "two"}}), "/kwargs/y"),
        (
            "deep inside",
            json!({"task": "process_order", "args": [1, [{"sku": 5, "unit_price_cents": 1}]]}),
            "/args/1/0/sku",
        ),
    ] {
        let answer = submit(body).await?;
        is_problem(what, &answer, 422, &["invalid_arguments"]);
        let errors = answer.json()["errors"].clone();
        let pointers: Vec<&str> =
            errors.as_array().into_iter().flatten().filter_map(|e| e["pointer"].as_str()).collect();
        assert!(!pointers.is_empty() && pointers.iter().any(|p| p.starts_with(pointer)), "{what}: {errors}");
    }
    is_problem("an unknown field", &submit(json!({"task": "add", "argz": []})).await?, 422, &["invalid_body"]);
    let absurd = json!({"task": "add", "args": [1, 1], "options": {"priority": 99}});
    is_problem("an absurd option", &submit(absurd).await?, 422, &["invalid_policy", "invalid_option"]);
    still_serves(client).await
}

#[tokio::test]
async fn malformed_huge_and_deep_json_is_refused() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("numbers").await?;
    let raw = |body: String| {
        client.send(client.request(Method::POST, "/v1/jobs").header("content-type", "application/json").body(body))
    };
    is_problem("no JSON", &raw("{\"task\": ".into()).await?, 400, &["invalid_json"]);
    let deep = format!(r#"{{"task":"ident","args":[{}{}]}}"#, "[".repeat(100_000), "]".repeat(100_000));
    is_problem("deep JSON", &raw(deep).await?, 400, &["json_too_deep"]);
    let huge = format!(r#"{{"task":"ident","args":["{}"]}}"#, "x".repeat(8 << 20));
    if let Ok(answer) = raw(huge).await {
        is_problem("huge JSON", &answer, 413, &["body_too_large", "arguments_too_large"]);
    }
    let form = client.request(Method::POST, "/v1/jobs").header("content-type", "text/plain").body("task=add");
    is_problem("another media type", &client.send(form).await?, 415, &["unsupported_media_type"]);
    still_serves(client).await
}

#[tokio::test]
async fn a_batch_answers_each_line_in_order_and_a_bad_line_spoils_no_other() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("numbers").await?;
    let lines = [
        r#"{"task":"add","args":[1,2]}"#,
        "{not json",
        r#"{"task":"add","args":["x",2]}"#,
        r#"{"task":"add","args":[3,4]}"#,
    ];
    let request = client.request(Method::POST, "/v1/jobs/batch").header("content-type", "application/x-ndjson");
    let answer = client.send(request.body(lines.join("\n"))).await?;
    answer.good()?;
    let answers: Vec<Value> = answer.text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect::<Result<_>>()?;
    assert_eq!(answers.len(), 4, "{}", answer.text);
    assert_eq!(answers[1]["error"]["code"], "invalid_json");
    assert_eq!(answers[2]["error"]["code"], "invalid_arguments");
    for (at, sum) in [(0, 3), (3, 7)] {
        let id = answers[at]["id"].as_str().context("an id")?;
        assert_eq!(client.ended(id, std::time::Duration::from_secs(30)).await?["result"], sum);
    }
    Ok(())
}

#[tokio::test]
async fn tokens_ids_paths_and_methods_that_are_wrong_say_so() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    let none = client.send(client.anonymous(Method::GET, "/v1/jobs")).await?;
    is_problem("no token", &none, 401, &["missing_token"]);
    assert!(none.headers.contains_key("www-authenticate"));
    let mut forged = client.token();
    // Another character in the middle: the checksum no longer fits.
    let middle = forged.len() / 2;
    let other = if forged.as_bytes()[middle] == b'a' { "b" } else { "a" };
    forged.replace_range(middle..=middle, other);
    for token in [forged.as_str(), "umbel_", "x", "umbel_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let request = client.anonymous(Method::GET, "/v1/jobs").bearer_auth(token);
        is_problem("a bad token", &client.send(request).await?, 401, &["invalid_token"]);
    }
    let unknown = client.get("/v1/jobs/01J00000000000000000000000").await?;
    is_problem("an unknown id", &unknown, 404, &["job_not_found"]);
    ensure!(matches!(client.get("/v1/jobs/not-an-id").await?.status, 400 | 404), "a malformed id");
    is_problem("an unknown path", &client.get("/v1/nothing").await?, 404, &["route_not_found"]);
    let delete = client.send(client.request(Method::DELETE, "/v1/jobs")).await?;
    is_problem("a wrong method", &delete, 405, &["method_not_allowed"]);
    let digest = format!("sha256:{}", "0".repeat(64));
    is_problem("an unknown module", &client.get(&format!("/v1/modules/{digest}")).await?, 404, &["module_not_found"]);
    is_problem("a bad cursor", &client.get("/v1/jobs?cursor=%00%ff").await?, 400, &["invalid_cursor", "invalid_query"]);
    assert_eq!(client.send(client.anonymous(Method::GET, "/livez")).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn the_same_idempotency_key_answers_with_the_same_job() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("numbers").await?;
    let send = |y: u32| {
        let request = client.request(Method::POST, "/v1/jobs").header("idempotency-key", "order-1");
        client.send(request.json(&json!({"task": "add", "args": [1, y]})))
    };
    let first = send(2).await?.good()?;
    let again = send(2).await?;
    assert_eq!(again.json()["id"], first["id"]);
    assert_eq!(again.headers.get("idempotent-replayed").and_then(|v| v.to_str().ok()), Some("true"));
    is_problem("another body", &send(3).await?, 422, &["idempotency_conflict"]);
    Ok(())
}
