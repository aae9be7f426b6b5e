//! Large arguments and results of jobs. The broker's records have only references to them.
//!
//! `values/<tenant>/<job>/<sha256>` holds one. The path contains the tenant of the reader, so no reference, whoever wrote it,
//! leads to another tenant's value; the bytes are checked against the reference.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use object_store::{ObjectMeta, ObjectStoreExt as _, PutMode, path::Path as Location};
use sha2::{Digest as _, Sha256};
use umbel_model::{Digest, JobId, LargeValue, TenantId};

use crate::{
    Error, ModuleStore,
    store::{in_memory, random_name},
};

/// Bytes of a piece of a value that is read in pieces.
pub const VALUE_PIECE_BYTES: usize = 256 << 10;

/// The folder of all values.
const ROOT: &str = "values";
/// The file in `ROOT` that names the broker whose jobs have these values. It is no valid tenant, and older releases ignore it.
const OWNER: &str = "OWNER";

/// An entry in the listing of all values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueEntry {
    pub tenant: TenantId,
    pub job: JobId,
    /// Since it was written, by the store's clock and this machine's.
    pub age: Duration,
    pub bytes: u64,
}

impl ModuleStore {
    /// Stores a large value of a job; the same text twice is stored once. The caller limits its size.
    pub async fn put_value(&self, tenant: &TenantId, job: JobId, text: &str) -> Result<LargeValue, Error> {
        let bytes = text.len() as u64;
        let upload = in_memory(Bytes::copy_from_slice(text.as_bytes()));
        let put = self.put_under(upload, bytes, |digest| location(tenant, job, digest)).await?;
        Ok(LargeValue { sha256: put.digest, bytes, of: job })
    }

    /// The text of a value of this tenant. A missing or damaged value is a permanent error.
    pub async fn value(&self, tenant: &TenantId, stored: &LargeValue) -> Result<String, Error> {
        let found = self.objects.get(&location(tenant, stored.of, &stored.sha256)).await;
        let found = self.found(found)?.ok_or(Error::ValueMissing { job: stored.of })?;
        let corrupted = || {
            tracing::error!(%tenant, job = %stored.of, "a stored value is damaged");
            Error::ValueCorrupted { job: stored.of }
        };
        // Checked before it is read: a reference with a too small size must not fill the memory.
        if found.meta.size != stored.bytes {
            return Err(corrupted());
        }
        let bytes = found.bytes().await.map_err(|e| self.failed(&e))?;
        if Digest::of(&bytes) != stored.sha256 {
            return Err(corrupted());
        }
        String::from_utf8(bytes.into()).map_err(|_| corrupted())
    }

    /// The text of a value of this tenant in pieces of `VALUE_PIECE_BYTES`, so that a slow reader holds one of them. It is looked
    /// through before: a missing or damaged value is a permanent error, as in `value`. One that is deleted while it is read ends
    /// with an error.
    pub async fn value_pieces(
        &self,
        tenant: &TenantId,
        stored: &LargeValue,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let location = location(tenant, stored.of, &stored.sha256);
        let found = self.found(self.objects.head(&location).await)?.ok_or(Error::ValueMissing { job: stored.of })?;
        let mut sha = Sha256::new();
        if found.size == stored.bytes {
            let mut pieces = self.pieces(&location, stored.bytes);
            while let Some(piece) = pieces.try_next().await? {
                sha.update(&piece);
            }
        }
        if found.size != stored.bytes || Digest::from_bytes(sha.finalize().into()) != stored.sha256 {
            tracing::error!(%tenant, job = %stored.of, "a stored value is damaged");
            return Err(Error::ValueCorrupted { job: stored.of });
        }
        Ok(self.pieces(&location, stored.bytes))
    }

