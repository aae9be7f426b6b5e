//! Reads of blobs' records.

use umbel_broker::{BlobPage, BlobRecord};
use umbel_model::{Digest, TenantId};

use crate::{error::Fault, reads::View};

fn not_yet() -> Fault {
    Fault::stored("blob", "this broker does not keep blobs yet")
}

impl View<'_> {
    pub(crate) fn blob(&self, _: &TenantId, _: Digest) -> Result<Option<BlobRecord>, Fault> {
        Err(not_yet())
    }

    pub(crate) fn blobs(&self, _: &TenantId, _: Option<&Digest>, _: u32) -> Result<BlobPage, Fault> {
        Err(not_yet())
    }
}
