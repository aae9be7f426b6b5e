//! Memory and tables of one attempt, summed over all of them, and whether a guest was refused more.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use wasmtime::{ResourceLimiter, Result};

/// Core instances of one component. A componentize-py component has up to 38.
pub(crate) const MAX_CORE_INSTANCES: u32 = 64;
/// Linear memories of one component; composed ones have more than one.
pub(crate) const MAX_MEMORIES: u32 = 2;
/// Tables of one component; Python and JavaScript ones have two.
pub(crate) const MAX_TABLES: u32 = 8;
/// Elements of one table.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 100_000;

/// Wasmtime's own `StoreLimits` counts each memory by itself; this counts them together.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    pub(crate) max_bytes: usize,
    bytes: usize,
    /// The last growth that was allowed, to subtract it if it fails.
    last_growth: usize,
    pub(crate) peak_bytes: usize,
    /// A guest that is refused memory traps without saying why: this is how the outcome knows.
    pub(crate) memory_refused: bool,
    pub(crate) table_refused: bool,
    elements: usize,
    /// What the host keeps for the guest, bytes.
    kept: Arc<AtomicUsize>,
}

/// Memory that the host keeps for a guest: it counts as the guest's until this is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    kept: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.kept.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Limiter {
    pub(crate) fn new(max_bytes: u64) -> Self {
        Self { max_bytes: usize::try_from(max_bytes).unwrap_or(usize::MAX), ..Self::default() }
    }

    /// Memory of the host for the guest; none if the guest's limit leaves no room for it.
    pub(crate) fn reserve(&mut self, bytes: usize) -> Option<Reserved> {
        let all = self.bytes.saturating_add(self.kept.load(Ordering::Relaxed)).saturating_add(bytes);
        if all > self.max_bytes {
            return None;
        }
        self.peak_bytes = self.peak_bytes.max(all);
        self.kept.fetch_add(bytes, Ordering::Relaxed);
        Some(Reserved { kept: self.kept.clone(), bytes })
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        let growth = desired.saturating_sub(current);
        let bytes = self.bytes.saturating_add(growth);
        let all = bytes.saturating_add(self.kept.load(Ordering::Relaxed));
        if all > self.max_bytes || maximum.is_some_and(|max| desired > max) {
            self.memory_refused = true;
            return Ok(false);
        }
        self.memory_refused = false;
        self.bytes = bytes;
        self.last_growth = growth;
        self.peak_bytes = self.peak_bytes.max(all);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> Result<()> {
        // Also called after a refusal, when nothing was counted.
        if !self.memory_refused {
            self.bytes -= self.last_growth;
            self.memory_refused = true;
        }
        self.last_growth = 0;
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        let elements = self.elements.saturating_add(desired.saturating_sub(current));
        if elements > 2 * MAX_TABLE_ELEMENTS || maximum.is_some_and(|max| desired > max) {
            self.table_refused = true;
            return Ok(false);
        }
        self.elements = elements;
        Ok(true)
    }

    fn instances(&self) -> usize {
        MAX_CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        MAX_TABLES as usize
    }

    fn memories(&self) -> usize {
        MAX_MEMORIES as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_memories_share_one_limit_and_a_refusal_is_remembered() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        assert!(!limiter.memory_growing(0, 60, None).unwrap());
        assert!(limiter.memory_refused);
        assert!(limiter.memory_growing(0, 40, None).unwrap());
        assert!(!limiter.memory_refused);
        assert_eq!(limiter.peak_bytes, 100);
    }

    #[test]
    fn what_the_host_keeps_counts_until_it_is_dropped() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        let kept = limiter.reserve(30).unwrap();
        assert!(limiter.reserve(20).is_none());
        assert!(!limiter.memory_growing(60, 80, None).unwrap());
        drop(kept);
        assert!(limiter.memory_growing(60, 80, None).unwrap());
        assert_eq!(limiter.peak_bytes, 90);
    }

    #[test]
    fn a_growth_that_failed_is_not_counted() {
        let mut limiter = Limiter::new(100);
        assert!(limiter.memory_growing(0, 60, None).unwrap());
        limiter.memory_grow_failed(wasmtime::format_err!("no")).unwrap();
        assert!(limiter.memory_growing(0, 90, None).unwrap());
    }
}
