//! What is looked at during an attack: memory, and a quiet tenant's jobs and pushes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Scene, guests};

/// Between two looks at memory.
const EVERY: Duration = Duration::from_millis(20);
/// Between two jobs, and between two pushes, of the quiet tenant.
const PAUSE: Duration = Duration::from_millis(20);
const PUSH_PAUSE: Duration = Duration::from_secs(1);

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Memory of the process at most, MiB.
    pub(super) process_mib: f64,
    /// Memory of Redis at most beyond what it held before or after, MiB.
    pub(super) redis_mib: f64,
    pub(super) jobs_ms: Vec<f64>,
    pub(super) pushes_ms: Vec<f64>,
    pub(super) refused: Vec<String>,
}

/// Two threads that look, each with its own clock: an attack that keeps this process busy delays neither.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    memory: thread::JoinHandle<Result<(f64, f64)>>,
    tenant: thread::JoinHandle<Result<Seen>>,
}

impl Watch {
    pub(super) fn start(scene: &Arc<Scene>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (flag, watched) = (stop.clone(), scene.clone());
        let memory = thread::Builder::new().name("memory".to_owned()).spawn(move || memory(&watched, &flag))?;
        let (flag, watched) = (stop.clone(), scene.clone());
        let tenant = thread::Builder::new().name("quiet".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(tenant(&watched, &flag))
        })?;
        Ok(Self { stop, memory, tenant })
    }

    pub(super) async fn stop(self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = tokio::task::spawn_blocking(|| (self.memory.join(), self.tenant.join())).await?;
        let (process_mib, redis_mib) = joined.0.ok().context("the look at memory panicked")??;
        let seen = joined.1.ok().context("the quiet tenant panicked")??;
        Ok(Seen { process_mib, redis_mib, ..seen })
    }
}

/// The process's memory at most, and that of Redis beyond what it held before or after, MiB.
fn memory(scene: &Scene, stop: &AtomicBool) -> Result<(f64, f64)> {
    let mut redis = scene.redis.as_ref().map(|redis| redis.connection());
    let mut used = || redis.as_mut().map_or(Ok(0.0), used_mib);
    let (mut process, mut most) = (0.0_f64, 0.0_f64);
    let before = used()?;
    while !stop.load(Ordering::Relaxed) {
        process = process.max(scene.dev.process.rss_mib()?);
        most = most.max(used()?);
        thread::sleep(EVERY);
    }
    Ok((process, most - before.max(used()?)))
}

fn used_mib(redis: &mut redis::Connection) -> Result<f64> {
    let info: String = redis::cmd("INFO").arg("memory").query(redis)?;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).context("INFO has no used_memory")?;
    Ok(used.trim().parse::<f64>()? / f64::from(1 << 20))
}

/// The quiet tenant: a job after the other, and small modules beside them.
async fn tenant(scene: &Scene, stop: &AtomicBool) -> Result<Seen> {
    let mut seen = Seen::default();
    let goes_on = || !stop.load(Ordering::Relaxed);
    let jobs = async {
        let (mut times, mut refused) = (Vec::new(), Vec::new());
        for i in (0..).take_while(|_| goes_on()) {
            let start = Instant::now();
            match job(scene, i).await {
                Ok(()) => times.push(start.elapsed().as_secs_f64() * 1_000.0),
                Err(e) => refused.push(format!("job after {:?}: {e:#}", start.elapsed())),
            }
            tokio::time::sleep(PAUSE).await;
        }
        (times, refused)
    };
    let pushes = async {
        let (mut times, mut refused) = (Vec::new(), Vec::new());
        while goes_on() {
            let module = guests::small(scene.number())?;
            let start = Instant::now();
            match scene.quiet.upload(module).await.and_then(|answer| answer.good()) {
                Ok(_) => times.push(start.elapsed().as_secs_f64() * 1_000.0),
                Err(e) => refused.push(format!("push after {:?}: {e:#}", start.elapsed())),
            }
            tokio::time::sleep(PUSH_PAUSE).await;
        }
        anyhow::Ok((times, refused))
    };
    let (jobs, pushes) = futures::join!(jobs, pushes);
    let pushes = pushes?;
    (seen.jobs_ms, seen.pushes_ms) = (jobs.0, pushes.0);
    seen.refused = [jobs.1, pushes.1].concat();
    seen.jobs_ms.sort_by(f64::total_cmp);
    seen.pushes_ms.sort_by(f64::total_cmp);
    Ok(seen)
}

async fn job(scene: &Scene, i: u64) -> Result<()> {
    let answer = scene.quiet.post("/v1/jobs?wait=50s", &json!({"task": "add", "args": [i, 1]})).await?;
    let job: Value = answer.good()?;
    anyhow::ensure!(job["result"] == i + 1, "it is {job}");
    Ok(())
}
