//! Blobs: what a record takes, when one may be made, and which of those that a step refers to are missing.
//!
//! A settle that adds blobs is decided by `refuses_settle` before its growth is; the Redis broker keeps this order in
//! `library/blobs.lua`.

use std::collections::HashSet;

use umbel_model::{Digest, UnixMs};

use super::storage;
use crate::{BlobPut, BlobRecord, Growth, NewBlob, NewNode, NewWork, Settle, Settled};

/// What the record of a blob takes beside its bytes, bytes: about what a store needs for it.
pub const RECORD_BYTES: u64 = 256;

/// The bytes that count of a blob of so many.
pub fn bytes(blob_bytes: u64) -> u64 {
    blob_bytes.saturating_add(RECORD_BYTES)
}

/// What a tenant has of blobs, and may have; a limit of 0 bytes is none.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    pub blobs: u64,
    pub max_blobs: u64,
    pub bytes: u64,
    pub max_bytes: u64,
}

impl Held {
    /// Why so many new blobs, which count so many bytes, cannot be stored.
    pub fn refuses(&self, blobs: u64, bytes: u64) -> Option<BlobPut> {
        if blobs == 0 {
            return None;
        }
        if self.blobs.saturating_add(blobs) > self.max_blobs {
            return Some(BlobPut::TooMany(self.max_blobs));
        }
        (!storage::fits(self.max_bytes, self.bytes, bytes)).then_some(BlobPut::StorageFull)
    }
}

/// The record of a new blob.
pub fn record(new: &NewBlob, now: UnixMs) -> BlobRecord {
    let NewBlob { digest, bytes, content_type } = new.clone();
    BlobRecord { digest, bytes, content_type, created_at: now, references: 0, unused_since: Some(now) }
}

/// The first of these blobs that is not there.
pub fn first_missing<'a, E>(
    wanted: impl IntoIterator<Item = &'a Digest>,
    mut is_there: impl FnMut(&Digest) -> Result<bool, E>,
) -> Result<Option<Digest>, E> {
    for digest in wanted {
        if !is_there(digest)? {
            return Ok(Some(*digest));
        }
    }
    Ok(None)
}

/// Those to which a node that is to be stored refers.
pub fn of_node(node: &NewNode) -> &[Digest] {
    match &node.work {
        NewWork::Job { blobs, .. } => blobs,
        NewWork::Join { .. } => &[],
    }
}

/// Those to which the nodes of a growth refer.
pub fn of_growth(growth: &Growth) -> impl Iterator<Item = &Digest> {
    let nodes = growth.workflows.iter().flat_map(|new| &new.nodes);
    nodes.chain(growth.members.iter().flat_map(|members| &members.nodes)).flat_map(of_node)
}

/// Whether a settle has to do with blobs.
pub fn has_blobs(settle: &Settle) -> bool {
    settle.blobs.is_some() || settle.growth.as_ref().is_some_and(|growth| of_growth(growth).next().is_some())
}

/// Why the blobs of a settle that is a success cannot be stored: first their number, then their bytes, then what is missing of those
/// that its result and then its growth refer to. What it writes itself is not missing.
pub fn refuses_settle<E>(
    settle: &Settle,
    held: impl FnOnce() -> Result<Held, E>,
    mut is_there: impl FnMut(&Digest) -> Result<bool, E>,
) -> Result<Option<Settled>, E> {
    let written = settle.blobs.iter().flat_map(|blobs| &blobs.written);
    let (mut known, mut new, mut new_bytes) = (HashSet::new(), 0, 0_u64);
    for blob in written {
        if known.insert(blob.digest) && !is_there(&blob.digest)? {
            new += 1;
            new_bytes = new_bytes.saturating_add(bytes(blob.bytes));
        }
    }
    if new > 0 {
        match held()?.refuses(new, new_bytes) {
            Some(BlobPut::TooMany(max)) => return Ok(Some(Settled::TooManyBlobs(max))),
            Some(_) => return Ok(Some(Settled::BlobStorageFull)),
            None => {}
        }
    }
    let refers = settle.blobs.iter().flat_map(|blobs| &blobs.refers);
    let wanted = refers.chain(settle.growth.iter().flat_map(|growth| of_growth(growth)));
    let missing = first_missing(wanted, |digest| Ok(known.contains(digest) || is_there(digest)?))?;
    Ok(missing.map(Settled::MissingBlob))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_refused_when_there_are_as_many_or_as_many_bytes_as_there_may_be() {
        let held = Held { blobs: 3, max_blobs: 4, bytes: 1_000, max_bytes: 2_000 };
        assert_eq!(held.refuses(1, 1_000), None);
        assert_eq!(held.refuses(1, 1_001), Some(BlobPut::StorageFull));
        assert_eq!(held.refuses(2, 2), Some(BlobPut::TooMany(4)));
        assert_eq!(held.refuses(0, 0), None);
        assert_eq!(Held { max_bytes: 0, ..held }.refuses(1, u64::MAX), None, "0: no limit");
        assert_eq!(bytes(u64::MAX), u64::MAX);
    }
}
