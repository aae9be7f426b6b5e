//! The parts of a job that are written seldom, in tables of their own: its progress, log, history and outcome.

use rusqlite::{Connection, params};
use serde_json::value::RawValue;
use umbel_broker::LogLine;
use umbel_model::{AttemptRecord, Failure, JobState, Progress, job::MAX_HISTORY};

use crate::writer::jobs::head::Head;
use crate::{error::Fault, rows::int};

impl Head {
    pub(in crate::writer) fn put_progress(&self, conn: &Connection, progress: Option<&Progress>) -> Result<(), Fault> {
        let Some(progress) = progress else { return Ok(()) };
        let sql = "INSERT OR REPLACE INTO progress (rid, progress) VALUES (?, ?)";
        conn.prepare_cached(sql)?.execute(params![self.rid, serde_json::to_string(progress)?])?;
        Ok(())
    }

    /// Keeps what there is still room for. `save` must follow.
    pub(in crate::writer) fn append_logs(
        &mut self,
        conn: &Connection,
        max: u64,
        lines: &[LogLine],
    ) -> Result<(), Fault> {
        let room = usize::try_from(max.saturating_sub(self.log_lines)).unwrap_or(usize::MAX);
        for line in lines.iter().take(room) {
            let sql = "INSERT INTO log (rid, n, line) VALUES (?, ?, ?)";
            conn.prepare_cached(sql)?.execute(params![self.rid, int(self.log_lines), serde_json::to_string(line)?])?;
            self.log_lines += 1;
        }
        Ok(())
    }

    /// Keeps the first attempt and the newest ones. `save` must follow.
    pub(in crate::writer) fn remember(&mut self, conn: &Connection, record: &AttemptRecord) -> Result<(), Fault> {
        if self.records >= MAX_HISTORY as u64 {
            let oldest_but_one = self.records - (MAX_HISTORY as u64 - 1);
            let sql = "DELETE FROM history WHERE rid = ? AND n = ?";
            conn.prepare_cached(sql)?.execute(params![self.rid, int(oldest_but_one)])?;
        }
        let sql = "INSERT INTO history (rid, n, record) VALUES (?, ?, ?)";
        conn.prepare_cached(sql)?.execute(params![self.rid, int(self.records), serde_json::to_string(record)?])?;
        self.records += 1;
        Ok(())
    }

    pub(in crate::writer) fn put_result(&self, conn: &Connection, result: Option<&str>) -> Result<(), Fault> {
        match result {
            Some(result) => self.put_outcome(conn, Some(result), None),
            None => self.clear_outcome(conn),
        }
    }

    /// Takes away the failure of an earlier attempt. Only a retry leaves one behind.
    pub(in crate::writer) fn clear_outcome(&self, conn: &Connection) -> Result<(), Fault> {
        if self.retries > 0 { self.delete_from(conn, "DELETE FROM outcome WHERE rid = ?") } else { Ok(()) }
    }

    pub(in crate::writer) fn put_failure(&self, conn: &Connection, failure: &Failure) -> Result<(), Fault> {
        self.put_outcome(conn, None, Some(serde_json::to_string(failure)?))
    }

    fn put_outcome(&self, conn: &Connection, result: Option<&str>, failure: Option<String>) -> Result<(), Fault> {
        // A plain insert is cheaper, and there can be nothing to replace before the first retry.
        let sql = match self.retries {
            0 => "INSERT INTO outcome (rid, result, failure) VALUES (?, ?, ?)",
            _ => "INSERT OR REPLACE INTO outcome (rid, result, failure) VALUES (?, ?, ?)",
        };
        conn.prepare_cached(sql)?.execute(params![self.rid, result, failure])?;
        Ok(())
    }

    /// How a node ended in the workflow that its own resumes.
    pub(in crate::writer) fn keep_outcome(
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
