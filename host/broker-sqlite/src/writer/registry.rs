//! Workers, orders to them, and documents.

use rusqlite::{Connection, OptionalExtension, params};
use umbel_broker::{DocumentPut, Expect, Ordered, PutDocument, WORKER_TTL_MS, WorkerInfo, WorkerOrder};
use umbel_model::WorkerId;

use crate::writer::step::Step;
use crate::{
    error::Fault,
    rows::{int, json},
};

impl Step<'_> {
    /// Its last order.
    pub(crate) fn heartbeat(&mut self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>, Fault> {
        self.forget_silent()?;
        let sql = "INSERT INTO worker (id, seen_at, info) VALUES (?, ?, ?)
            ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, info = excluded.info RETURNING orders";
        let row = params![worker.id.as_str(), int(self.now), serde_json::to_string(worker)?];
        let order: Option<String> = self.conn.prepare_cached(sql)?.query_row(row, |row| row.get(0))?;
        order.map(|text| json("order to a worker", &text)).transpose()
    }

    pub(crate) fn order_worker(&mut self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered, Fault> {
        self.forget_silent()?;
        let sql = "SELECT orders, info FROM worker WHERE id = ?";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, Option<String>>(0)?, row.get::<_, String>(1)?));
        let found = self.conn.prepare_cached(sql)?.query_row([worker.as_str()], read).optional()?;
        let Some((given, info)) = found else { return Ok(Ordered::Unknown) };
        let given = match given {
            Some(text) => json("order to a worker", &text)?,
            None => WorkerOrder::after(&json("worker", &info)?),
        };
        let merged = given.followed_by(order);
        let sql = "UPDATE worker SET orders = ? WHERE id = ?";
        self.conn.prepare_cached(sql)?.execute([&serde_json::to_string(&merged)?, worker.as_str()])?;
        Ok(Ordered::Told(merged.number))
    }

    fn forget_silent(&self) -> Result<(), Fault> {
        let sql = "DELETE FROM worker WHERE seen_at <= ?";
        self.conn.prepare_cached(sql)?.execute([int(self.now.saturating_sub(WORKER_TTL_MS))])?;
        Ok(())
    }

    pub(crate) fn forget_worker(&mut self, worker: &WorkerId) -> Result<(), Fault> {
        self.conn.prepare_cached("DELETE FROM worker WHERE id = ?")?.execute([worker.as_str()])?;
        Ok(())
    }

    pub(crate) fn put_document(&mut self, put: &PutDocument) -> Result<DocumentPut, Fault> {
        let key = (put.tenant.as_str(), put.kind.as_str(), put.name.as_str());
        let found = self.document_version(key)?;
        let expected = match put.expect {
            Expect::Any => true,
            Expect::Absent => found == 0,
            Expect::Version(version) => found == version,
        };
        if !expected {
            return Ok(DocumentPut::Conflict(found));
        }
        let Some(body) = &put.body else {
            self.conn
                .prepare_cached("DELETE FROM document WHERE tenant = ? AND kind = ? AND name = ?")?
                .execute(key)?;
            return Ok(DocumentPut::Stored(0));
        };
        if found == 0 && count_documents(self.conn, key.0, key.1)? >= self.limits.max_documents {
            return Ok(DocumentPut::Full);
        }
        let sql = "INSERT OR REPLACE INTO document (tenant, kind, name, version, body) VALUES (?, ?, ?, ?, ?)";
        self.conn.prepare_cached(sql)?.execute(params![key.0, key.1, key.2, int(found + 1), body])?;
        Ok(DocumentPut::Stored(found + 1))
    }

    /// 0 when there is none.
    fn document_version(&self, key: (&str, &str, &str)) -> Result<u64, Fault> {
        let sql = "SELECT version FROM document WHERE tenant = ? AND kind = ? AND name = ?";
        let version: Option<i64> = self.conn.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()?;
        Ok(version.unwrap_or(0).unsigned_abs())
    }
}

fn count_documents(conn: &Connection, tenant: &str, kind: &str) -> Result<u64, Fault> {
    let sql = "SELECT count(*) FROM document WHERE tenant = ? AND kind = ?";
    let count: i64 = conn.prepare_cached(sql)?.query_row((tenant, kind), |row| row.get(0))?;
    Ok(count.unsigned_abs())
}
