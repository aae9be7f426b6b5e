//! Workers: fenced when they were taken for lost, looked at and ordered about while they work, replaced when they grow.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{
    Client, Dev, DevOptions, Split, durable_redis, guest,
    proxy::{Proxy, Way},
    until,
};

const LIMIT: Duration = Duration::from_secs(60);

async fn workers(client: &Client) -> Result<Vec<Value>> {
    let workers = client.get("/v1/workers").await?.good()?;
    Ok(workers["items"].as_array().context("workers without items")?.clone())
}

/// The one worker, once it is as wanted.
async fn worker_is(client: &Client, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    until(format!("a worker is {what}"), LIMIT, || async { Ok(workers(client).await?.into_iter().find(&wanted)) }).await
}

/// In kombu the late acknowledgement of the old owner deletes the claim of the new one.
#[tokio::test]
async fn a_worker_that_was_stopped_past_its_lease_changes_nothing_when_it_goes_on() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 1, &["--lease", "1s"]).await?;
    split.client.push("numbers").await?;
    let id = split.client.submit("nap", json!([3.0])).await?;
    let first = split.client.reaches(&id, "running").await?["worker"].clone();
    split.workers[0].signal(libc::SIGSTOP)?;
    split.add_worker(&["--lease", "1s"])?;
    until("the other worker has it", LIMIT, || async {
        let job = split.client.job(&id).await?;
        Ok((job["state"] == "running" && job["worker"] != first).then_some(()))
    })
    .await?;
    split.workers[0].signal(libc::SIGCONT)?;
    let job = split.client.ended(&id, LIMIT).await?;
    ensure!(job["state"] == "succeeded" && job["worker"] != first && job["deliveries"] == 2, "{job}");
    let successes = job["history"].as_array().into_iter().flatten().filter(|r| r["outcome"] == "succeeded").count();
    ensure!(successes == 1 && job["retries"] == 0, "{job}");
    // It works again, and its late word changed nothing.
    split.workers[1].terminate(LIMIT).await?;
    split.client.result("ident", json!([1])).await?;
    ensure!(split.client.job(&id).await? == job, "the job changed after its end");
    Ok(())
}

/// Redis stalls, and no worker can renew a lease: nobody's fault, and nobody else can have taken the job.
#[tokio::test]
async fn a_redis_that_stalls_for_several_leases_costs_running_jobs_nothing() -> Result<()> {
    let redis = durable_redis();
    let split = Split::start(&redis.url(), 1, &["--lease", "1s", "--concurrency", "4"]).await?;
    split.client.push("numbers").await?;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(split.client.submit("nap", json!([20.0])).await?);
    }
    for id in &ids {
        split.client.reaches(id, "running").await?;
    }
    for _ in 0..2 {
        redis.suspend();
        // Five leases, longer than the reaper may be silent.
        tokio::time::sleep(Duration::from_secs(5)).await;
        redis.resume();
        until("Redis serves", LIMIT, || async { Ok(split.client.job(&ids[0]).await.ok()) }).await?;
    }
    for id in &ids {
        let job = split.client.ended(id, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["deliveries"] == 1 && job["retries"] == 0, "{job}");
        ensure!(job["history"].as_array().is_some_and(|history| history.len() == 1), "{job}");
    }
    Ok(())
}

/// Between the pop and the record of a claim Celery loses jobs. Here the claim is one step; its reply may be lost.
#[tokio::test]
async fn a_claim_whose_reply_is_lost_costs_no_job() -> Result<()> {
    let redis = durable_redis();
    let proxy = Proxy::start(redis.port()).await?;
    let mut split = Split::start(&redis.url(), 0, &[]).await?;
    split.client.push("numbers").await?;
    let ids = split.client.batch((0..300).map(|n| json!({"task": "ident", "args": [n]}))).await?;
    split.add_worker_by(&proxy.redis_url(), &["--lease", "1s", "--concurrency", "2"])?;
    // Not each of them, or nothing would ever be done.
    let mut looks = 0;
    until("nothing is left", LIMIT, || {
        looks += 1;
        if looks % 5 == 1 {
            proxy.lose_reply();
        }
        async { Ok((split.client.unfinished().await? == 0).then_some(())) }
    })
    .await?;
    println!("{} replies were lost", proxy.replies_lost());
    ensure!(proxy.replies_lost() > 0, "no reply was lost");
    for (n, id) in ids.iter().enumerate() {
        let job = split.client.job(id).await?;
        ensure!(job["state"] == "succeeded" && job["result"] == n && job["retries"] == 0, "{job}");
    }
    Ok(())
}

