//! Writes of blobs' records, and the references of jobs to them.

use umbel_broker::{
    BLOB_STEP, BlobDeleted, BlobGone, BlobPut, NewBlob, PutBlob, Settle, Settled,
    rules::blobs::{self, Held},
};
use umbel_model::{Digest, TenantId};

use crate::writer::{
    jobs::head::{BLOBS, Head},
    step::Step,
};
use crate::{
    error::Fault,
    rows::{all, changed, first, get, insert, one, run},
};

const FIND: &str = "SELECT bytes, uses FROM blob WHERE tenant = ? AND digest = ?";
const COUNT: &str = "SELECT blobs FROM blob_count WHERE tenant = ?";
const ADD_TO_COUNT: &str = "INSERT INTO blob_count (tenant, blobs) VALUES (?, ?)
    ON CONFLICT (tenant) DO UPDATE SET blobs = blobs + excluded.blobs";
const TOUCH: &str = "UPDATE blob SET unused_since = ? WHERE tenant = ? AND digest = ? AND unused_since IS NOT NULL";
const UNUSED: &str = "SELECT tenant, digest, bytes FROM blob INDEXED BY blob_unused
    WHERE unused_since <= ? ORDER BY unused_since, tenant, digest LIMIT ?";
const USE: &str = "UPDATE blob SET uses = uses + 1, unused_since = NULL WHERE tenant = ? AND digest = ?";
const END_USE: &str =
    "UPDATE blob SET uses = max(uses - 1, 0), unused_since = iif(uses > 1, NULL, ?) WHERE tenant = ? AND digest = ?";
const USED: &str = "SELECT digest FROM blob_use WHERE rid = ?";

