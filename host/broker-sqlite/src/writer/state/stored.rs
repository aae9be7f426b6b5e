//! The bytes that each tenant has stored. The table `stored` holds the same; what a group changed is written at its end, with
//! one statement, and can be undone.

use std::collections::HashMap;

use rusqlite::Connection;
use umbel_broker::{StorageLimits, StoredBytes};
use umbel_model::TenantId;

use crate::{
    error::Fault,
    rows::{all, get, insert, read, run},
};

const SAVE: &str = "INSERT OR REPLACE INTO stored (tenant, jobs, logs, documents, modules, kv, blobs)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6 FROM json_each(?)";

/// See the top of the file.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    all: HashMap<TenantId, StoredBytes>,
    /// Tenants of which the group under way changed something, with what there was before it.
    before: HashMap<TenantId, StoredBytes>,
    /// What operators let tenants store.
    limits: HashMap<TenantId, StorageLimits>,
    /// Those that the group under way changed, as they were before it.
    limits_before: Vec<(TenantId, StorageLimits)>,
}

impl Stored {
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        let sql = "SELECT jobs, documents, kv, blobs, tenant FROM storage_limit";
        let limits =
            all(conn, sql, &[], |row| Ok((get(row, 4)?, read!(row => StorageLimits { jobs, documents, kv, blobs }))))?;
        Ok(Self { all: read_all(conn)?, limits: limits.into_iter().collect(), ..Self::default() })
    }

    /// What a tenant may store where each may store `default`.
    pub(crate) fn limits(&self, tenant: &TenantId, default: StorageLimits) -> StorageLimits {
        self.limits.get(tenant).map_or(default, |own| own.or(default))
    }

    pub(crate) fn set_limits(
        &mut self,
        conn: &Connection,
        tenant: &TenantId,
        limits: StorageLimits,
    ) -> Result<(), Fault> {
        let before = self.limits.insert(tenant.clone(), limits).unwrap_or_default();
        self.limits_before.push((tenant.clone(), before));
        let StorageLimits { jobs, documents, kv, blobs } = limits;
        insert!(conn, "INSERT OR REPLACE INTO storage_limit" { tenant: tenant, jobs: jobs, documents: documents, kv: kv, blobs: blobs })
    }

    pub(crate) fn of(&self, tenant: &TenantId) -> StoredBytes {
        self.all.get(tenant).copied().unwrap_or_default()
    }

    pub(crate) fn change(&mut self, tenant: &TenantId, change: impl FnOnce(&mut StoredBytes)) {
        if !self.all.contains_key(tenant) {
            self.all.insert(tenant.clone(), StoredBytes::default());
        }
        if let Some(found) = self.all.get_mut(tenant) {
            if !self.before.contains_key(tenant) {
                self.before.insert(tenant.clone(), *found);
            }
            change(found);
        }
    }

    /// Writes what the group changed.
    pub(crate) fn write(&self, conn: &Connection) -> Result<(), Fault> {
        if self.before.is_empty() {
            return Ok(());
        }
        let row = |tenant: &TenantId| {
            let StoredBytes { jobs, logs, documents, modules, kv, blobs } = self.of(tenant);
            (tenant.clone(), jobs, logs, documents, modules, kv, blobs)
        };
        let rows: Vec<_> = self.before.keys().map(row).collect();
        run(conn, SAVE, &[&serde_json::to_string(&rows)?])
    }

    /// Reads the table again, which statements changed.
    pub(crate) fn reload(&mut self, conn: &Connection) -> Result<(), Fault> {
        let stored = read_all(conn)?;
        for (tenant, before) in std::mem::replace(&mut self.all, stored) {
            self.before.entry(tenant).or_insert(before);
        }
        for tenant in self.all.keys() {
            if !self.before.contains_key(tenant) {
                self.before.insert(tenant.clone(), StoredBytes::default());
            }
        }
        Ok(())
    }

    /// The group was committed.
    pub(crate) fn keep(&mut self) {
        self.limits_before.clear();
        for (tenant, _) in self.before.drain() {
            if self.all.get(&tenant) == Some(&StoredBytes::default()) {
                self.all.remove(&tenant);
            }
        }
    }

    /// The group was rolled back.
    pub(crate) fn undo(&mut self) {
        self.limits.extend(self.limits_before.drain(..).rev());
        self.all.extend(self.before.drain());
    }
}

fn read_all(conn: &Connection) -> Result<HashMap<TenantId, StoredBytes>, Fault> {
    let sql = "SELECT jobs, logs, documents, modules, kv, blobs, tenant FROM stored
        WHERE jobs > 0 OR documents > 0 OR kv > 0 OR blobs > 0";
    let rows = all(conn, sql, &[], |row| {
        Ok((get(row, 6)?, read!(row => StoredBytes { jobs, logs, documents, modules, kv, blobs })))
    })?;
    Ok(rows.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_group_did_to_the_bytes_of_tenants_is_undone_with_it_and_a_restart_has_the_same() {
        let conn = crate::schema::open_in_memory().unwrap();
        let mut stored = Stored::load(&conn).unwrap();
        let [old, new] = ["old", "new"].map(|name| TenantId::new(name).unwrap());
        stored.change(&old, |bytes| bytes.jobs = 7);
        stored.write(&conn).unwrap();
        stored.keep();
        stored.change(&old, |bytes| bytes.jobs = 0);
        stored.change(&new, |bytes| bytes.documents = 3);
        stored.undo();
        assert_eq!((stored.of(&old).jobs, stored.of(&new)), (7, StoredBytes::default()));
        assert_eq!(Stored::load(&conn).unwrap().of(&old), stored.of(&old));
    }
}
