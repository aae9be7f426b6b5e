//! The dead set: why a job is there, its history, what becomes of it; and jobs that are forgotten.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, Split, durable_redis, on_both, redis_keys, until};

const LIMIT: Duration = Duration::from_secs(60);

async fn dead_of(client: &Client, id: &str) -> Result<Option<Value>> {
    let dead = client.get("/v1/dead").await?.good()?;
    Ok(dead["items"].as_array().into_iter().flatten().find(|job| job["id"] == id).cloned())
}

/// In Celery such a job is dropped, or redelivered for ever.
#[tokio::test]
async fn a_job_that_kills_its_workers_is_buried_with_the_reason() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 0, &[]).await?;
    split.client.push("numbers").await?;
    let id = split.client.submit_with("nap", json!([300.0]), json!({"max_deliveries": 2})).await?;
    for worker in 0..2 {
        split.add_worker(&["--lease", "1s"])?;
        until("it runs there", LIMIT, || async {
            let job = split.client.job(&id).await?;
            Ok((job["state"] == "running" && job["deliveries"] == worker + 1).then_some(()))
        })
        .await?;
        split.workers[worker].kill()?;
    }
    let job = split.client.ended(&id, LIMIT).await?;
    ensure!(job["state"] == "failed" && job["error"]["kind"] == "max_deliveries", "{job}");
    ensure!(job["retries"] == 0, "a lost worker cost a retry: {job}");
    ensure!(dead_of(&split.client, &id).await?.is_some());
    Ok(())
}

/// For the options of a running job whose worker is lost: how the job ends, and whether it is in the dead set. None: it runs
/// again.
fn choices() -> [(Value, Option<bool>); 6] {
    [
        (json!({"on_worker_lost": "dead"}), Some(true)),
        (json!({"on_worker_lost": "fail"}), Some(false)),
        (json!({"acks": "early"}), Some(false)),
        (json!({"acks": "early", "on_worker_lost": "dead"}), Some(true)),
        (json!({"acks": "early", "on_worker_lost": "fail"}), Some(false)),
        (json!({"on_worker_lost": "requeue"}), None),
    ]
}

/// One running job for each choice.
async fn running(client: &Client) -> Result<Vec<String>> {
    let line = |(mut options, _): (Value, _)| {
        // A retry would hide that the job ended.
        options["max_retries"] = 0.into();
        json!({"task": "nap", "args": [1.5], "options": options})
    };
    let ids = client.batch(choices().into_iter().map(line)).await?;
    for id in &ids {
        client.reaches(id, "running").await?;
    }
    Ok(ids)
}

/// Each ended as it was told, once.
async fn ended_as_chosen(client: &Client, ids: &[String]) -> Result<()> {
    for (id, (options, dead)) in ids.iter().zip(choices()) {
        let job = client.ended(id, LIMIT).await?;
        let history = job["history"].as_array().map_or(0, Vec::len);
        let Some(dead) = dead else {
            ensure!(job["state"] == "succeeded" && job["deliveries"] == 2 && job["retries"] == 0, "{options}: {job}");
            continue;
        };
        ensure!(job["state"] == "failed" && job["error"]["kind"] == "worker_lost", "{options}: {job}");
        ensure!(job["deliveries"] == 1 && history == 1, "{options}: it was handed out again: {job}");
        ensure!(dead_of(client, id).await?.is_some() == dead, "{options}: in the dead set: not {dead}");
    }
    Ok(())
}

#[tokio::test]
async fn what_a_lost_worker_means_is_the_tasks_choice() -> Result<()> {
    let redis = durable_redis();
    let arguments = ["--lease", "1s", "--concurrency", "8"];
    let mut split = Split::start(&redis.url(), 1, &arguments).await?;
    split.client.push("numbers").await?;
    let ids = running(&split.client).await?;
    split.workers[0].kill()?;
    split.add_worker(&arguments)?;
    ended_as_chosen(&split.client, &ids).await
}

#[tokio::test]
async fn what_a_lost_process_means_is_the_tasks_choice_on_either_broker() -> Result<()> {
    on_both(&["--lease", "1s", "--concurrency", "8"], async |dev| {
        let ids = running(&dev.client).await?;
        dev.process.kill()?;
        dev.restart().await?;
        ended_as_chosen(&dev.client, &ids).await
    })
    .await
}

