//! Says now and then that this worker is alive, and how it is, and hears what it should do. Its failures are left to the
//! poll loop to report.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};
use umbel_broker::{Broker, WorkerInfo, WorkerOrder};
use umbel_model::{QueueName, UnixMs};

use crate::{WorkerConfig, attempt::unix_ms};

/// So late an order is heard. It costs one small round trip, and an embedded store that is idle one commit: seldom enough
/// for a disk, and often enough for whoever waits for a worker to drain.
const INTERVAL: Duration = Duration::from_secs(2);

/// What is known of a worker's state by everybody in it.
#[derive(Debug, Default)]
pub(crate) struct Vitals {
    running: AtomicU32,
    leases: AtomicU32,
    slots: AtomicU32,
    min_slots: AtomicU32,
    max_slots: AtomicU32,
    settled: AtomicU64,
    /// The last order that was followed.
    order: AtomicU64,
    draining: AtomicBool,
    queues: Mutex<Vec<QueueName>>,
    /// Something changed that an operator waits for.
    changed: Notify,
}

impl Vitals {
    pub(crate) fn settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    /// Jobs that run, and deliveries that are held.
    pub(crate) fn set_held(&self, running: u32, leases: u32) {
        self.running.store(running, Ordering::Relaxed);
        self.leases.store(leases, Ordering::Relaxed);
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(crate) fn set_slots(&self, slots: u32, min: u32, max: u32) {
        self.slots.store(slots, Ordering::Relaxed);
        self.min_slots.store(min, Ordering::Relaxed);
        self.max_slots.store(max, Ordering::Relaxed);
    }

    pub(crate) fn set_queues(&self, queues: Vec<QueueName>) {
        *self.queues.lock().unwrap_or_else(PoisonError::into_inner) = queues;
    }

    pub(crate) fn followed(&self, order: u64) {
        self.order.store(order, Ordering::Relaxed);
        self.changed.notify_one();
    }

    pub(crate) fn total_settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    fn info(&self, config: &WorkerConfig, host: &str, started_at: UnixMs) -> WorkerInfo {
        let number = |number: &AtomicU32| number.load(Ordering::Relaxed);
        WorkerInfo {
            id: config.id.clone(),
            host: host.to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queues: self.queues.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            slots: number(&self.slots),
            running: number(&self.running),
            state: if self.draining.load(Ordering::Relaxed) { "draining" } else { "running" }.to_owned(),
            started_at,
            settled: self.total_settled(),
            rss_bytes: rss_bytes(),
            leases: number(&self.leases),
            min_slots: number(&self.min_slots),
            max_slots: number(&self.max_slots),
            exclude: config.exclude.clone(),
            order: self.order.load(Ordering::Relaxed),
        }
    }
}

/// Beats until it is dropped, and passes on what was ordered.
pub(crate) async fn beat(
    broker: Arc<dyn Broker>,
    config: WorkerConfig,
    vitals: Arc<Vitals>,
    orders: watch::Sender<WorkerOrder>,
) {
    let host = host_name();
    let started_at = unix_ms();
    loop {
        match broker.heartbeat(&vitals.info(&config, &host, started_at)).await {
            Ok(Some(order)) => {
                orders.send_if_modified(|last| {
                    let is_new = order.number > last.number;
                    if is_new {
                        *last = order;
                    }
                    is_new
                });
            }
            // This worker was silent for so long that it was forgotten with its orders: the next one is number 1 again.
            Ok(None) if orders.borrow().number > 0 => {
                orders.send_if_modified(|last| {
                    *last = WorkerOrder::default();
                    false
                });
                vitals.order.store(0, Ordering::Relaxed);
            }
            Ok(None) | Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = vitals.changed.notified() => {}
        }
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
pub(crate) fn rss_bytes() -> u64 {
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
