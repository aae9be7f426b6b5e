//! `cargo xtask`: the project's chores, each a verb. Everything that CI runs can be run by hand with the same words.
//!
//! This crate keeps its dependencies few and must not depend on the crates of `host/`: it builds them.

mod bench;
mod chaos;
mod ci;
mod dependencies;
mod guests;
mod lines;
mod quickstart;
mod setup;
mod steps;
mod test;
mod tidy;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

const HELP: &str = "\
Usage: cargo xtask <VERB>

  quickstart [--once]   build, start `umbel dev`, run jobs of several kinds, leave it up (--once: end it)
  test                  install what is missing, build the guests and run every test
  ci                    all that a change must pass: tidy, formats, dependencies, clippy, docs, tests
  guests                build the example and the hostile guests into target/guests
  guest DIR             build a guest crate of your own with the toolchain that works here
  bench [options]       the benchmark; see `cargo xtask bench --help`
  chaos [options]       processes killed and stopped, networks cut, or an older binary upgraded; see `cargo xtask chaos --help`
  tidy                  the house rules that a machine can check
  lines [DIR]           lines of code of host/, by crate, of this checkout or of another one
  dependencies          the lock file, licences, and that nothing declared is unused
";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let verb = words.next().unwrap_or_default();
    let rest: Vec<String> = words.collect();
    match run(&verb, &rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("\nxtask {verb}: FAILED: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &str, rest: &[String]) -> Result<()> {
    let root = root()?;
    let given_in = std::env::current_dir().context("the current folder is gone")?;
    std::env::set_current_dir(&root).context("cannot enter the workspace's folder")?;
    match verb {
        "" | "help" | "-h" | "--help" => print!("{HELP}"),
        "quickstart" => quickstart::run(&root, flags(rest, &["--once"])?.contains(&"--once"))?,
        "test" => {
            flags(rest, &[])?;
            test::run(&root)?;
        }
        "ci" => {
            flags(rest, &[])?;
            ci::run(&root)?;
        }
        "guests" => {
            flags(rest, &[])?;
            guests::build_guests(&root)?;
        }
        "guest" => match rest {
            [folder] => drop(guests::build_guest(&given_in.join(folder))?),
            _ => bail!("cargo xtask guest DIR"),
        },
        "tidy" => {
            flags(rest, &[])?;
            tidy::run(&root)?;
        }
        "lines" => match rest {
            [] => lines::run(&root)?,
            [folder] => lines::run(&given_in.join(folder))?,
            _ => bail!("cargo xtask lines [DIR]"),
        },
        "dependencies" => {
            flags(rest, &[])?;
            dependencies::run(&root)?;
        }
        "bench" => bench::run(&root, rest)?,
        "chaos" => chaos::run(&root, rest)?,
        _ => {
            eprint!("{HELP}");
            bail!("no verb {verb:?}");
        }
    }
    Ok(())
}

/// The flags among `known` that were given; anything else is an error.
fn flags<'a>(given: &'a [String], known: &[&str]) -> Result<Vec<&'a str>> {
    if let Some(word) = given.iter().find(|word| !known.contains(&word.as_str())) {
        let takes = if known.is_empty() { "none".into() } else { known.join(", ") };
        bail!("unknown argument {word:?}; this verb takes {takes}");
    }
    Ok(given.iter().map(String::as_str).collect())
}

/// The workspace's folder: the parent of this crate's, which cargo names at run time.
fn root() -> Result<PathBuf> {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").context("run this as `cargo xtask`")?;
    Ok(Path::new(&own).parent().context("the folder of xtask has no parent")?.to_owned())
}
