//! Workers, orders to them, and documents.

use umbel_broker::{
    DocumentKind, DocumentPut, Ordered, PutDocument, WORKER_TTL_MS, WorkerInfo, WorkerOrder, rules::storage,
};
use umbel_model::WorkerId;

use crate::writer::step::Step;
use crate::{
    error::Fault,
    rows::{first, get, insert, one, run, update},
};

impl Step<'_> {
    /// Its last order.
    pub(crate) fn heartbeat(&mut self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>, Fault> {
        self.forget_silent()?;
        let sql = "INSERT INTO worker (id, seen_at, info) VALUES (?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, info = excluded.info RETURNING orders";
        let info = serde_json::to_string(worker)?;
        Ok(one(self.conn, sql, &[&worker.id, &self.now, &info], first)?.flatten())
    }

    pub(crate) fn order_worker(&mut self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered, Fault> {
        self.forget_silent()?;
        let sql = "SELECT orders, info FROM worker WHERE id = ?";
        let found = one(self.conn, sql, &[worker], |row| {
            Ok(match get(row, 0)? {
                Some(given) => given,
                None => WorkerOrder::after(&get(row, 1)?),
            })
        })?;
        let Some(given) = found else { return Ok(Ordered::Unknown) };
        let merged = given.followed_by(order);
        update!(self.conn, "worker" { orders: serde_json::to_string(&merged)? } "id = ?", worker)?;
        Ok(Ordered::Told(merged.number))
    }

    fn forget_silent(&self) -> Result<(), Fault> {
        run(self.conn, "DELETE FROM worker WHERE seen_at <= ?", &[&self.now.saturating_sub(WORKER_TTL_MS)])
    }

    pub(crate) fn forget_worker(&mut self, worker: &WorkerId) -> Result<(), Fault> {
        run(self.conn, "DELETE FROM worker WHERE id = ?", &[worker])
    }

    pub(crate) fn put_document(&mut self, put: &PutDocument) -> Result<DocumentPut, Fault> {
        let PutDocument { tenant, kind, name, body, .. } = put;
        let kind = kind.as_str();
        let sql = "SELECT version, octet_length(version) + octet_length(body) + held FROM document
            WHERE tenant = ? AND kind = ? AND name = ?";
        let stored: Option<(u64, u64)> =
            one(self.conn, sql, &[tenant, &kind, name], |row| Ok((get(row, 0)?, get(row, 1)?)))?;
        let (found, old) = stored.map_or((0, 0), |(version, bytes)| (version, bytes + name.len() as u64 + 1));
        let count = |sql| one(self.conn, sql, &[tenant, &kind], first::<u64>);
        let is_full = found == 0
            && body.is_some()
            && count("SELECT count(*) FROM document WHERE tenant = ? AND kind = ?")? >= Some(self.limits.max_documents);
        let answer = put.decide(found, is_full);
        let new = match (answer, body) {
            (DocumentPut::Stored(version), Some(body)) => storage::document(name, version, body) + put.held_bytes,
            _ => 0,
        };
        let used = || self.stored.of(tenant).documents;
        if storage::refuses_document(self.storage_limits(tenant).documents, used, put, old, new) {
            return Ok(DocumentPut::StorageFull);
        }
        match (answer, body) {
            (DocumentPut::Stored(version), Some(body)) => {
                insert!(self.conn, "INSERT OR REPLACE INTO document" {
                    tenant: tenant, kind: kind, name: name, version: version, body: body, held: put.held_bytes
                })?;
                self.count_document(put, old, new);
            }
            (DocumentPut::Stored(_), None) => {
                let sql = "DELETE FROM document WHERE tenant = ? AND kind = ? AND name = ?";
                run(self.conn, sql, &[tenant, &kind, name])?;
                self.count_document(put, old, 0);
            }
            _ => {}
        }
        Ok(answer)
    }

    fn count_document(&mut self, put: &PutDocument, old: u64, new: u64) {
        self.stored.change(&put.tenant, |stored| {
            stored.documents = (stored.documents + new).saturating_sub(old);
            if put.kind == DocumentKind::Module {
                stored.modules = (stored.modules + new).saturating_sub(old);
            }
        });
    }
}
