//! Storing new jobs.

use rusqlite::Connection;
use umbel_broker::rules::storage;
use umbel_model::{TaskName, TenantId, UnixMs};

use crate::writer::jobs::head::Head;
use crate::{
    error::Fault,
    rows::{Stored, changed, insert, phase, queue_row},
};

/// The columns that every job has, in the order of `Head::insert_row`, and those behind them.
macro_rules! insert_job {
    ($more:literal, $values:literal, $conflict:literal) => {
        concat!(
            "INSERT INTO job (tenant, id, line, task, priority, max_deliveries, result_ttl_ms, dead_ttl_ms, created_at,
            expires_at, state, phase, at, score, due_at, bytes, ",
            $more,
            "retries, deliveries, fence, cancel_requested, dead, records, log_lines)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ",
            $values,
            "0, 0, 0, 0, 0, 0, 0)",
            $conflict
        )
    };
}

const INSERT: &str = insert_job!("finished_at, workflow, lane, knobs, ", "?, ?, ?, ?, ", "");
const INSERT_PLAIN: &str = insert_job!("", "", " ON CONFLICT (tenant, id) DO NOTHING");

/// The part of a new job's row that is never read with its head.
pub(crate) struct Fixed<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) task: &'a TaskName,
    /// Its spec, or a node's arguments.
    pub(crate) text: &'a str,
}

impl Head {
    /// Stores a queued or delayed job that uses no broker option; false if its id is known, and then nothing was done.
    /// What is left out has its default: fewer values, and no look for the id before, are what it costs less.
    pub(crate) fn insert_plain(&mut self, conn: &Connection, now: UnixMs, fixed: &Fixed<'_>) -> Result<bool, Fault> {
        self.insert_row(conn, INSERT_PLAIN, now, fixed, &[])
    }

    pub(crate) fn insert(&mut self, conn: &Connection, now: UnixMs, fixed: &Fixed<'_>) -> Result<(), Fault> {
        let (finished_at, workflow, sub_queue, has) =
            (self.finished_at, self.workflow, self.in_sub_queue.then_some(1_i64), self.has);
        self.insert_row(conn, INSERT, now, fixed, &[&finished_at, &workflow, &sub_queue, &has])?;
        if let Some(broker_options) = &self.broker_options {
            insert!(conn, "INSERT INTO knobs" { rid: self.rid, text: serde_json::to_string(broker_options)? })?;
        }
        Ok(())
    }

    fn insert_row(
        &mut self,
        conn: &Connection,
        sql: &str,
        now: UnixMs,
        fixed: &Fixed<'_>,
        more: &[&dyn Stored],
    ) -> Result<bool, Fault> {
        let (line, phase) = (queue_row(self.queue_id), phase(self.state));
        self.bytes += if self.workflow.is_some() { fixed.text.len() as u64 } else { storage::spec(fixed.text) };
        let mut row: Vec<&dyn Stored> = vec![
            fixed.tenant,
            &self.id,
            &line,
            fixed.task,
            &self.priority,
            &self.max_deliveries,
            &self.result_ttl_ms,
            &self.dead_ttl_ms,
            &now,
            &self.expires_at,
            &self.state,
            &phase,
            &self.at,
            &self.score,
            &self.due_at,
            &self.bytes,
        ];
        row.extend(more);
        if changed(conn, sql, &row)? == 0 {
            return Ok(false);
        }
        self.rid = conn.last_insert_rowid();
        self.was = self.state;
        insert!(conn, "INSERT INTO spec" { rid: self.rid, text: fixed.text })?;
        Ok(true)
    }
}
