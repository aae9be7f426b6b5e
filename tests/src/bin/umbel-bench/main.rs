//! The benchmark: measures the release binary from outside and prints one JSON line a repetition. `cargo xtask bench`
//! builds what it needs, calls it, and makes the tables.
//!
//! docs/BENCHMARKS.md describes what is timed, from when to when.

mod bulk;
mod canvas;
mod connection;
mod fairness;
mod fleet;
mod measure;
mod redis_info;
mod requests;

use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use umbel_tests::attacks;

use measure::Limit;

const NAMES: &[&str] = &[
    "sandbox",
    "throughput",
    "limited",
    "latency",
    "memory",
    "chord",
    "chain",
    "noisy",
    "keys",
    "bulk",
    "fleet",
    "requests",
    "queues",
    "tenants",
    "attacks",
];
/// Those that take very long and are only made when they are named.
const LONG: &[&str] = &["queues", "tenants", "attacks"];
/// Queues of the run over many, and its jobs.
const QUEUES: usize = 1_000;
const OVER_QUEUES: usize = 100_000;
/// Of each attack.
const ATTACK_SECONDS: u64 = 60;
/// Jobs of each run with a limit, and of the run without one beside them.
const LIMITED: usize = 20_000;
/// Jobs that a bulk action purges and forgets.
const BULK: usize = 100_000;
/// Steps of the chain, as the peers have it.
const STEPS: usize = 200;

struct Options {
    sizes: Vec<usize>,
    chords: Vec<usize>,
    reps: usize,
    only: Vec<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("umbel-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let options = options()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for name in NAMES.iter().filter(|name| match &options.only[..] {
        [] => !LONG.contains(name),
        only => only.iter().any(|o| o == *name),
    }) {
        for rep in 1..=options.reps {
            if *name == "sandbox" {
                show(rep, measure::sandbox()?);
                continue;
            }
            for broker in ["sqlite", "redis"] {
                for row in
                    runtime.block_on(rows(&options, name, broker)).with_context(|| format!("{name} on {broker}"))?
                {
                    show(rep, row);
                }
            }
        }
    }
    Ok(())
}

/// One repetition of a measurement.
async fn rows(options: &Options, name: &str, broker: &str) -> Result<Vec<Value>> {
    let mut rows = Vec::new();
    match name {
        "throughput" => {
            for n in &options.sizes {
                rows.push(measure::throughput(name, broker, *n, Limit::None).await?);
            }
        }
        "limited" => {
            let n = options.sizes.iter().copied().min().unwrap_or(LIMITED).min(LIMITED);
            for limit in Limit::ALL {
                rows.push(measure::throughput(name, broker, n, limit).await?);
            }
        }
        "chord" => {
            for n in &options.chords {
                rows.push(canvas::chord(broker, *n).await?);
            }
        }
        "chain" => rows.push(canvas::chain(broker, STEPS).await?),
        "latency" => rows.push(measure::latency(broker).await?),
        "attacks" => attacks::every(broker == "redis", ATTACK_SECONDS, |report| show(1, report)).await?,
        "queues" => {
            for queues in [1, QUEUES] {
                rows.push(measure::over_queues(name, broker, OVER_QUEUES, Limit::None, queues).await?);
            }
        }
        "tenants" => rows.push(fairness::tenants(broker).await?),
        "noisy" => rows.push(fairness::noisy(broker).await?),
        "keys" => rows.push(fairness::keys(broker).await?),
        "bulk" => rows.push(bulk::bulk(broker, BULK).await?),
        "requests" => rows.push(requests::requests(broker).await?),
        "fleet" if broker == "redis" => rows.push(fleet::fleet().await?),
        "fleet" => {}
        _ => rows.push(measure::memory(broker).await?),
    }
    Ok(rows)
}

/// To stdout for programs, to stderr for people.
fn show(rep: usize, row: Value) {
    println!("{row}");
    eprintln!("    {rep}: {row}");
}

fn options() -> Result<Options> {
    let mut options = Options { sizes: vec![20_000], chords: vec![1_000, 10_000, 100_000], reps: 3, only: Vec::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--n" => options.sizes = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--chords" => options.chords = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--reps" => options.reps = value.parse()?,
            "--only" => options.only = value.split(',').map(str::to_owned).collect(),
            _ => bail!("unknown argument {word:?}"),
        }
    }
    let unknown = options.only.iter().find(|name| !NAMES.contains(&name.as_str()));
    ensure!(unknown.is_none(), "--only takes some of {}", NAMES.join(", "));
    Ok(options)
}
