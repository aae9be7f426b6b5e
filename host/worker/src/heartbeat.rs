//! Says now and then that this worker is alive, and how it is. Its failures are left to the conductor to report.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use umbel_broker::{Broker, WORKER_TTL_MS, WorkerInfo};
use umbel_model::{QueueName, UnixMs};

use crate::{Queues, WorkerConfig, attempt::unix_ms};

/// Several times within the time after which a silent worker is forgotten.
const INTERVAL: Duration = Duration::from_millis(WORKER_TTL_MS / 6);

/// What is known of a worker's state by everybody in it.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    running: AtomicU32,
    settled: AtomicU64,
    draining: AtomicBool,
}

impl Vitals {
    pub(crate) fn settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_running(&self, running: u32) {
        self.running.store(running, Ordering::Relaxed);
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn total_settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }
}

/// Beats until it is dropped.
pub(crate) async fn beat(broker: Arc<dyn Broker>, config: WorkerConfig, vitals: Arc<Vitals>) {
    let host = host_name();
    let started_at = unix_ms();
    loop {
        let _ = broker.heartbeat(&info(&config, &vitals, &host, started_at)).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

fn info(config: &WorkerConfig, vitals: &Vitals, host: &str, started_at: UnixMs) -> WorkerInfo {
    let queues: Vec<QueueName> = match &config.queues {
        Queues::Named(names) => names.clone(),
        Queues::All => Vec::new(),
    };
    WorkerInfo {
        id: config.id.clone(),
        host: host.to_owned(),
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        queues,
        slots: config.concurrency,
        running: vitals.running.load(Ordering::Relaxed),
        state: if vitals.draining.load(Ordering::Relaxed) { "draining" } else { "running" }.to_owned(),
        started_at,
        settled: vitals.total_settled(),
        rss_bytes: rss_bytes(),
    }
}

/// This machine's name, made of characters that a worker id may have; `localhost` if it has none.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = name.trim().chars().filter(allowed).take(64).collect();
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) { name } else { "localhost".to_owned() }
}

/// Resident memory of this process, bytes; 0 where the system does not say.
fn rss_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_a_name_and_memory() {
        assert!(!super::host_name().is_empty());
        assert!(super::rss_bytes() > 0);
    }
}
