//! Writes of key-value entries.

use rusqlite::Connection;
use umbel_broker::{
    KV_STEP, KvBucketDeleted, KvDelivery, KvEntry, KvWrite, KvWritten,
    rules::kv::{self, Next},
};
use umbel_model::{BucketName, KvKey, TenantId};

use crate::writer::step::Step;
use crate::{
    error::Fault,
    kv::entry,
    rows::{all, first, get, insert, one, run, update},
};

/// Expired entries that one prune deletes at most.
const EXPIRY_SWEEP: u32 = 500;

const FIND: &str = "SELECT version, expires_at, value, rowid FROM kv INDEXED BY kv_key
    WHERE tenant = ? AND bucket = ? AND key = ?";
/// Whether a delivery is the current one of a running job.
const IS_CURRENT: &str = "SELECT 1 FROM job INDEXED BY job_id WHERE tenant = ? AND id = ? AND state = 2 AND token = ?";
const NEXT_VERSION: &str = "INSERT INTO kv_version (tenant, last) VALUES (?, 1)
    ON CONFLICT (tenant) DO UPDATE SET last = last + 1 RETURNING last";
const EXPIRED: &str = "SELECT rowid, tenant, bucket, key, octet_length(value) FROM kv INDEXED BY kv_expiry
    WHERE expires_at <= ? ORDER BY expires_at LIMIT ?";
const FIRST: &str = "SELECT rowid, tenant, bucket, key, octet_length(value) FROM kv INDEXED BY kv_key
    WHERE tenant = ? AND bucket = ? ORDER BY key LIMIT ?";

/// An entry that is deleted.
struct Gone {
    row: i64,
    tenant: TenantId,
    bucket: BucketName,
    bytes: u64,
}

