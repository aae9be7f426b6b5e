//! Reads of key-value entries.

use rusqlite::Row;
use umbel_broker::{
    KvBucket, KvEntry, KvPage, KvQuery, PAGE_SCAN,
    rules::kv::{self, Filling},
};
use umbel_model::{BucketName, KvKey, TenantId};

use crate::{
    error::Fault,
    reads::View,
    rows::{all, each, get, one, read},
};

const FIND: &str =
    "SELECT version, expires_at, value FROM kv INDEXED BY kv_key WHERE tenant = ? AND bucket = ? AND key = ?";
const LIST: &str = "SELECT version, expires_at, value, key FROM kv INDEXED BY kv_key
    WHERE tenant = ? AND bucket = ? AND key >= ? ORDER BY key LIMIT ?";
const LIST_AFTER: &str = "SELECT version, expires_at, value, key FROM kv INDEXED BY kv_key
    WHERE tenant = ? AND bucket = ? AND key > ? ORDER BY key LIMIT ?";
const BUCKETS: &str = "SELECT bucket, entries FROM kv_bucket WHERE tenant = ? ORDER BY bucket";

/// An entry, in columns from a number on.
pub(crate) fn entry(row: &Row<'_>, from: usize) -> Result<KvEntry, Fault> {
    Ok(read!(row, from => KvEntry { version, expires_at, value }))
}

impl View<'_> {
    pub(crate) fn kv_get(
        &self,
        tenant: &TenantId,
        bucket: &BucketName,
        keys: &[KvKey],
    ) -> Result<Vec<Option<KvEntry>>, Fault> {
        let found = |key| one(self.conn, FIND, &[tenant, bucket, key], |row| entry(row, 0));
        let there = |entry: &KvEntry| !kv::is_over(entry.expires_at, self.now);
        keys.iter().map(|key| Ok(found(key)?.filter(there))).collect()
    }

    pub(crate) fn kv_list(&self, query: &KvQuery) -> Result<KvPage, Fault> {
        let KvQuery { tenant, bucket, prefix, after, max } = query;
        let after = after.as_ref().map(KvKey::as_str).filter(|after| *after >= prefix.as_str());
        let (sql, from) = after.map_or((LIST, prefix.as_str()), |after| (LIST_AFTER, after));
        let mut filling = Filling::new(*max, self.now);
        each(self.conn, sql, &[tenant, bucket, &from, &PAGE_SCAN], |row| {
            let key: KvKey = get(row, 3)?;
            Ok(key.as_str().starts_with(prefix.as_str()) && filling.add(key, entry(row, 0)?))
        })?;
        Ok(filling.finish())
    }

    pub(crate) fn kv_buckets(&self, tenant: &TenantId) -> Result<Vec<KvBucket>, Fault> {
        all(self.conn, BUCKETS, &[tenant], |row| Ok(read!(row => KvBucket { name, entries })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_read_of_an_entry_costs_more_because_more_is_stored() {
        for sql in [FIND, LIST, LIST_AFTER, BUCKETS] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
