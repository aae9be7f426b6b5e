//! The options of one call: what a job submitted on its own may have.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::{Json, text::Text};

/// How one call runs, instead of what its task says. Times are whole milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<String, Json>);

impl Options {
    pub fn new() -> Self {
        Self::default()
    }

    /// Any option by its name, such as `max_deliveries`: those of a submission but `idempotency_key`.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Serialize) -> Self {
        self.0.insert(name.into(), Json::of(&value));
        self
    }

    /// Where it waits for a worker.
    #[must_use]
    pub fn queue(self, queue: impl Into<String>) -> Self {
        self.with("queue", queue.into())
    }

    /// 0 to 9, 9 first.
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        self.with("priority", priority)
    }

    /// Retries after the first attempt.
    #[must_use]
    pub fn max_retries(self, retries: u32) -> Self {
        self.with("max_retries", retries)
    }

    /// Starts so long after its inputs are there.
    #[must_use]
    pub fn countdown(self, delay: Duration) -> Self {
        self.with("countdown_ms", millis(delay))
    }

    /// Starts at that time: RFC 3339, such as `2026-01-01T00:00:00Z`.
    #[must_use]
    pub fn eta(self, time: impl Into<String>) -> Self {
        self.with("eta", time.into())
    }

    /// Dropped if not started so long after it was ready.
    #[must_use]
    pub fn expires(self, after: Duration) -> Self {
        self.with("expires_ms", millis(after))
    }

    /// Stopped after so long.
    #[must_use]
    pub fn time_limit(self, limit: Duration) -> Self {
        self.with("time_limit_ms", millis(limit))
    }

    /// Asked to stop after so long.
    #[must_use]
    pub fn soft_time_limit(self, limit: Duration) -> Self {
        self.with("soft_time_limit_ms", millis(limit))
    }

    /// About one unit an instruction.
    #[must_use]
    pub fn fuel(self, fuel: u64) -> Self {
        self.with("fuel", fuel)
    }

    /// All of the sandbox's memory, bytes.
    #[must_use]
    pub fn memory_bytes(self, bytes: u64) -> Self {
        self.with("memory_bytes", bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The options as a JSON object. Fails if a value cannot be written.
    #[cfg(all(feature = "testing", not(target_arch = "wasm32")))]
    pub(crate) fn json(&self) -> Result<String, crate::Refused> {
        let mut text = Text::default();
        self.write(&mut text);
        text.finish().map_err(|problem| crate::Refused::new("invalid_option", problem))
    }

    /// Those of `newer` win.
    pub(super) fn merge(&mut self, newer: Self) {
        self.0.extend(newer.0);
    }

    pub(super) fn write(&self, text: &mut Text) {
        text.object(|fields| self.0.iter().for_each(|(name, value)| fields.value(name, value)));
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