    fn pieces(&self, location: &Location, bytes: u64) -> BoxStream<'static, Result<Bytes, Error>> {
        let piece = move |(store, location, from): (Self, Location, u64)| async move {
            if from >= bytes {
                return Ok(None);
            }
            let to = bytes.min(from + VALUE_PIECE_BYTES as u64);
            let piece = store.objects.get_range(&location, from..to).await.map_err(|e| store.failed(&e))?;
            Ok(Some((piece, (store, location, to))))
        };
        stream::try_unfold((self.clone(), location.clone(), 0), piece).boxed()
    }

    /// Stores a value again for another job of the tenant: values are deleted with the job that they belong to.
    pub async fn copy_value(&self, tenant: &TenantId, stored: &LargeValue, to: JobId) -> Result<LargeValue, Error> {
        let text = self.value(tenant, stored).await?;
        self.put_value(tenant, to, &text).await
    }

    /// Whether the tenant has a value of any job.
    pub async fn has_values(&self, tenant: &TenantId) -> Result<bool, Error> {
        let folder = Location::from(format!("{ROOT}/{tenant}"));
        let first = self.objects.list(Some(&folder)).try_next().await.map_err(|e| self.failed(&e))?;
        Ok(first.is_some())
    }

    /// Deletes all values of a job; answers how many.
    pub async fn delete_values(&self, tenant: &TenantId, job: JobId) -> Result<u32, Error> {
        self.delete_values_older(tenant, job, Duration::ZERO).await
    }

    /// Deletes the values of a job that are at least so old: a younger one may belong to a submission under way. Lists only
    /// the job's own folder.
    pub async fn delete_values_older(&self, tenant: &TenantId, job: JobId, least: Duration) -> Result<u32, Error> {
        let folder = Location::from(format!("{ROOT}/{tenant}/{job}"));
        let found: Vec<ObjectMeta> =
            self.objects.list(Some(&folder)).try_collect().await.map_err(|e| self.failed(&e))?;
        let mut deleted = 0;
        for value in found.iter().filter(|value| age(value) >= least) {
            deleted += u32::from(self.found(self.objects.delete(&value.location).await)?.is_some());
        }
        Ok(deleted)
    }

    /// The name of the broker whose jobs have these values; none when no broker claimed them.
    pub async fn values_owner(&self) -> Result<Option<String>, Error> {
        let found = self.objects.get(&Location::from(format!("{ROOT}/{OWNER}"))).await;
        let Some(found) = self.found(found)? else { return Ok(None) };
        let bytes = found.bytes().await.map_err(|e| self.failed(&e))?;
        Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// Claims the values for a broker, unless another one did. Answers the name of the broker that has them.
    pub async fn claim_values(&self, owner: &str) -> Result<String, Error> {
        if let Some(known) = self.values_owner().await? {
            return Ok(known);
        }
        let location = Location::from(format!("{ROOT}/{OWNER}"));
        let owner_bytes = Bytes::copy_from_slice(owner.as_bytes());
        match self.objects.put_opts(&location, owner_bytes.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(owner.to_owned()),
            // Another process was faster.
            Err(object_store::Error::AlreadyExists { .. }) => Ok(self.values_owner().await?.unwrap_or_default()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// A new unique name for a broker.
    pub fn new_owner() -> Result<String, Error> {
        random_name(Path::new(ROOT))
    }

    /// Every value of every tenant, in no order. Other files are skipped.
    pub fn values(&self) -> BoxStream<'static, Result<ValueEntry, Error>> {
        let store = self.clone();
        let found = self.objects.list(Some(&Location::from(ROOT)));
        found.map_err(move |e| store.failed(&e)).try_filter_map(|meta| async move { Ok(entry(&meta)) }).boxed()
    }
}

fn location(tenant: &TenantId, job: JobId, digest: &Digest) -> Location {
    Location::from(format!("{ROOT}/{tenant}/{job}/{}", digest.hex()))
}

/// The entry for a path.
fn entry(meta: &ObjectMeta) -> Option<ValueEntry> {
    let mut parts = meta.location.as_ref().split('/').skip(1);
    let (tenant, job) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(ValueEntry { tenant, job, age: age(meta), bytes: meta.size })
}

fn age(meta: &ObjectMeta) -> Duration {
    SystemTime::now().duration_since(meta.last_modified.into()).unwrap_or_default()
}
