//! Storing new jobs.

use rusqlite::{Connection, params};
use umbel_model::{TaskName, TenantId, UnixMs};

use crate::writer::jobs::head::Head;
use crate::{
    error::Fault,
    rows::{int, phase, queue_row, state_number},
};

/// The part of a new job's row that is never read with its head.
pub(in crate::writer) struct Fixed<'a> {
    pub(in crate::writer) tenant: &'a TenantId,
    pub(in crate::writer) task: &'a TaskName,
    /// Its spec, or a node's arguments.
    pub(in crate::writer) text: &'a str,
}

impl Head {
    /// Stores a queued or delayed job that uses no broker option; false if its id is known, and then nothing was done.
    /// What is left out has its default: fewer values, and no look for the id before, are what it costs less.
    pub(in crate::writer) fn insert_plain(
        &mut self,
        conn: &Connection,
        now: UnixMs,
        fixed: &Fixed<'_>,
    ) -> Result<bool, Fault> {
        let sql = "INSERT INTO job (tenant, id, line, task, priority, max_deliveries, result_ttl_ms, dead_ttl_ms,
            created_at, expires_at, state, phase, at, score, due_at,
            retries, deliveries, fence, cancel_requested, dead, records, log_lines)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0, 0)
            ON CONFLICT (tenant, id) DO NOTHING";
        let inserted = conn.prepare_cached(sql)?.execute(params![
            fixed.tenant.as_str(),
            self.id.to_bytes(),
            queue_row(self.queue_id),
            fixed.task.as_str(),
            self.priority,
            self.max_deliveries,
            int(self.result_ttl_ms),
            int(self.dead_ttl_ms),
            int(now),
            self.expires_at.map(int),
            state_number(self.state),
            phase(self.state),
            self.at.map(int),
            int(self.score),
            self.due_at.map(int),
        ])?;
        if inserted == 0 {
            return Ok(false);
        }
        self.inserted(conn, fixed)?;
        Ok(true)
    }

    pub(in crate::writer) fn insert(&mut self, conn: &Connection, now: UnixMs, fixed: &Fixed<'_>) -> Result<(), Fault> {
        let sql = "INSERT INTO job (tenant, id, line, task, priority, max_deliveries, result_ttl_ms, dead_ttl_ms,
            created_at, expires_at, state, phase, at, score, due_at, finished_at, workflow,
            lane, knobs, retries, deliveries, fence, cancel_requested, dead, records, log_lines)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0, 0)";
        conn.prepare_cached(sql)?.execute(params![
            fixed.tenant.as_str(),
            self.id.to_bytes(),
            queue_row(self.queue_id),
            fixed.task.as_str(),
            self.priority,
            self.max_deliveries,
            int(self.result_ttl_ms),
            int(self.dead_ttl_ms),
            int(now),
            self.expires_at.map(int),
            state_number(self.state),
            phase(self.state),
            self.at.map(int),
            int(self.score),
            self.due_at.map(int),
            self.finished_at.map(int),
            self.workflow,
            self.in_sub_queue.then_some(1),
            self.has,
        ])?;
        self.inserted(conn, fixed)?;
        if let Some(broker_options) = &self.broker_options {
            let sql = "INSERT INTO knobs (rid, text) VALUES (?, ?)";
            conn.prepare_cached(sql)?.execute(params![self.rid, serde_json::to_string(broker_options)?])?;
        }
        Ok(())
    }

    fn inserted(&mut self, conn: &Connection, fixed: &Fixed<'_>) -> Result<(), Fault> {
        self.rid = conn.last_insert_rowid();
        self.was = self.state;
        let sql = "INSERT INTO spec (rid, text) VALUES (?, ?)";
        conn.prepare_cached(sql)?.execute(params![self.rid, fixed.text])?;
        Ok(())
    }
}
