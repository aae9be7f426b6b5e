//! A chaos run from the command line; `cargo xtask chaos` builds what it needs and calls it. The report goes to stderr
//! for people and, as one JSON object, to stdout.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use umbel_tests::chaos::{self, Options, Report};

fn main() -> ExitCode {
    match run() {
        Ok(report) => {
            eprintln!("\n{report}");
            println!("{}", report.to_json());
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("umbel-chaos: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Report> {
    let options = options()?;
    eprintln!("chaos: {options:?}");
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(chaos::run(options))
}

fn options() -> Result<Options> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut options = Options { duration: Duration::from_secs(600), jobs: 50_000, seed: now, workers: 4 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        let number = || value.replace('_', "").parse::<u64>().with_context(|| format!("{word} takes a number"));
        match word.as_str() {
            "--minutes" => {
                let minutes: f64 = value.parse().context("--minutes takes a number")?;
                options.duration = Duration::try_from_secs_f64(minutes * 60.0)?;
            }
            "--jobs" => options.jobs = number()?,
            "--seed" => options.seed = number()?,
            "--workers" => options.workers = number()? as usize,
            _ => bail!("unknown argument {word:?}; it takes --minutes, --jobs, --seed and --workers"),
        }
    }
    ensure!((1..=10_000_000).contains(&options.jobs), "--jobs is 1 to 10,000,000");
    ensure!((1..=64).contains(&options.workers), "--workers is 1 to 64");
    ensure!(options.duration <= Duration::from_secs(86_400), "--minutes is at most 1,440");
    Ok(options)
}
