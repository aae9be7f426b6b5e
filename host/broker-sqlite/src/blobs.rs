//! Reads of blobs' records.

use rusqlite::Row;
use umbel_broker::{BLOB_STEP, BlobPage, BlobRecord};
use umbel_model::{Digest, TenantId};

use crate::{
    error::Fault,
    reads::View,
    rows::{all, one, read},
};

macro_rules! select_blob {
    ($rest:literal) => {
        concat!("SELECT digest, bytes, content_type, created_at, uses, unused_since FROM blob WHERE tenant = ?", $rest)
    };
}

const FIND: &str = select_blob!(" AND digest = ?");
const LIST: &str = select_blob!(" AND digest > ? ORDER BY digest LIMIT ?");

fn record(row: &Row<'_>) -> Result<BlobRecord, Fault> {
    Ok(read!(row => BlobRecord { digest, bytes, content_type, created_at, references, unused_since }))
}

impl View<'_> {
    pub(crate) fn blob(&self, tenant: &TenantId, digest: Digest) -> Result<Option<BlobRecord>, Fault> {
        one(self.conn, FIND, &[tenant, &digest], record)
    }

    pub(crate) fn blobs(&self, tenant: &TenantId, after: Option<&Digest>, max: u32) -> Result<BlobPage, Fault> {
        let max = max.min(BLOB_STEP);
        // Nothing is before the empty one.
        let after = after.map_or_else(Vec::new, |after| after.to_bytes().to_vec());
        Ok(BlobPage::new(all(self.conn, LIST, &[tenant, &after, &max], record)?, max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_read_of_a_blob_costs_more_because_more_are_stored() {
        for sql in [FIND, LIST] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
