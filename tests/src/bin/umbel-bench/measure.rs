//! The measurements. Each starts its own service on fresh data, checks the results, and returns one row.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, DevOptions, Process, RedisServer, Split, redis, time_ms, umbel_binary, until};

use crate::{connection::Connection, redis_info::RedisInfo};

/// Calls of one sandbox measurement.
const SANDBOX_CALLS: u32 = 50_000;
/// Jobs of one latency measurement, and those before it that are not counted.
const ROUND_TRIPS: usize = 500;
const WARM_UP: usize = 20;
/// Lines of one batch request.
const BATCH: usize = 10_000;
/// Different orders, which are keys where jobs are limited by key.
const KEYS: usize = 100;
/// How long the throughput of all jobs may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Between two looks whether all jobs are done. Rates are by the broker's clock, and a list of a thousand queues costs as much as
/// hundreds of jobs.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a worker may settle down before its memory is read, as the peers' program does.
const IDLE: Duration = Duration::from_secs(4);

/// A service of either kind, and the process that runs the guests.
pub enum Service {
    Sqlite(Box<Dev>),
    Redis(Box<Split>, RedisServer),
}

impl Service {
    pub async fn start(broker: &str, arguments: &[&str]) -> Result<Self> {
        let service = if broker == "redis" {
            let redis = redis();
            Self::Redis(Box::new(Split::start(&redis.url(), 0, &[]).await?), redis)
        } else {
            let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
            Self::Sqlite(Box::new(Dev::with(DevOptions { arguments, ..DevOptions::default() }).await?))
        };
        service.client().push("numbers").await?;
        if let Self::Sqlite(dev) = &service {
            // A queue is known, and can be held, once it had a job. This one is not of the task that is measured.
            dev.client.result("ident", json!([1])).await?;
        }
        Ok(service)
    }

    pub fn client(&self) -> &Client {
        match self {
            Self::Sqlite(dev) => &dev.client,
            Self::Redis(split, _) => &split.client,
        }
    }

    /// Lets no job be claimed.
    async fn hold(&self) -> Result<()> {
        match self {
            Self::Sqlite(dev) => dev.client.patch("/v1/tenant", &json!({"paused": true})).await?.good().map(drop),
            Self::Redis(..) => Ok(()),
        }
    }

    /// Lets jobs be claimed: Redis gets its worker, SQLite's own goes on.
    pub async fn release(&mut self, arguments: &[&str]) -> Result<()> {
        match self {
            Self::Sqlite(dev) => dev.client.patch("/v1/tenant", &json!({"paused": false})).await?.good().map(drop),
            Self::Redis(split, _) => split.add_worker(arguments),
        }
    }

    /// A client with another token.
    pub async fn another(&mut self, arguments: &[&str]) -> Result<Client> {
        match self {
            Self::Sqlite(dev) => dev.another(arguments).await,
            Self::Redis(split, _) => split.another(arguments),
        }
    }

    /// A client of each of these tenants.
    pub async fn tenants(&mut self, names: &[String]) -> Result<Vec<Client>> {
        match self {
            Self::Sqlite(dev) => dev.tenants(names).await,
            Self::Redis(split, _) => names.iter().map(|name| split.another(&["--tenant", name])).collect(),
        }
    }

    /// Hands out no job of a queue that had one.
    pub async fn pause(&self, queue: &str) -> Result<()> {
        self.client().post(&format!("/v1/queues/{queue}/pause"), &json!({})).await?.good().map(drop)
    }

    /// Hands them out again.
    pub async fn resume(&self, queue: &str) -> Result<()> {
        self.client().post(&format!("/v1/queues/{queue}/resume"), &json!({})).await?.good().map(drop)
    }

    /// The process that runs guests.
    pub fn worker(&self) -> Result<&Process> {
        match self {
            Self::Sqlite(dev) => Ok(&dev.process),
            Self::Redis(split, _) => split.workers.last().context("no worker"),
        }
    }

    /// Counters of its Redis; none on SQLite.
    pub fn redis_info(&self) -> Result<Option<RedisInfo>> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Redis(_, redis) => RedisInfo::read(redis.port()).map(Some),
        }
    }

    async fn all_done(&self) -> Result<()> {
        until("all jobs are done", LIMIT, || async {
            tokio::time::sleep(LOOK_EVERY).await;
            Ok((self.client().unfinished().await? == 0).then_some(()))
        })
        .await
    }
}

/// Instantiate, call and drop, many times in the sandbox alone.
pub fn sandbox() -> Result<Value> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/numbers.wasm");
    let calls = SANDBOX_CALLS.to_string();
    let output = Command::new(umbel_binary()?)
        .arg("__bench-sandbox")
        .arg(module)
        .args(["noop", r#"{"order_id":1}"#, &calls])
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut row: Value = serde_json::from_slice(&output.stdout)?;
    row["what"] = "sandbox".into();
    Ok(row)
}

/// A limit that never keeps a job back: what it costs to have one.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    None,
    Rate,
    Cap,
    Key,
}

impl Limit {
    pub const ALL: [Self; 4] = [Self::None, Self::Rate, Self::Cap, Self::Key];

    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Rate => "rate",
            Self::Cap => "cap",
            Self::Key => "key",
        }
    }

    /// The options of each job; one key in `KEYS` for each order.
    fn options(self) -> Value {
        match self {
            Self::None => json!({}),
            Self::Rate => json!({"rate_limit": "1000000/s", "rate_burst": 1_000_000}),
            Self::Cap => json!({"concurrency": 10_000}),
            Self::Key => json!({"limit_key": "kwargs.order_id", "key_concurrency": 10_000}),
        }
    }
}