/// A Redis transport of Celery has no dead letters: what failed cannot be looked at or sent again.
#[tokio::test]
async fn failed_work_can_be_looked_at_counted_and_redriven_with_another_policy() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let options = json!({"max_retries": 1, "retry_backoff": {"initial_ms": 1, "max_ms": 1}});
        let id = client.submit_with("flaky", json!([7, 3]), options).await?;
        client.ended(&id, LIMIT).await?;
        let dead = dead_of(client, &id).await?.context("it is not in the dead set")?;
        ensure!(dead["error"]["kind"] == "Flaky", "{dead}");
        let queues = client.get("/v1/queues").await?.good()?;
        ensure!(queues["items"][0]["dead"] == 1, "{queues}");
        let body = json!({"digest": "current", "policy": {"max_retries": 9}});
        let again = client.post(&format!("/v1/dead/{id}/redrive"), &body).await?.good()?;
        let job = client.ended(again["id"].as_str().context("an id")?, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["redrive_of"] == id && job["retries"] == 3, "{job}");
        ensure!(dead_of(client, &id).await?.is_none(), "it left the dead set");
        let twice = client.post(&format!("/v1/dead/{id}/redrive"), &json!({})).await?;
        ensure!(twice.status >= 400, "it was redriven twice: {}", twice.text);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn many_are_redriven_at_once() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let line = |n: u64| json!({"task": "flaky", "args": [n, 1], "options": {"max_retries": 0}});
        let ids = client.batch((0..150).map(line)).await?;
        for id in &ids {
            ensure!(client.ended(id, LIMIT).await?["state"] == "failed");
        }
        let policy = json!({"max_retries": 5, "retry_backoff": {"initial_ms": 1, "max_ms": 1}});
        let body = json!({"action": "redrive", "filter": {"task": "flaky"}, "digest": "pinned", "policy": policy});
        let bulk = client.post("/v1/bulk", &body).await?.good()?;
        let path = format!("/v1/bulk/{}", bulk["id"].as_str().context("an id")?);
        let bulk = until("it is over", LIMIT, || async {
            let bulk = client.get(&path).await?.good()?;
            Ok((bulk["state"] != "running").then_some(bulk))
        })
        .await?;
        ensure!(bulk["state"] == "done" && bulk["done"] == 150, "{bulk}");
        until("all succeeded", LIMIT, || async {
            Ok((client.jobs("state=succeeded&task=flaky").await?.len() == 150).then_some(()))
        })
        .await?;
        ensure!(client.get("/v1/dead").await?.good()?["items"] == json!([]));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_dead_set_holds_so_many_and_the_oldest_leave_it() -> Result<()> {
    on_both(&["--max-dead", "5"], async |dev| {
        let mut ids = Vec::new();
        for n in 0..8 {
            ids.push(dev.client.submit("fail", json!([n])).await?);
            dev.client.ended(&ids[n], LIMIT).await?;
        }
        let dead = dev.client.get("/v1/dead?limit=100").await?.good()?;
        let left: Vec<&str> = dead["items"].as_array().into_iter().flatten().filter_map(|j| j["id"].as_str()).collect();
        ensure!(left.len() == 5 && ids[3..].iter().all(|id| left.contains(&id.as_str())), "{left:?} of {ids:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_result_that_nobody_wants_is_not_kept_and_a_forgotten_job_is_gone() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        let id = client.submit_with("add", json!([1, 2]), json!({"ignore_result": true})).await?;
        let job = client.ended(&id, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["result"].is_null(), "{job}");
        let quiet = json!({"ignore_result": true, "store_errors_even_if_ignored": false});
        let failed = client.submit_with("fail", json!(["a secret"]), quiet).await?;
        let job = client.ended(&failed, LIMIT).await?;
        ensure!(job["state"] == "failed" && job["error"]["kind"] == "Failed", "{job}");
        ensure!(
            !job["error"].to_string().contains("secret") && !job["history"].to_string().contains("secret"),
            "{job}"
        );
        ensure!(dead_of(client, &failed).await?.is_none());
        let waiting = client.submit_with("add", json!([1, 2]), json!({"countdown_ms": 60_000})).await?;
        ensure!(client.delete(&format!("/v1/jobs/{waiting}")).await?.status == 409, "it has not ended");
        ensure!(client.delete(&format!("/v1/jobs/{id}")).await?.status == 204);
        ensure!(client.get(&format!("/v1/jobs/{id}")).await?.status == 404);
        Ok(())
    })
    .await
}

/// Celery's PENDING means queued, or never heard of.
#[tokio::test]
async fn an_unknown_job_is_not_found_and_a_queued_one_is_queued() -> Result<()> {
    on_both(&[], async |dev| {
        let client = &dev.client;
        client.result("ident", json!([0])).await?;
        client.post("/v1/queues/default/pause", &json!({})).await?.good()?;
        let id = client.submit("ident", json!([1])).await?;
        ensure!(client.job(&id).await?["state"] == "queued");
        let unknown = client.get("/v1/jobs/01M82B9KS4DFV9DEXTA06589KP").await?;
        ensure!(unknown.status == 404, "{}", unknown.text);
        Ok(())
    })
    .await
}

/// Jobs that are soon to be deleted, with all that a job can leave behind: half of them fail.
fn short_lived(n: u64) -> Value {
    let mut options = json!({
        "result_ttl_ms": 1_500, "dead_ttl_ms": 1_500, "unique": "first", "limit_key": "kwargs.n", "key_concurrency": 1,
        "tags": ["t"],
    });
    if n % 2 == 1 {
        options["max_retries"] = 0.into();
    }
    let task = if n.is_multiple_of(2) { "ident" } else { "flaky" };
    json!({"task": task, "kwargs": {"n": n}, "options": options})
}

async fn gone(client: &Client, id: &str) -> Result<()> {
    until("the job is deleted", LIMIT, || async {
        Ok((client.get(&format!("/v1/jobs/{id}")).await?.status == 404).then_some(()))
    })
    .await
}

/// Celery's reply keys and subscriptions leak.
#[tokio::test]
async fn nothing_is_left_of_jobs_whose_retention_is_over() -> Result<()> {
    let redis = durable_redis();
    let split = Split::start(&redis.url(), 1, &[]).await?;
    let client = &split.client;
    client.push("numbers").await?;
    gone(client, &client.submit_with("ident", json!([0]), json!({"result_ttl_ms": 1_000})).await?).await?;
    let keys = || redis_keys(&redis);
    let before = keys()?;
    for id in client.batch((0..100).map(short_lived)).await? {
        gone(client, &id).await?;
    }
    until("no key is left of them", LIMIT, || async {
        // The virtual time of all tenants is one number, whatever jobs there were.
        let stays = |key: &String| before.contains(key) || key.ends_with(":meta:turn");
        let left: Vec<String> = keys()?.into_iter().filter(|key| !stays(key)).collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await?;
    let doctor = split.umbel(&["doctor"])?;
    ensure!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stdout));
    Ok(())
}

#[tokio::test]
async fn nothing_is_left_on_sqlite_either_and_the_audit_is_clean() -> Result<()> {
    let mut dev = Dev::start().await?;
    dev.client.push("numbers").await?;
    for id in dev.client.batch((0..100).map(short_lived)).await? {
        gone(&dev.client, &id).await?;
    }
    ensure!(dev.client.jobs("").await?.is_empty() && dev.client.get("/v1/dead").await?.good()?["items"] == json!([]));
    let queue = &dev.client.get("/v1/queues").await?.good()?["items"][0];
    for count in ["queued", "running", "delayed", "dead"] {
        ensure!(queue[count] == 0, "{queue}");
    }
    // The unique keys are free again.
    let id = dev.client.submit_body(&short_lived(2)).await?;
    dev.client.ended(&id, LIMIT).await?;
    gone(&dev.client, &id).await?;
    // A data folder is one process's.
    dev.process.terminate(LIMIT).await?;
    let data = dev.data.to_str().context("a path")?;
    let doctor = dev.umbel(&["doctor", "--data", data, "-o", "json"])?;
    let report: Value = serde_json::from_slice(&doctor.stdout)?;
    ensure!(doctor.status.success() && report["findings"] == json!([]) && report["healthy"] == true, "{report}");
    Ok(())
}