/// After a Redis drop a Celery worker is "connected" and consumes nothing.
#[tokio::test]
async fn a_worker_consumes_again_after_every_kind_of_drop() -> Result<()> {
    let mut redis = durable_redis();
    let proxy = Proxy::start(redis.port()).await?;
    let mut split = Split::start(&redis.url(), 0, &[]).await?;
    split.client.push("numbers").await?;
    split.add_worker_by(&proxy.redis_url(), &["--lease", "2s"])?;
    let works = async |client: &Client| client.result("ident", json!([1])).await.map(drop);
    works(&split.client).await?;
    proxy.cut();
    works(&split.client).await.context("after a cut")?;
    proxy.half_close(Way::ToClient);
    works(&split.client).await.context("after a half-close to the worker")?;
    proxy.half_close(Way::ToServer);
    works(&split.client).await.context("after a half-close to Redis")?;
    redis.kill();
    redis.restart();
    works(&split.client).await.context("after a kill of Redis")?;
    // Nothing is closed, nothing comes any more: only a time limit tells.
    proxy.hold(Way::ToClient, true);
    let id = split.client.submit("ident", json!([2])).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    proxy.heal();
    ensure!(split.client.ended(&id, LIMIT).await?["state"] == "succeeded");
    Ok(())
}

/// Celery's inspect asks the workers, and hears nothing of busy ones.
#[tokio::test]
async fn workers_and_what_they_run_are_shown_while_they_are_stopped() -> Result<()> {
    let redis = durable_redis();
    let split = Split::start(&redis.url(), 1, &["--concurrency", "2", "--lease", "60s"]).await?;
    let client = &split.client;
    client.push("numbers").await?;
    let ids = client.batch((0..2).map(|_| json!({"task": "nap", "args": [300.0]}))).await?;
    for id in &ids {
        client.reaches(id, "running").await?;
    }
    let worker = worker_is(client, "full", |worker| worker["running"] == 2).await?;
    split.workers[0].signal(libc::SIGSTOP)?;
    let start = Instant::now();
    let id = worker["id"].as_str().context("an id")?;
    let shown = client.get(&format!("/v1/workers/{id}")).await?.good()?;
    ensure!(shown["slots"] == 2 && shown["leases"] == 2 && shown["version"].is_string(), "{shown}");
    ensure!(shown["rss_bytes"].as_u64() > Some(0), "{shown}");
    let jobs = client.get(&format!("/v1/workers/{id}/jobs")).await?.good()?;
    ensure!(jobs["items"].as_array().map(Vec::len) == Some(2), "{jobs}");
    ensure!(client.jobs(&format!("state=running&worker={id}")).await?.len() == 2);
    println!("a stopped worker was looked at in {:?}", start.elapsed());
    split.workers[0].signal(libc::SIGCONT)?;
    for id in &ids {
        client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await?.good()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_is_drained_resumed_resized_and_shut_down_from_afar() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 1, &["--concurrency", "1"]).await?;
    split.client.push("numbers").await?;
    let client = &split.client;
    let worker = worker_is(client, "there", |_| true).await?;
    let path = format!("/v1/workers/{}", worker["id"].as_str().context("an id")?);
    client.post(&format!("{path}/drain"), &json!({})).await?.good()?;
    worker_is(client, "draining", |worker| worker["state"] == "draining").await?;
    let id = client.submit("ident", json!([1])).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    ensure!(client.job(&id).await?["state"] == "queued", "a drained worker claimed it");
    client.post(&format!("{path}/resume"), &json!({})).await?.good()?;
    client.ended(&id, LIMIT).await?;
    client.patch(&path, &json!({"slots": 3})).await?.good()?;
    worker_is(client, "larger", |worker| worker["slots"] == 3).await?;
    let ids = client.batch((0..3).map(|_| json!({"task": "nap", "args": [300.0]}))).await?;
    for id in &ids {
        client.reaches(id, "running").await?;
    }
    client.post(&format!("{path}/shutdown"), &json!({"mode": "cold"})).await?.good()?;
    let status = split.workers[0].ended(LIMIT).await?;
    ensure!(status.success(), "{status}");
    for id in &ids {
        // Handed back at no cost.
        let job = split.client.reaches(id, "queued").await?;
        ensure!(job["retries"] == 0, "{job}");
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_gets_more_slots_with_the_work_up_to_its_most() -> Result<()> {
    let redis = durable_redis();
    let split = Split::start(&redis.url(), 1, &["--autoscale", "1,4"]).await?;
    let client = &split.client;
    client.push("numbers").await?;
    let ids = client.batch((0..12).map(|_| json!({"task": "nap", "args": [2.0]}))).await?;
    worker_is(client, "at its most", |worker| worker["running"] == 4).await?;
    for id in &ids {
        client.ended(id, LIMIT).await?;
    }
    // Idle slots go after half a minute or two of them: too long to wait for, the worker's own tests show it.
    Ok(())
}

#[tokio::test]
async fn a_worker_starts_anew_after_so_many_jobs_and_loses_none() -> Result<()> {
    let redis = durable_redis();
    let split = Split::start(&redis.url(), 1, &["--max-jobs", "20"]).await?;
    split.client.push("numbers").await?;
    let ids = split.client.batch((0..100).map(|n| json!({"task": "ident", "args": [n]}))).await?;
    for id in &ids {
        let job = split.client.ended(id, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["retries"] == 0, "{job}");
    }
    let mut workers: Vec<String> = Vec::new();
    for id in &ids {
        workers.extend(split.client.job(id).await?["worker"].as_str().map(str::to_owned));
    }
    workers.sort();
    workers.dedup();
    ensure!(workers.len() > 1, "one worker did all: {workers:?}");
    Ok(())
}

#[tokio::test]
async fn a_worker_that_holds_too_much_memory_starts_anew_and_loses_no_job() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 1, &[]).await?;
    split.client.push("policies").await?;
    worker_is(&split.client, "there", |_| true).await?;
    let most = split.workers[0].rss_mib()? as u64 + 20;
    split.workers[0].terminate(LIMIT).await?;
    let ids = split.client.batch((0..12).map(|_| json!({"task": "hold", "args": [31_457_280, 400]}))).await?;
    split.add_worker(&["--max-memory", &format!("{most}MiB"), "--concurrency", "2"])?;
    let mut workers = BTreeSet::new();
    for id in &ids {
        let job = split.client.ended(id, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["retries"] == 0, "{job}");
        workers.extend(job["worker"].as_str().map(str::to_owned));
    }
    ensure!(workers.len() > 1, "one worker did all: {workers:?}");
    Ok(())
}

