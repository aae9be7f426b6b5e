//! Workflows: a chord and a chain from the client's first byte to the result in its hands, and what a chord's members take
//! in Redis.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{connection::Connection, measure::Service, redis_info::RedisInfo};

/// How long a worker may settle down, as the peers' program gives theirs.
const SETTLE: Duration = Duration::from_secs(4);
/// Members of the chord, and steps of the chain, that are not counted: the peers' workers are warm too.
const WARM_UP: usize = 20;

/// A chord of `n` members that return their argument, and a body that sums them.
pub async fn chord(broker: &str, n: usize) -> Result<Value> {
    let service = ready(broker).await?;
    let mut connection = Connection::open(service.client().url(), &service.client().token())?;
    run(&mut connection, &chord_of(WARM_UP))?;
    let before = RedisInfo::of(&service)?;
    let canvas = chord_of(n);
    let start = Instant::now();
    let workflow = run(&mut connection, &canvas)?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(workflow["result"] == json!(n * (n - 1) / 2), "{workflow}");
    let mut row = json!({"what": "chord", "broker": broker, "n": n, "seconds": seconds});
    if let (Some(before), Some(after)) = (before, RedisInfo::of(&service)?) {
        let each = |from: u64, to: u64| to.saturating_sub(from) as f64 / n as f64;
        row["bytes_per_member"] = each(before.bytes, after.bytes).into();
        row["scripts_per_member"] = each(before.scripts, after.scripts).into();
    }
    Ok(row)
}

/// A chain of `n` steps that add one.
pub async fn chain(broker: &str, n: usize) -> Result<Value> {
    let service = ready(broker).await?;
    let mut connection = Connection::open(service.client().url(), &service.client().token())?;
    run(&mut connection, &chain_of(WARM_UP))?;
    let canvas = chain_of(n);
    let start = Instant::now();
    let workflow = run(&mut connection, &canvas)?;
    let seconds = start.elapsed().as_secs_f64();
    ensure!(workflow["result"] == json!(n), "{workflow}");
    Ok(json!({"what": "chain", "broker": broker, "n": n, "seconds": seconds}))
}

async fn ready(broker: &str) -> Result<Service> {
    let mut service = Service::start(broker, &[]).await?;
    service.release(&[]).await?;
    tokio::time::sleep(SETTLE).await;
    Ok(service)
}

fn chord_of(n: usize) -> String {
    let mut text = String::from("{\"canvas\":{\"chord\":[");
    for i in 0..n {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(text, "{comma}{{\"task\":\"ident\",\"args\":[{i}]}}");
    }
    text + "],\"body\":{\"task\":\"total\"}}}"
}

fn chain_of(n: usize) -> String {
    let rest = ",{\"task\":\"inc\"}".repeat(n - 1);
    format!("{{\"canvas\":{{\"chain\":[{{\"task\":\"inc\",\"args\":[0]}}{rest}]}}}}")
}

/// Submits the workflow and waits until it has succeeded.
fn run(connection: &mut Connection, body: &str) -> Result<Value> {
    let mut workflow: Value = serde_json::from_slice(connection.post("/v1/workflows?wait=20s", body)?)?;
    let path = format!("/v1/workflows/{}?wait=20s", workflow["id"].as_str().context("a workflow without an id")?);
    while workflow["state"] == "running" {
        workflow = serde_json::from_slice(connection.get(&path)?)?;
    }
    ensure!(workflow["state"] == "succeeded", "{workflow}");
    Ok(workflow)
}
