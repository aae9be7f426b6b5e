//! How long jobs of somebody quiet wait while somebody else floods the service: another tenant, or another key.
//!
//! Both are from the job's submission to its claim, by the broker's clock, one job after the other, before the flood and
//! while it is there.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use serde_json::{Value, json};
use umbel_tests::{
    Client,
    component::{Component, Task},
    time_ms,
};

use crate::{
    connection::Connection,
    measure::{Service, percentile},
};

/// Jobs of the noisy tenant.
pub const NOISE: usize = 100_000;
/// Jobs of the key that floods.
pub const FLOOD: usize = 20_000;
/// Tenants with backlogs, in how many queues each has them, and jobs in each queue: more than are claimed meanwhile.
const TENANTS: usize = 1_000;
const QUEUES_OF_EACH: usize = 20;
const JOBS_OF_QUEUE: usize = 8;
/// How long each of their jobs sleeps, ns: every tenant has a turn in about a second.
const NAP_NS: u64 = 2_000_000;
/// Requests at once that make the backlogs.
const AT_ONCE: usize = 8;
/// Jobs of the quiet one, at most: a flood that is over is no flood.
const QUIET: Pace = Pace { warm_up: 20, jobs: 300, pause: Duration::ZERO };
/// Beside a thousand tenants: less often than it has a turn, and one after the other, which is one in each round of turns.
const SELDOM: Pace = Pace { warm_up: 1, jobs: 20, pause: Duration::from_secs(3) };
const IN_TURN: Pace = Pace { warm_up: 2, jobs: 10, pause: Duration::ZERO };
/// Lines of one batch request.
const BATCH: usize = 10_000;

/// How jobs of the quiet one follow each other.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Jobs before the others, not counted.
    warm_up: usize,
    jobs: usize,
    /// After the end of each.
    pause: Duration,
}

/// A tenant with 100,000 queued no-op jobs beside one that submits one job at a time.
pub async fn noisy(broker: &str) -> Result<Value> {
    let mut service = Service::start(broker, &[]).await?;
    let quiet = service.another(&["--tenant", "quiet"]).await?;
    quiet.push("numbers").await?;
    service.release(&[]).await?;
    let body = r#"{"task":"noop","kwargs":{"order_id":1}}"#;
    let alone = delays(&quiet, body, QUIET, || async { Ok(true) }).await?;
    // A queue can be paused once it had a job.
    service.client().result("noop", json!([1])).await?;
    service.pause("default").await?;
    flood(service.client(), NOISE, |i| json!({"task": "noop", "kwargs": {"order_id": i}})).await?;
    service.resume("default").await?;
    let noise = service.client();
    let waiting = || async { Ok(noise.unfinished().await? > 0) };
    let beside = delays(&quiet, body, QUIET, waiting).await?;
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
    let alone = delays(service.client(), &body, QUIET, || async { Ok(true) }).await?;
    service.pause("default").await?;
    flood(service.client(), FLOOD, |_| of_key("flood")).await?;
    service.resume("default").await?;
    let client = service.client();
    let waiting = || async { Ok(client.unfinished().await? > 0) };
    let beside = delays(client, &body, QUIET, waiting).await?;
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
    let alone = delays(&quiet, body, QUIET, || async { Ok(true) }).await?;
    let nap = nap()?;
    each(&clients, async |client| client.upload(nap.clone()).await?.good().map(drop)).await?;
    let job = |number| json!({"task": "nap", "options": {"queue": format!("queue-{}", number % QUEUES_OF_EACH)}});
    each(&clients, async |client| client.batch((0..QUEUES_OF_EACH * JOBS_OF_QUEUE).map(job)).await.map(drop)).await?;
    let beside = delays(&quiet, body, SELDOM, || async { Ok(true) }).await?;
    let in_turn = delays(&quiet, body, IN_TURN, || async { Ok(true) }).await?;
    each(&clients, async |client| {
        let queues = client.get("/v1/queues").await?.good()?;
        let queues = queues["items"].as_array().context("queues without items")?;
        let full = queues.iter().filter(|queue| queue["queued"].as_u64() > Some(0)).count();
        ensure!(full == QUEUES_OF_EACH, "{full} queues still have a backlog");
        Ok(())
    })
    .await?;
    let mut row = row("tenants", broker, &alone, &beside);
    row["in_turn_p50_ms"] = percentile(&in_turn, 0.5).into();
    Ok(row)
}

/// A small module, which compiles at once, with a task that sleeps.
fn nap() -> Result<Vec<u8>> {
    let run = format!("(call $block (call $after (i64.const {NAP_NS})))");
    Component { run, ..Component::of(vec![Task::named("nap")]) }.build()
}

/// Does something for each client, for some at once.
async fn each(clients: &[Client], act: impl AsyncFn(&Client) -> Result<()>) -> Result<()> {
    for some in clients.chunks(AT_ONCE) {
        try_join_all(some.iter().map(|client| act(client))).await?;
    }
    Ok(())
}

async fn flood(client: &Client, jobs: usize, line: impl Fn(usize) -> Value) -> Result<()> {
    for first in (0..jobs).step_by(BATCH) {
        client.batch((first..jobs.min(first + BATCH)).map(&line)).await?;
    }
    Ok(())
}

/// Milliseconds that each job waited, sorted, while the flood lasts.
async fn delays<F>(client: &Client, body: &str, pace: Pace, lasts: impl Fn() -> F) -> Result<Vec<f64>>
where
    F: Future<Output = Result<bool>>,
{
    let mut connection = Connection::open(client.url(), &client.token())?;
    let mut delays = Vec::new();
    for n in 0..pace.warm_up + pace.jobs {
        let job: Value = serde_json::from_slice(connection.post("/v1/jobs?wait=20s", body)?)?;
        ensure!(job["state"] == "succeeded", "{job}");
        // Asked afterwards: then the flood lasted all the while.
        if !lasts().await? {
            break;
        }
        if n >= pace.warm_up {
            delays.push((time_ms(&job, "started_at")? - time_ms(&job, "created_at")?) as f64);
        }
        tokio::time::sleep(pace.pause).await;
    }
    ensure!(delays.len() >= pace.jobs.min(20), "the flood was over after {} jobs", delays.len());
    delays.sort_by(f64::total_cmp);
    Ok(delays)
}

fn row(what: &str, broker: &str, alone: &[f64], beside: &[f64]) -> Value {
    json!({
        "what": what, "broker": broker, "jobs": beside.len(),
        "alone_p50_ms": percentile(alone, 0.5), "p50_ms": percentile(beside, 0.5), "p99_ms": percentile(beside, 0.99),
    })
}
