//! How long jobs of somebody quiet wait while somebody else floods the service: another tenant, or another key.
//!
//! Both are from the job's submission to its claim, by the broker's clock, one job after the other, before the flood and
//! while it is there.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, time_ms};

use crate::{
    connection::Connection,
    measure::{Service, percentile},
};

/// Jobs of the noisy tenant.
pub const NOISE: usize = 100_000;
/// Jobs of the key that floods.
pub const FLOOD: usize = 20_000;
/// Tenants with backlogs, and in how many queues each has them.
const TENANTS: usize = 1_000;
const QUEUES_OF_EACH: usize = 20;
/// What each of their jobs sleeps, s: long enough for the backlog to last.
const NAP_S: f64 = 0.01;
/// Jobs of the quiet one, at most: a flood that is over is no flood.
const QUIET: usize = 300;
/// Before them, not counted.
const WARM_UP: usize = 20;
/// Lines of one batch request.
const BATCH: usize = 10_000;

/// A tenant with 100,000 queued no-op jobs beside one that submits one job at a time.
pub async fn noisy(broker: &str) -> Result<Value> {
    let mut service = Service::start(broker, &[]).await?;
    let quiet = service.another(&["--tenant", "quiet"]).await?;
    quiet.push("numbers").await?;
    service.release(&[]).await?;
    let body = r#"{"task":"noop","kwargs":{"order_id":1}}"#;
    let alone = delays(&quiet, body, || async { Ok(true) }).await?;
    // A queue can be paused once it had a job.
    service.client().result("noop", json!([1])).await?;
    service.pause("default").await?;
    flood(service.client(), NOISE, |i| json!({"task": "noop", "kwargs": {"order_id": i}})).await?;
    service.resume("default").await?;
    let noise = service.client();
    let waiting = || async { Ok(noise.unfinished().await? > 0) };
    let beside = delays(&quiet, body, waiting).await?;
    Ok(row("noisy", broker, &alone, &beside))
}

/// A key with 20,000 queued jobs, of which one may run at a time, beside one whose jobs come one at a time.
pub async fn keys(broker: &str) -> Result<Value> {
    let mut service = Service::start(broker, &[]).await?;
    service.client().push("cases").await?;
    service.release(&[]).await?;
    let options = json!({"limit_key": "kwargs.value", "key_concurrency": 1});
    let of_key = |key: &str| json!({"task": "later", "kwargs": {"seconds": 0.002, "value": key}, "options": options});
    let body = of_key("quiet").to_string();
    let alone = delays(service.client(), &body, || async { Ok(true) }).await?;
    service.pause("default").await?;
    flood(service.client(), FLOOD, |_| of_key("flood")).await?;
    service.resume("default").await?;
    let client = service.client();
    let waiting = || async { Ok(client.unfinished().await? > 0) };
    let beside = delays(client, &body, waiting).await?;
    Ok(row("keys", broker, &alone, &beside))
}

/// A thousand tenants with backlogs in twenty queues each, beside one that submits one job at a time.
pub async fn tenants(broker: &str) -> Result<Value> {
    let slots = ["--concurrency", "2"];
    let mut service = Service::start(broker, &slots).await?;
    let tenants: Vec<String> = (0..TENANTS).map(|number| format!("tenant-{number}")).collect();
    let mut clients = service.tenants(&[&tenants[..], &["quiet".to_owned()]].concat()).await?;
    let quiet = clients.pop().context("the quiet tenant")?;
    quiet.push("numbers").await?;
    service.release(&slots).await?;
    let body = r#"{"task":"noop","kwargs":{"order_id":1}}"#;
    let alone = delays(&quiet, body, || async { Ok(true) }).await?;
    for client in &clients {
        client.push("numbers").await?;
        let job = |queue| json!({"task": "nap", "args": [NAP_S], "options": {"queue": format!("queue-{queue}")}});
        client.batch((0..QUEUES_OF_EACH).map(job)).await?;
    }
    let last = clients.last().context("a tenant")?;
    let beside = delays(&quiet, body, || async { Ok(last.unfinished().await? > 0) }).await?;
    Ok(row("tenants", broker, &alone, &beside))
}

async fn flood(client: &Client, jobs: usize, line: impl Fn(usize) -> Value) -> Result<()> {
    for first in (0..jobs).step_by(BATCH) {
        client.batch((first..jobs.min(first + BATCH)).map(&line)).await?;
    }
    Ok(())
}

/// Milliseconds that each job waited, sorted, while the flood lasts.
async fn delays<F>(client: &Client, body: &str, lasts: impl Fn() -> F) -> Result<Vec<f64>>
where
    F: Future<Output = Result<bool>>,
{
    let mut connection = Connection::open(client.url(), &client.token())?;
    let mut delays = Vec::new();
    for n in 0..WARM_UP + QUIET {
        let job: Value = serde_json::from_slice(connection.post("/v1/jobs?wait=20s", body)?)?;
        ensure!(job["state"] == "succeeded", "{job}");
        // Asked afterwards: then the flood lasted all the while.
        if !lasts().await? {
            break;
        }
        if n >= WARM_UP {
            delays.push((time_ms(&job, "started_at")? - time_ms(&job, "created_at")?) as f64);
        }
    }
    ensure!(delays.len() >= 20, "the flood was over after {} jobs", delays.len());
    delays.sort_by(f64::total_cmp);
    Ok(delays)
}

fn row(what: &str, broker: &str, alone: &[f64], beside: &[f64]) -> Value {
    json!({
        "what": what, "broker": broker, "jobs": beside.len(),
        "alone_p50_ms": percentile(alone, 0.5), "p50_ms": percentile(beside, 0.5), "p99_ms": percentile(beside, 0.99),
    })
}
