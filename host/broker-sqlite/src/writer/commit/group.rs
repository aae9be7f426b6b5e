//! Group commit, and the care for the file between groups: the write-ahead log stays short, free pages go back.

use rusqlite::{Connection, ffi::ErrorCode};
use tracing::{debug, warn};
use umbel_broker::{Error, Result, in_process::Notifications};

use crate::error::Fault;
use crate::writer::{
    commit::operation::Operation, commit::operation::Writer, commit::write_ahead_log::WriteAheadLog,
    state::known::Known, step::FollowUp, step::Step,
};

/// Free pages that are kept for reuse; more than these and than half of the file go back to the disk.
const KEEP_FREE_PAGES: i64 = 4_000;
/// Free pages given back between two groups.
const VACUUM_PAGES: i64 = 256;
/// Groups between two looks at the free pages.
const VACUUM_EVERY: u32 = 64;

/// The state of the writer thread.
pub(crate) struct Group<'a> {
    conn: &'a Connection,
    writer: &'a Writer,
    known: Known,
    notifications: Notifications,
    log: WriteAheadLog,
    groups: u32,
    failing: bool,
}

impl<'a> Group<'a> {
    pub(crate) fn new(writer: &'a Writer, known: Known) -> Self {
        let (notifications, log) = (Notifications::default(), WriteAheadLog::default());
        Self { conn: &writer.conn, writer, known, notifications, log, groups: 0, failing: false }
    }

    /// Runs, commits and answers what waits.
    pub(crate) fn serve(&mut self, waiting: &mut Vec<Box<dyn Operation>>) {
        match self.commit_in_part(waiting) {
            Ok(()) => waiting.drain(..).for_each(|operation| operation.answer(Ok(()))),
            Err(_) if waiting.len() > 1 => {
                for mut operation in waiting.drain(..) {
                    let committed = self.commit_in_part(std::slice::from_mut(&mut operation));
                    self.report(committed.as_ref().err());
                    operation.answer(committed);
                }
            }
            Err(error) => {
                self.report(Some(&error));
                waiting.drain(..).for_each(|operation| operation.answer(Err(error.clone())));
                return;
            }
        }
        self.care();
    }

    /// Where there is no room for what follows, that is left on the work list: one workflow that cannot go on must not
    /// stop what needs less.
    fn commit_in_part(&mut self, operations: &mut [Box<dyn Operation>]) -> Result<()> {
        let mut committed = self.commit(operations, FollowUp::All);
        for follow_up in [FollowUp::Own, FollowUp::Nothing] {
            match committed {
                Err(Fault::Sql(error)) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                    committed = self.commit(operations, follow_up);
                }
                _ => break,
            }
        }
        Ok(committed?)
    }

    fn commit(&mut self, operations: &mut [Box<dyn Operation>], follow_up: FollowUp) -> Result<(), Fault> {
        let changes = self.conn.total_changes();
        match self.attempt(operations, follow_up) {
            Ok(()) => {
                self.known.keep();
                let ready_in = std::mem::take(&mut self.known.scheduler.ready_in);
                self.writer.channels.notify(ready_in, std::mem::take(&mut self.notifications));
                if self.failing && self.conn.total_changes() != changes {
                    self.failing = false;
                    warn!("the database takes writes again");
                }
                Ok(())
            }
            Err(fault) => {
                // SQLite may have rolled back by itself.
                if !self.conn.is_autocommit()
                    && let Err(error) = self.conn.execute_batch("ROLLBACK")
                {
                    warn!(%error, "a transaction could not be rolled back");
                }
                self.known.undo(self.conn);
                self.notifications = Notifications::default();
                Err(fault)
            }
        }
    }

    fn attempt(&mut self, operations: &mut [Box<dyn Operation>], follow_up: FollowUp) -> Result<(), Fault> {
        self.conn.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        for operation in operations {
            let now = self.writer.timer.now();
            self.known.scheduler.now = now;
            let mut step = Step {
                conn: self.conn,
                scheduler: &mut self.known.scheduler,
                scheduler_reloaded: &mut self.known.scheduler_reloaded,
                scheduler_written: &mut self.known.scheduler_written,
                workflows: &mut self.known.workflows,
                subscriptions: &mut self.known.subscriptions,
                stored: &mut self.known.stored,
                usage: &mut self.known.usage,
                reaping: &mut self.known.reaping,
                limits: &self.writer.limits,
                max_pages: self.writer.max_pages,
                notifications: &mut self.notifications,
                follow_up,
                now,
            };
            operation.run(&mut step)?;
        }
        self.known.flush(self.conn, &self.writer.limits, self.writer.max_pages, follow_up == FollowUp::All)?;
        self.conn.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Says the first failure; every caller is told his own.
    fn report(&mut self, error: Option<&Error>) {
        if let Some(error) = error
            && !self.failing
        {
            self.failing = true;
            warn!(%error, "the database refuses writes");
        }
    }

    /// After the answers, so that nobody waits for it. A failure is met again by the next commit.
    fn care(&mut self) {
        if let Err(error) = self.log.shorten(self.conn) {
            debug!(%error, "checkpoint failed");
        }
        self.groups = self.groups.wrapping_add(1);
        if self.groups.is_multiple_of(VACUUM_EVERY)
            && let Err(error) = self.give_back()
        {
            debug!(%error, "free pages could not be given back");
        }
    }

    fn give_back(&self) -> rusqlite::Result<()> {
        let number = |sql| self.conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0));
        let (free, all) = (number("PRAGMA freelist_count")?, number("PRAGMA page_count")?);
        if free > KEEP_FREE_PAGES && free > all / 2 {
            self.conn.execute_batch(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
        }
        Ok(())
    }
}
