//! Blobs of the in-memory model: their records, and the references of jobs.

use std::{collections::BTreeSet, convert::Infallible};

use umbel_model::{Digest, TenantId};

use super::{records::Key, state::State};
use umbel_broker::{
    rules::blobs::{self, Held},
    *,
};

impl State {
    pub(super) fn put_blob(&mut self, put: &PutBlob) -> BlobPut {
        if self.blobs.contains_key(&(put.tenant.clone(), put.blob.digest)) {
            self.add_blob(&put.tenant, &put.blob);
            return BlobPut::Present;
        }
        if let Some(refusal) = self.blobs_held(&put.tenant).refuses(1, blobs::bytes(put.blob.bytes)) {
            return refusal;
        }
        self.add_blob(&put.tenant, &put.blob);
        BlobPut::Stored
    }

    /// Makes a record, or takes it as put again.
    fn add_blob(&mut self, tenant: &TenantId, new: &NewBlob) {
        let now = self.now;
        let stored = self.blobs.entry((tenant.clone(), new.digest)).or_insert_with(|| blobs::record(new, now));
        stored.unused_since = stored.unused_since.map(|_| now);
    }

    pub(super) fn blob(&self, tenant: &TenantId, digest: Digest) -> Option<BlobRecord> {
        self.blobs.get(&(tenant.clone(), digest)).cloned()
    }

    fn blobs_of(&self, tenant: &TenantId) -> impl Iterator<Item = &BlobRecord> {
        self.blobs.iter().filter(move |((of, _), _)| of == tenant).map(|(_, record)| record)
    }

    pub(super) fn blobs(&self, tenant: &TenantId, after: Option<&Digest>, max: u32) -> BlobPage {
        let max = max.min(BLOB_STEP);
        let rest = self.blobs_of(tenant).filter(|blob| after.is_none_or(|after| blob.digest > *after));
        BlobPage::new(rest.take(max as usize).cloned().collect(), max)
    }

    pub(super) fn delete_blob(&mut self, tenant: &TenantId, digest: Digest) -> BlobDeleted {
        let key = (tenant.clone(), digest);
        match self.blobs.get(&key) {
            None => BlobDeleted::NotFound,
            Some(blob) if blob.references > 0 => BlobDeleted::InUse(blob.references),
            Some(_) => {
                self.blobs.remove(&key);
                BlobDeleted::Deleted
            }
        }
    }

    pub(super) fn collect_blobs(&mut self, retention_ms: u64, max: u32) -> Vec<BlobGone> {
        let now = self.now;
        let unused = self.blobs.iter().filter_map(|((tenant, _), blob)| {
            let since = blob.unused_since.filter(|since| since.saturating_add(retention_ms) <= now)?;
            Some((since, BlobGone { tenant: tenant.clone(), digest: blob.digest }))
        });
        let mut unused: Vec<_> = unused.collect();
        unused.sort_by(|(a, one), (b, other)| (a, &one.tenant, one.digest).cmp(&(b, &other.tenant, other.digest)));
        unused.truncate(max.min(BLOB_STEP) as usize);
        let gone: Vec<BlobGone> = unused.into_iter().map(|(_, gone)| gone).collect();
        self.blobs.retain(|(tenant, digest), _| !gone.iter().any(|it| it.tenant == *tenant && it.digest == *digest));
        gone
    }

    pub(super) fn blob_bytes(&self, tenant: &TenantId) -> u64 {
        self.blobs_of(tenant).map(|blob| blobs::bytes(blob.bytes)).sum()
    }

    fn blobs_held(&self, tenant: &TenantId) -> Held {
        Held {
            blobs: self.blobs_of(tenant).count() as u64,
            max_blobs: self.limits.max_blobs,
            bytes: self.blob_bytes(tenant),
            max_bytes: self.limits_of(tenant).blobs,
        }
    }

    // ---- references

    /// The first of these blobs that the tenant does not have.
    pub(super) fn missing_blob<'a>(
        &self,
        tenant: &TenantId,
        wanted: impl IntoIterator<Item = &'a Digest>,
    ) -> Option<Digest> {
        wanted.into_iter().find(|digest| !self.blobs.contains_key(&(tenant.clone(), **digest))).copied()
    }

    /// A stored job refers to these blobs.
    pub(super) fn refer(&mut self, key: &Key, digests: &[Digest]) {
        for digest in digests {
            if self.job_mut(key).blobs.insert(*digest)
                && let Some(blob) = self.blobs.get_mut(&(key.0.clone(), *digest))
            {
                blob.references += 1;
                blob.unused_since = None;
            }
        }
    }

    /// A job that is gone referred to these blobs.
    pub(super) fn release_blobs(&mut self, tenant: &TenantId, digests: &BTreeSet<Digest>) {
        let now = self.now;
        for digest in digests {
            if let Some(blob) = self.blobs.get_mut(&(tenant.clone(), *digest)) {
                blob.references -= 1;
                blob.unused_since = (blob.references == 0).then_some(now);
            }
        }
    }

    // ---- settles

    /// Why the blobs of a settle cannot be stored.
    pub(super) fn refuses_blobs(&self, settle: &Settle) -> Option<Settled> {
        let held = || Ok::<_, Infallible>(self.blobs_held(&settle.tenant));
        let is_there = |digest: &Digest| Ok(self.blobs.contains_key(&(settle.tenant.clone(), *digest)));
        let Ok(refusal) = blobs::refuses_settle(settle, held, is_there);
        refusal
    }

    /// The blobs that an attempt wrote are there from now on.
    pub(super) fn store_blobs(&mut self, settle: &Settle) {
        for blob in settle.blobs.iter().flat_map(|blobs| &blobs.written) {
            self.add_blob(&settle.tenant, blob);
        }
    }
}
