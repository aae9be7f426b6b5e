//! Sends heartbeats, which tell how this worker is, and receives the orders for it. Failures are not reported here: the
//! poll loop reports a broker that cannot be reached.

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

use crate::{
    WorkerConfig,
    machine::{host_name, rss_bytes, unix_ms},
};

/// Between two heartbeats, and so the latest time at which an order arrives. A heartbeat costs one small round trip, and an
/// embedded store that is idle one commit: seldom enough for a disk, often enough for an operator who waits for a drain.
const INTERVAL: Duration = Duration::from_secs(2);

/// The state of a worker that its heartbeats tell, shared by all its parts.
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
    /// An operator may wait for this change: the next heartbeat is sent at once.
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

/// Sends heartbeats until it is dropped, and passes on the orders that they are answered with.
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
