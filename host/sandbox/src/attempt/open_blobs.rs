//! What the host keeps for an open reader or writer of a blob.

use umbel_capabilities::BlobWriter;
use umbel_model::Digest;

use crate::attempt::{blob_bounds::OpenBlob, limiter::Reserved};

/// A blob that a guest reads.
#[derive(Debug)]
pub struct OpenReader {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) _open: OpenBlob,
    pub(crate) _reserved: Reserved,
}

/// A blob that a guest writes.
#[derive(Debug)]
pub struct OpenWriter {
    /// None after an error, and during a call.
    pub(crate) writer: Option<Box<dyn BlobWriter>>,
    pub(crate) _open: OpenBlob,
    pub(crate) _reserved: Reserved,
}
