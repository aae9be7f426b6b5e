//! `cargo xtask bench`: builds in release, runs the benchmark of `tests/` and, on request, the peers' programs in the
//! same run, prints one table and writes it to docs/BENCHMARKS.md.

mod report;

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    guests, setup,
    steps::{Steps, cargo, read, show},
};

const HELP: &str = "\
Usage: cargo xtask bench [--n 20000,…] [--reps 3] [--quick] [--only NAME,…] [--binary PATH] [--before PATH]
                         [--peers DIR] [--write]

  --n N,…       jobs of one throughput run, or of several (20000)
  --reps N      repetitions of each measurement, the median is shown (3)
  --quick       1 repetition of 2,000 jobs: does it work, not how fast is it
  --only NAMES  some of sandbox, throughput, limited, latency, memory, chord, chain, noisy, keys,
                fleet; and, only when named, queues, tenants, attacks
  --binary PATH the binary to measure, instead of the one that is built here
  --before PATH another binary, measured in turn with the first, repetition by repetition; prints both and the ratios
  --peers DIR   also run Celery and BullMQ from a copy of this folder (needs python3, node and npm)
  --write       put the tables into docs/BENCHMARKS.md
";
const BEGIN: &str = "<!-- results: written by cargo xtask bench --write -->";
const END: &str = "<!-- end of results -->";
/// Peers that are compared; the folder holds more.
const PEERS: &[&str] = &["celery", "bullmq"];
const OTHER_PEERS: &[&str] = &["dramatiq", "taskiq", "rq", "arq", "apalis"];
/// Members of our chords. Celery's own takes minutes for more than the first.
const CHORDS: &[u64] = &[1_000, 10_000, 100_000];
/// Peer, its worker configuration, workload.
const PEER_RUNS: &[(&str, &str, &str)] = &[
    ("celery", "solo-x2", "throughput"),
    ("celery", "prefork", "throughput"),
    ("bullmq", "c100", "throughput"),
    ("celery", "solo-x2", "latency"),
    ("bullmq", "default", "latency"),
    ("bullmq", "c100", "latency"),
    ("celery", "gevent-200", "memory"),
    ("bullmq", "c200", "memory"),
    ("celery", "solo-x2", "chord"),
    ("bullmq", "c100", "chord"),
    ("celery", "solo-x2", "chain"),
    ("bullmq", "c100", "chain"),
];

/// How many jobs a run of a peer has; 0 stands for the peers' own number.
fn sizes_of<'a>((peer, workers, workload): (&str, &str, &str), sizes: &'a [u64]) -> Vec<&'a u64> {
    match workload {
        "throughput" => sizes.iter().filter(|n| **n <= SLOW_LIMIT || !SLOW_WORKERS.contains(&workers)).collect(),
        "chord" => CHORDS[..if peer == "celery" { 1 } else { 2 }].iter().collect(),
        "chain" => vec![&CHAIN],
        _ => vec![&0],
    }
}

/// Steps of a chain, the peers' and ours.
const CHAIN: u64 = 200;

/// Configurations of the peers that would take minutes for more than `SLOW_LIMIT` jobs.
const SLOW_WORKERS: &[&str] = &["prefork"];
const SLOW_LIMIT: u64 = 20_000;

struct Options {
    sizes: Vec<u64>,
    reps: u64,
    only: Option<String>,
    binary: Option<PathBuf>,
    before: Option<PathBuf>,
    peers: Option<PathBuf>,
    write: bool,
}

impl Options {
    /// None when help was asked for.
    fn parse(words: &[String]) -> Result<Option<Self>> {
        let mut options =
            Self { sizes: vec![20_000], reps: 3, only: None, binary: None, before: None, peers: None, write: false };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--n" => {
                    let sizes = value()?.split(',').map(|n| n.replace('_', "").parse());
                    options.sizes = sizes.collect::<Result<_, _>>().context("--n takes numbers")?;
                }
                "--reps" => options.reps = value()?.parse().context("--reps takes a number")?,
                "--quick" => (options.sizes, options.reps) = (vec![2_000], 1),
                "--only" => options.only = Some(value()?.clone()),
                "--binary" => options.binary = Some(binary(value()?)?),
                "--before" => options.before = Some(binary(value()?)?),
                "--peers" => options.peers = Some(PathBuf::from(value()?)),
                "--write" => options.write = true,
                "-h" | "--help" => return Ok(None),
                other => bail!("unknown argument {other:?}\n{HELP}"),
            }
        }
        ensure!(options.before.is_none() || !options.write, "--before prints its table; --write writes another one");
        ensure!(options.sizes.iter().all(|n| (1..=1_000_000).contains(n)), "--n is 1 to 1,000,000");
        ensure!((1..=100).contains(&options.reps), "--reps is 1 to 100");
        Ok(Some(options))
    }
}

