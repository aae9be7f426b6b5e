//! The rules of a broker as an in-memory model: what the real ones are compared with, and what other crates' tests
//! run on. Nothing survives the process. Clarity before speed.

mod arrivals;
mod audit;
mod blobs;
mod claims;
mod dead_set;
mod deliveries;
mod events;
mod growth;
mod inspect;
mod kv;
mod maintenance;
mod records;
mod registry;
mod requests;
mod schedules;
mod state;
mod storage;
mod uniqueness;
mod usage;
mod workflow_reads;
mod workflows;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use state::State;
use umbel_broker::{in_process::Channels, *};

pub use inspect::Limited;

/// A broker in memory. By default on the real clock.
#[derive(Debug)]
pub struct MemoryBroker {
    clock: Clock,
    state: Mutex<State>,
    channels: Channels,
    storage_limits: StorageLimits,
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new(Clock::default(), Limits::default())
    }
}

impl MemoryBroker {
    pub fn new(clock: Clock, limits: Limits) -> Self {
        let storage_limits = StorageLimits::of(&limits);
        let state = Mutex::new(State { limits, ..State::default() });
        Self { clock, state, channels: Channels::default(), storage_limits }
    }

    /// The state for one step, which has one time.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = self.clock.fixed_now().unwrap_or_else(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |d| d.as_millis() as u64)
        });
        state.scheduler.now = state.now;
        state
    }

    async fn read<T>(&self, work: impl FnOnce(&mut State) -> T) -> Result<T> {
        Ok(work(&mut self.state()))
    }

    /// Does a step, and sends what it wants told.
    async fn write<T>(&self, _jobs: usize, work: impl FnOnce(&mut State) -> T) -> Result<T> {
        let mut state = self.state();
        let answer = work(&mut state);
        state.scheduler.keep();
        let (ready_in, others) =
            (std::mem::take(&mut state.scheduler.ready_in), std::mem::take(&mut state.notifications));
        drop(state);
        self.channels.notify(ready_in, others);
        Ok(answer)
    }
}

umbel_broker::serve_in_process!(MemoryBroker);

#[async_trait]
impl Maintenance for MemoryBroker {
    async fn promote(&self, max: u32) -> Result<Promoted> {
        self.write(0, |state| state.promote(max)).await
    }

    async fn reap(&self, max: u32) -> Result<Reaped> {
        self.write(0, |state| state.reap(max)).await
    }

    async fn prune(&self, max: u32) -> Result<u32> {
        self.write(0, |state| state.prune(max)).await
    }

    async fn hold_service(&self, service: &str, process: &str, ttl_ms: u64) -> Result<Option<u64>> {
        self.write(0, |state| state.hold_service(service, process, ttl_ms)).await
    }

    async fn is_away(&self, _: std::time::Duration) -> bool {
        false
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn audit(&self, _: bool) -> Result<Vec<Finding>> {
        self.read(|state| state.audit()).await
    }
}

/// A broker in memory behind the trait, on the real clock.
pub fn shared() -> Arc<dyn Broker> {
    Arc::new(MemoryBroker::default())
}
