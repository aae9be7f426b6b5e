//! Observability of a job: progress, logs and trace context are shown; secrets and raw text of users are not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::json;
use umbel_tests::{Dev, DevOptions, until};

const LIMIT: Duration = Duration::from_secs(60);
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn trace_context_and_request_id_follow_a_job() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("numbers").await?;
    let submit = |trace: &str| {
        let request =
            client.request(Method::POST, "/v1/jobs").header("traceparent", trace).header("x-request-id", "req-42");
        client.send(request.json(&json!({"task": "add", "args": [1, 2]})))
    };
    let answer = submit(TRACEPARENT).await?;
    assert_eq!(answer.headers.get("x-request-id").and_then(|v| v.to_str().ok()), Some("req-42"));
    let id = answer.good()?["id"].as_str().context("an id")?.to_owned();
    let job = client.ended(&id, LIMIT).await?;
    let carried = job["traceparent"].as_str().context("a traceparent")?;
    ensure!(carried.contains("0af7651916cd43dd8448eb211c80319c"), "{carried}");
    // A malformed one is nobody's trace: ignored or refused, never carried.
    let bad = submit("00-zz-zz-01").await?;
    ensure!(bad.status == 400 || !bad.text.contains("00-zz"), "{}", bad.text);
    Ok(())
}

#[tokio::test]
async fn a_job_shows_its_progress_while_it_runs_and_its_log_afterwards() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("hostile").await?;
    let id = client.submit("flood_progress", json!([])).await?;
    until("progress is seen while it runs", LIMIT, || async {
        let job = client.job(&id).await?;
        Ok((job["state"] == "running" && job["progress"]["done"].as_u64() > Some(0)).then_some(()))
    })
    .await?;
    client.ended(&id, LIMIT).await?;
    client.push("text").await?;
    let job = client.run("count", json!(["one two two"])).await?;
    let id = job["id"].as_str().context("an id")?;
    let logs = client.get(&format!("/v1/jobs/{id}/logs")).await?.good()?;
    ensure!(logs.to_string().contains("2 different words in 11 bytes"), "{logs}");
    Ok(())
}

#[tokio::test]
async fn tokens_and_raw_user_text_never_reach_the_services_log() -> Result<()> {
    for format in ["human", "json"] {
        let arguments = ["--log-format", format, "--log-level", "debug"].map(str::to_owned).to_vec();
        let mut dev = Dev::with(DevOptions { arguments, ..DevOptions::default() }).await?;
        let client = &dev.client;
        client.push("hostile").await?;
        client.push("numbers").await?;
        for task in ["flood_log", "flood_result", "panic"] {
            client.run(task, json!([])).await?;
        }
        let nasty = "\u{1b}]0;owned\u{7}\u{1b}[31m\r\nforged line";
        for body in [json!({"task": nasty}), json!({"task": "add", "args": [nasty, 1]})] {
            ensure!(client.post("/v1/jobs", &body).await?.status >= 400);
        }
        client.get("/v1/jobs/%1b%5b31m").await?;
        client.get("/v1/%1b%5b31m?x=%1b%5b31m").await?;
        let fake = "umbel_SECRETSECRETSECRETSECRETSECRETSECRET";
        client.send(client.anonymous(Method::GET, "/v1/jobs").bearer_auth(fake)).await?;
        let token = client.token();
        dev.process.terminate(LIMIT).await?;
        let log = dev.process.output();
        ensure!(log.len() > 100, "there is a log");
        ensure!(!log.contains('\u{1b}') && !log.contains('\u{7}'), "raw escapes in the {format} log:\n{log}");
        ensure!(!log.contains("\nforged line"), "a forged line in the {format} log:\n{log}");
        ensure!(!log.contains("SECRETSECRET"), "a token in the {format} log:\n{log}");
        // `umbel dev` may show its own token once, to the person who started it; nothing logs it.
        let lines = log.lines().filter(|line| line.contains(&token)).count();
        ensure!(lines <= 1, "the token is {lines} times in the {format} log:\n{log}");
    }
    Ok(())
}

#[tokio::test]
async fn the_openapi_document_and_the_version_are_served() -> Result<()> {
    let dev = Dev::start().await?;
    let document = dev.client.get("/v1/openapi.json").await?.good()?;
    ensure!(document["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")), "{}", document["openapi"]);
    ensure!(document["paths"]["/v1/jobs"]["post"].is_object(), "no POST /v1/jobs");
    let version = dev.client.get("/version").await?;
    ensure!(version.status == 200 && version.text.contains(env!("CARGO_PKG_VERSION")), "{}", version.text);
    Ok(())
}
