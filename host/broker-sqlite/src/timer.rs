//! The broker's clock: this machine's, but it never goes back while the process lives.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use umbel_broker::Clock;
use umbel_model::UnixMs;

#[derive(Debug)]
pub(crate) struct Timer {
    clock: Clock,
    last: AtomicU64,
}

impl Timer {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { clock, last: AtomicU64::new(0) }
    }

    /// Milliseconds since the epoch.
    pub(crate) fn now(&self) -> UnixMs {
        self.clock.fixed_now().unwrap_or_else(|| {
            let system = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as UnixMs);
            self.last.fetch_max(system, Ordering::SeqCst).max(system)
        })
    }
}
