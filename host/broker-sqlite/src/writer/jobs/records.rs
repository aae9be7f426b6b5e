//! The parts of a job that are written seldom, in tables of their own: its progress, log, history and outcome.

use rusqlite::Connection;
use serde_json::value::RawValue;
use umbel_broker::{
    LogLine,
    rules::{history, storage},
};
use umbel_model::{AttemptRecord, Failure, JobState, Progress, job::MAX_HISTORY};

use crate::writer::jobs::head::Head;
use crate::{
    error::Fault,
    reads,
    rows::{first, insert, one, run},
};

const PROGRESS: &str = "SELECT octet_length(progress) FROM progress WHERE rid = ?";
const FAILURE: &str = "SELECT coalesce(octet_length(failure), 0) FROM outcome WHERE rid = ?";
const DROP_ATTEMPT: &str = "DELETE FROM history WHERE rid = ? AND n = ? RETURNING record";

impl Head {
    /// Keeps what a worker says: the newest progress, and the first of these log lines: as many as a job may have, and no more
    /// bytes than there is room for. `save` must follow.
    pub(crate) fn hear(
        &mut self,
        conn: &Connection,
        progress: Option<&Progress>,
        (max_lines, mut bytes, lines): (u64, u64, &[LogLine]),
    ) -> Result<(), Fault> {
        if let Some(progress) = progress {
            let progress = serde_json::to_string(progress)?;
            let old = one(conn, PROGRESS, &[&self.rid], first)?.unwrap_or(0);
            self.recount(old, progress.len() as u64);
            insert!(conn, "INSERT OR REPLACE INTO progress" { rid: self.rid, progress: progress })?;
        }
        let room = usize::try_from(max_lines.saturating_sub(self.log_lines)).unwrap_or(usize::MAX);
        for line in lines.iter().take(room) {
            let line = serde_json::to_string(line)?;
            if line.len() as u64 > bytes {
                break;
            }
            bytes -= line.len() as u64;
            insert!(conn, "INSERT INTO log" { rid: self.rid, n: self.log_lines, line: line })?;
            self.log_lines += 1;
            self.log_bytes += line.len() as u64;
            self.recount(0, line.len() as u64);
        }
        Ok(())
    }

    /// Keeps the first attempt and the newest ones. `save` must follow.
    pub(crate) fn remember(&mut self, conn: &Connection, record: &AttemptRecord) -> Result<(), Fault> {
        if self.records >= MAX_HISTORY as u64 {
            let oldest_but_one = self.records - (MAX_HISTORY as u64 - 1);
            let dropped = one(conn, DROP_ATTEMPT, &[&self.rid, &oldest_but_one], first::<String>)?;
            self.recount(dropped.as_deref().map_or(0, history::row_bytes), 0);
        }
        self.recount(0, history::bytes(record));
        let record = history::row(record)?;
        insert!(conn, "INSERT INTO history" { rid: self.rid, n: self.records, record: record })?;
        self.records += 1;
        Ok(())
    }

    /// It takes so many bytes less, and so many more.
    fn recount(&mut self, less: u64, more: u64) {
        self.bytes = (self.bytes + more).saturating_sub(less);
    }

    pub(crate) fn put_result(&mut self, conn: &Connection, result: Option<&str>) -> Result<(), Fault> {
        let Some(result) = result else { return self.clear_outcome(conn) };
        self.recount(self.failure_bytes(conn)?, storage::result(result));
        self.put_outcome(conn, Some(result), None)
    }

    /// Whether a failure may be stored: of an attempt before, or because a later job superseded this one while it ran.
    fn may_have_outcome(&self) -> bool {
        self.retries > 0 || self.cancel_requested
    }

    /// The bytes of the failure that is stored; a result ends a job, so that there is none.
    fn failure_bytes(&self, conn: &Connection) -> Result<u64, Fault> {
        let stored = if self.may_have_outcome() { one(conn, FAILURE, &[&self.rid], first::<u64>)? } else { None };
        Ok(stored.unwrap_or(0))
    }

    /// Takes away a failure that is stored.
    pub(crate) fn clear_outcome(&mut self, conn: &Connection) -> Result<(), Fault> {
        if !self.may_have_outcome() {
            return Ok(());
        }
        self.recount(self.failure_bytes(conn)?, 0);
        self.delete_from(conn, "DELETE FROM outcome WHERE rid = ?")
    }

    /// Leaves no outcome, which means `upstream_failed` of a job that failed. It counts as if it were stored.
    pub(crate) fn put_upstream_failed(&mut self, conn: &Connection) -> Result<(), Fault> {
        self.clear_outcome(conn)?;
        self.recount(0, storage::failure(&reads::upstream_failed()));
        Ok(())
    }

    pub(crate) fn put_failure(&mut self, conn: &Connection, failure: &Failure) -> Result<(), Fault> {
        let text = serde_json::to_string(failure)?;
        self.recount(self.failure_bytes(conn)?, text.len() as u64);
        self.put_outcome(conn, None, Some(text))
    }

    fn put_outcome(&self, conn: &Connection, result: Option<&str>, failure: Option<String>) -> Result<(), Fault> {
        // A plain insert is cheaper.
        let sql = match self.may_have_outcome() {
            false => "INSERT INTO outcome (rid, result, failure) VALUES (?, ?, ?)",
            true => "INSERT OR REPLACE INTO outcome (rid, result, failure) VALUES (?, ?, ?)",
        };
        run(conn, sql, &[&self.rid, &result, &failure])
    }

    /// How a node ended in the workflow that its own resumes. It is counted before its row is stored.
    pub(crate) fn keep_outcome(
        &self,
        conn: &Connection,
        result: Option<&RawValue>,
        failure: Option<&Failure>,
    ) -> Result<(), Fault> {
        // Readers take a failed job without an outcome for one of `upstream_failed`.
        if result.is_none() && failure.is_none() && self.state != JobState::Failed {
            return Ok(());
        }
        let failure = failure.map(serde_json::to_string).transpose()?;
        self.put_outcome(conn, result.map(RawValue::get), failure)
    }
}
