//! From a pushed module to a result: on SQLite in one process, and on Redis with a server and workers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, Split, durable_redis, guest, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Pushes the examples and runs a job of each kind.
async fn every_kind_of_job_has_its_result(client: &Client) -> Result<()> {
    for module in ["numbers", "orders", "text", "images"] {
        let pushed = client.push(module).await?;
        ensure!(pushed["digest"].as_str().is_some_and(|d| d.starts_with("sha256:")), "{pushed}");
        ensure!(pushed["core_module"] == true, "{pushed}");
    }
    assert_eq!(client.result("add", json!([2, 3])).await?, 5);
    assert_eq!(client.result("fib", json!([20])).await?, 6_765);
    assert_eq!(client.result("total", json!([[1, 2, 3, 4]])).await?, 10);
    let by_name = client.submit_body(&json!({"task": "mul", "args": [6], "kwargs": {"y": 7}})).await?;
    assert_eq!(client.ended(&by_name, LIMIT).await?["result"], 42);
    words(client).await?;
    orders(client).await
}

async fn words(client: &Client) -> Result<()> {
    let text = "to be or not to be, that is the question";
    let parts = client.result("split", json!([text, 3])).await?;
    let mut counts = Vec::new();
    for part in parts.as_array().expect("split returns a list") {
        counts.push(client.result("count", json!([part])).await?);
    }
    let merged = client.result("merge", json!([counts, 2])).await?;
    assert_eq!(merged["words"], 10);
    assert_eq!(merged["top"], json!([{"word": "be", "count": 2}, {"word": "to", "count": 2}]));
    Ok(())
}

async fn orders(client: &Client) -> Result<()> {
    let order = |id: u32, token: &str| json!([id, [{"sku": "tea", "quantity": 2, "unit_price_cents": 450}], token]);
    let retried = client.run("process_order", order(7, "tok_busy_twice")).await?;
    assert_eq!(retried["state"], "succeeded", "{retried}");
    assert_eq!(retried["result"]["total_cents"], 900);
    assert_eq!((&retried["retries"], &retried["attempt"]), (&json!(2), &json!(3)));
    assert_eq!(outcomes(&retried), ["error", "error", "succeeded"]);
    assert_eq!(retried["progress"]["done"], 3);
    let declined = client.run("process_order", order(8, "tok_declined")).await?;
    assert_eq!((&declined["state"], &declined["error"]["kind"]), (&json!("failed"), &json!("Declined")));
    assert_eq!(outcomes(&declined), ["fatal"]);
    let rejected = client.run("return_order", json!([9, "does not fit"])).await?;
    assert_eq!(rejected["state"], "failed");
    let dead = client.get("/v1/dead").await?.good()?;
    let ids: Vec<&Value> = dead["items"].as_array().expect("a list").iter().map(|job| &job["id"]).collect();
    assert!(ids.contains(&&rejected["id"]) && ids.contains(&&declined["id"]), "{dead}");
    let logs = client.get(&format!("/v1/jobs/{}/logs", retried["id"].as_str().expect("an id"))).await?.good()?;
    assert!(logs.to_string().contains("charged 900 cents for receipt-7"), "{logs}");
    Ok(())
}

fn outcomes(job: &Value) -> Vec<&str> {
    job["history"].as_array().into_iter().flatten().filter_map(|record| record["outcome"].as_str()).collect()
}

#[tokio::test]
async fn a_task_runs_on_sqlite_from_push_to_result() -> Result<()> {
    let dev = Dev::start().await?;
    every_kind_of_job_has_its_result(&dev.client).await
}

#[tokio::test]
async fn a_task_runs_on_redis_in_one_process_with_one_changed_url() -> Result<()> {
    let redis = durable_redis();
    let dev = Dev::on(&redis.url()).await?;
    every_kind_of_job_has_its_result(&dev.client).await
}

#[tokio::test]
async fn a_task_runs_on_redis_with_a_server_and_two_workers() -> Result<()> {
    let redis = durable_redis();
    let split = Split::start(&redis.url(), 2, &["--concurrency", "4"]).await?;
    every_kind_of_job_has_its_result(&split.client).await?;
    let workers = split.client.get("/v1/workers").await?.good()?;
    assert_eq!(workers["items"].as_array().map(Vec::len), Some(2), "{workers}");
    // Enough sleeping jobs that neither worker alone has the slots.
    let ids = split.client.batch((0..8).map(|_| json!({"task": "nap", "args": [0.3]}))).await?;
    let mut hands = std::collections::BTreeSet::new();
    for id in &ids {
        let job = split.client.ended(id, LIMIT).await?;
        assert_eq!(job["state"], "succeeded");
        hands.insert(job["worker"].to_string());
    }
    assert_eq!(hands.len(), 2, "both workers took part: {hands:?}");
    Ok(())
}

