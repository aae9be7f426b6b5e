//! What one attempt used of its capabilities.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts while an attempt runs.
#[derive(Debug, Default)]
pub struct Meter {
    http_requests: AtomicU64,
    http_bytes_out: AtomicU64,
    http_bytes_in: AtomicU64,
    kv_operations: AtomicU64,
    blob_bytes_read: AtomicU64,
    blob_bytes_written: AtomicU64,
}

/// What a meter counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Metered {
    /// Requests that were sent, or tried to be.
    pub http_requests: u64,
    /// Bytes of heads and bodies of requests.
    pub http_bytes_out: u64,
    /// Bytes of heads and bodies of answers.
    pub http_bytes_in: u64,
    pub kv_operations: u64,
    /// Bytes of blobs that were handed to the guest.
    pub blob_bytes_read: u64,
    /// Bytes that the guest wrote into blobs, also into those that never came to exist.
    pub blob_bytes_written: u64,
}

impl Meter {
    /// One more request; answers how many that makes.
    pub fn http_request(&self) -> u64 {
        self.http_requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Answers how many bytes that makes.
    pub fn http_sent(&self, bytes: u64) -> u64 {
        self.http_bytes_out.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Answers how many bytes that makes.
    pub fn http_received(&self, bytes: u64) -> u64 {
        self.http_bytes_in.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// One more operation; answers how many that makes.
    pub fn kv_operation(&self) -> u64 {
        self.kv_operations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Answers how many bytes that makes.
    pub fn blob_read(&self, bytes: u64) -> u64 {
        self.blob_bytes_read.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    /// Answers how many bytes that makes.
    pub fn blob_written(&self, bytes: u64) -> u64 {
        self.blob_bytes_written.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    pub fn read(&self) -> Metered {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Metered {
            http_requests: of(&self.http_requests),
            http_bytes_out: of(&self.http_bytes_out),
            http_bytes_in: of(&self.http_bytes_in),
            kv_operations: of(&self.kv_operations),
            blob_bytes_read: of(&self.blob_bytes_read),
            blob_bytes_written: of(&self.blob_bytes_written),
        }
    }
}
