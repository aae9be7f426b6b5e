//! Keeps the write-ahead log short, whoever reads the file.

use std::time::Duration;

use rusqlite::Connection;

use crate::schema::BUSY;

/// Pages in the log that are not yet in the file before they are copied: 16 MiB.
const CHECKPOINT_PAGES: i64 = 4_000;
/// Pages in the log before readers are made to let go of it, so that it can be cut: 128 MiB.
const TRUNCATE_PAGES: i64 = 32_000;
/// Readers are waited for no longer than this; no write is done meanwhile.
const WAIT: Duration = Duration::from_millis(20);

/// See the top of the file.
#[derive(Debug)]
pub(super) struct WriteAheadLog {
    checkpoint_pages: i64,
    truncate_pages: i64,
    /// Pages from which on it is tried to cut the log.
    next_try: i64,
}

impl Default for WriteAheadLog {
    fn default() -> Self {
        Self::new(CHECKPOINT_PAGES, TRUNCATE_PAGES)
    }
}

impl WriteAheadLog {
    fn new(checkpoint_pages: i64, truncate_pages: i64) -> Self {
        Self { checkpoint_pages, truncate_pages, next_try: truncate_pages }
    }

    /// Between two groups. Whether it was tried to cut the log.
    pub(super) fn shorten(&mut self, conn: &Connection) -> rusqlite::Result<bool> {
        let run = |sql| {
            let mut statement = conn.prepare_cached(sql)?;
            statement.query_row([], |row| Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
        };
        let (_, log, copied) = run("PRAGMA wal_checkpoint(NOOP)")?;
        // Another program that reads for long, such as a backup, must not make every group wait for it: the next try comes
        // when as much again is in the log, and when the program has let go and the log begins anew.
        let begins_anew = log <= self.truncate_pages && self.next_try > self.truncate_pages;
        let tries = log > self.next_try || begins_anew;
        if tries {
            self.next_try = if begins_anew { self.truncate_pages } else { log + self.truncate_pages };
            conn.busy_timeout(WAIT)?;
            let cut = run("PRAGMA wal_checkpoint(TRUNCATE)");
            conn.busy_timeout(BUSY)?;
            cut?;
        } else if log - copied > self.checkpoint_pages {
            run("PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        Ok(tries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_reads_for_long_is_waited_for_seldom_and_the_log_is_cut_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let conn = Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; CREATE TABLE t (x)").unwrap();
        let mut log = WriteAheadLog::new(10, 100);
        let mut write = |times: u32| {
            let mut tries = 0;
            for _ in 0..times {
                conn.execute("INSERT INTO t VALUES (zeroblob(20000))", []).unwrap();
                tries += u32::from(log.shorten(&conn).unwrap());
            }
            tries
        };
        let size = || std::fs::metadata(folder.path().join("db-wal")).unwrap().len();
        let foreign = Connection::open(&path).unwrap();
        foreign.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
        // 5 pages and more each.
        let tries = write(200);
        assert!((1..=15).contains(&tries), "{tries}");
        assert!(size() > 4_000_000);
        foreign.execute_batch("COMMIT").unwrap();
        assert!(write(60) >= 1);
        assert!(size() < 1_000_000, "{}", size());
    }
}
