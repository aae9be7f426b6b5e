//! Whatever dies, each body runs, once: 20 chords of 500 while workers, Redis and `umbel dev` are killed with `kill -9`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use umbel_tests::{Client, Dev, Split, durable_redis, until, workflow::labelled};

const CHORDS: u64 = 20;
const MEMBERS: u64 = 500;
/// Members that the guest of one member adds, and what each of them gives.
const ADDED: u64 = 5;
const LIMIT: Duration = Duration::from_secs(120);

/// Members 0 to 499, one of which is replaced by a chain, one adds members to its group, one submits a workflow.
fn chord(number: u64) -> Value {
    let member = |i: u64| match i {
        7 => {
            json!({"task": "become_step", "kwargs": {"canvas": {"chain": [{"task": "echo", "args": [3]}, {"task": "plus", "args": [4]}]}}})
        }
        8 => {
            json!({"task": "grow", "kwargs": {"members": vec![json!({"task": "echo", "args": [1000]}); ADDED as usize], "result": 8}})
        }
        9 => {
            json!({"chain": [{"task": "start_other", "kwargs": {"canvas": {"task": "echo", "args": [number]}}}, {"task": "echo", "args": [9], "immutable": true}]})
        }
        _ => json!({"task": "echo", "args": [i]}),
    };
    let body = json!({"chain": [{"task": "total", "label": "body"}, {"task": "plus", "args": [0], "label": "after"}]});
    json!({"chord": (0..MEMBERS).map(member).collect::<Vec<_>>(), "body": body})
}

async fn submit(client: &Client) -> Result<Vec<String>> {
    client.push("numbers").await?;
    client.push("cases").await?;
    // Held back, so that all chords are there when the first thing dies. A queue is known once it had a job.
    client.result("echo", json!([1])).await?;
    client.post("/v1/queues/default/pause", &json!({})).await?.good()?;
    let mut ids = Vec::new();
    for number in 0..CHORDS {
        let name = format!("chord {number}");
        ids.push(client.submit_workflow(&json!({"canvas": chord(number), "headers": {"chord": name}})).await?);
    }
    client.post("/v1/queues/default/resume", &json!({})).await?.good()?;
    Ok(ids)
}

/// Jobs of the workflows that have not ended.
async fn left(client: &Client, ids: &[String]) -> Result<u64> {
    let mut left = 0;
    for id in ids {
        let progress = client.workflow(id).await?["progress"].clone();
        let of = |field: &str| progress[field].as_u64().with_context(|| format!("no {field}: {progress}"));
        left += of("total")? - of("done")?;
    }
    Ok(left)
}

async fn left_at_most(client: &Client, ids: &[String], most: u64) -> Result<u64> {
    until(format!("at most {most} jobs are left"), LIMIT, || async {
        let left = left(client, ids).await?;
        Ok((left <= most).then_some(left))
    })
    .await
}

/// Each chord succeeded with the right sum; its body, what is behind it and each member succeeded once; each submitted one
/// other workflow.
async fn each_body_ran_once(client: &Client, ids: &[String]) -> Result<()> {
    let wanted = MEMBERS * (MEMBERS - 1) / 2 + ADDED * 1_000;
    let mut redelivered = 0;
    for id in ids {
        let over = client.workflow_over(id, LIMIT).await?;
        ensure!(over["state"] == "succeeded" && over["result"] == wanted, "not {wanted}: {over}");
        let jobs = client.all_jobs_of(id).await?;
        let (of, total) = (jobs.len() as u64, MEMBERS + ADDED + 2 + 1 + 2);
        ensure!(of == total, "{of} jobs and not {total}: something was added twice or not at all");
        ensure!(jobs.iter().all(|job| job["state"] == "succeeded"), "a job that did not succeed");
        ensure!(labelled(&jobs, "body", &["succeeded"]) == 1, "not one body");
        for job in jobs.iter().filter(|job| job["label"] == "body" || job["label"] == "after") {
            let job = client.job(job["job"].as_str().context("a node without a job")?).await?;
            let history = job["history"].as_array().cloned().unwrap_or_default();
            let successes = history.iter().filter(|record| record["outcome"] == "succeeded").count();
            ensure!(successes == 1, "{successes} successes recorded: {job}");
            ensure!(job["retries"] == 0, "a lost worker cost a retry: {job}");
            redelivered += usize::from(job["deliveries"].as_u64() > Some(1));
        }
    }
    let workflows = client.workflows("").await?;
    let others = workflows.iter().filter(|w| ids.iter().all(|id| w["id"] != id.as_str())).count();
    ensure!(others as u64 == CHORDS, "{others} other workflows and not {CHORDS}");
    println!("{CHORDS} bodies ran once each, {redelivered} of them or what follows were delivered more than once");
    Ok(())
}

#[tokio::test]
async fn the_body_of_each_chord_runs_once_when_workers_and_redis_are_killed() -> Result<()> {
    let mut redis = durable_redis();
    let mut split = Split::start(&redis.url(), 2, &["--lease", "3s"]).await?;
    let ids = submit(&split.client).await?;
    let all = CHORDS * MEMBERS;
    let left = left_at_most(&split.client, &ids, all * 3 / 4).await?;
    split.workers[0].kill()?;
    let killed = Instant::now();
    println!("worker killed with {left} jobs left");
    split.add_worker(&["--lease", "3s"])?;
    let left = left_at_most(&split.client, &ids, all / 2).await?;
    redis.kill();
    println!("redis killed with {left} jobs left");
    // Down for long enough that every connection notices.
    tokio::time::sleep(Duration::from_secs(1)).await;
    redis.restart();
    let left = left_at_most(&split.client, &ids, all / 4).await?;
    split.workers[1].kill()?;
    println!("the other worker killed with {left} jobs left");
    left_at_most(&split.client, &ids, 0).await?;
    println!("REDIS CHORDS: all done {:.1} s after the first kill", killed.elapsed().as_secs_f64());
    each_body_ran_once(&split.client, &ids).await
}

#[tokio::test]
async fn the_body_of_each_chord_runs_once_when_umbel_dev_on_sqlite_is_killed() -> Result<()> {
    let mut dev = Dev::start().await?;
    let ids = submit(&dev.client).await?;
    let all = CHORDS * MEMBERS;
    for share in [3, 1] {
        let left = left_at_most(&dev.client, &ids, all * share / 4).await?;
        dev.process.kill()?;
        println!("umbel dev killed with {left} jobs left");
        dev.restart().await?;
    }
    left_at_most(&dev.client, &ids, 0).await?;
    each_body_ran_once(&dev.client, &ids).await
}