/// Runs the benchmark.
pub fn run(root: &Path, words: &[String]) -> Result<()> {
    let Some(options) = Options::parse(words)? else {
        print!("{HELP}");
        return Ok(());
    };
    let mut steps = Steps::new(BUILD_STEPS + if options.peers.is_some() { 3 } else { 1 });
    build(&mut steps, root, "umbel-bench")?;
    let peers = match &options.peers {
        Some(folder) => Some(steps.step("install the peers", || install_peers(root, folder))?),
        None => None,
    };
    let ours = steps.step("measure Umbel", || measure(root, &options))?;
    let theirs = match peers {
        Some(folder) => steps.step("measure the peers", || measure_peers(&folder, &options))?,
        None => Vec::new(),
    };
    let mut report = format!("{}\n\nMedians of {}.\n\n", machine()?, options.reps);
    report += &match options.before {
        Some(_) => report::compared(&ours, &options.sizes),
        None => report::own(&ours, &options.sizes),
    };
    if !theirs.is_empty() {
        report += &report::ratios(&ours, &theirs, &options.sizes);
    }
    println!("\n{report}");
    if options.write {
        write(root, &report)?;
    }
    Ok(())
}

/// A binary that was named on the command line.
fn binary(path: &str) -> Result<PathBuf> {
    Path::new(path).canonicalize().with_context(|| format!("there is no file {path}"))
}

/// The rows of Umbel: of one binary, or of two in turn, whose rows say `"binary": "before"` and `"now"`.
fn measure(root: &Path, options: &Options) -> Result<Vec<Value>> {
    let now = options.binary.clone().unwrap_or_else(|| root.join("target/release/umbel"));
    let Some(before) = &options.before else { return rows(&read(&mut program(root, options, &now, options.reps))?) };
    let mut all = Vec::new();
    for rep in 0..options.reps {
        let mut pair = [("before", before), ("now", &now)];
        // So that neither always runs on the machine that the other one has warmed up.
        if rep % 2 == 1 {
            pair.reverse();
        }
        for (name, binary) in pair {
            eprintln!("    {} of {}: {name}", rep + 1, options.reps);
            for mut row in rows(&read(&mut program(root, options, binary, 1))?)? {
                row["binary"] = name.into();
                all.push(row);
            }
        }
    }
    Ok(all)
}

/// The benchmark's program for a binary.
fn program(root: &Path, options: &Options, binary: &Path, reps: u64) -> Command {
    let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let mut command = release_program(root, "umbel-bench");
    command.env("UMBEL_BIN", binary).args(["--n", &list(&options.sizes), "--reps", &reps.to_string()]);
    command.args(["--chords", &list(CHORDS)]);
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    command
}

/// Steps of `build`.
pub const BUILD_STEPS: usize = 3;

/// Builds the binary, the guests and one program of `tests/`, in release.
pub fn build(steps: &mut Steps, root: &Path, program: &str) -> Result<()> {
    steps.step("install what is needed", setup::redis_server)?;
    steps.step("build in release", || {
        // Apart, so that the binary has its own features and not those that the load generator turns on.
        show(&mut cargo(&["build", "--release", "--locked", "-p", "umbel-cli"]))?;
        show(&mut cargo(&["build", "--release", "--locked", "-p", "umbel-tests", "--bin", program]))
    })?;
    steps.step("build the guests", || guests::build_guests(root))?;
    Ok(())
}

/// A program of `build`, to be run on the binary of the same build.
pub fn release_program(root: &Path, name: &str) -> Command {
    let release = root.join("target/release");
    let mut command = Command::new(release.join(name));
    command.env("UMBEL_BIN", release.join("umbel"));
    command
}

