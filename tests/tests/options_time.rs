//! Time: when a job may start, when it is too late, how long it may run, and that a lease has nothing to do with it.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use umbel_tests::{on_both, time_ms, until};

const LIMIT: Duration = Duration::from_secs(60);

/// Celery hands delayed jobs to workers, and what waits longer than the visibility timeout runs many times.
#[tokio::test]
async fn a_job_with_an_eta_beyond_every_lease_runs_once_and_is_nobodys_until_then() -> Result<()> {
    on_both(&["--lease", "1s"], async |dev| {
        let id = dev.client.submit_with("ident", json!([1]), json!({"countdown_ms": 3_000})).await?;
        let waiting = dev.client.job(&id).await?;
        ensure!(waiting["state"] == "scheduled" && waiting["worker"].is_null(), "{waiting}");
        let due = time_ms(&waiting, "due_at")?;
        let job = dev.client.ended(&id, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["deliveries"] == 1, "{job}");
        ensure!(job["history"].as_array().map(Vec::len) == Some(1), "{job}");
        ensure!(time_ms(&job, "started_at")? >= due, "before it was due: {job}");
        Ok(())
    })
    .await
}

/// Celery's workers hold what is not due in their memory.
#[tokio::test]
async fn a_worker_holds_nothing_that_is_not_due() -> Result<()> {
    on_both(&[], async |dev| {
        let line = |n: u64| json!({"task": "ident", "args": [n], "options": {"countdown_ms": 3_600_000}});
        dev.client.batch((0..2_000).map(line)).await?;
        dev.client.result("ident", json!([1])).await?;
        until("the worker says what it holds", LIMIT, || async {
            let workers = dev.client.get("/v1/workers").await?.good()?;
            let worker = &workers["items"][0];
            ensure!(worker["leases"] == 0 && worker["running"] == 0, "{worker}");
            Ok((worker["settled"].as_u64() >= Some(1)).then_some(()))
        })
        .await?;
        let queues = dev.client.get("/v1/queues").await?.good()?;
        ensure!(queues["items"][0]["delayed"] == 2_000, "{queues}");
        Ok(())
    })
    .await
}

/// A late-acknowledged Celery job that runs longer than the visibility timeout is run by a second worker meanwhile.
#[tokio::test]
async fn a_job_longer_than_its_lease_runs_once_while_its_worker_lives() -> Result<()> {
    on_both(&["--lease", "1s"], async |dev| {
        let id = dev.client.submit("nap", json!([3.0])).await?;
        let job = dev.client.ended(&id, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["deliveries"] == 1, "{job}");
        ensure!(job["history"].as_array().map(Vec::len) == Some(1), "{job}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_expires_while_it_waits_is_never_run() -> Result<()> {
    on_both(&[], async |dev| {
        dev.client.result("ident", json!([1])).await?;
        dev.client.post("/v1/queues/default/pause", &json!({})).await?.good()?;
        let queued = dev.client.submit_with("ident", json!([1]), json!({"expires_ms": 500})).await?;
        let scheduled =
            dev.client.submit_with("ident", json!([1]), json!({"expires_ms": 500, "countdown_ms": 60_000})).await?;
        let day = json!({"expires_at": "2020-01-01T00:00:00Z"});
        let passed = dev.client.post("/v1/jobs", &json!({"task": "ident", "args": [1], "options": day})).await?;
        let slow = json!({"initial_ms": 30_000, "max_ms": 30_000, "jitter": false});
        let retrying = json!({"queue": "other", "expires_ms": 1_500, "retry_backoff": slow});
        let retrying = dev.client.submit_with("flaky", json!([1, 9]), retrying).await?;
        for id in [&queued, &scheduled, &retrying] {
            let job = dev.client.ended(id, LIMIT).await?;
            ensure!(job["state"] == "expired", "{job}");
            ensure!(time_ms(&job, "finished_at")? >= time_ms(&job, "expires_at")?, "too early: {job}");
        }
        ensure!(dev.client.job(&queued).await?["started_at"].is_null());
        // A time that has passed is refused, or the job expires at once; it is never run.
        if passed.status < 300 {
            let job = dev.client.ended(passed.json()["id"].as_str().unwrap_or_default(), LIMIT).await?;
            ensure!(job["state"] == "expired" && job["started_at"].is_null(), "{job}");
        }
        Ok(())
    })
    .await
}

/// Some of Celery's pools have no time limits. Here every guest has: one that computes, one that sleeps.
#[tokio::test]
async fn every_path_has_its_time_limit() -> Result<()> {
    on_both(&[], async |dev| {
        dev.client.push("cases").await?;
        let limit = json!({"time_limit_ms": 300, "fuel": 100_000_000_000_000_u64});
        for (task, args) in [("nap", json!([60.0])), ("fib", json!([60])), ("later", json!([60.0]))] {
            let id = dev.client.submit_with(task, args, limit.clone()).await?;
            let job = dev.client.ended(&id, LIMIT).await?;
            ensure!(job["state"] == "failed" && job["error"]["kind"] == "deadline", "{task}: {job}");
        }
        let id = dev.client.submit_with("fib", json!([60]), json!({"fuel": 1_000_000})).await?;
        ensure!(dev.client.ended(&id, LIMIT).await?["error"]["kind"] == "out_of_fuel");
        let wrong = json!({"task": "nap", "args": [1.0], "options": {"soft_time_limit_ms": 500, "time_limit_ms": 400}});
        let answer = dev.client.post("/v1/jobs", &wrong).await?;
        ensure!(answer.status == 422, "a soft limit above the hard one: {}", answer.text);
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_operators_bound_holds_for_every_layer() -> Result<()> {
    on_both(&["--max-time-limit", "15m"], async |dev| {
        let body = json!({"task": "add", "args": [1, 2], "options": {"time_limit_ms": 900_001}});
        let answer = dev.client.post("/v1/jobs", &body).await?;
        ensure!(answer.status == 422 && answer.text.contains("time_limit_ms"), "{}", answer.text);
        Ok(())
    })
    .await
}
