//! SIGTERM: what runs is finished or handed back at no cost to the job; nothing is lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use umbel_tests::{Dev, DevOptions, Split, durable_redis, until};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_warm_shutdown_finishes_what_runs_and_leaves_the_rest() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 1, &["--concurrency", "2"]).await?;
    split.client.push("numbers").await?;
    // Until the module is compiled, its jobs leave their slots.
    split.client.result("ident", json!([0])).await?;
    let ids = split.client.batch((0..6).map(|_| json!({"task": "nap", "args": [1.0]}))).await?;
    until("two jobs run", LIMIT, || async { Ok((split.client.jobs("state=running").await?.len() == 2).then_some(())) })
        .await?;
    let status = split.workers[0].terminate(LIMIT).await?;
    ensure!(status.success(), "{status}");
    let finished = split.client.jobs("state=succeeded").await?.len();
    ensure!(finished == 3, "the two that ran were finished, {finished}");
    assert_eq!(split.client.jobs("state=queued").await?.len(), 4);
    let workers = split.client.get("/v1/workers").await?.good()?;
    assert_eq!(workers["items"], json!([]), "it said goodbye");
    split.add_worker(&[])?;
    for id in &ids {
        let job = split.client.ended(id, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["retries"] == 0 && job["deliveries"] == 1, "{job}");
    }
    Ok(())
}

#[tokio::test]
async fn a_job_that_outlasts_the_grace_is_handed_back_at_no_cost() -> Result<()> {
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 1, &["--grace", "1s"]).await?;
    split.client.push("numbers").await?;
    let id = split.client.submit("nap", json!([300.0])).await?;
    let is = |state: &'static str| {
        let (client, id) = (&split.client, &id);
        until(format!("the job is {state}"), LIMIT, move || async move {
            Ok((client.job(id).await?["state"] == state).then_some(()))
        })
    };
    is("running").await?;
    let start = Instant::now();
    let status = split.workers[0].terminate(LIMIT).await?;
    ensure!(status.success(), "{status}");
    println!("ended {:?} after SIGTERM with a grace of 1 s", start.elapsed());
    // Not after the lease: it was handed back, so another worker may have it at once.
    let job = split.client.job(&id).await?;
    ensure!(job["state"] == "queued" && job["retries"] == 0, "{job}");
    split.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await?.good()?;
    Ok(())
}

#[tokio::test]
async fn a_second_signal_ends_a_shutdown_at_once() -> Result<()> {
    let arguments = vec!["--grace".to_owned(), "10m".to_owned()];
    let mut dev = Dev::with(DevOptions { arguments, ..DevOptions::default() }).await?;
    dev.client.push("numbers").await?;
    let id = dev.client.submit("nap", json!([300.0])).await?;
    until("the job runs", LIMIT, || async { Ok((dev.client.job(&id).await?["state"] == "running").then_some(())) })
        .await?;
    dev.process.signal(libc::SIGTERM)?;
    until("it says that it drains", LIMIT, || async {
        let log = dev.process.output().to_lowercase();
        Ok((log.contains("drain") || log.contains("shut")).then_some(()))
    })
    .await?;
    dev.process.signal(libc::SIGTERM)?;
    dev.process.ended(Duration::from_secs(10)).await?;
    dev.restart().await?;
    // What ran was handed back, at no cost.
    until("the job runs again", LIMIT, || async {
        Ok((dev.client.job(&id).await?["state"] == "running").then_some(()))
    })
    .await?;
    let job = dev.client.job(&id).await?;
    assert_eq!((&job["deliveries"], &job["retries"]), (&json!(1), &json!(0)));
    dev.client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await?.good()?;
    assert_eq!(dev.client.ended(&id, LIMIT).await?["state"], "revoked");
    Ok(())
}
