//! Celery's canvas cases, rebuilt as data in `tests/canvas/celery.json`, and the cells of docs/CANVAS-SEMANTICS.md, in
//! `tests/canvas/semantics.json`: each is submitted over HTTP to the real binary, on both brokers, and everything that it
//! expects is compared. Of Celery's suite there are names and situations only.

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use serde_json::Value;
use umbel_tests::{
    Client, Dev, DevOptions, Split,
    case::{Case, prepare, reached},
    durable_redis,
};

/// The project's goal is 100.
const LEAST_CASES: usize = 100;
/// Jobs that sleep wait for no slot: whoever is looked at while it runs must run. A short lease: lost jobs come back soon.
const SLOTS: &[&str] = &["--concurrency", "64", "--lease", "3s"];

async fn dev(broker: Option<String>) -> Result<Dev> {
    let arguments = SLOTS.iter().map(|&word| word.to_owned()).collect();
    let dev = Dev::with(DevOptions { broker, arguments, ..DevOptions::default() }).await?;
    prepare(&dev.client).await?;
    Ok(dev)
}

fn loses_its_worker(case: &Case) -> bool {
    case.0["act"].get("lose_worker").is_some()
}

async fn submitted<'a>(client: &Client, cases: &'a [Case]) -> Vec<(&'a Case, Result<String>)> {
    let mut all = Vec::new();
    for case in cases {
        all.push((case, case.submit(client).await));
    }
    all
}

async fn finished(client: &Client, running: Vec<(&Case, Result<String>)>) -> Result<()> {
    let count = running.len();
    // All at once: what a case does to its workflow happens while that runs.
    let checks = running.into_iter().map(|(case, id)| async move {
        let checked = match id {
            Ok(id) => case.finish(client, &id).await.with_context(|| format!("workflow {id}")),
            Err(e) => Err(e),
        };
        checked.err().map(|e| format!("{}: {e:#}\n    {}", case.name(), case.0["canvas"]))
    });
    let wrong: Vec<String> = join_all(checks).await.into_iter().flatten().collect();
    ensure!(wrong.is_empty(), "{} of {count} cases:\n{}", wrong.len(), wrong.join("\n"));
    println!("{count} cases");
    Ok(())
}

#[tokio::test]
async fn celerys_canvas_cases_end_as_expected_on_sqlite() -> Result<()> {
    celerys_cases(&dev(None).await?).await
}

#[tokio::test]
async fn celerys_canvas_cases_end_as_expected_on_redis() -> Result<()> {
    let redis = durable_redis();
    celerys_cases(&dev(Some(redis.url())).await?).await
}

async fn celerys_cases(dev: &Dev) -> Result<()> {
    let cases = Case::read("celery.json")?;
    ensure!(cases.len() >= LEAST_CASES, "only {} cases", cases.len());
    finished(&dev.client, submitted(&dev.client, &cases).await).await
}

#[tokio::test]
async fn every_cell_of_the_semantics_is_as_written_on_sqlite() -> Result<()> {
    let mut cases = Case::read("semantics.json")?;
    cases.retain(|case| !loses_its_worker(case));
    let dev = dev(None).await?;
    finished(&dev.client, submitted(&dev.client, &cases).await).await
}

#[tokio::test]
async fn every_cell_of_the_semantics_is_as_written_on_redis() -> Result<()> {
    let mut cases = Case::read("semantics.json")?;
    cases.retain(|case| !loses_its_worker(case));
    let redis = durable_redis();
    let dev = dev(Some(redis.url())).await?;
    finished(&dev.client, submitted(&dev.client, &cases).await).await
}

/// Submits the cases and waits until the job that is to be lost runs in each.
async fn until_all_can_be_lost<'a>(client: &Client, cases: &'a [Case]) -> Result<Vec<(&'a Case, Result<String>)>> {
    let running = submitted(client, cases).await;
    for (case, id) in &running {
        let (Ok(id), Value::String(label)) = (id, &case.0["act"]["lose_worker"]) else { continue };
        reached(client, id, label, &["running"]).await.with_context(|| case.name().to_owned())?;
    }
    Ok(running)
}

#[tokio::test]
async fn every_primitive_ends_as_written_when_its_worker_is_killed_on_sqlite() -> Result<()> {
    let mut cases = Case::read("semantics.json")?;
    cases.retain(loses_its_worker);
    let mut dev = dev(None).await?;
    let running = until_all_can_be_lost(&dev.client, &cases).await?;
    dev.process.kill()?;
    dev.restart().await?;
    finished(&dev.client, running).await
}

#[tokio::test]
async fn every_primitive_ends_as_written_when_its_worker_is_killed_on_redis() -> Result<()> {
    let mut cases = Case::read("semantics.json")?;
    cases.retain(loses_its_worker);
    let redis = durable_redis();
    let mut split = Split::start(&redis.url(), 1, SLOTS).await?;
    prepare(&split.client).await?;
    let running = until_all_can_be_lost(&split.client, &cases).await?;
    split.workers[0].kill()?;
    split.add_worker(SLOTS)?;
    finished(&split.client, running).await
}