#[tokio::test]
async fn a_job_with_a_countdown_waits_for_its_time_and_can_be_started_or_cancelled_before() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("numbers").await?;
    let later = |ms: u64| json!({"task": "add", "args": [1, 1], "options": {"countdown_ms": ms}});
    let soon = client.submit_body(&later(300)).await?;
    let never = client.submit_body(&later(3_600_000)).await?;
    let now = client.submit_body(&later(3_600_000)).await?;
    assert_eq!(client.job(&never).await?["state"], "scheduled");
    client.post(&format!("/v1/jobs/{never}/cancel"), &json!({})).await?.good()?;
    client.post(&format!("/v1/jobs/{now}/retry"), &json!({})).await?.good()?;
    assert_eq!(client.ended(&now, LIMIT).await?["result"], 2);
    assert_eq!(client.ended(&never, LIMIT).await?["state"], "revoked");
    let job = client.ended(&soon, LIMIT).await?;
    assert_eq!(job["state"], "succeeded");
    Ok(())
}

#[tokio::test]
async fn a_running_job_can_be_cancelled() -> Result<()> {
    let dev = Dev::start().await?;
    dev.client.push("numbers").await?;
    let id = dev.client.submit("nap", json!([600.0])).await?;
    until("the job runs", LIMIT, || async { Ok((dev.client.job(&id).await?["state"] == "running").then_some(())) })
        .await?;
    dev.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await?.good()?;
    assert_eq!(dev.client.ended(&id, LIMIT).await?["state"], "revoked");
    Ok(())
}

#[tokio::test]
async fn a_paused_queue_keeps_its_jobs_until_it_is_resumed() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("numbers").await?;
    let held = json!({"task": "add", "args": [1, 2], "options": {"queue": "held"}});
    // A queue is known once it had a job.
    let first = client.submit_body(&held).await?;
    client.ended(&first, LIMIT).await?;
    client.post("/v1/queues/held/pause", &json!({})).await?.good()?;
    let id = client.submit_body(&held).await?;
    // A job of another queue that was submitted later runs, so the held one had its chance.
    client.result("add", json!([1, 1])).await?;
    assert_eq!(client.job(&id).await?["state"], "queued");
    client.post("/v1/queues/held/resume", &json!({})).await?.good()?;
    assert_eq!(client.ended(&id, LIMIT).await?["result"], 3);
    Ok(())
}

#[tokio::test]
async fn deploying_a_module_and_rolling_back_never_changes_a_job_in_flight() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    let later = json!({"task": "add", "args": [1, 1], "options": {"countdown_ms": 3_600_000}});
    let digest_of = |task: Value| task["digest"].clone();
    let current = || async { anyhow::Ok(digest_of(client.get("/v1/tasks/add").await?.good()?)) };

    let old = digest_of(client.push("numbers").await?);
    let first = client.submit_body(&later).await?;
    // An empty custom section: the same tasks in other bytes.
    let mut bytes = guest("numbers")?;
    bytes.extend([0, 2, 1, b'x']);
    let new = digest_of(client.upload(bytes).await?.good()?);
    assert_ne!(new, old);
    assert_eq!(current().await?, new);
    let second = client.submit_body(&later).await?;

    client.post("/v1/tasks/add/rollback", &json!({})).await?.good()?;
    assert_eq!(current().await?, old);
    client.post("/v1/tasks/add/deploy", &json!({ "digest": new })).await?.good()?;
    assert_eq!(current().await?, new);

    // Both run the code that they were submitted for.
    for (job, digest) in [(first, old), (second, new)] {
        client.post(&format!("/v1/jobs/{job}/retry"), &json!({})).await?.good()?;
        let ended = client.ended(&job, LIMIT).await?;
        assert_eq!((&ended["digest"], &ended["result"]), (&digest, &json!(2)), "{ended}");
    }
    Ok(())
}

#[tokio::test]
async fn a_dead_job_is_redriven_as_a_new_job_that_names_the_old_one() -> Result<()> {
    let dev = Dev::start().await?;
    let client = &dev.client;
    client.push("orders").await?;
    let dead = client.run("return_order", json!([1, null])).await?;
    let id = dead["id"].as_str().expect("an id");
    let redriven = client.post(&format!("/v1/dead/{id}/redrive"), &json!({})).await?.good()?;
    assert_eq!(redriven["redrive_of"], dead["id"], "{redriven}");
    assert_ne!(redriven["id"], dead["id"]);
    Ok(())
}
