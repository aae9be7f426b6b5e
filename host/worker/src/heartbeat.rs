//! Sends heartbeats, which tell how this worker is, and receives the orders for it. Failures are not reported here: the
//! poll loop reports a broker that cannot be reached.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};
use umbel_broker::{Broker, WorkerInfo, WorkerOrder};

use crate::{
    WorkerConfig,
    operating_system::{host_name, rss_bytes, unix_ms},
};

/// Between two heartbeats, and so the latest time at which an order arrives. A heartbeat costs one small round trip, and an
/// embedded store that is idle one commit: seldom enough for a disk, often enough for an operator who waits for a drain.
const INTERVAL: Duration = Duration::from_secs(2);

/// The state of a worker that its heartbeats tell, shared by all its parts.
#[derive(Debug)]
pub(crate) struct Vitals {
    info: Mutex<WorkerInfo>,
    settled: AtomicU64,
    /// An operator may wait for a change: the next heartbeat is sent at once.
    changed: Notify,
}

impl Vitals {
    pub(crate) fn new(config: &WorkerConfig) -> Self {
        let info = WorkerInfo {
            id: config.id.clone(),
            host: host_name(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            queues: Vec::new(),
            slots: 0,
            running: 0,
            state: "running".to_owned(),
            started_at: unix_ms(),
            settled: 0,
            rss_bytes: 0,
            leases: 0,
            min_slots: 0,
            max_slots: 0,
            exclude: config.exclude.clone(),
            order: 0,
        };
        Self { info: Mutex::new(info), settled: AtomicU64::new(0), changed: Notify::new() }
    }

    /// Changes the state for the next heartbeat.
    pub(crate) fn set(&self, change: impl FnOnce(&mut WorkerInfo)) {
        change(&mut self.info.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Changes the state and sends a heartbeat at once.
    pub(crate) fn announce(&self, change: impl FnOnce(&mut WorkerInfo)) {
        self.set(change);
        self.changed.notify_one();
    }

    /// Sends a heartbeat at once with the state `running` or `draining`.
    pub(crate) fn announce_draining(&self, draining: bool) {
        self.announce(|info| info.state = if draining { "draining" } else { "running" }.to_owned());
    }

    pub(crate) fn count_settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn total_settled(&self) -> u64 {
        self.settled.load(Ordering::Relaxed)
    }

    fn info(&self) -> WorkerInfo {
        let info = self.info.lock().unwrap_or_else(PoisonError::into_inner).clone();
        WorkerInfo { settled: self.total_settled(), rss_bytes: rss_bytes(), ..info }
    }
}

/// Sends heartbeats until it is dropped, and passes on the orders that they are answered with.
pub(crate) async fn beat(broker: Arc<dyn Broker>, vitals: Arc<Vitals>, orders: watch::Sender<WorkerOrder>) {
    loop {
        match broker.heartbeat(&vitals.info()).await {
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
                vitals.set(|info| info.order = 0);
            }
            Ok(None) | Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = vitals.changed.notified() => {}
        }
    }
}
