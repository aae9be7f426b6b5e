//! Measures what a job costs the broker: microseconds for each submitted, and for each claimed and settled no-op job.
//!
//! `cargo run --release -p umbel-broker-sqlite --example cost [-- FOLDER]`. Batches of 200, synchronous FULL, at a
//! backlog of 2,000 and of 100,000. One caller at a time, so that nothing overlaps: the figure is the whole round trip.

use std::{fmt, path::Path, time::Instant};

use anyhow::{Context, ensure};
use umbel_broker::{Claim, Deliveries, Delivery, Jobs, LimitedTenants, NewJob, Settle, Settled, Start, Submitted};
use umbel_broker_sqlite::{SqliteBroker, SqliteConfig};
use umbel_model::{AttemptRecord, JobId, QueueName, Resolution, TaskName, TenantId, Token, Usage, WorkerId};

const BATCH: u64 = 200;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "target/tmp/cost".into());
    println!("microseconds for one job: time passed (processor time of the whole process)");
    println!("{:>9} {:>18} {:>18} {:>10} {:>10}", "jobs", "submit", "claim and settle", "jobs/s", "bytes/job");
    for jobs in [2_000, 100_000, 2_000] {
        let path = Path::new(&folder).join(format!("cost-{jobs}.db"));
        let (submit, run) = measure(&path, jobs).await?;
        let bytes = std::fs::metadata(&path)?.len() / jobs;
        let per_second = 1e6 / run.passed_us;
        println!("{jobs:>9} {:>18} {:>18} {per_second:>10.0} {bytes:>10}", submit.to_string(), run.to_string());
        for end in ["", "-wal", "-shm", ".lock"] {
            let _ = std::fs::remove_file(format!("{}{end}", path.display()));
        }
    }
    Ok(())
}

/// What one job costs, microseconds. Processor time says more on a machine that others use too.
struct Cost {
    passed_us: f64,
    processor_us: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ({:.1})", self.passed_us, self.processor_us)
    }
}

struct Stopwatch(Instant, f64);

impl Stopwatch {
    fn start() -> anyhow::Result<Self> {
        Ok(Self(Instant::now(), processor_us()?))
    }

    fn cost(&self, jobs: u64) -> anyhow::Result<Cost> {
        let passed_us = self.0.elapsed().as_secs_f64() * 1e6 / jobs as f64;
        Ok(Cost { passed_us, processor_us: (processor_us()? - self.1) / jobs as f64 })
    }
}

/// User and system time of this process, in ticks of 10 ms.
fn processor_us() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = stat.rsplit_once(") ").context("a process name in brackets")?;
    let ticks = after_name.split(' ').skip(11).take(2).map(|t| Ok(t.parse::<f64>()?)).sum::<anyhow::Result<f64>>()?;
    Ok(ticks * 1e4)
}

/// To submit, and to claim and settle.
async fn measure(path: &Path, jobs: u64) -> anyhow::Result<(Cost, Cost)> {
    let broker = SqliteBroker::open(SqliteConfig::new(path))?;
    let watch = Stopwatch::start()?;
    for first in (0..jobs).step_by(BATCH as usize) {
        let batch: Vec<NewJob> = (first..first + BATCH).map(new_job).collect::<anyhow::Result<_>>()?;
        let answers = broker.submit(&batch).await?;
        ensure!(answers.iter().all(|a| *a == Submitted::Created), "the file was not empty");
    }
    let submit = watch.cost(jobs)?;

    let watch = Stopwatch::start()?;
    let (mut held, mut done, mut round) = (Vec::new(), 0, 0);
    while done < jobs {
        let settles: Vec<Settle> = held.drain(..).map(settle).collect::<anyhow::Result<_>>()?;
        let (settled, claimed) = broker.settle(&settles, Some(&claim(round)?)).await?;
        ensure!(settled.iter().all(|s| *s == Settled::Recorded), "a settle was refused");
        done += settled.len() as u64;
        held = claimed;
        round += 1;
    }
    let run = watch.cost(jobs)?;
    drop(broker);
    Ok((submit, run))
}

fn new_job(n: u64) -> anyhow::Result<NewJob> {
    let digest = "a".repeat(64);
    Ok(NewJob {
        id: JobId::from_parts(1_800_000_000_000 + n, n.into()),
        tenant: TenantId::new("default")?,
        task: TaskName::new("process_order")?,
        queue: QueueName::default(),
        priority: 5,
        spec: format!(r#"{{"v":1,"task":"process_order","digest":"sha256:{digest}","arguments":{{"order_id":{n}}}}}"#),
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 5,
        result_ttl_ms: 86_400_000,
        dead_ttl_ms: 86_400_000,
        expires_at: None,
        broker_options: None,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    })
}

fn claim(round: u64) -> anyhow::Result<Claim> {
    Ok(Claim {
        worker: WorkerId::new("host-1234-0a1b2c3d")?,
        queues: vec![QueueName::default()].into(),
        max: BATCH as u32,
        lease_ms: umbel_broker::DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("0123456789abcdef-{round}"))?,
        limited: LimitedTenants::default(),
        in_row: 1,
    })
}

fn settle(delivery: Delivery) -> anyhow::Result<Settle> {
    let result = serde_json::value::RawValue::from_string(r#"{"order_id":1,"status":"success"}"#.into());
    let record = AttemptRecord {
        attempt: 1,
        delivery: delivery.delivery,
        worker: WorkerId::new("host-1234-0a1b2c3d")?,
        ended_at: 1_800_000_000_000,
        outcome: "succeeded".into(),
        failure: None,
        usage: Usage { fuel: 12_345, memory_bytes: 1_114_112, duration_us: 20, ..Usage::default() },
    };
    Ok(Settle {
        tenant: delivery.tenant,
        id: delivery.id,
        token: delivery.token,
        resolution: Resolution::Succeed { result: Some(result.context("a JSON text")?) },
        record: Some(record),
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    })
}
