//! What people ask for: cancel, run now. And what is told of workers and documents.

use rusqlite::{Connection, OptionalExtension, params};
use umbel_broker::{
    Cancelled, DocumentPut, Expect, Ordered, PutDocument, RunNow, WORKER_TTL_MS, WorkerInfo, WorkerOrder,
};
use umbel_model::{JobId, JobState, TenantId, WorkerId};

use super::{head, step::Step};
use crate::{error::Fault, reads::json, rows::int};

impl Step<'_> {
    /// `waiting`: only if it does not run.
    pub(crate) fn cancel(
        &mut self,
        tenant: &TenantId,
        id: JobId,
        terminate: bool,
        waiting: bool,
    ) -> Result<Cancelled, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, tenant, id)? else {
            return Ok(Cancelled::NotFound);
        };
        if let Some(workflow) = head.workflow
            && self.flows.flow(self.conn, workflow)?.is_hidden()
        {
            return Ok(Cancelled::NotFound);
        }
        let state = head.state;
        if state.is_terminal() {
            return Ok(Cancelled::AlreadyEnded(state));
        }
        if waiting && state == JobState::Running {
            return Ok(Cancelled::Runs);
        }
        // Once it is to be stopped, it is.
        let let_end = !terminate && (head.let_end || !head.cancel_requested);
        head.cancel_requested = true;
        if state != JobState::Running {
            self.leave(&mut head)?;
            self.finish(&mut head, JobState::Revoked)?;
            self.save(&mut head)?;
            self.give_up_child(&head, JobState::Revoked)?;
            self.advance()?;
            return Ok(Cancelled::Revoked);
        }
        head.let_end = let_end;
        if terminate {
            self.news.cancel_asked(id);
        }
        self.save(&mut head)?;
        Ok(Cancelled::Requested)
    }

    pub(crate) fn run_now(&mut self, tenant: &TenantId, id: JobId) -> Result<RunNow, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, tenant, id)? else { return Ok(RunNow::NotFound) };
        if !matches!(head.state, JobState::Scheduled | JobState::Retrying) {
            return Ok(RunNow::NotWaiting(head.state));
        }
        // One that has expired is left to the promoter.
        if !head.expired(self.now) {
            self.leave(&mut head)?;
            self.enqueue(&mut head)?;
            self.save(&mut head)?;
        }
        Ok(RunNow::Queued)
    }

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
