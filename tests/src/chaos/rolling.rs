//! Upgrades from an older binary: a rolling one on Redis under load, and a SQLite file that the new binary opens.
//!
//! No faults are injected. What must hold is what holds in a chaos run: every acknowledged job ends as its arguments say,
//! once, and `umbel doctor` finds nothing, soon after the last old process is gone: old processes may not count bytes.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Ledger, Options, Report, audit, count, drain, fleet::Fleet, submit, verify};
use crate::{Dev, DevOptions, umbel_binary, until};

/// Servers beside the one that the client asks: they run the background services too.
const OTHER_SERVERS: usize = 1;
/// How long the jobs of the file may take.
const FILE_LIMIT: Duration = Duration::from_secs(120);
/// What tenants have stored is counted anew so soon after the last old process ended: within three minutes, and some for the count.
const RECOUNT_LIMIT: Duration = Duration::from_secs(240);
/// Between two looks whether that was done.
const RECOUNT_LOOK: Duration = Duration::from_secs(10);

/// Who is upgraded first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    ServersFirst,
    WorkersFirst,
}

/// A fleet of `old` binaries on one Redis, of which one process after the other is replaced by the binary under test while
/// jobs are submitted. Every second process is killed, the others are asked to end.
pub async fn rolling_upgrade(old: &Path, order: Order, options: Options) -> Result<Report> {
    let mut fleet = Fleet::start(old.to_owned(), OTHER_SERVERS, options.workers).await.context("starting the fleet")?;
    fleet.client.push("numbers").await?;
    let ledger = Arc::new(Ledger::new(options, fleet.client.clone()));
    let start = Instant::now();
    let submitting = tokio::spawn(submit::submit_all(ledger.clone(), start, options.duration));
    let watching = tokio::spawn(verify::watch(ledger.clone()));
    let upgrades = upgrade_order(order, fleet.members.len());
    for (step, &member) in upgrades.iter().enumerate() {
        let share = (step + 1) as f64 / (upgrades.len() + 1) as f64;
        sleep_until(start + options.duration.mul_f64(share)).await;
        upgrade(&mut fleet, member, step % 2 == 1).await?;
    }
    submitting.await?.context("submitting")?;
    let mut report = Report::new(options, Default::default());
    report.submitting_took = start.elapsed();
    drain(&fleet, &ledger, &mut report).await;
    watching.abort();
    for member in &mut fleet.members {
        member.check()?;
    }
    verify::all(&ledger, &mut report).await?;
    if let Err(e) = recounted(&fleet).await {
        report.violation(format!("what tenants have stored was not counted anew: {e:#}"));
    }
    audit(&mut fleet, &mut report).await?;
    count(&fleet, &ledger, &mut report);
    Ok(report)
}

/// Waits until nobody has stored other than is counted: old processes may not have counted what they stored and deleted.
async fn recounted(fleet: &Fleet) -> Result<()> {
    until("the counters are right", RECOUNT_LIMIT, || async {
        let (_, found) = fleet.umbel_of(&umbel_binary()?, &["doctor", "-o", "json"]).await?;
        if !found.contains("bytes of a tenant") {
            return Ok(Some(()));
        }
        sleep(RECOUNT_LOOK).await;
        Ok(None)
    })
    .await
}

/// Numbers of the members: servers come first in the fleet.
fn upgrade_order(order: Order, members: usize) -> Vec<usize> {
    let servers: Vec<usize> = (0..=OTHER_SERVERS).collect();
    let workers: Vec<usize> = (OTHER_SERVERS + 1..members).collect();
    match order {
        Order::ServersFirst => [servers, workers].concat(),
        Order::WorkersFirst => [workers, servers].concat(),
    }
}

async fn upgrade(fleet: &mut Fleet, number: usize, is_killed: bool) -> Result<()> {
    let member = &mut fleet.members[number];
    eprintln!("    {} is {} and replaced", member.name, if is_killed { "killed" } else { "asked to end" });
    if is_killed {
        member.kill()?;
    } else {
        member.terminate().await?;
    }
    member.binary = umbel_binary()?;
    member.start()?;
    fleet.ready().await
}

/// A file of `old` with jobs in every state, copied and opened by the binary under test: what was there ends as it had to.
pub async fn sqlite_upgrade(old: &Path) -> Result<()> {
    let mut before = Dev::with(DevOptions { binary: Some(old.to_owned()), ..DevOptions::default() }).await?;
    let client = &before.client;
    client.push("numbers").await?;
    let done = client.submit("add", json!([2, 3])).await?;
    client.reaches(&done, "succeeded").await?;
    let dead = client.submit("fail", json!(["for good"])).await?;
    client.reaches(&dead, "failed").await?;
    client.post("/v1/queues/default/pause", &json!({})).await?.good()?;
    let queued = client.submit("inc", json!([1])).await?;
    let limited = client.submit_with("inc", json!([2]), json!({"rate_limit": "10/s", "concurrency": 1})).await?;
    let keyed = client.submit_with("inc", json!([3]), json!({"limit_key": "kwargs.n", "key_concurrency": 1})).await?;
    let unique = client.submit_with("inc", json!([4]), json!({"unique": "first"})).await?;
    let delayed = client.submit_with("inc", json!([5]), json!({"countdown_ms": 2_000})).await?;
    let chord =
        json!({"chord": [{"task": "inc", "args": [1]}, {"task": "inc", "args": [2]}], "body": {"task": "total"}});
    let workflow = client.submit_canvas(&chord).await?;
    before.process.terminate(FILE_LIMIT).await?;
    let copy = tempfile::tempdir()?;
    let data = copy.path().join("data");
    copy_folder(&before.data, &data)?;

    let after = Dev::with(DevOptions { data: Some(data), ..DevOptions::default() }).await?;
    let client = &after.client;
    ensure!(client.submit_with("inc", json!([4]), json!({"unique": "first"})).await? == unique, "it is not unique");
    ensure!(client.job(&done).await?["result"] == 5, "the result of a finished job is gone");
    ensure!(client.job(&dead).await?["state"] == "failed", "the failed job is gone");
    client.post("/v1/queues/default/resume", &json!({})).await?.good()?;
    for (id, result) in [(queued, 2), (limited, 3), (keyed, 4), (unique, 5), (delayed, 6)] {
        let job = client.ended(&id, FILE_LIMIT).await?;
        ensure!(job["result"] == result, "{job}");
    }
    let workflow = client.workflow_over(&workflow, FILE_LIMIT).await?;
    ensure!(workflow["result"] == 5, "{workflow}");
    let (mut after, data) = (after, copy.path().join("data"));
    after.process.terminate(FILE_LIMIT).await?;
    let mut doctor = after.command(&["doctor", "--data"])?;
    let output = doctor.arg(&data).output()?;
    ensure!(output.status.success(), "umbel doctor: {}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