fn rows(text: &str) -> Result<Vec<Value>> {
    text.lines().filter(|line| line.starts_with('{')).map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Copies the peers' folder, which may be read-only, and installs those that are compared.
fn install_peers(root: &Path, folder: &Path) -> Result<PathBuf> {
    ensure!(folder.join("bench.py").is_file(), "{} has no bench.py", folder.display());
    setup::program("python3", &["python3", "python3-venv"])?;
    setup::program("npm", &["nodejs", "npm"])?;
    let copy = root.join("target/peers");
    fs::create_dir_all(&copy)?;
    show(Command::new("cp").arg("-rT").arg("--no-preserve=mode").arg(folder).arg(&copy))?;
    let setup = fs::read_to_string(copy.join("setup.sh")).context("the peers have no setup.sh")?;
    let wanted: String = setup
        .lines()
        .filter(|line| line.starts_with('#') || !OTHER_PEERS.iter().any(|peer| line.contains(peer)))
        .flat_map(|line| [line, "\n"])
        .collect();
    // Their lock file lacks optional packages of other platforms, which `npm ci` takes for an error.
    let wanted = wanted.replace("npm ci", "npm install --no-audit --no-fund");
    fs::write(copy.join("setup-compared.sh"), wanted)?;
    show(Command::new("bash").current_dir(&copy).arg("setup-compared.sh"))?;
    Ok(copy)
}

fn measure_peers(folder: &Path, options: &Options) -> Result<Vec<Value>> {
    let results = folder.join("results/run");
    let _ = fs::remove_dir_all(&results);
    fs::create_dir_all(&results)?;
    fs::create_dir_all(folder.join("logs"))?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port().to_string();
    let peer = |program: &str| {
        let mut command = Command::new(program);
        command.current_dir(folder).env("REDIS_PORT", &port).env("CPU_LOCK", "").env("RESULTS", &results);
        command
    };
    show(peer("sh").args(["redis.sh", "start"]))?;
    let wanted = |workload: &str| options.only.as_ref().is_none_or(|only| only.split(',').any(|name| name == workload));
    let measured =
        PEER_RUNS.iter().filter(|(.., workload)| wanted(workload)).try_for_each(|(name, workers, workload)| {
            sizes_of((name, workers, workload), &options.sizes).into_iter().try_for_each(|n| {
                let mut command = peer(".venv/bench/bin/python");
                command.args(["bench.py", name, workload, "-w", workers, "-r", &options.reps.to_string()]);
                if *n > 0 {
                    command.args(["-n", &n.to_string()]);
                }
                show(&mut command)
            })
        });
    show(peer("sh").args(["redis.sh", "stop"]))?;
    measured?;
    let mut all = Vec::new();
    for name in PEERS {
        // A peer has no file when none of its workloads was wanted.
        all.extend(rows(&fs::read_to_string(results.join(format!("{name}.jsonl"))).unwrap_or_default())?);
    }
    Ok(all)
}

/// The machine in one line.
fn machine() -> Result<String> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown CPU", |(_, m)| m.trim());
    let cores = std::thread::available_parallelism()?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let redis = read(Command::new("redis-server").arg("--version"))?;
    let redis = redis.split_whitespace().find_map(|w| w.strip_prefix("v=")).unwrap_or("?").to_owned();
    let rustc = read(Command::new("rustc").arg("--version"))?;
    Ok(format!("{cores} × {model}, Linux {}, Redis {redis} (no persistence), {}.", kernel.trim(), rustc.trim()))
}

/// Replaces what stands between the marks of docs/BENCHMARKS.md.
fn write(root: &Path, report: &str) -> Result<()> {
    let path = root.join("docs/BENCHMARKS.md");
    let text = fs::read_to_string(&path).context("docs/BENCHMARKS.md")?;
    let (before, rest) = text.split_once(BEGIN).with_context(|| format!("docs/BENCHMARKS.md has no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("docs/BENCHMARKS.md has no line {END}"))?;
    fs::write(&path, format!("{before}{BEGIN}\n\n{}\n\n{END}{after}", report.trim()))?;
    eprintln!("    wrote docs/BENCHMARKS.md");
    Ok(())
}
