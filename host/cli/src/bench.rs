//! `umbel __bench-sandbox MODULE TASK JSON CALLS`: how long instantiate + call + drop take, in the very binary that
//! serves. Hidden: `cargo xtask bench` calls it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use umbel_model::{Outcome, Policy};
use umbel_sandbox::{Call, Discard, Prepared, Sandbox, StopHandle};

use crate::{Failure, Result, args::BenchOptions, local, output::Terminal, serve::data};

/// Prints one JSON object of microseconds: `mean_us`, `p50_us`, `p99_us`.
pub async fn run(options: BenchOptions, terminal: &Terminal) -> Result {
    let sandbox = data::sandbox(1)?;
    let (prepared, described) = local::prepare(&sandbox, &options.module, terminal).await?;
    let task = local::pick(&described.tasks, Some(&options.task))?;
    // At the limits that a job of the task has: fuel and deadline are on.
    let call = local::call(task, &Policy::resolve(&task.policy), options.arguments, "bench");
    // So that caches and branch predictors are as they are in a worker.
    repeat(&sandbox, &prepared, &call, options.calls / 10).await?;
    let mut times = repeat(&sandbox, &prepared, &call, options.calls).await?;
    times.sort_unstable();
    let us = |time: Duration| time.as_nanos() as f64 / 1_000.0;
    let at = |share: f64| times.get((share * times.len() as f64) as usize).copied().map(us);
    let mean = us(times.iter().sum()) / times.len().max(1) as f64;
    let row = json!({"calls": times.len(), "mean_us": mean, "p50_us": at(0.5), "p99_us": at(0.99)});
    terminal.line(&row.to_string())
}

async fn repeat(sandbox: &Sandbox, prepared: &Prepared, call: &Call, calls: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(calls);
    for _ in 0..calls {
        let call = call.clone();
        let start = Instant::now();
        let attempt = sandbox.run(prepared, call, Arc::new(Discard), &StopHandle::new()).await;
        times.push(start.elapsed());
        if !matches!(attempt.outcome, Outcome::Value(_)) {
            return Err(Failure::new("bench", format!("the task ended {:?}", attempt.outcome)));
        }
    }
    Ok(times)
}
