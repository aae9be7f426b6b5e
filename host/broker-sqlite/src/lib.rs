//! The embedded broker: one SQLite file, one process, one writer thread with group commit.
//!
//! Invariants: an acknowledged operation is on the disk (unless `Synchronous::Off` was chosen); a second process on the
//! same file is refused; readers see what is committed and hold up nobody. The rules are those of
//! `umbel_broker::memory`, answer by answer; the conformance suite compares them. This crate must not know HTTP or wasm.

mod audit;
mod backup;
mod blobs;
mod config;
mod error;
mod kv;
mod lock;
mod readers;
mod reads;
mod rows;
mod schedules;
mod schema;
mod storage;
mod templates;
mod timer;
mod usage;
mod workflows;
mod writer;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use umbel_broker::{
    Clock, Finding, Limits, Maintenance, Promoted, Reaped, Result, StorageLimits, in_process::Channels,
};

pub use backup::backup;
pub use config::{SqliteConfig, Synchronous};
use error::Fault;
use readers::Readers;
use reads::View;
use timer::Timer;
use writer::{Handle, Step, Writer};

/// A broker in one file. Dropping it finishes what was asked, and waits for that.
pub struct SqliteBroker {
    // Before the writer: the last connection to close empties the write-ahead log.
    readers: Readers,
    writer: Handle,
    timer: Arc<Timer>,
    channels: Channels,
    storage_limits: StorageLimits,
    usage_retention_ms: u64,
}

impl SqliteBroker {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// `Refused` when another process has it, when the folder cannot be used, or when the file belongs to another
    /// program or a newer version; `Corrupt` when it is no database; `Full` when there is no room to make it.
    pub fn open(config: SqliteConfig) -> Result<Self> {
        let lock = lock::acquire(&config.path)?;
        let (conn, max_pages) = schema::open_writer(&config)?;
        schema::end_leases(&conn);
        let (timer, channels) = (Arc::new(Timer::new(config.clock)), Channels::default());
        let readers = Readers::start(&config.path)?;
        let (limits, lock) = (config.limits, Some(lock));
        let (storage_limits, usage_retention_ms) = (StorageLimits::of(&limits), limits.usage_retention_ms);
        let writer = Writer { conn, limits, max_pages, timer: timer.clone(), channels: channels.clone(), lock };
        Ok(Self { readers, writer: Handle::start(writer)?, timer, channels, storage_limits, usage_retention_ms })
    }

    /// A broker that lives as long as it is held, on the real clock: for tests of others.
    pub fn in_memory() -> Result<Self> {
        Self::in_memory_with(Clock::default(), Limits::default())
    }

    /// The same on a clock and with limits of the test's choice.
    pub fn in_memory_with(clock: Clock, limits: Limits) -> Result<Self> {
        let conn = schema::open_in_memory()?;
        let (timer, channels) = (Arc::new(Timer::new(clock)), Channels::default());
        let (storage_limits, usage_retention_ms) = (StorageLimits::of(&limits), limits.usage_retention_ms);
        let writer =
            Writer { conn, limits, max_pages: None, timer: timer.clone(), channels: channels.clone(), lock: None };
        let readers = Readers::none();
        Ok(Self { readers, writer: Handle::start(writer)?, timer, channels, storage_limits, usage_retention_ms })
    }

    async fn write<T, F>(&self, jobs: usize, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Step<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.writer.write(jobs, work).await
    }

    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&View<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let (now, usage_retention_ms) = (self.timer.now(), self.usage_retention_ms);
        self.readers.read(&self.writer, move |conn| work(&View { conn, now, usage_retention_ms })).await
    }
}

impl fmt::Debug for SqliteBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBroker").finish_non_exhaustive()
    }
}

umbel_broker::serve_in_process!(SqliteBroker);

#[async_trait]
impl Maintenance for SqliteBroker {
    async fn promote(&self, max: u32) -> Result<Promoted> {
        self.write(max as usize, move |step| step.promote(max)).await
    }

    async fn reap(&self, max: u32) -> Result<Reaped> {
        self.write(max as usize, move |step| step.reap(max)).await
    }

    async fn prune(&self, max: u32) -> Result<u32> {
        let (deleted, mut has_keys) = self.write(max as usize, move |step| step.prune(max)).await?;
        while has_keys {
            (_, has_keys) = self.write(0, move |step| step.prune(0)).await?;
        }
        Ok(deleted)
    }

    async fn catch_up(&self) -> Result<bool> {
        self.write(1_000, |step| step.find_labels()).await
    }

    /// Whoever reaps needs the same writer.
    async fn is_away(&self, within: Duration) -> bool {
        let written = tokio::time::timeout(within, self.write(0, |_| Ok(())));
        !matches!(written.await, Ok(Ok(())))
    }

    async fn check(&self) -> Result<()> {
        self.read(|view| view.check()).await?;
        self.write(0, |step| step.check()).await
    }

    async fn audit(&self, fix: bool) -> Result<Vec<Finding>> {
        let found = self.read(|view| audit::findings(view.conn)).await?;
        if !fix || found.is_empty() {
            return Ok(found);
        }
        // As much as there is in a group: nothing else is to wait behind it in the same one.
        self.write(usize::MAX / 2, |step| step.repair()).await
    }
}
