//! Every hostile task ends with its named outcome, while normal jobs beside it succeed and the API answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, durable_redis, until};

const LIMIT: Duration = Duration::from_secs(120);
/// Generous: this runs in a debug build beside a flood, and beside whatever else the machine does. `cargo xtask bench` is where
/// time is measured.
const SLOWEST_ANSWER: Duration = Duration::from_secs(10);
/// Of what must not end by time: the guests' own limits are a second or two.
const NO_DEADLINE_MS: u64 = 100_000;

/// Task, and the kinds of failure that are right. `deadline` and `out_of_fuel` race where a guest burns both.
const FAILURES: &[(&str, &[&str])] = &[
    ("spin", &["deadline", "out_of_fuel"]),
    ("spin_quiet", &["deadline", "out_of_fuel"]),
    ("allocate", &["memory"]),
    ("recurse", &["stack"]),
    ("recurse_frames", &["stack", "trap:memory_out_of_bounds"]),
    ("flood_log", &["deadline", "out_of_fuel", "host_limit:call"]),
    ("flood_progress", &["deadline", "out_of_fuel"]),
    ("hoard_handles", &["host_limit:handles"]),
    ("sleep", &["deadline"]),
    ("panic", &["panic"]),
    ("bad_json", &["bad_output"]),
    ("deep_json", &["bad_output"]),
    ("return_100mb", &["host_limit:result"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_tasks_end_by_name_beside_a_hundred_normal_ones_on_sqlite() -> Result<()> {
    hostile_beside_normal(&Dev::start().await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_tasks_end_by_name_beside_a_hundred_normal_ones_on_redis() -> Result<()> {
    let redis = durable_redis();
    hostile_beside_normal(&Dev::on(&redis.url()).await?).await
}

async fn hostile_beside_normal(dev: &Dev) -> Result<()> {
    let client = &dev.client;
    client.push("hostile").await?;
    client.push("numbers").await?;
    let probe = Probe::start(client.url(), &client.token())?;
    let unhurried = || json!({"time_limit_ms": NO_DEADLINE_MS});
    let mut hostile = Vec::new();
    for (task, kinds) in FAILURES {
        let ends_by_time = kinds.contains(&"deadline");
        let options = if ends_by_time { json!({}) } else { unhurried() };
        hostile.push((client.submit_with(task, json!([]), options).await?, *task, *kinds));
    }
    let endless = client.submit("retry_forever", json!([])).await?;
    let snoozing = client.submit("snooze_forever", json!([])).await?;
    let flood = client.submit_with("flood_result", json!([]), unhurried()).await?;
    let calls = client.submit_with("million_calls", json!([]), unhurried()).await?;
    let normal = client.batch((0..100).map(|i| json!({"task": "add", "args": [i, 1]}))).await?;
    for (i, id) in normal.iter().enumerate() {
        let job = client.ended(id, LIMIT).await?;
        assert_eq!((&job["state"], &job["result"]), (&json!("succeeded"), &json!(i + 1)), "{job}");
    }
    let mut wrong = Vec::new();
    for (id, task, kinds) in hostile {
        let job = client.ended(&id, LIMIT).await?;
        let kind = job["error"]["kind"].as_str().unwrap_or_default();
        println!("{task}: {} {kind}", job["state"]);
        if job["state"] != "failed" || !kinds.contains(&kind) {
            wrong.push(format!("{task} ended {} {}, not {kinds:?}", job["state"], job["error"]));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    floods_are_cut(client, &flood, &calls).await?;
    endless_jobs_can_be_stopped(client, &endless, &snoozing).await?;
    let slowest = probe.stop()?;
    println!("slowest answer of the API meanwhile: {slowest:?}");
    ensure!(slowest < SLOWEST_ANSWER, "the API took {slowest:?} to answer");
    assert_eq!(client.result("add", json!([20, 22])).await?, 42);
    Ok(())
}

async fn floods_are_cut(client: &Client, flood: &str, calls: &str) -> Result<()> {
    let flood = client.ended(flood, LIMIT).await?;
    assert_eq!(flood["state"], "failed");
    ensure!(flood.to_string().len() < 64 << 10, "a flooding failure was kept: {} bytes", flood.to_string().len());
    let calls = client.ended(calls, LIMIT).await?;
    assert!(calls["state"] == "succeeded" || calls["error"]["kind"] == "out_of_fuel", "{calls}");
    for task in ["flood_log", "flood_progress"] {
        let jobs = client.jobs(&format!("task={task}")).await?;
        let id = jobs[0]["id"].as_str().context("an id")?;
        let logs = client.get(&format!("/v1/jobs/{id}/logs")).await?;
        ensure!(logs.text.len() < 1 << 20, "the log of {task} has {} bytes", logs.text.len());
        ensure!(!logs.text.contains('\u{1b}') && !logs.text.contains("\\u001b"), "the log of {task} keeps escapes");
    }
    Ok(())
}

async fn endless_jobs_can_be_stopped(client: &Client, endless: &str, snoozing: &str) -> Result<()> {
    let retried = until("retry_forever is retried", LIMIT, || async {
        let job = client.job(endless).await?;
        Ok((job["retries"].as_u64() > Some(2)).then_some(job))
    });
    retried.await?;
    assert_eq!(client.job(snoozing).await?["state"], "scheduled");
    for id in [endless, snoozing] {
        client.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await?.good()?;
        assert_eq!(client.ended(id, LIMIT).await?["state"], "revoked");
    }
    Ok(())
}

/// Asks the API all the time from a thread of its own.
struct Probe {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<Duration>>,
}

impl Probe {
    fn start(url: &str, token: &str) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, client) = (Arc::clone(&stop), Client::new(url, token)?);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut slowest = Duration::ZERO;
                while !flag.load(Ordering::Relaxed) {
                    for path in ["/livez", "/v1/jobs?limit=10"] {
                        let start = Instant::now();
                        let answer = client.send(client.request(Method::GET, path)).await?;
                        slowest = slowest.max(start.elapsed());
                        ensure!(answer.status == 200, "{path} answered {}: {}", answer.status, answer.text);
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(slowest)
            })
        });
        Ok(Self { stop, thread })
    }

    fn stop(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the probe panicked"))?
    }
}

#[tokio::test]
async fn hostile_descriptions_are_refused_and_the_next_upload_is_served() -> Result<()> {
    let dev = Dev::start().await?;
    for (module, codes) in [
        ("hostile-describe-spin", &["describe_failed"][..]),
        ("hostile-describe-many", &["describe_invalid", "describe_failed"]),
        ("hostile-describe-absurd", &["describe_invalid", "describe_failed"]),
        ("hostile-describe-lie", &["describe_invalid", "describe_failed"]),
    ] {
        let answer = dev.client.upload(umbel_tests::guest(module)?).await?;
        assert_eq!(answer.status, 422, "{module}: {}", answer.text);
        assert!(codes.contains(&answer.code().as_str()), "{module}: {}", answer.text);
        assert!(!answer.text.contains('\u{1b}'), "{module}: raw escapes in {:?}", answer.text);
    }
    let modules: Value = dev.client.get("/v1/modules").await?.good()?;
    assert_eq!(modules["items"], json!([]), "nothing refused is kept");
    dev.client.push("numbers").await?;
    assert_eq!(dev.client.result("add", json!([1, 2])).await?, 3);
    Ok(())
}
