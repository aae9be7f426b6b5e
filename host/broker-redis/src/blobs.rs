//! Blobs: see `library/blobs.lua`.

use async_trait::async_trait;
use umbel_broker::{BlobDeleted, BlobGone, BlobPage, BlobPut, BlobRecord, Blobs, Error, PutBlob, Result};
use umbel_model::{Digest, TenantId};

use crate::RedisBroker;

fn not_yet() -> Error {
    Error::Failed("this broker does not keep blobs yet".into())
}

#[async_trait]
impl Blobs for RedisBroker {
    async fn put_blob(&self, _: &PutBlob) -> Result<BlobPut> {
        Err(not_yet())
    }

    async fn blob(&self, _: &TenantId, _: Digest) -> Result<Option<BlobRecord>> {
        Err(not_yet())
    }

    async fn blobs(&self, _: &TenantId, _: Option<&Digest>, _: u32) -> Result<BlobPage> {
        Err(not_yet())
    }

    async fn delete_blob(&self, _: &TenantId, _: Digest) -> Result<BlobDeleted> {
        Err(not_yet())
    }

    async fn collect_blobs(&self, _: u64, _: u32) -> Result<Vec<BlobGone>> {
        Err(not_yet())
    }
}