/// Preloads `n` no-op jobs, then lets them run: the rate from the first claim to the last result, both by the broker's
/// clock, the rate of the preload over HTTP, and what Redis spent on all of it.
pub async fn throughput(what: &str, broker: &str, n: usize, limit: Limit) -> Result<Value> {
    over_queues(what, broker, n, limit, 1).await
}

/// The same over so many queues, in turn.
pub async fn over_queues(what: &str, broker: &str, n: usize, limit: Limit, queues: usize) -> Result<Value> {
    let mut service = Service::start(broker, &[]).await?;
    service.hold().await?;
    let options = limit.options();
    let line = |i| {
        let mut job = json!({"task": "noop", "kwargs": {"order_id": order(i)}, "options": options});
        if i % queues > 0 {
            job["options"]["queue"] = format!("queue-{}", i % queues).into();
        }
        job.to_string() + "\n"
    };
    let numbers: Vec<usize> = (0..n).collect();
    let bodies: Vec<String> =
        numbers.chunks(BATCH).map(|numbers| numbers.iter().copied().map(line).collect()).collect();
    let before = service.redis_info()?;
    let client = service.client();
    let start = Instant::now();
    let mut ids = Vec::with_capacity(n);
    for body in bodies {
        let request = client.request(reqwest::Method::POST, "/v1/jobs/batch");
        let answer = client.send(request.header("content-type", "application/x-ndjson").body(body)).await?;
        answer.good()?;
        ids.push(answer.text);
    }
    let submit_s = start.elapsed().as_secs_f64();
    let released = Instant::now();
    service.release(&[]).await?;
    service.all_done().await?;
    let wall_s = released.elapsed().as_secs_f64();
    let after = service.redis_info()?;
    let (seconds, finished) = span(service.client()).await?;
    ensure!(finished == n, "{finished} of {n} jobs are there");
    check_results(service.client(), &ids).await?;
    let mut row = json!({
        "what": what, "limit": limit.as_str(), "broker": broker, "queues": queues,
        "n": n, "seconds": seconds, "wall_s": wall_s, "jobs_per_s": n as f64 / seconds,
        "submit_per_s": n as f64 / submit_s,
    });
    if let (Some(before), Some(after)) = (before, after) {
        row["redis_us_per_job"] = json!((after.cpu_s - before.cpu_s) * 1e6 / n as f64);
    }
    Ok(row)
}

/// The order that a job has.
fn order(number: usize) -> usize {
    number % KEYS
}

/// Seconds from the first claim to the last end, and how many jobs succeeded.
async fn span(client: &Client) -> Result<(f64, usize)> {
    let jobs = client.jobs("task=noop&state=succeeded").await?;
    let (mut first, mut last) = (None::<u64>, None::<u64>);
    for job in &jobs {
        let (started, finished) = (time_ms(job, "started_at")?, time_ms(job, "finished_at")?);
        first = Some(first.map_or(started, |first| first.min(started)));
        last = Some(last.map_or(finished, |last| last.max(finished)));
    }
    let span = last.unwrap_or_default().saturating_sub(first.unwrap_or_default());
    Ok((span as f64 / 1_000.0, jobs.len()))
}

/// Every hundredth job has the result that belongs to its arguments.
async fn check_results(client: &Client, answers: &[String]) -> Result<()> {
    for (number, line) in answers.iter().flat_map(|text| text.lines()).enumerate().step_by(100) {
        let answer: Value = serde_json::from_str(line)?;
        let job = client.job(answer["id"].as_str().with_context(|| format!("not accepted: {line}"))?).await?;
        ensure!(job["result"] == json!({"order_id": order(number), "status": "success"}), "{job}");
    }
    Ok(())
}

/// The value below which this share of sorted values is; there is one.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((share * sorted.len() as f64) as usize).min(sorted.len() - 1)]
}

/// Submits a job and waits for its result over HTTP, one after the other, an idle worker.
pub async fn latency(broker: &str) -> Result<Value> {
    let mut service = Service::start(broker, &[]).await?;
    service.release(&[]).await?;
    let mut connection = Connection::open(service.client().url(), &service.client().token())?;
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for i in 0..WARM_UP + ROUND_TRIPS {
        let body = format!("{{\"task\":\"noop\",\"kwargs\":{{\"order_id\":{i}}}}}");
        let start = Instant::now();
        let answer = connection.post("/v1/jobs?wait=10s", &body)?;
        let took = start.elapsed();
        let job: Value = serde_json::from_slice(answer)?;
        ensure!(job["result"] == json!({"order_id": i, "status": "success"}), "{job}");
        if i >= WARM_UP {
            times.push(took.as_secs_f64() * 1_000.0);
        }
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| percentile(&times, share);
    Ok(json!({"what": "latency", "broker": broker, "p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99)}))
}

/// Resident memory of the process that runs guests: idle at default settings, and with 200 sleeping jobs.
pub async fn memory(broker: &str) -> Result<Value> {
    let mut service = Service::start(broker, &[]).await?;
    service.release(&[]).await?;
    tokio::time::sleep(IDLE).await;
    let idle = service.worker()?.rss_mib()?;
    drop(service);
    let slots = ["--concurrency", "200"];
    let mut service = Service::start(broker, &slots).await?;
    service.release(&slots).await?;
    let ids = service.client().batch((0..200).map(|_| json!({"task": "nap", "args": [10.0]}))).await?;
    until("200 jobs run", LIMIT, || async {
        let running = service.client().jobs("state=running").await?.len();
        Ok((running == ids.len()).then_some(()))
    })
    .await?;
    let mut busy = 0.0_f64;
    while service.client().unfinished().await? > 0 {
        busy = busy.max(service.worker()?.rss_mib()?);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(json!({"what": "memory", "broker": broker, "idle_rss_mib": idle, "busy_rss_mib": busy}))
}
