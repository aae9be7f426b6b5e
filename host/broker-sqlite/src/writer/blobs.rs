//! Writes of blobs' records.

use umbel_broker::{BlobDeleted, BlobGone, BlobPut, PutBlob};
use umbel_model::{Digest, TenantId};

use crate::error::Fault;
use crate::writer::step::Step;

fn not_yet() -> Fault {
    Fault::stored("blob", "this broker does not keep blobs yet")
}

impl Step<'_> {
    pub(crate) fn put_blob(&mut self, _: &PutBlob) -> Result<BlobPut, Fault> {
        Err(not_yet())
    }

    pub(crate) fn delete_blob(&mut self, _: &TenantId, _: Digest) -> Result<BlobDeleted, Fault> {
        Err(not_yet())
    }

    pub(crate) fn collect_blobs(&mut self, _: u64, _: u32) -> Result<Vec<BlobGone>, Fault> {
        Err(not_yet())
    }
}
