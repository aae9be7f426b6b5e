//! How long instantiate + call + drop takes: `timing MODULE TASK ARGUMENTS [ATTEMPTS] [THREADS]`.
//!
//! Build it with optimisation, and give it a machine that does nothing else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use umbel_model::{Outcome, PolicyBounds};
use umbel_sandbox::{
    AttemptInfo, Call, CompileLimits, Compiler, CompilerCommand, Discard, Prepared, Sandbox, SandboxConfig, StopHandle,
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let first = args.next().ok_or("timing MODULE TASK ARGUMENTS [ATTEMPTS] [THREADS]")?;
    if first == "__compile" {
        umbel_sandbox::compile_child_main();
        return Ok(());
    }
    let module = std::fs::read(first)?;
    let (task, arguments) = (args.next().ok_or("which task?")?, args.next().ok_or("which arguments?")?);
    let attempts: usize = args.next().map_or(Ok(20_000), |n| n.parse())?;
    let threads: usize = args.next().map_or(Ok(1), |n| n.parse())?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let sandbox = Sandbox::new(settings())?;
    let command = CompilerCommand { program: std::env::current_exe()?, args: vec!["__compile".into()] };
    let started = Instant::now();
    let compiled = runtime.block_on(Compiler::new(command, CompileLimits::default()).compile(&module))?;
    println!("compiled in {:?}: {} bytes to {}", started.elapsed(), module.len(), compiled.code.len());
    let started = Instant::now();
    let prepared = sandbox.load(compiled.into())?;
    println!("loaded in {:?}", started.elapsed());
    let started = Instant::now();
    let tasks = runtime.block_on(sandbox.describe(&prepared, &PolicyBounds::default()))?;
    println!("described {} tasks in {:?}", tasks.tasks.len(), started.elapsed());

    let call = call(&task, &arguments);
    for round in 0..3 {
        let started = Instant::now();
        let times: Vec<Duration> = std::thread::scope(|scope| {
            let spawn = |_| scope.spawn(|| repeat(&sandbox, &prepared, &call, attempts));
            let running: Vec<_> = (0..threads).map(spawn).collect();
            running.into_iter().map(|t| t.join().unwrap_or_else(|_| Ok(Vec::new()))).collect::<Result<Vec<_>, _>>()
        })?
        .concat();
        report(round, &times, started.elapsed());
    }
    Ok(())
}

/// The defaults, with the keep-resident sizes from the environment: KEEP=memory,table,stack.
fn settings() -> SandboxConfig {
    let mut config = SandboxConfig::default();
    if let Ok(keep) = std::env::var("KEEP") {
        let mut sizes = keep.split(',').map(|n| n.parse().unwrap_or(0));
        config.memory_keep_resident_bytes = sizes.next().unwrap_or(0);
        config.table_keep_resident_bytes = sizes.next().unwrap_or(0);
        config.stack_keep_resident_bytes = sizes.next().unwrap_or(0);
    }
    config
}

fn call(task: &str, arguments: &str) -> Call {
    Call {
        task: task.into(),
        arguments: arguments.into(),
        fuel: 10_000_000_000,
        memory_bytes: 64 << 20,
        time_limit_ms: 300_000,
        soft_time_limit_ms: 0,
        info: AttemptInfo { job_id: "01ARZ3NDEKTSV4RRFFQ69G5FAV".into(), attempt: 1, ..AttemptInfo::default() },
        reach: Default::default(),
    }
}

/// One thread's attempts, one after the other.
fn repeat(sandbox: &Sandbox, prepared: &Prepared, call: &Call, attempts: usize) -> Result<Vec<Duration>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut times = Vec::with_capacity(attempts);
        for _ in 0..attempts {
            let started = Instant::now();
            let attempt = sandbox.run(prepared, call.clone(), Arc::new(Discard), &StopHandle::new()).await;
            times.push(started.elapsed());
            if !matches!(attempt.outcome, Outcome::Value(_)) {
                return Err(format!("{:?}", attempt.outcome).into());
            }
        }
        Ok(times)
    })
}

fn report(round: usize, times: &[Duration], wall: Duration) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = |part: f64| sorted.get((sorted.len() as f64 * part) as usize).copied().unwrap_or_default();
    let per_second = times.len() as f64 / wall.as_secs_f64();
    println!("round {round}: p50 {:?}, p90 {:?}, p99 {:?}, {per_second:.0} attempts/s", at(0.5), at(0.9), at(0.99));
}
