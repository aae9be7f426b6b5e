//! The lease of a service: of all processes on a store, one polls for the service, and the others wait.
//!
//! The lease only saves polling, and every step is safe in any number of processes. So a process that cannot ask for the
//! lease works as if it held it, and one that loses it ends its step first.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use umbel_broker::Broker;

/// The duration of a lease. When its holder dies, another process takes over within this and the time of a call: within 2 s.
const TTL: Duration = Duration::from_millis(1_500);
/// Between two renewals: two may fail.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// The shortest pause of a process that waits: the broker's clock may differ.
const MIN_WAIT: Duration = Duration::from_millis(100);
/// The longest time that giving up a lease takes; after that it expires by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// A name of this process that no other has.
pub(crate) fn process_name() -> String {
    format!("{}-{:016x}", std::process::id(), RandomState::new().build_hasher().finish())
}

/// Held or waited for until it is released or dropped.
pub(crate) struct Lease {
    broker: Arc<dyn Broker>,
    service: &'static str,
    process: String,
    held: watch::Receiver<bool>,
    keeping: AbortOnDropHandle<()>,
}

impl Lease {
    pub(crate) fn start(broker: Arc<dyn Broker>, service: &'static str, process: String) -> Self {
        let (sender, held) = watch::channel(false);
        let keeping = tokio::spawn(keep(broker.clone(), service, process.clone(), sender));
        Self { broker, service, process, held, keeping: AbortOnDropHandle::new(keeping) }
    }

    /// Waits until this process holds the lease. Safe to drop at any await.
    pub(crate) async fn held(&mut self) {
        // Without a keeper the service works.
        let _ = self.held.wait_for(|held| *held).await;
    }

    /// Gives the lease up, so that another process takes over at once.
    pub(crate) async fn release(self) {
        self.keeping.abort();
        let _ = self.keeping.await;
        if *self.held.borrow() {
            let released = self.broker.hold_service(self.service, &self.process, 0);
            let _ = tokio::time::timeout(RELEASE_TIMEOUT, released).await;
        }
    }
}

async fn keep(broker: Arc<dyn Broker>, service: &'static str, process: String, held: watch::Sender<bool>) {
    let ttl_ms = TTL.as_millis() as u64;
    loop {
        let others = broker.hold_service(service, &process, ttl_ms).await.unwrap_or_default();
        held.send_if_modified(|held| std::mem::replace(held, others.is_none()) != others.is_none());
        let pause = others.map_or(RENEW_EVERY, |ms| Duration::from_millis(ms).clamp(MIN_WAIT, TTL));
        tokio::time::sleep(pause).await;
    }
}