/// A worker's memory grows with Celery. Here each attempt has memory of its own, which goes with it.
#[tokio::test]
async fn the_memory_of_a_worker_does_not_grow_with_the_jobs_that_it_ran() -> Result<()> {
    let redis = durable_redis();
    let split = Split::start(&redis.url(), 1, &["--concurrency", "2"]).await?;
    let client = &split.client;
    client.upload(guest("numbers")?).await?.good()?;
    let round = async || -> Result<f64> {
        // 16 MiB each.
        let options = json!({"memory_bytes": 33_554_432});
        let line = |_| json!({"task": "primes", "args": [1_000_000], "options": options});
        for id in client.batch((0..20).map(line)).await? {
            ensure!(client.ended(&id, LIMIT).await?["state"] == "succeeded");
        }
        split.workers[0].rss_mib()
    };
    round().await?;
    let first = round().await?;
    let mut last = first;
    for _ in 0..3 {
        last = round().await?;
    }
    println!("resident after 40 jobs {first:.0} MiB, after 100 {last:.0} MiB");
    ensure!(last < first + 48.0, "{first} MiB became {last} MiB");
    Ok(())
}

#[tokio::test]
async fn a_pause_survives_everything_that_is_killed() -> Result<()> {
    let mut redis = durable_redis();
    let mut split = Split::start(&redis.url(), 1, &[]).await?;
    split.client.push("numbers").await?;
    split.client.result("ident", json!([1])).await?;
    split.client.post("/v1/queues/default/pause", &json!({})).await?.good()?;
    let id = split.client.submit("ident", json!([2])).await?;
    split.workers[0].kill()?;
    redis.kill();
    redis.restart();
    split.add_worker(&[])?;
    let other = json!({"queue": "other"});
    until("another queue is served", LIMIT, || async {
        let id = split.client.submit_with("ident", json!([3]), other.clone()).await?;
        Ok(Some(split.client.ended(&id, LIMIT).await?))
    })
    .await?;
    ensure!(split.client.job(&id).await?["state"] == "queued", "a paused queue was served");
    split.client.post("/v1/queues/default/resume", &json!({})).await?.good()?;
    split.client.ended(&id, LIMIT).await?;
    Ok(())
}

