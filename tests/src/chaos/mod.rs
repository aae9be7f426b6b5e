//! Chaos: a server and workers on one Redis with an append-only file, while processes are killed and stopped and the
//! network between them and Redis is cut, held up and half-closed. Whatever happens, every job that was acknowledged
//! ends as its arguments say, once.
//!
//! A run is drawn from its seed: which jobs, which faults, to whom, in which order. Times are those of the machine, so a
//! second run with a seed is alike and not the same.

mod faults;
mod fleet;
mod plan;
mod report;
mod rolling;
mod store;
mod submit;
mod verify;
mod zombie;

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::time::Instant;

use faults::Faults;
use fleet::Fleet;
use submit::Ledger;
use zombie::Zombie;

use crate::{umbel_binary, until};
pub use report::Report;
pub use rolling::{Order, rolling_upgrade, sqlite_upgrade};

/// Options of a run.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long faults are injected. Jobs are submitted over the first nine tenths of it.
    pub duration: Duration,
    pub jobs: u64,
    pub seed: u64,
    pub workers: usize,
}

/// Workers that settle too late.
const ZOMBIES: u64 = 3;
/// How long what is left may take when nothing goes wrong any more.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);

/// Runs it. An error means that the run itself could not be made; what Umbel did wrong is in the report.
pub async fn run(options: Options) -> Result<Report> {
    let mut fleet = Fleet::start(umbel_binary()?, 0, options.workers).await.context("starting the fleet")?;
    fleet.client.push("numbers").await?;
    let ledger = Arc::new(Ledger::new(options, fleet.client.clone()));
    let start = Instant::now();
    let (span, end) = (options.duration.mul_f64(0.9), start + options.duration);
    let mut faults = Faults::new(options);
    let submitting = tokio::spawn(submit::submit_all(ledger.clone(), start, span));
    let watching = tokio::spawn(verify::watch(ledger.clone()));
    let zombie = Arc::new(Zombie::default());
    let zombies: Vec<_> = (0..ZOMBIES)
        .map(|number| tokio::spawn(zombie::run(zombie.clone(), number, ledger.clone(), fleet.redis_url())))
        .collect();
    let over = faults.run(&mut fleet, end).await;
    let mut report = Report::new(options, faults.injected);
    if let Err(e) = over {
        report.violation(format!("the fleet did not come back: {e:#}"));
    }
    zombies.iter().for_each(|zombie| zombie.abort());
    report.count("jobs that a zombie claimed", zombie.claimed());
    report.count("of these, late outcomes sent and refused", zombie.refused());
    submitting.await?.context("submitting")?;
    report.submitting_took = start.elapsed();
    drain(&fleet, &ledger, &mut report).await;
    watching.abort();
    verify::all(&ledger, &mut report).await?;
    audit(&mut fleet, &mut report).await?;
    count(&fleet, &ledger, &mut report);
    Ok(report)
}

/// Waits until nothing is left.
async fn drain(fleet: &Fleet, ledger: &Ledger, report: &mut Report) {
    let start = Instant::now();
    let left = until("no job is left", DRAIN_LIMIT, || async {
        let left = fleet.client.unfinished().await?;
        Ok((left == 0).then_some(()))
    });
    if let Err(e) = left.await {
        let left = ledger.client.unfinished().await.unwrap_or_default();
        report.violation(format!("{left} jobs are stuck: {e:#}"));
    }
    report.drained_in = start.elapsed();
}

/// Ends everybody in order and lets `umbel doctor` look at what is stored.
async fn audit(fleet: &mut Fleet, report: &mut Report) -> Result<()> {
    for member in &mut fleet.members {
        member.kill()?;
    }
    report.doctor = match fleet.umbel_of(&umbel_binary()?, &["doctor", "-o", "json"]).await {
        Ok((0, _)) => "clean".to_owned(),
        Ok((status, text)) => {
            report.violation(format!("umbel doctor ended with {status}"));
            serde_json::from_str::<Value>(&text).map_or(text, |found| found.to_string())
        }
        Err(e) => {
            report.violation(format!("umbel doctor could not look: {e:#}"));
            "not done".to_owned()
        }
    };
    Ok(())
}

/// Counts events in the fleet's logs and the proxies.
fn count(fleet: &Fleet, ledger: &Ledger, report: &mut Report) {
    let said = |text: &str| fleet.members.iter().map(|member| member.said(text)).sum::<u64>();
    report.count("outcomes of lost leases refused", said("outcome refused"));
    report.count("guests stopped because their lease was lost", said("lease lost, the guest is stopped"));
    report.count("times that a worker stopped its guests by itself, being late", said("not renewed in time"));
    report.count("leases that expired (log lines of the reaper)", said("leases expired"));
    let proxies = || fleet.members.iter().map(|member| &member.proxy);
    report.count("replies of Redis swallowed", proxies().map(|proxy| proxy.replies_lost()).sum());
    report.count("connections to Redis made", proxies().map(|proxy| proxy.connections()).sum());
    report.count("submissions repeated", ledger.repeated());
    report.count("jobs looked at while they were under way", ledger.looks());
    let panics = said("panicked at");
    if panics > 0 {
        report.violation(format!("{panics} panics in the logs"));
    }
}
