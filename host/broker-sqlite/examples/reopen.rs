//! Measures how long opening a file takes in which many jobs are queued: the scheduler is made from them.
//!
//! `cargo run --release -p umbel-broker-sqlite --example reopen -- FOLDER [JOBS]`. Half of the jobs are plain, half are in
//! 1,000 sub-queues. Prints milliseconds and the process's resident memory before and after.

use std::{path::Path, time::Instant};

use anyhow::{Context, ensure};
use umbel_broker::{BrokerOptions, Claim, Deliveries, JobLimits, Jobs, LimitedTenants, NewJob, Start, Submitted};
use umbel_broker_sqlite::{SqliteBroker, SqliteConfig, Synchronous};
use umbel_model::{JobId, QueueName, TaskName, TenantId, Token, WorkerId};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("give a folder")?;
    let jobs: u64 = arguments.next().map_or(Ok(1_000_000), |jobs| jobs.parse())?;
    let mut config = SqliteConfig::new(Path::new(&folder).join("umbel.db"));
    config.synchronous = Synchronous::Off;
    let broker = SqliteBroker::open(config.clone())?;
    for first in (0..jobs).step_by(1_000) {
        let batch = (first..first + 1_000).map(new_job).collect::<anyhow::Result<Vec<_>>>()?;
        let answers = broker.submit(&batch).await?;
        ensure!(answers.iter().all(|answer| *answer == Submitted::Created), "{answers:?}");
    }
    drop(broker);
    println!("{jobs} jobs stored; resident {} MiB", resident_mib()?);
    let started = Instant::now();
    let broker = SqliteBroker::open(config)?;
    let opened = started.elapsed();
    let claim = Claim {
        worker: WorkerId::new("w1")?,
        queues: vec![QueueName::default()].into(),
        max: 100,
        lease_ms: 60_000,
        token_seed: Token::new("s")?,
        limited: LimitedTenants::default(),
        in_row: 1,
    };
    let claimed = broker.claim(&claim).await?.len();
    println!("opened in {} ms, {claimed} claimed; resident {} MiB", opened.as_millis(), resident_mib()?);
    Ok(())
}

fn new_job(n: u64) -> anyhow::Result<NewJob> {
    let key = n.is_multiple_of(2).then(|| format!("{:032x}", n % 2_000));
    let limits = key.map(|key| JobLimits { key: Some(key), key_concurrency: 4, ..JobLimits::default() });
    let broker_options = limits.map(|limits| BrokerOptions { limits: Some(limits), ..BrokerOptions::default() });
    Ok(NewJob {
        id: JobId::from_parts(1_800_000_000_000, n.into()),
        tenant: TenantId::new("t1")?,
        task: TaskName::new("add")?,
        queue: QueueName::default(),
        priority: 5,
        spec: r#"{"args":[2,3]}"#.to_owned(),
        start: Start::Now,
        expires_ms: 0,
        expires_at: None,
        max_deliveries: 3,
        result_ttl_ms: 60_000,
        dead_ttl_ms: 60_000,
        broker_options: broker_options.map(Box::new),
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    })
}

fn resident_mib() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse::<u64>()? / 1_024)
}
