//! `cargo xtask bench`: builds in release, runs the benchmark of `tests/` and, on request, the peers' programs in the
//! same run, prints one table and writes it to docs/BENCHMARKS.md.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    guests, setup,
    steps::{Steps, cargo, read, show},
};

const HELP: &str = "\
Usage: cargo xtask bench [--n 20000,…] [--reps 3] [--quick] [--only NAME,…] [--peers DIR] [--write]

  --n N,…       jobs of one throughput run, or of several (20000)
  --reps N      repetitions of each measurement, the median is shown (3)
  --quick       1 repetition of 2,000 jobs: does it work, not how fast is it
  --only NAMES  some of sandbox, throughput, latency, memory, chord, chain, noisy, keys
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
    peers: Option<PathBuf>,
    write: bool,
}

impl Options {
    /// None when help was asked for.
    fn parse(words: &[String]) -> Result<Option<Self>> {
        let mut options = Self { sizes: vec![20_000], reps: 3, only: None, peers: None, write: false };
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
                "--peers" => options.peers = Some(PathBuf::from(value()?)),
                "--write" => options.write = true,
                "-h" | "--help" => return Ok(None),
                other => bail!("unknown argument {other:?}\n{HELP}"),
            }
        }
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
    let ours = steps.step("measure Umbel", || {
        let mut command = release_program(root, "umbel-bench");
        let sizes: Vec<String> = options.sizes.iter().map(u64::to_string).collect();
        command.args(["--n", &sizes.join(","), "--reps", &options.reps.to_string()]);
        let chords: Vec<String> = CHORDS.iter().map(u64::to_string).collect();
        command.args(["--chords", &chords.join(",")]);
        if let Some(only) = &options.only {
            command.args(["--only", only]);
        }
        rows(&read(&mut command)?)
    })?;
    let theirs = match peers {
        Some(folder) => steps.step("measure the peers", || measure_peers(&folder, &options))?,
        None => Vec::new(),
    };
    let report = report(&ours, &theirs, &options)?;
    println!("\n{report}");
    if options.write {
        write(root, &report)?;
    }
    Ok(())
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

/// The median over the repetitions of what the rows with these marks say of `field`.
fn median(rows: &[Value], marks: &Value, field: &str) -> Option<f64> {
    let marks = marks.as_object()?;
    let matching = rows.iter().filter(|row| marks.iter().all(|(key, value)| row.get(key) == Some(value)));
    let mut values: Vec<f64> = matching.filter_map(|row| row[field].as_f64()).collect();
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then(|| values[values.len() / 2])
}

fn report(ours: &[Value], theirs: &[Value], options: &Options) -> Result<String> {
    let mut text = format!("{}\n\n", machine()?);
    text += &format!("Medians of {}.\n\n", options.reps);
    text += &own_tables(ours, &options.sizes);
    if !theirs.is_empty() {
        text += &ratios(ours, theirs, &options.sizes);
    }
    Ok(text)
}

fn own_tables(ours: &[Value], sizes: &[u64]) -> String {
    let mut text = String::from("| Umbel | SQLite, synchronous FULL | Redis |\n|---|---|---|\n");
    let mut line = |name: &str, marks: Value, field: &str| {
        let on = |broker: &str| {
            let mut marks = marks.clone();
            marks["broker"] = broker.into();
            median(ours, &marks, field).map_or_else(|| "–".into(), short)
        };
        text += &format!("| {name} | {} | {} |\n", on("sqlite"), on("redis"));
    };
    for n in sizes {
        let (marks, size) = (json!({"what": "throughput", "n": n}), short(*n as f64));
        line(&format!("throughput, {size} jobs preloaded, jobs/s"), marks.clone(), "jobs_per_s");
        line(&format!("{size} jobs submitted over HTTP in batches, jobs/s"), marks, "submit_per_s");
    }
    for (name, what, field) in [
        ("submit and wait over HTTP, p50 ms", "latency", "p50_ms"),
        ("p95 ms", "latency", "p95_ms"),
        ("p99 ms", "latency", "p99_ms"),
        ("idle worker, RSS MiB", "memory", "idle_rss_mib"),
        ("with 200 sleeping jobs, RSS MiB", "memory", "busy_rss_mib"),
    ] {
        line(name, json!({"what": what}), field);
    }
    for n in CHORDS {
        line(&format!("chord of {}, s", short(*n as f64)), json!({"what": "chord", "n": n}), "seconds");
    }
    for (name, what) in
        [("beside a tenant with 100,000 queued jobs", "noisy"), ("beside a key with 20,000, capped", "keys")]
    {
        for (field, shown) in [("p50_ms", "p50"), ("p99_ms", "p99"), ("alone_p50_ms", "p50 without the others")] {
            line(&format!("start of a quiet one's job {name}, {shown} ms"), json!({"what": what}), field);
        }
    }
    line("chain of 200 steps, s", json!({"what": "chain", "n": CHAIN}), "seconds");
    for n in &CHORDS[1..] {
        let (marks, size) = (json!({"what": "chord", "n": n}), short(*n as f64));
        line(&format!("chord of {size}, bytes of memory a member"), marks.clone(), "bytes_per_member");
        line(&format!("chord of {size}, script calls a member"), marks, "scripts_per_member");
    }
    let sandbox = |field: &str| median(ours, &json!({"what": "sandbox"}), field).map_or_else(|| "–".into(), short);
    text += &format!(
        "\nSandbox, instantiate + call + drop of `noop`, fuel and deadline on: {} µs mean, {} µs p50, {} µs p99.\n",
        sandbox("mean_us"),
        sandbox("p50_us"),
        sandbox("p99_us"),
    );
    text
}

