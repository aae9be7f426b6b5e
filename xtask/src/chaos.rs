//! `cargo xtask chaos`: builds in release and lets things go wrong, for minutes from a seed or as the scenarios that kill.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::{
    bench::{BUILD_STEPS, build, release_program},
    steps::{Steps, cargo, show},
};

const HELP: &str = "\
Usage: cargo xtask chaos [--minutes 10] [--jobs 50000] [--seed N] [--workers 4]
       cargo xtask chaos --old BINARY [--minutes 10] [--jobs 50000] [--seed N] [--workers 4]
       cargo xtask chaos --rounds N

The first runs a server and workers on a Redis with an append-only file, each behind a proxy of its own, and injects
faults drawn from the seed: kill -9 of workers, of Redis and of the server, workers and Redis stopped (SIGSTOP), and
connections cut, delayed, held up, half-closed, or cut before the reply arrives. It prints how many of each there were and
how the jobs ended, and ends with 1 if a rule was broken: a job lost, ended otherwise than its arguments say, recorded
twice, changed after its end, or damage that `umbel doctor` finds.

With --old, nothing goes wrong but the upgrade itself: two servers and the workers of the older binary are replaced one after
the other by the new one while jobs are submitted, once the servers first and once the workers first; and a copy of a SQLite
file of the older binary is opened by the new one. The same rules hold.

  --minutes N   how long faults are injected, or how long each rolling upgrade takes (10)
  --jobs N      jobs submitted meanwhile (50,000)
  --seed N      what is drawn; by default the time
  --workers N   processes (4)
  --rounds N    the scenarios that kill, and the hostile guests, N times
";
/// What `umbel-chaos` takes.
const OPTIONS: [&str; 5] = ["--minutes", "--jobs", "--seed", "--workers", "--old"];

/// Runs it.
pub fn run(root: &Path, words: &[String]) -> Result<()> {
    match words {
        [help] if help == "--help" || help == "-h" => print!("{HELP}"),
        [flag, rounds] if flag == "--rounds" => {
            scenarios(root, rounds.parse().context("--rounds takes a number")?)?;
        }
        options => from_seed(root, options)?,
    }
    Ok(())
}

fn from_seed(root: &Path, options: &[String]) -> Result<()> {
    // Before minutes are spent on a build; their values are looked at by the program.
    if let Some(unknown) = options.iter().step_by(2).find(|word| !OPTIONS.contains(&word.as_str())) {
        bail!("unknown argument {unknown:?}\n{HELP}");
    }
    let mut steps = Steps::new(BUILD_STEPS + 1);
    build(&mut steps, root, "umbel-chaos")?;
    steps.step("chaos", || show(release_program(root, "umbel-chaos").args(options)))
}

/// The scenarios that kill and the hostile guests, some times over, with what they measure.
fn scenarios(root: &Path, rounds: usize) -> Result<()> {
    let mut steps = Steps::new(BUILD_STEPS + rounds);
    build(&mut steps, root, "umbel-bench")?;
    for _ in 0..rounds {
        steps.step("chaos", || {
            let tests = ["--test", "chaos", "--test", "hostile", "--test", "canvas_chaos"];
            let aloud = ["--", "--nocapture", "--test-threads", "1"];
            let mut command = cargo(&["test", "--locked", "-p", "umbel-tests"]);
            show(command.args(tests).args(aloud).env("UMBEL_BIN", root.join("target/release/umbel")))
        })?;
    }
    Ok(())
}