#[tokio::test]
async fn only_an_operator_orders_workers_about() -> Result<()> {
    umbel_tests::on_both(&[], async |dev| {
        let other = dev.another(&["--tenant", "other"]).await?;
        let worker = worker_is(&dev.client, "there", |_| true).await?;
        let path = format!("/v1/workers/{}/drain", worker["id"].as_str().context("an id")?);
        let refused = other.post(&path, &json!({})).await?;
        ensure!(refused.status == 403, "{}: {}", refused.status, refused.text);
        Ok(())
    })
    .await
}

/// Its slots could run all of them at once.
#[tokio::test]
async fn jobs_wait_while_others_have_the_memory_that_guests_may_have_together() -> Result<()> {
    let arguments = ["--concurrency", "8", "--guest-memory", "300MiB"].map(str::to_owned).to_vec();
    let dev = Dev::with(DevOptions { arguments, ..DevOptions::default() }).await?;
    dev.client.push("numbers").await?;
    dev.client.result("nap", json!([0.0])).await?;
    let start = Instant::now();
    let nap = json!({"task": "nap", "args": [0.3], "options": {"memory_bytes": 256 << 20}});
    for id in dev.client.batch((0..4).map(|_| nap.clone())).await? {
        ensure!(dev.client.ended(&id, LIMIT).await?["state"] == "succeeded");
    }
    ensure!(start.elapsed() >= Duration::from_millis(1_200), "some ran at once: {:?}", start.elapsed());
    Ok(())
}

/// Nothing but the tokens says that there is another tenant when the first one takes its slots.
#[tokio::test]
async fn the_first_job_of_a_second_tenant_starts_beside_long_attempts_of_the_first() -> Result<()> {
    let arguments = vec!["--concurrency".to_owned(), "2".to_owned()];
    let mut dev = Dev::with(DevOptions { arguments, ..DevOptions::default() }).await?;
    let [first, second] = dev.tenants(&["first", "second"]).await?.try_into().ok().context("two clients")?;
    for client in [&first, &second] {
        client.push("numbers").await?;
    }
    let mut long = Vec::new();
    for _ in 0..4 {
        long.push(first.submit("nap", json!([20.0])).await?);
    }
    first.reaches(&long[0], "running").await?;
    ensure!(second.result("add", json!([1, 2])).await? == 3);
    let first = first.job(&long[0]).await?;
    ensure!(first["state"] == "running", "it waited for the end of {first}");
    Ok(())
}
