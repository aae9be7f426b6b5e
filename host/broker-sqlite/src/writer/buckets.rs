//! Buckets: what the jobs of lanes count for, and how many of them run.

use rusqlite::{OptionalExtension, params};
use umbel_model::TaskName;

use super::{lines::LineId, step::Step};
use crate::{error::Fault, rows::name};

/// What jobs of lanes count for.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub(super) rid: i64,
    pub(super) task: TaskName,
    pub(super) key: String,
    /// The bucket of its task.
    pub(super) of: i64,
}

const BUCKET: &str = "SELECT rid, task, key, of FROM bucket WHERE rid = ?";
const BUCKET_OF: &str = "SELECT rid FROM bucket INDEXED BY bucket_name WHERE tenant = ? AND task = ? AND key = ?";
pub(super) const RUNNING: &str = "SELECT running FROM bucket WHERE rid = ?";

impl Step<'_> {
    pub(super) fn bucket(&self, rid: i64) -> Result<Bucket, Fault> {
        let mut statement = self.conn.prepare_cached(BUCKET)?;
        let mut rows = statement.query([rid])?;
        let row = rows.next()?.ok_or_else(|| Fault::stored("lane of a job", "its bucket is missing"))?;
        let of: Option<i64> = row.get(3)?;
        Ok(Bucket { rid: row.get(0)?, task: name(row, 1)?, key: row.get(2)?, of: of.unwrap_or(rid) })
    }

    pub(super) fn bucket_of(&self, line: LineId, task: &TaskName, key: &str) -> Result<Option<i64>, Fault> {
        self.bucket_named(self.lines.tenant(line).as_str(), task, key)
    }

    pub(super) fn bucket_named(&self, tenant: &str, task: &TaskName, key: &str) -> Result<Option<i64>, Fault> {
        let mut statement = self.conn.prepare_cached(BUCKET_OF)?;
        Ok(statement.query_row(params![tenant, task.as_str(), key], |row| row.get(0)).optional()?)
    }

    /// The bucket of a task and key, made if there is none, for one more that uses it.
    pub(super) fn use_bucket(&mut self, line: LineId, task: &TaskName, key: &str) -> Result<Bucket, Fault> {
        if let Some(rid) = self.bucket_of(line, task, key)? {
            self.conn.prepare_cached("UPDATE bucket SET used = used + 1 WHERE rid = ?")?.execute([rid])?;
            return self.bucket(rid);
        }
        let of = if key.is_empty() { None } else { Some(self.use_bucket(line, task, "")?.rid) };
        let sql = "INSERT INTO bucket (tenant, task, key, of, running, used) VALUES (?, ?, ?, ?, 0, 1)";
        let tenant = self.lines.tenant(line).as_str();
        self.conn.prepare_cached(sql)?.execute(params![tenant, task.as_str(), key, of])?;
        let rid = self.conn.last_insert_rowid();
        Ok(Bucket { rid, task: task.clone(), key: key.to_owned(), of: of.unwrap_or(rid) })
    }

    /// One uses it no more.
    pub(super) fn leave_bucket(&mut self, bucket: &Bucket) -> Result<(), Fault> {
        let mut rid = bucket.rid;
        loop {
            let sql = "UPDATE bucket SET used = used - 1 WHERE rid = ? RETURNING used";
            let used: i64 = self.conn.prepare_cached(sql)?.query_row([rid], |row| row.get(0))?;
            if used > 0 {
                return Ok(());
            }
            self.conn.prepare_cached("DELETE FROM bucket WHERE rid = ?")?.execute([rid])?;
            if rid == bucket.of {
                return Ok(());
            }
            rid = bucket.of;
        }
    }

    /// Jobs of a bucket that run.
    pub(super) fn running_in(&self, rid: i64) -> Result<u64, Fault> {
        let running: i64 = self.conn.prepare_cached(RUNNING)?.query_row([rid], |row| row.get(0))?;
        Ok(running.unsigned_abs())
    }

    /// Counts jobs that start or end, for their key and their task.
    pub(super) fn count_running(&self, bucket: &Bucket, more: i64) -> Result<(), Fault> {
        let sql = "UPDATE bucket SET running = running + ?1 WHERE rid IN (?2, ?3)";
        self.conn.prepare_cached(sql)?.execute([more, bucket.rid, bucket.of])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_look_at_a_bucket_costs_more_because_there_are_more() {
        for sql in [BUCKET, BUCKET_OF, RUNNING] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
