//! Limits across all workers: rates and caps of tasks, keys, queues and tenants; what is limited blocks nothing else.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Split, durable_redis, on_both, time_ms, until};

const LIMIT: Duration = Duration::from_secs(60);

async fn ended(client: &Client, ids: &[String]) -> Result<Vec<Value>> {
    let mut jobs = Vec::new();
    for id in ids {
        jobs.push(client.ended(id, LIMIT).await?);
    }
    Ok(jobs)
}

/// How many of the jobs ran at once at most, by the broker's clock.
fn at_once(jobs: &[Value]) -> Result<usize> {
    let mut events = Vec::new();
    for job in jobs {
        // Ends come before starts of the same millisecond.
        events.push((time_ms(job, "started_at")?, 1, 1_i64));
        events.push((time_ms(job, "finished_at")?, 0, -1));
    }
    events.sort();
    let (mut now, mut most) = (0_i64, 0);
    for (.., change) in events {
        now += change;
        most = most.max(now);
    }
    Ok(usize::try_from(most)?)
}

async fn hold(client: &Client) -> Result<()> {
    client.result("ident", json!([0])).await?;
    client.post("/v1/queues/default/pause", &json!({})).await?.good()?;
    Ok(())
}

async fn go(client: &Client) -> Result<()> {
    client.post("/v1/queues/default/resume", &json!({})).await?.good()?;
    Ok(())
}

/// Celery's rate limit is of each worker, and what it holds back stands before everything else.
#[tokio::test]
async fn a_rate_holds_across_workers_and_blocks_nothing_behind_it() -> Result<()> {
    let redis = durable_redis();
    let split = Split::start(&redis.url(), 2, &[]).await?;
    let client = &split.client;
    client.push("numbers").await?;
    hold(client).await?;
    let limited = |n: u64| json!({"task": "noop", "args": [n], "options": {"rate_limit": "4/s", "priority": 9}});
    let limited = client.batch((0..9).map(limited)).await?;
    let free = client.batch((0..50).map(|n| json!({"task": "ident", "args": [n]}))).await?;
    go(client).await?;
    let free = ended(client, &free).await?;
    let limited = ended(client, &limited).await?;
    let mut starts = limited.iter().map(|job| time_ms(job, "started_at")).collect::<Result<Vec<_>>>()?;
    starts.sort_unstable();
    for (n, start) in starts.iter().enumerate() {
        // A start that is late delays none of those after it. A millisecond for rounding down.
        let earliest = starts[0] + 250 * n as u64 - 1;
        ensure!(*start >= earliest, "more than four a second: {starts:?}");
    }
    let last_free = free.iter().map(|job| time_ms(job, "started_at")).collect::<Result<Vec<_>>>()?.into_iter().max();
    ensure!(last_free < starts.last().copied(), "what is not limited waited for what is");
    Ok(())
}

#[tokio::test]
async fn a_cap_holds_across_workers() -> Result<()> {
    let redis = durable_redis();
    let split = Split::start(&redis.url(), 3, &["--concurrency", "8"]).await?;
    split.client.push("numbers").await?;
    let line = |_| json!({"task": "nap", "args": [0.1], "options": {"concurrency": 2}});
    let ids = split.client.batch((0..20).map(line)).await?;
    let jobs = ended(&split.client, &ids).await?;
    ensure!(at_once(&jobs)? == 2, "{} at once", at_once(&jobs)?);
    Ok(())
}

#[tokio::test]
async fn each_key_has_its_cap_and_a_flood_of_one_key_delays_no_other() -> Result<()> {
    on_both(&["--concurrency", "4"], async |dev| {
        let client = &dev.client;
        client.push("cases").await?;
        hold(client).await?;
        let options = json!({"limit_key": "kwargs.value", "key_concurrency": 1});
        let line = |key: &str| json!({"task": "later", "kwargs": {"seconds": 0.02, "value": key}, "options": options});
        let flood = client.batch((0..60).map(|_| line("flood"))).await?;
        let quiet = client.batch((0..3).map(|_| line("quiet"))).await?;
        go(client).await?;
        let quiet = ended(client, &quiet).await?;
        let flood = ended(client, &flood).await?;
        ensure!(at_once(&flood)? == 1 && at_once(&quiet)? == 1, "more than one of a key at once");
        let last = quiet.iter().map(|job| time_ms(job, "started_at")).collect::<Result<Vec<_>>>()?.into_iter().max();
        let mut starts = flood.iter().map(|job| time_ms(job, "started_at")).collect::<Result<Vec<_>>>()?;
        starts.sort_unstable();
        let before = starts.iter().filter(|start| Some(**start) < last).count();
        // In turn with it, a lead of what was claimed at first at most.
        ensure!(before < 15, "{before} of the flood started before the last of the other key");
        Ok(())
    })
    .await
}

