//! The parts of a job that are written seldom, in tables of their own: its progress, log, history and outcome.

use rusqlite::Connection;
use serde_json::value::RawValue;
use umbel_broker::LogLine;
use umbel_model::{AttemptRecord, Failure, JobState, Progress, job::MAX_HISTORY};

use crate::writer::jobs::head::Head;
use crate::{
    error::Fault,
    rows::{insert, run},
};

impl Head {
    /// Keeps what a worker says: the newest progress, and the log lines that there is room for. `save` must follow.
    pub(crate) fn hear(
        &mut self,
        conn: &Connection,
        max_lines: u64,
        progress: Option<&Progress>,
        lines: &[LogLine],
    ) -> Result<(), Fault> {
        if let Some(progress) = progress {
            let progress = serde_json::to_string(progress)?;
            insert!(conn, "INSERT OR REPLACE INTO progress" { rid: self.rid, progress: progress })?;
        }
        let room = usize::try_from(max_lines.saturating_sub(self.log_lines)).unwrap_or(usize::MAX);
        for line in lines.iter().take(room) {
            let line = serde_json::to_string(line)?;
            insert!(conn, "INSERT INTO log" { rid: self.rid, n: self.log_lines, line: line })?;
            self.log_lines += 1;
        }
        Ok(())
    }

    /// Keeps the first attempt and the newest ones. `save` must follow.
    pub(crate) fn remember(&mut self, conn: &Connection, record: &AttemptRecord) -> Result<(), Fault> {
        if self.records >= MAX_HISTORY as u64 {
            let oldest_but_one = self.records - (MAX_HISTORY as u64 - 1);
            run(conn, "DELETE FROM history WHERE rid = ? AND n = ?", &[&self.rid, &oldest_but_one])?;
        }
        let record = serde_json::to_string(record)?;
        insert!(conn, "INSERT INTO history" { rid: self.rid, n: self.records, record: record })?;
        self.records += 1;
        Ok(())
    }

    pub(crate) fn put_result(&self, conn: &Connection, result: Option<&str>) -> Result<(), Fault> {
        match result {
            Some(result) => self.put_outcome(conn, Some(result), None),
            None => self.clear_outcome(conn),
        }
    }

    /// Whether a failure may be stored: of an attempt before, or because a later job superseded this one while it ran.
    fn may_have_outcome(&self) -> bool {
        self.retries > 0 || self.cancel_requested
    }

    /// Takes away a failure that is stored.
    pub(crate) fn clear_outcome(&self, conn: &Connection) -> Result<(), Fault> {
        if self.may_have_outcome() { self.delete_from(conn, "DELETE FROM outcome WHERE rid = ?") } else { Ok(()) }
    }

    pub(crate) fn put_failure(&self, conn: &Connection, failure: &Failure) -> Result<(), Fault> {
        self.put_outcome(conn, None, Some(serde_json::to_string(failure)?))
    }

    fn put_outcome(&self, conn: &Connection, result: Option<&str>, failure: Option<String>) -> Result<(), Fault> {
        // A plain insert is cheaper.
        let sql = match self.may_have_outcome() {
            false => "INSERT INTO outcome (rid, result, failure) VALUES (?, ?, ?)",
            true => "INSERT OR REPLACE INTO outcome (rid, result, failure) VALUES (?, ?, ?)",
        };
        run(conn, sql, &[&self.rid, &result, &failure])
    }

    /// How a node ended in the workflow that its own resumes.
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
