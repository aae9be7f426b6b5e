//! The bounds of the blobs of one attempt.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::config::BlobCallLimits;

/// The blobs of one attempt, over all calls of its task. Their bytes are counted by its meter.
#[derive(Debug, Default)]
pub(crate) struct BlobBounds {
    pub(crate) limits: BlobCallLimits,
    open: Arc<AtomicUsize>,
    begun: usize,
}

/// An open reader or writer, until it is dropped.
#[derive(Debug)]
pub(crate) struct OpenBlob(Arc<AtomicUsize>);

impl Drop for OpenBlob {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BlobBounds {
    pub(crate) fn new(limits: BlobCallLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// One more that is open, or why not.
    pub(crate) fn open(&self) -> Result<OpenBlob, String> {
        let max = self.limits.open;
        if self.open.fetch_add(1, Ordering::Relaxed) >= max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(format!("an attempt has at most {max} blobs open: close one first"));
        }
        Ok(OpenBlob(self.open.clone()))
    }

    /// Counts one more that is written, also if it is never finished; or why not.
    pub(crate) fn begin(&mut self) -> Result<(), String> {
        let max = self.limits.written;
        if self.begun >= max {
            return Err(format!("an attempt writes at most {max} blobs"));
        }
        self.begun += 1;
        Ok(())
    }

    /// Whether so many bytes may be written after so many; or why not.
    pub(crate) fn check_written(&self, before: u64, more: usize) -> Result<(), String> {
        let max = self.limits.written_bytes;
        if before.saturating_add(more as u64) > max {
            return Err(format!("an attempt writes at most {max} bytes of blobs"));
        }
        Ok(())
    }
}