/// One line of the table of ratios: what is compared, in which fields, and which way is better.
struct Compared {
    workload: &'static str,
    theirs: &'static str,
    ours: &'static str,
    unit: &'static str,
    more_is_better: bool,
}

const COMPARED: &[Compared] = &[
    Compared {
        workload: "throughput",
        theirs: "tasks_per_s",
        ours: "jobs_per_s",
        unit: "jobs/s",
        more_is_better: true,
    },
    Compared { workload: "chord", theirs: "seconds", ours: "seconds", unit: "chord, s", more_is_better: false },
    Compared { workload: "chain", theirs: "seconds", ours: "seconds", unit: "chain, s", more_is_better: false },
    Compared { workload: "latency", theirs: "p50_ms", ours: "p50_ms", unit: "p50 ms", more_is_better: false },
    Compared {
        workload: "memory",
        theirs: "idle_rss_mib",
        ours: "idle_rss_mib",
        unit: "idle RSS MiB",
        more_is_better: false,
    },
];

fn ratios(ours: &[Value], theirs: &[Value], sizes: &[u64]) -> String {
    let mut text = String::from("\n| in the same run, on Redis | peer | Umbel | Umbel is |\n|---|---|---|---|\n");
    for (peer, workers, workload) in PEER_RUNS {
        let Some(compared) = COMPARED.iter().find(|c| c.workload == *workload) else { continue };
        for n in sizes_of((peer, workers, workload), sizes) {
            let mut their_marks = json!({"peer": peer, "workload": workload, "workers": workers});
            let mut our_marks = json!({"what": workload, "broker": "redis"});
            let mut size = String::new();
            if *n > 0 {
                (their_marks["n"], our_marks["n"]) = (json!(n), json!(n));
                size = format!(" of {}", short(*n as f64));
            }
            let other = median(theirs, &their_marks, compared.theirs);
            let own = median(ours, &our_marks, compared.ours);
            let (Some(other), Some(own)) = (other, own) else { continue };
            let factor = if compared.more_is_better { own / other } else { other / own };
            let (unit, their, our) = (compared.unit, short(other), short(own));
            text += &format!("| {peer} {workers}, {unit}{size} | {their} | {our} | {factor:.1}× |\n");
        }
    }
    text
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1_000.0 => {
            let whole = (v.round() as u64).to_string();
            let mut text = String::new();
            for (i, digit) in whole.chars().enumerate() {
                if i > 0 && (whole.len() - i).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_taken_over_matching_rows() {
        let rows = [json!({"a": 1, "x": 5}), json!({"a": 1, "x": 1}), json!({"a": 1, "x": 3}), json!({"a": 2, "x": 9})];
        assert_eq!(median(&rows, &json!({"a": 1}), "x"), Some(3.0));
        assert_eq!(median(&rows, &json!({"a": 3}), "x"), None);
    }

    #[test]
    fn numbers_are_grouped_for_people() {
        assert_eq!(short(26_300.4), "26,300");
        assert_eq!(short(1_234_567.0), "1,234,567");
        assert_eq!(short(0.85), "0.85");
    }
}
