//! How fast actions on many jobs are: a purge of a queue, and a bulk action that forgets what was purged.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::measure::Service;

/// Lines of one batch request.
const BATCH: usize = 10_000;
/// Between two looks at the action.
const GLANCE: Duration = Duration::from_millis(20);

/// Purges a queue of so many jobs, and forgets them.
pub async fn bulk(broker: &str, n: usize) -> Result<Value> {
    let service = Service::start(broker, &[]).await?;
    let client = service.client();
    for first in (0..n).step_by(BATCH) {
        let line = |i| json!({"task": "noop", "kwargs": {"order_id": i}, "options": {"countdown_ms": 3_600_000}});
        let body: String = (first..n.min(first + BATCH)).map(|i| line(i).to_string() + "\n").collect();
        let request = client.request(reqwest::Method::POST, "/v1/jobs/batch");
        client.send(request.header("content-type", "application/x-ndjson").body(body)).await?.good()?;
    }
    let purge = done(&service, "/v1/queues/default/purge", &json!({}), n).await?;
    let forget = json!({"action": "forget", "filter": {"queue": "default", "state": "revoked"}});
    let forget = done(&service, "/v1/bulk", &forget, n).await?;
    Ok(json!({
        "what": "bulk", "broker": broker, "n": n,
        "purged_per_s": n as f64 / purge.as_secs_f64(), "forgotten_per_s": n as f64 / forget.as_secs_f64(),
    }))
}

/// Starts an action, and how long it takes.
async fn done(service: &Service, path: &str, body: &Value, n: usize) -> Result<Duration> {
    let begun = Instant::now();
    let started = service.client().post(path, body).await?.good()?;
    let id = started["id"].as_str().context("an action without an id")?.to_owned();
    loop {
        let bulk = service.client().get(&format!("/v1/bulk/{id}")).await?.good()?;
        if bulk["state"] != "running" {
            ensure!(bulk["state"] == "done" && bulk["done"] == n, "{bulk}");
            return Ok(begun.elapsed());
        }
        tokio::time::sleep(GLANCE).await;
    }
}
