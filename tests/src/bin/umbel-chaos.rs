//! A chaos run from the command line; `cargo xtask chaos` builds what it needs and calls it. The report goes to stderr
//! for people and, as one JSON object, to stdout.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use umbel_tests::chaos::{self, Options, Order};

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("umbel-chaos: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether every rule held.
fn run() -> Result<bool> {
    let (options, old) = options()?;
    eprintln!("chaos: {options:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Some(old) = old else {
        let report = runtime.block_on(chaos::run(options))?;
        eprintln!("\n{report}");
        println!("{}", report.to_json());
        return Ok(report.is_good());
    };
    runtime.block_on(upgrades(&old, options))
}

/// The upgrades from an older binary.
async fn upgrades(old: &Path, options: Options) -> Result<bool> {
    let mut is_good = true;
    for order in [Order::ServersFirst, Order::WorkersFirst] {
        eprintln!("\nrolling upgrade on Redis, {order:?}");
        let report = chaos::rolling_upgrade(old, order, options).await?;
        eprintln!("\n{report}");
        println!("{}", report.to_json());
        is_good &= report.is_good();
    }
    eprintln!("\na copy of an old SQLite file");
    chaos::sqlite_upgrade(old).await?;
    eprintln!("every job of the file ended as it had to; umbel doctor is clean");
    Ok(is_good)
}

/// The options of a run, and the older binary when upgrades are to be tried.
fn options() -> Result<(Options, Option<PathBuf>)> {
    let mut old = None;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut options = Options { duration: Duration::from_secs(600), jobs: 50_000, seed: now, workers: 4 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        let number = || value.replace('_', "").parse::<u64>().with_context(|| format!("{word} takes a number"));
        match word.as_str() {
            "--old" => {
                old = Some(PathBuf::from(&value).canonicalize().with_context(|| format!("there is no {value}"))?)
            }
            "--minutes" => {
                let minutes: f64 = value.parse().context("--minutes takes a number")?;
                options.duration = Duration::try_from_secs_f64(minutes * 60.0)?;
            }
            "--jobs" => options.jobs = number()?,
            "--seed" => options.seed = number()?,
            "--workers" => options.workers = number()? as usize,
            _ => bail!("unknown argument {word:?}; it takes --minutes, --jobs, --seed, --workers and --old"),
        }
    }
    ensure!((1..=10_000_000).contains(&options.jobs), "--jobs is 1 to 10,000,000");
    ensure!((1..=64).contains(&options.workers), "--workers is 1 to 64");
    ensure!(options.duration <= Duration::from_secs(86_400), "--minutes is at most 1,440");
    Ok((options, old))
}
