//! What people ask for: cancel, run now, pause. And what is told of workers and documents.

use rusqlite::{Connection, OptionalExtension, params};
use umbel_broker::{Cancelled, DocumentPut, Expect, PutDocument, RunNow, WORKER_TTL_MS, WorkerInfo};
use umbel_model::{JobId, JobState, QueueName, TenantId, WorkerId};

use super::{head, step::Step};
use crate::{error::Fault, rows::int};

impl Step<'_> {
    pub(crate) fn cancel(&mut self, tenant: &TenantId, id: JobId) -> Result<Cancelled, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.lines, tenant, id)? else { return Ok(Cancelled::NotFound) };
        if let Some(workflow) = head.workflow {
            let flow = self.flows.flow(self.conn, workflow)?;
            if flow.staged || flow.pruned.is_some() {
                return Ok(Cancelled::NotFound);
            }
        }
        let state = head.state;
        if state.is_terminal() {
            return Ok(Cancelled::AlreadyEnded(state));
        }
        head.cancel_requested = true;
        if state != JobState::Running {
            self.leave(&head);
            self.finish(&mut head, JobState::Revoked)?;
            self.save(&mut head)?;
            self.give_up_child(&head, JobState::Revoked)?;
            self.advance()?;
            return Ok(Cancelled::Revoked);
        }
        self.news.cancel_asked(id);
        self.save(&mut head)?;
        Ok(Cancelled::Requested)
    }

    pub(crate) fn run_now(&mut self, tenant: &TenantId, id: JobId) -> Result<RunNow, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.lines, tenant, id)? else { return Ok(RunNow::NotFound) };
        if !matches!(head.state, JobState::Scheduled | JobState::Retrying) {
            return Ok(RunNow::NotWaiting(head.state));
        }
        // One that has expired is left to the promoter.
        if !head.expired(self.now) {
            self.leave(&head);
            self.enqueue(&mut head);
            self.save(&mut head)?;
        }
        Ok(RunNow::Queued)
    }

    pub(crate) fn set_paused(&mut self, tenant: &TenantId, queue: &QueueName, paused: bool) -> bool {
        let Some(line) = self.lines.find(tenant, queue) else { return false };
        self.lines.change(line, |counts| counts.paused = paused);
        if !paused && self.lines.counts(line).ready > 0 {
            self.news.ready_in(queue);
        }
        true
    }

    pub(crate) fn heartbeat(&mut self, worker: &WorkerInfo) -> Result<(), Fault> {
        let sql = "DELETE FROM worker WHERE seen_at <= ?";
        self.conn.prepare_cached(sql)?.execute([int(self.now.saturating_sub(WORKER_TTL_MS))])?;
        let sql = "INSERT OR REPLACE INTO worker (id, seen_at, info) VALUES (?, ?, ?)";
        let row = params![worker.id.as_str(), int(self.now), serde_json::to_string(worker)?];
        self.conn.prepare_cached(sql)?.execute(row)?;
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
