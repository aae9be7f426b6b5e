//! Whatever dies, every acknowledged job ends once: 2,000 jobs of 5 ms while processes are killed with `kill -9`.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, Split, durable_redis, until};

const JOBS: usize = 2_000;
/// Generous: the project's goal is 25 s after the kill at default settings; what it took is printed.
const LIMIT: Duration = Duration::from_secs(60);

async fn submit_naps(client: &Client) -> Result<Vec<String>> {
    client.push("numbers").await?;
    client.batch((0..JOBS).map(|_| json!({"task": "nap", "args": [0.005]}))).await
}

/// Waits until at most so many jobs are left.
async fn left_at_most(client: &Client, most: u64) -> Result<u64> {
    until(format!("at most {most} jobs are left"), LIMIT, || async {
        let left = client.unfinished().await?;
        Ok((left <= most).then_some(left))
    })
    .await
}

/// Every job succeeded, and its success was recorded once.
async fn all_succeeded_once(client: &Client, ids: &[String]) -> Result<()> {
    let mut redelivered = 0;
    for id in ids {
        let job = client.job(id).await?;
        ensure!(job["state"] == "succeeded" && job["result"] == 0.005, "{job}");
        let history: Vec<&Value> = job["history"].as_array().into_iter().flatten().collect();
        let successes = history.iter().filter(|record| record["outcome"] == "succeeded").count();
        ensure!(successes == 1, "{successes} successes recorded: {job}");
        ensure!(job["retries"] == 0, "a lost worker cost a retry: {job}");
        redelivered += usize::from(job["deliveries"].as_u64() > Some(1));
    }
    let succeeded = client.jobs("state=succeeded").await?.len();
    ensure!(succeeded == ids.len(), "{succeeded} of {} are listed as succeeded", ids.len());
    println!("{} jobs succeeded once each, {redelivered} of them were delivered more than once", ids.len());
    Ok(())
}

#[tokio::test]
async fn every_job_succeeds_once_when_a_worker_and_then_redis_are_killed() -> Result<()> {
    let mut redis = durable_redis();
    let mut split = Split::start(&redis.url(), 2, &[]).await?;
    let ids = submit_naps(&split.client).await?;
    let left = left_at_most(&split.client, JOBS as u64 / 2).await?;
    split.workers[0].kill()?;
    let killed = Instant::now();
    println!("worker killed with {left} jobs left");
    let left = left_at_most(&split.client, JOBS as u64 * 2 / 5).await?;
    redis.kill();
    println!("redis killed with {left} jobs left");
    // Down for long enough that every connection notices.
    tokio::time::sleep(Duration::from_secs(1)).await;
    redis.restart();
    left_at_most(&split.client, 0).await?;
    println!("REDIS CHAOS: all done {:.1} s after the worker was killed", killed.elapsed().as_secs_f64());
    all_succeeded_once(&split.client, &ids).await
}

#[tokio::test]
async fn every_job_succeeds_once_when_umbel_dev_on_sqlite_is_killed_and_started_again() -> Result<()> {
    let mut dev = Dev::start().await?;
    let ids = submit_naps(&dev.client).await?;
    let left = left_at_most(&dev.client, JOBS as u64 / 2).await?;
    dev.process.kill()?;
    let killed = Instant::now();
    println!("umbel dev killed with {left} jobs left");
    dev.restart().await?;
    left_at_most(&dev.client, 0).await?;
    println!("SQLITE CHAOS: all done {:.1} s after the kill", killed.elapsed().as_secs_f64());
    all_succeeded_once(&dev.client, &ids).await
}
