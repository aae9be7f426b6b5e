//! The backups of the production guide, made while jobs are submitted and run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use umbel_broker_conformance::redis_server::{Options, RedisServer};
use umbel_tests::{Dev, DevOptions, durable_redis};

const LIMIT: Duration = Duration::from_secs(120);
const JOBS: usize = 300;

/// The shell block of the guide below this heading.
fn block(heading: &str) -> Result<String> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides/production.md");
    let guide = fs::read_to_string(guide)?;
    let (_, section) = guide.split_once(heading).with_context(|| format!("the guide has no {heading:?}"))?;
    let (_, block) = section.split_once("```sh\n").context("no block")?;
    Ok(block.split_once("```").context("the block has no end")?.0.to_owned())
}

/// Runs a block as an operator would, with `umbel` on the path.
fn run(block: &str, dev: &Dev, broker: &str, backup: &Path) -> Result<Output> {
    let umbel = PathBuf::from(dev.command(&["doctor"])?.get_program());
    let bin = umbel.parent().context("the binary is in a folder")?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let mut command = Command::new("sh");
    command.args(["-ec", block]).env("PATH", path).env("UMBEL_DATA", &dev.data).env("BACKUP", backup);
    if !broker.is_empty() {
        command.env("UMBEL_BROKER", broker);
    }
    Ok(command.output()?)
}

/// Acknowledged jobs, some of which have not run.
async fn submitted(dev: &Dev) -> Result<Vec<String>> {
    dev.client.push("numbers").await?;
    let mut ids = Vec::new();
    for n in 0..JOBS {
        ids.push(dev.client.submit("add", json!([n, 1])).await?);
    }
    Ok(ids)
}

/// Every one of these jobs is in the restored broker, and ends.
async fn all_are_restored(restored: &Dev, ids: &[String]) -> Result<()> {
    for (n, id) in ids.iter().enumerate() {
        let job = restored.client.ended(id, LIMIT).await?;
        ensure!(job["state"] == "succeeded" && job["result"] == json!(n + 1), "{job}");
    }
    Ok(())
}

#[tokio::test]
async fn a_backup_of_sqlite_made_while_jobs_run_passes_doctor_and_has_every_acknowledged_job() -> Result<()> {
    let dev = Dev::start().await?;
    let ids = submitted(&dev).await?;
    let folder = tempfile::tempdir()?;
    let backup = folder.path().join("backup");
    let done = run(&block("## Backup of SQLite")?, &dev, "", &backup)?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let again = run(&block("## Backup of SQLite")?, &dev, "", &backup)?;
    ensure!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("name a new file"), "{again:?}");
    let restored = Dev::with(DevOptions { data: Some(backup), ..DevOptions::default() }).await?;
    all_are_restored(&restored, &ids).await
}

#[tokio::test]
async fn a_snapshot_of_redis_made_while_jobs_run_passes_doctor_and_has_every_acknowledged_job() -> Result<()> {
    let redis = durable_redis();
    let dev = Dev::on(&redis.url()).await?;
    let ids = submitted(&dev).await?;
    let folder = tempfile::tempdir()?;
    let backup = folder.path().join("backup");
    let done = run(&block("## Backup of Redis")?, &dev, &redis.url(), &backup)?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let folder: &'static str = backup.display().to_string().leak();
    let arguments = vec!["--dir", folder, "--dbfilename", "dump.rdb"].leak();
    let second = RedisServer::start(Options { arguments, ..Options::default() });
    let doctor = dev.umbel(&["doctor", "--broker", &second.url(), "--data", folder])?;
    ensure!(doctor.status.success(), "{}", String::from_utf8_lossy(&doctor.stderr));
    let options = DevOptions { broker: Some(second.url()), data: Some(backup), ..DevOptions::default() };
    all_are_restored(&Dev::with(options).await?, &ids).await
}
