//! Faults of the machine: a broker that is away, a disk that is full or read-only, damaged files, a folder in use.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;
use umbel_tests::{Dev, DevOptions, Split, durable_redis, redis_with, until};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_redis_that_is_down_at_start_is_waited_for() -> Result<()> {
    let mut redis = durable_redis();
    redis.kill();
    let mut dev = Dev::launch(DevOptions { broker: Some(redis.url()), ..DevOptions::default() })?;
    until("it says what it waits for", LIMIT, || async {
        Ok(dev.process.output().to_lowercase().contains("redis").then_some(()))
    })
    .await?;
    dev.process.check_alive()?;
    redis.restart();
    dev.ready().await?;
    dev.client.push("numbers").await?;
    assert_eq!(dev.client.result("add", json!([1, 2])).await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_redis_that_goes_away_is_an_error_to_callers_and_comes_back_by_itself() -> Result<()> {
    let mut redis = durable_redis();
    let split = Split::start(&redis.url(), 1, &[]).await?;
    split.client.push("numbers").await?;
    let before =
        split.client.submit_body(&json!({"task": "add", "args": [1, 2], "options": {"countdown_ms": 1500}})).await?;
    redis.kill();
    let answer = split.client.post("/v1/jobs", &json!({"task": "add", "args": [1, 2]})).await?;
    assert_eq!((answer.status, answer.code().as_str()), (503, "broker_unavailable"), "{}", answer.text);
    assert!(answer.headers.contains_key("retry-after"));
    assert_eq!(split.client.get("/livez").await?.status, 200);
    assert_eq!(split.client.get("/readyz").await?.status, 503);
    redis.restart();
    // Nothing is restarted: both processes find their way back.
    until("the API answers again", LIMIT, || async {
        Ok((split.client.get("/readyz").await?.status == 200).then_some(()))
    })
    .await?;
    assert_eq!(split.client.ended(&before, LIMIT).await?["result"], 3);
    assert_eq!(split.client.result("add", json!([20, 22])).await?, 42);
    let log = split.server.output() + &split.workers[0].output();
    ensure!(log.to_lowercase().contains("redis"), "the loss and the recovery are logged:\n{log}");
    Ok(())
}

#[tokio::test]
async fn a_redis_that_would_evict_jobs_is_refused_unless_told_otherwise() -> Result<()> {
    let redis = redis_with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let mut dev = Dev::launch(DevOptions { broker: Some(redis.url()), ..DevOptions::default() })?;
    let status = dev.process.ended(LIMIT).await?;
    ensure!(!status.success(), "{status}");
    let output = dev.process.output();
    ensure!(output.contains("maxmemory-policy") && output.contains("noeviction"), "{output}");
    ensure!(output.contains("--allow-unsafe-redis"), "{output}");
    let arguments = vec!["--allow-unsafe-redis".to_owned()];
    let dev = Dev::with(DevOptions { broker: Some(redis.url()), arguments, ..DevOptions::default() }).await?;
    dev.client.push("numbers").await?;
    assert_eq!(dev.client.result("add", json!([1, 2])).await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_second_umbel_dev_on_one_folder_is_refused_and_the_first_goes_on() -> Result<()> {
    let dev = Dev::start().await?;
    let mut second = Dev::launch(DevOptions { data: Some(dev.data.clone()), ..DevOptions::default() })?;
    let status = second.process.ended(LIMIT).await?;
    ensure!(!status.success(), "{status}");
    let output = second.process.output();
    ensure!(output.contains("error") && output.contains("data"), "it names the folder:\n{output}");
    dev.client.push("numbers").await?;
    assert_eq!(dev.client.result("add", json!([1, 2])).await?, 3);
    Ok(())
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_written_is_a_clear_error() -> Result<()> {
    let home = TempDir::new()?;
    // Root may write where the mode forbids it; nobody makes a folder below a file.
    let file = home.path().join("file");
    fs::write(&file, "not a folder")?;
    let mut dev = Dev::launch(DevOptions { data: Some(file.join("data")), ..DevOptions::default() })?;
    let status = dev.process.ended(LIMIT).await?;
    ensure!(!status.success(), "{status}");
    let output = dev.process.output();
    ensure!(output.contains("error") && output.contains("file"), "it names the folder:\n{output}");
    ensure!(!output.contains("panicked"), "{output}");
    Ok(())
}

#[tokio::test]
async fn a_corrupted_blob_is_never_run_and_others_are() -> Result<()> {
    let mut dev = Dev::start().await?;
    let orders = dev.client.push("orders").await?;
    dev.client.push("numbers").await?;
    dev.process.terminate(LIMIT).await?;
    let hex = digest_hex(&orders)?;
    let blobs = files_named(&dev.data, &hex)?;
    ensure!(!blobs.is_empty(), "no file of {hex} under the data folder");
    for blob in &blobs {
        damage(blob)?;
    }
    dev.restart().await?;
    // Both the blob and the compiled code are damaged, so there is nothing that may be run: the job is parked.
    let id = dev.client.submit("return_order", json!([1, null])).await?;
    assert_eq!(dev.client.result("add", json!([20, 22])).await?, 42);
    until("the log names the damage", LIMIT, || async {
        Ok(dev.process.output().to_lowercase().contains("damaged").then_some(()))
    })
    .await?;
    let job = dev.client.job(&id).await?;
    ensure!(job["state"] != "succeeded", "{job}");
    // Pushing the module again heals it.
    dev.client.push("orders").await?;
    dev.client.post(&format!("/v1/jobs/{id}/retry"), &json!({})).await?;
    let job = dev.client.ended(&id, LIMIT).await?;
    assert_eq!((&job["state"], &job["error"]["kind"]), (&json!("failed"), &json!("rejected")), "{job}");
    Ok(())
}

#[tokio::test]
async fn a_tampered_compiled_file_is_never_loaded_and_is_compiled_again() -> Result<()> {
    let mut dev = Dev::start().await?;
    let numbers = dev.client.push("numbers").await?;
    assert_eq!(dev.client.result("add", json!([1, 2])).await?, 3);
    dev.process.terminate(LIMIT).await?;
    let hex = digest_hex(&numbers)?;
    let blob = dev.data.join("modules");
    let compiled: Vec<PathBuf> = files_named(&dev.data, &hex)?.into_iter().filter(|p| !p.starts_with(&blob)).collect();
    ensure!(!compiled.is_empty(), "no compiled code of {hex}; files: {:?}", files_named(&dev.data, &hex)?);
    for file in &compiled {
        damage(file)?;
    }
    dev.restart().await?;
    assert_eq!(dev.client.result("add", json!([20, 22])).await?, 42);
    let log = dev.process.output().to_lowercase();
    ensure!(log.contains("tampered") || log.contains("mac") || log.contains("compiled code"), "a warning:\n{log}");
    Ok(())
}

#[tokio::test]
async fn a_full_disk_is_an_error_to_callers_and_passes_when_there_is_room_again() -> Result<()> {
    let Some(disk) = SmallDisk::mount()? else {
        println!("skipped: a small disk can only be mounted by root");
        return Ok(());
    };
    let dev = Dev::with(DevOptions { data: Some(disk.folder.path().join("data")), ..DevOptions::default() }).await?;
    dev.client.push("numbers").await?;
    let ballast = disk.fill()?;
    let refused = dev.client.upload(umbel_tests::guest("images")?).await?;
    ensure!(matches!(refused.status, 503 | 507), "{}: {}", refused.status, refused.text);
    ensure!(refused.code().ends_with("full") || refused.code().ends_with("unavailable"), "{}", refused.text);
    // What was stored before can still be read.
    assert_eq!(dev.client.get("/v1/tasks/add").await?.status, 200);
    assert_eq!(dev.client.get("/livez").await?.status, 200);
    fs::remove_file(ballast)?;
    let result = until("it works again", LIMIT, || async { Ok(dev.client.result("add", json!([1, 2])).await.ok()) });
    assert_eq!(result.await?, 3);
    Ok(())
}

/// The 64 digits of a pushed module.
fn digest_hex(pushed: &serde_json::Value) -> Result<String> {
    Ok(pushed["digest"].as_str().and_then(|d| d.strip_prefix("sha256:")).context("a digest")?.to_owned())
}

/// Files below `folder` whose path holds the digits of a digest, as a name or split into folders.
fn files_named(folder: &Path, hex: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_named(&path, hex)?);
        } else if path.to_string_lossy().replace('/', "").contains(&hex[8..]) {
            found.push(path);
        }
    }
    Ok(found)
}

/// Flips bytes in the middle of a file, whatever its mode.
fn damage(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    let size = fs::metadata(path)?.len();
    let mut file = File::options().write(true).open(path)?;
    file.seek(SeekFrom::Start(size / 2))?;
    file.write_all(&[0xA5; 16])?;
    Ok(())
}

/// A disk of 24 MiB in memory.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// None where this process may not mount.
    fn mount() -> Result<Option<Self>> {
        let folder = TempDir::new()?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=24m", "umbel-test"]).arg(folder.path());
        Ok(command.output()?.status.success().then_some(Self { folder }))
    }

    /// Takes all the room that is left.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.folder.path().join("ballast");
        let mut file = File::create(&path)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the service may still hold files.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}