/// One tenant starves the rest of a Celery queue. Here tenants take turns: the order is looked at, not the clock.
#[tokio::test]
async fn a_noisy_tenant_does_not_come_before_a_quiet_one() -> Result<()> {
    on_both(&["--concurrency", "1"], async |dev| {
        let quiet = dev.another(&["--tenant", "quiet"]).await?;
        quiet.push("numbers").await?;
        hold(&dev.client).await?;
        let noise = dev.client.batch((0..2_000).map(|n| json!({"task": "ident", "args": [n]}))).await?;
        go(&dev.client).await?;
        let mut behind = Vec::new();
        for n in 0..5 {
            let id = quiet.submit("ident", json!([n])).await?;
            let job = quiet.ended(&id, LIMIT).await?;
            behind.push((time_ms(&job, "created_at")?, time_ms(&job, "started_at")?));
        }
        let noise = ended(&dev.client, &noise).await?;
        let mut most = 0;
        for (created, started) in behind {
            let mut between = 0;
            for job in &noise {
                let at = time_ms(job, "started_at")?;
                between += usize::from(created < at && at < started);
            }
            most = most.max(between);
        }
        // What was claimed ahead is served first; 2,000 are not.
        ensure!(most < 400, "{most} jobs of the noisy tenant came before a job of the quiet one");
        Ok(())
    })
    .await
}

/// Redis priorities of Celery are inverted, coarse, and defeated by the prefetch of each worker.
#[tokio::test]
async fn priority_nine_is_first_across_workers() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 0, &[]).await?;
    split.client.push("numbers").await?;
    let line = |n: u64| json!({"task": "nap", "args": [0.005], "options": {"priority": n % 10}});
    let ids = split.client.batch((0..300).map(line)).await?;
    for _ in 0..2 {
        split.add_worker(&["--concurrency", "1"])?;
    }
    let jobs = ended(&split.client, &ids).await?;
    let mut sums: BTreeMap<u64, u64> = BTreeMap::new();
    let first = jobs.iter().map(|job| time_ms(job, "started_at")).collect::<Result<Vec<_>>>()?.into_iter().min();
    for job in &jobs {
        let priority = job["priority"].as_u64().context("a priority")?;
        *sums.entry(priority).or_default() += time_ms(job, "started_at")? - first.unwrap_or_default();
    }
    let mean: Vec<u64> = sums.values().copied().collect();
    ensure!(mean.windows(2).all(|pair| pair[0] > pair[1]), "mean starts by priority 0 to 9: {mean:?}");
    Ok(())
}

#[tokio::test]
async fn a_control_holds_at_once_for_what_is_queued_and_survives_a_restart() -> Result<()> {
    on_both(&["--concurrency", "8"], async |dev| {
        hold(&dev.client).await?;
        let ids = dev.client.batch((0..8).map(|_| json!({"task": "nap", "args": [0.1]}))).await?;
        let path = "/v1/tasks/nap/control";
        dev.client.patch(path, &json!({"concurrency": 1})).await?.good()?;
        dev.process.kill()?;
        dev.restart().await?;
        let task = dev.client.get("/v1/tasks/nap").await?.good()?;
        ensure!(task["control"]["concurrency"] == 1, "{task}");
        go(&dev.client).await?;
        let jobs = ended(&dev.client, &ids).await?;
        ensure!(at_once(&jobs)? == 1, "{} at once", at_once(&jobs)?);
        dev.client.patch(path, &json!({"concurrency": null, "paused": true})).await?.good()?;
        let id = dev.client.submit("nap", json!([0.0])).await?;
        dev.client.result("ident", json!([1])).await?;
        ensure!(dev.client.job(&id).await?["state"] == "queued");
        dev.client.patch(path, &json!({"paused": false})).await?.good()?;
        dev.client.ended(&id, LIMIT).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn queues_and_tenants_have_caps_and_pauses_too() -> Result<()> {
    on_both(&["--concurrency", "8"], async |dev| {
        let client = &dev.client;
        hold(client).await?;
        client.patch("/v1/queues/default", &json!({"concurrency": 2})).await?.good()?;
        let ids = client.batch((0..8).map(|_| json!({"task": "nap", "args": [0.05]}))).await?;
        go(client).await?;
        ensure!(at_once(&ended(client, &ids).await?)? == 2, "the queue's cap");
        client.patch("/v1/queues/default", &json!({"concurrency": null})).await?.good()?;
        client.patch("/v1/tenant", &json!({"concurrency": 3})).await?.good()?;
        let line = |n: u64| json!({"task": "nap", "args": [0.05], "options": {"queue": format!("q{}", n % 3)}});
        let ids = client.batch((0..12).map(line)).await?;
        ensure!(at_once(&ended(client, &ids).await?)? <= 3, "the tenant's cap");
        client.patch("/v1/tenant", &json!({"concurrency": null, "paused": true})).await?.good()?;
        let id = client.submit("ident", json!([1])).await?;
        until("the pause is seen", LIMIT, || async {
            let tenant = client.get("/v1/tenant").await?.good()?;
            Ok((tenant["paused"] == true).then_some(()))
        })
        .await?;
        ensure!(client.job(&id).await?["state"] == "queued");
        client.patch("/v1/tenant", &json!({"paused": false})).await?.good()?;
        client.ended(&id, LIMIT).await?;
        Ok(())
    })
    .await
}