impl Step<'_> {
    pub(crate) fn put_blob(&mut self, put: &PutBlob) -> Result<BlobPut, Fault> {
        let PutBlob { tenant, blob } = put;
        if self.has_blob(tenant, &blob.digest)? {
            self.add_blob(tenant, blob)?;
            return Ok(BlobPut::Present);
        }
        self.check_room()?;
        if let Some(refusal) = self.blobs_held(tenant)?.refuses(1, blobs::bytes(blob.bytes)) {
            return Ok(refusal);
        }
        self.add_blob(tenant, blob)?;
        Ok(BlobPut::Stored)
    }

    fn has_blob(&self, tenant: &TenantId, digest: &Digest) -> Result<bool, Fault> {
        Ok(one(self.conn, FIND, &[tenant, digest], first::<u64>)?.is_some())
    }

    /// Makes a record, or takes it as put again.
    fn add_blob(&mut self, tenant: &TenantId, new: &NewBlob) -> Result<(), Fault> {
        let NewBlob { digest, bytes, content_type } = new;
        if self.has_blob(tenant, digest)? {
            return run(self.conn, TOUCH, &[&self.now, tenant, digest]);
        }
        insert!(self.conn, "INSERT INTO blob" {
            tenant: tenant, digest: digest, bytes: bytes, content_type: content_type, created_at: self.now, uses: 0_u64,
            unused_since: self.now
        })?;
        run(self.conn, ADD_TO_COUNT, &[tenant, &1_i64])?;
        self.stored.change(tenant, |stored| stored.blobs += blobs::bytes(*bytes));
        Ok(())
    }

    fn remove_blob(&mut self, tenant: &TenantId, digest: &Digest, bytes: u64) -> Result<(), Fault> {
        run(self.conn, "DELETE FROM blob WHERE tenant = ? AND digest = ?", &[tenant, digest])?;
        run(self.conn, ADD_TO_COUNT, &[tenant, &-1_i64])?;
        let bytes = blobs::bytes(bytes);
        self.stored.change(tenant, |stored| stored.blobs = stored.blobs.saturating_sub(bytes));
        Ok(())
    }

    pub(crate) fn delete_blob(&mut self, tenant: &TenantId, digest: Digest) -> Result<BlobDeleted, Fault> {
        let found = one(self.conn, FIND, &[tenant, &digest], |row| Ok((get::<u64>(row, 0)?, get::<u64>(row, 1)?)))?;
        match found {
            None => Ok(BlobDeleted::NotFound),
            Some((bytes, 0)) => {
                self.remove_blob(tenant, &digest, bytes)?;
                Ok(BlobDeleted::Deleted)
            }
            Some((_, uses)) => Ok(BlobDeleted::InUse(uses)),
        }
    }

    pub(crate) fn collect_blobs(&mut self, retention_ms: u64, max: u32) -> Result<Vec<BlobGone>, Fault> {
        let Some(until) = self.now.checked_sub(retention_ms) else { return Ok(Vec::new()) };
        let unused = all(self.conn, UNUSED, &[&until, &max.min(BLOB_STEP)], |row| {
            Ok((BlobGone { tenant: get(row, 0)?, digest: get(row, 1)? }, get::<u64>(row, 2)?))
        })?;
        for (BlobGone { tenant, digest }, bytes) in &unused {
            self.remove_blob(tenant, digest, *bytes)?;
        }
        Ok(unused.into_iter().map(|(gone, _)| gone).collect())
    }

    fn blobs_held(&self, tenant: &TenantId) -> Result<Held, Fault> {
        Ok(Held {
            blobs: one(self.conn, COUNT, &[tenant], first)?.unwrap_or(0),
            max_blobs: self.limits.max_blobs,
            bytes: self.stored.of(tenant).blobs,
            max_bytes: self.storage_limits(tenant).blobs,
        })
    }

    // ---- references

    /// The first of these blobs that the tenant does not have.
    pub(crate) fn missing_blob<'a>(
        &self,
        tenant: &TenantId,
        wanted: impl IntoIterator<Item = &'a Digest>,
    ) -> Result<Option<Digest>, Fault> {
        blobs::first_missing(wanted, |digest| self.has_blob(tenant, digest))
    }

    /// A stored job refers to these blobs.
    pub(crate) fn refer(&self, tenant: &TenantId, rid: i64, digests: &[Digest]) -> Result<(), Fault> {
        for digest in digests {
            let sql = "INSERT OR IGNORE INTO blob_use (rid, digest) VALUES (?, ?)";
            if changed(self.conn, sql, &[&rid, digest])? > 0 {
                run(self.conn, USE, &[tenant, digest])?;
            }
        }
        Ok(())
    }

    /// A job is about to be deleted.
    pub(crate) fn release_blobs(&self, head: &Head) -> Result<(), Fault> {
        if head.has & BLOBS == 0 {
            return Ok(());
        }
        let tenant = self.scheduler.tenant(head.queue_id);
        for digest in all(self.conn, USED, &[&head.rid], first::<Digest>)? {
            run(self.conn, END_USE, &[&self.now, tenant, &digest])?;
        }
        head.delete_from(self.conn, "DELETE FROM blob_use WHERE rid = ?")
    }

    // ---- settles

    /// Why the blobs of a settle cannot be stored.
    pub(crate) fn refuses_blobs(&self, settle: &Settle) -> Result<Option<Settled>, Fault> {
        let is_there = |digest: &Digest| self.has_blob(&settle.tenant, digest);
        blobs::refuses_settle(settle, || self.blobs_held(&settle.tenant), is_there)
    }

    /// The blobs that an attempt wrote are there from now on, and its job refers to those that its result names.
    pub(crate) fn store_blobs(&mut self, head: &mut Head, settle: &Settle) -> Result<(), Fault> {
        let Some(of_settle) = &settle.blobs else { return Ok(()) };
        for blob in &of_settle.written {
            self.add_blob(&settle.tenant, blob)?;
        }
        if !of_settle.refers.is_empty() && head.has & BLOBS == 0 {
            head.has |= BLOBS;
            run(self.conn, "UPDATE job SET knobs = knobs | ? WHERE rid = ?", &[&BLOBS, &head.rid])?;
        }
        self.refer(&settle.tenant, head.rid, &of_settle.refers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_write_of_a_blob_costs_more_because_more_are_stored() {
        for sql in [FIND, COUNT, TOUCH, UNUSED, USE, END_USE, USED] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
