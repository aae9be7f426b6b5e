//! Hostile tenants beside a quiet one: what each attack makes the processes hold, and what the quiet tenant notices.
//!
//! A scenario of `tests/attacks.rs` runs each for some seconds and looks at bytes and at answers; `cargo xtask bench --only
//! attacks` runs each for a minute on a release build and reports times, too. `UMBEL_ATTACK_SECONDS` says how long instead,
//! `UMBEL_ATTACK` names some of them, with commas between, and `UMBEL_ATTACK_BROKER` one of `sqlite` and `redis`.

mod guests;
mod readers;
mod scene;
mod strikes;
mod watch;

use std::{env, fmt::Write as _, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use futures::future::LocalBoxFuture;
use serde_json::{Value, json};

use scene::Scene;
use strikes::ALL;
use watch::Watch;

/// One attack.
#[derive(Debug, Clone, Copy)]
struct Attack {
    name: &'static str,
    /// Arguments of `umbel dev`.
    arguments: &'static [&'static str],
    /// Memory that its running guests were granted together, MiB.
    granted_mib: f64,
    strike: fn(Arc<Scene>) -> LocalBoxFuture<'static, Result<()>>,
}

/// The most that a process may hold beyond what its guests were granted, MiB.
const PROCESS_MIB: f64 = 600.0;
/// The most that Redis may hold for a while beyond its data, MiB.
const REDIS_MIB: f64 = 200.0;

/// A job of the quiet tenant is starved after so long, however busy the machine is, ms.
const STARVED_MS: f64 = 10_000.0;

/// What came of an attack.
#[derive(Debug)]
struct Report {
    name: &'static str,
    broker: &'static str,
    /// Memory of the process at most, without what its guests were granted, MiB.
    process_mib: f64,
    /// Memory of Redis at most beyond what it held before and after, MiB.
    redis_mib: f64,
    /// Times of the quiet tenant's jobs from submission to result, sorted, ms.
    jobs_ms: Vec<f64>,
    /// Times of its pushes of small modules, sorted, ms.
    pushes_ms: Vec<f64>,
    /// What went wrong for it.
    refused: Vec<String>,
    /// The answers that the attackers had, by status and code.
    answers: Vec<(String, u64)>,
}

/// Runs every attack for so many seconds, on SQLite or on Redis, and shows each report. An error names all that went wrong.
pub async fn every(on_redis: bool, seconds: u64, show: impl Fn(Value)) -> Result<()> {
    let seconds = env::var("UMBEL_ATTACK_SECONDS").map_or(Ok(seconds), |text| text.parse())?;
    let broker = if on_redis { "redis" } else { "sqlite" };
    if env::var("UMBEL_ATTACK_BROKER").is_ok_and(|named| named != broker) {
        return Ok(());
    }
    let only = env::var("UMBEL_ATTACK").ok();
    let mut wrong = String::new();
    for attack in ALL.iter().filter(|a| only.as_deref().is_none_or(|only| only.split(',').any(|name| name == a.name))) {
        let outcome = attack.run(on_redis, Duration::from_secs(seconds)).await;
        let checked = outcome.and_then(|report| {
            show(report.to_json());
            report.check()
        });
        if let Err(e) = checked {
            writeln!(wrong, "{}: {e:#}", attack.name)?;
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    Ok(())
}

impl Attack {
    /// Runs it for so long, on SQLite or on Redis.
    async fn run(&self, on_redis: bool, lasts: Duration) -> Result<Report> {
        let scene = Arc::new(Scene::start(on_redis, self.arguments, lasts).await?);
        let watch = Watch::start(&scene)?;
        let struck = (self.strike)(scene.clone()).await.with_context(|| format!("the attack {}", self.name));
        let seen = watch.stop().await?;
        struck?;
        let scene = Arc::into_inner(scene).context("the attack is over")?;
        let answers = scene.end().await?;
        Ok(Report {
            name: self.name,
            broker: if on_redis { "redis" } else { "sqlite" },
            process_mib: seen.process_mib - self.granted_mib,
            redis_mib: seen.redis_mib,
            jobs_ms: seen.jobs_ms,
            pushes_ms: seen.pushes_ms,
            refused: seen.refused,
            answers,
        })
    }
}

impl Report {
    /// An error unless memory stayed within its limits and the quiet tenant was served.
    fn check(&self) -> Result<()> {
        ensure!(self.process_mib < PROCESS_MIB, "the process held {:.0} MiB: {}", self.process_mib, self.to_json());
        ensure!(self.redis_mib < REDIS_MIB, "Redis held {:.0} MiB beyond its data: {}", self.redis_mib, self.to_json());
        ensure!(
            self.refused.is_empty(),
            "the quiet tenant was refused: {:?}: {}",
            self.refused.first(),
            self.to_json()
        );
        ensure!(
            !self.jobs_ms.is_empty() && !self.pushes_ms.is_empty(),
            "the quiet tenant was not served: {}",
            self.to_json()
        );
        ensure!(at(&self.jobs_ms, 1.0) < STARVED_MS, "a job of the quiet tenant was starved: {}", self.to_json());
        Ok(())
    }

    /// For tables.
    fn to_json(&self) -> Value {
        let answers: Value = self.answers.iter().map(|(what, n)| (what.clone(), json!(n))).collect();
        json!({
            "what": "attacks", "attack": self.name, "broker": self.broker,
            "process_mib": self.process_mib.round(), "redis_mib": self.redis_mib.round(),
            "jobs": self.jobs_ms.len(), "p50_ms": at(&self.jobs_ms, 0.5), "p99_ms": at(&self.jobs_ms, 0.99),
            "worst_ms": at(&self.jobs_ms, 1.0), "pushes": self.pushes_ms.len(), "push_ms": at(&self.pushes_ms, 1.0),
            "refused": self.refused.len(), "answers": answers,
        })
    }
}

/// The value below which this share of sorted values is; 0 when there are none.
fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(((share * sorted.len() as f64) as usize).min(last)).copied().unwrap_or_default()
}