impl Step<'_> {
    pub(crate) fn kv_write(&mut self, write: &KvWrite) -> Result<KvWritten, Fault> {
        let KvWrite { tenant, bucket, key, .. } = write;
        if let Some(KvDelivery { job, token }) = &write.delivery
            && one(self.conn, IS_CURRENT, &[tenant, job, &token.as_str()], first::<i64>)?.is_none()
        {
            return Ok(KvWritten::Stale);
        }
        let found = one(self.conn, FIND, &[tenant, bucket, key], |row| Ok((entry(row, 0)?, get::<i64>(row, 3)?)))?;
        let old = found.as_ref().map(|(entry, _)| entry);
        match kv::decide(write, old, self.now, self.limits.max_value_bytes) {
            Next::Answer(answer) => Ok(answer),
            Next::Remove => {
                let (row, value_bytes) = found.map_or((0, 0), |(entry, row)| (row, entry.value.len()));
                let (tenant, bucket, bytes) = (tenant.clone(), bucket.clone(), kv::bytes(key, value_bytes));
                self.delete_entries(vec![Gone { row, tenant, bucket, bytes }])?;
                Ok(KvWritten::Deleted(true))
            }
            Next::Put { value, expires_at, number } => {
                let old_bytes = old.map_or(0, |entry| kv::bytes(key, entry.value.len()));
                let new_bytes = kv::bytes(key, value.len());
                if new_bytes > old_bytes {
                    self.check_room()?;
                }
                let others = if old.is_some() { None } else { self.other_buckets(tenant, bucket)? };
                let limit = self.storage_limits(tenant).kv;
                let used = || self.stored.of(tenant).kv;
                if let Some(answer) = kv::refuses(old_bytes, new_bytes, others, self.limits.max_buckets, limit, used) {
                    return Ok(answer);
                }
                let version = one(self.conn, NEXT_VERSION, &[tenant], first::<u64>)?
                    .ok_or_else(|| Fault::stored("version of an entry", "none was given"))?;
                let new = KvEntry { version, expires_at, value: value.into_owned() };
                self.put_entry(write, new, found.map(|(_, row)| row))?;
                self.stored.change(tenant, |stored| stored.kv = (stored.kv + new_bytes).saturating_sub(old_bytes));
                Ok(kv::stored(version, number))
            }
        }
    }

    /// How many buckets a tenant has, if this one is none of them.
    fn other_buckets(&self, tenant: &TenantId, bucket: &BucketName) -> Result<Option<u64>, Fault> {
        let sql = "SELECT 1 FROM kv_bucket WHERE tenant = ? AND bucket = ?";
        if one(self.conn, sql, &[tenant, bucket], first::<i64>)?.is_some() {
            return Ok(None);
        }
        one(self.conn, "SELECT count(*) FROM kv_bucket WHERE tenant = ?", &[tenant], first::<u64>)
    }

    /// Stores an entry in the row that it has, or in a new one.
    fn put_entry(&self, write: &KvWrite, new: KvEntry, row: Option<i64>) -> Result<(), Fault> {
        let KvWrite { tenant, bucket, key, .. } = write;
        let KvEntry { version, expires_at, value } = new;
        if let Some(row) = row {
            return update!(self.conn, "kv" { version: version, expires_at: expires_at, value: value } "rowid = ?", row);
        }
        insert!(self.conn, "INSERT INTO kv" {
            tenant: tenant, bucket: bucket, key: key, version: version, expires_at: expires_at, value: value
        })?;
        let sql = "INSERT INTO kv_bucket (tenant, bucket, entries) VALUES (?, ?, 1)
            ON CONFLICT (tenant, bucket) DO UPDATE SET entries = entries + 1";
        run(self.conn, sql, &[tenant, bucket])
    }

    fn delete_entries(&mut self, entries: Vec<Gone>) -> Result<(), Fault> {
        for Gone { row, tenant, bucket, bytes } in entries {
            run(self.conn, "DELETE FROM kv WHERE rowid = ?", &[&row])?;
            let sql = "UPDATE kv_bucket SET entries = entries - 1 WHERE tenant = ? AND bucket = ?";
            run(self.conn, sql, &[&tenant, &bucket])?;
            run(
                self.conn,
                "DELETE FROM kv_bucket WHERE tenant = ? AND bucket = ? AND entries <= 0",
                &[&tenant, &bucket],
            )?;
            self.stored.change(&tenant, |stored| stored.kv = stored.kv.saturating_sub(bytes));
        }
        Ok(())
    }

    pub(crate) fn kv_delete_bucket(
        &mut self,
        tenant: &TenantId,
        bucket: &BucketName,
        max: u32,
    ) -> Result<KvBucketDeleted, Fault> {
        let gone = gone(self.conn, FIRST, &[tenant, bucket, &max.min(KV_STEP)])?;
        let deleted = gone.len() as u32;
        self.delete_entries(gone)?;
        let left = one(self.conn, FIRST, &[tenant, bucket, &1_i64], first::<i64>)?;
        Ok(KvBucketDeleted { deleted, has_more: left.is_some() })
    }

    /// Deletes entries that have expired; whether there may be more.
    pub(crate) fn sweep_entries(&mut self) -> Result<bool, Fault> {
        let gone = gone(self.conn, EXPIRED, &[&self.now, &EXPIRY_SWEEP])?;
        let has_more = gone.len() as u32 == EXPIRY_SWEEP;
        self.delete_entries(gone)?;
        Ok(has_more)
    }
}

/// The entries that a statement finds.
fn gone(conn: &Connection, sql: &str, values: &[&dyn crate::rows::Stored]) -> Result<Vec<Gone>, Fault> {
    all(conn, sql, values, |row| {
        let (key, value_bytes): (KvKey, usize) = (get(row, 3)?, get(row, 4)?);
        Ok(Gone { row: get(row, 0)?, tenant: get(row, 1)?, bucket: get(row, 2)?, bytes: kv::bytes(&key, value_bytes) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_write_of_an_entry_costs_more_because_more_is_stored() {
        for sql in [FIND, IS_CURRENT, EXPIRED, FIRST] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
