//! What many processes cost their Redis.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Split, redis, until};

use crate::redis_info::RedisInfo;

const WORKERS: usize = 16;
/// Delayed jobs that are submitted together, how often, for how long, and how long they are delayed: 200 a second.
const AT_ONCE: usize = 10;
const EVERY: Duration = Duration::from_millis(50);
const SPAN: Duration = Duration::from_secs(20);
const DELAY: Duration = Duration::from_secs(2);
/// How long the processes may take to start, and the last jobs to end.
const LIMIT: Duration = Duration::from_secs(60);

/// 16 workers and 2 servers: the share of a core, in percent, that Redis takes when nothing is to be done, when 200 jobs a second come and
/// run at once, and when as many come that are delayed and must be promoted.
pub async fn fleet() -> Result<Value> {
    let redis = redis();
    let mut fleet = Split::start(&redis.url(), 0, &[]).await?;
    let (_second, _) = fleet.another_server().await?;
    fleet.client.push("numbers").await?;
    for _ in 0..WORKERS {
        fleet.add_worker(&[])?;
    }
    until("all workers are there", LIMIT, || async {
        let workers = fleet.client.get("/v1/workers").await?.good()?;
        Ok((workers["items"].as_array().map_or(0, Vec::len) == WORKERS).then_some(()))
    })
    .await?;
    // Each has run a job: nothing is compiled while it is measured.
    submit(&fleet.client, Duration::ZERO, Duration::from_secs(3)).await?;
    let mut shares = Vec::new();
    for delay in [None, Some(Duration::ZERO), Some(DELAY)] {
        let (before, start) = (RedisInfo::read(redis.port())?.cpu_s, Instant::now());
        match delay {
            None => tokio::time::sleep(SPAN).await,
            Some(delay) => submit(&fleet.client, delay, SPAN).await?,
        }
        shares.push((RedisInfo::read(redis.port())?.cpu_s - before) / start.elapsed().as_secs_f64() * 100.0);
    }
    let [idle, at_once, delayed] = shares[..] else { bail!("three shares were measured") };
    Ok(json!({"what": "fleet", "broker": "redis", "idle": idle, "at_once": at_once, "delayed": delayed}))
}

/// Submits jobs in an even stream and waits until all have ended.
async fn submit(client: &Client, delay: Duration, span: Duration) -> Result<()> {
    let options = json!({"countdown_ms": delay.as_millis() as u64});
    let line = json!({"task": "noop", "kwargs": {"order_id": 1}, "options": options}).to_string() + "\n";
    let (start, mut ticks) = (Instant::now(), tokio::time::interval(EVERY));
    while start.elapsed() < span {
        ticks.tick().await;
        let request = client.request(reqwest::Method::POST, "/v1/jobs/batch");
        let answer =
            client.send(request.header("content-type", "application/x-ndjson").body(line.repeat(AT_ONCE))).await?;
        ensure!(!answer.text.contains("\"error\""), "a job was refused: {}", answer.text);
        answer.good()?;
    }
    until("all jobs are done", LIMIT, || async { Ok((client.unfinished().await? == 0).then_some(())) }).await
}
