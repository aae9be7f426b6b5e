//! The state that the writer keeps in memory of the database.

use rusqlite::Connection;
use tracing::warn;
use umbel_broker::{Limits, rules::lease::Reaping, scheduler::Scheduler};

use crate::error::Fault;
use crate::writer::{
    state::event_subscriptions::EventSubscriptions, state::event_subscriptions::keeps_events, state::scheduler_rebuild,
    state::stored::Stored, state::usage::UsageSums, state::workflow_state::WorkflowStates,
};

/// The state that the writer keeps in memory of the database. A group that fails undoes its changes.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) scheduler: Scheduler<i64>,
    /// It was read again by the group under way.
    pub(crate) scheduler_reloaded: bool,
    /// Its counts were written in the middle of the group under way.
    pub(crate) scheduler_written: bool,
    pub(crate) workflows: WorkflowStates,
    pub(crate) subscriptions: EventSubscriptions,
    pub(crate) stored: Stored,
    pub(crate) usage: UsageSums,
    /// A group that fails does not undo it: what it notes is that time was served.
    pub(crate) reaping: Reaping,
}

impl Known {
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        Ok(Self {
            scheduler: scheduler_rebuild::load(conn)?,
            scheduler_reloaded: false,
            scheduler_written: false,
            workflows: WorkflowStates::load(conn)?,
            subscriptions: EventSubscriptions::load(conn)?,
            stored: Stored::load(conn)?,
            usage: UsageSums::default(),
            // The workers were in the process that ended: nobody will renew what is open.
            reaping: Reaping::default(),
        })
    }

    pub(crate) fn flush(
        &mut self,
        conn: &Connection,
        limits: &Limits,
        max_pages: Option<u64>,
        has_room: bool,
    ) -> Result<(), Fault> {
        self.workflows.flush(conn)?;
        scheduler_rebuild::flush(conn, &self.scheduler, self.scheduler_written)?;
        self.stored.write(conn)?;
        self.usage.write(conn, limits.max_usage_tasks)?;
        let keep = keeps_events(conn, &self.subscriptions, max_pages, has_room)?;
        self.subscriptions.write(conn, keep)
    }

    pub(crate) fn keep(&mut self) {
        self.scheduler.keep();
        (self.scheduler_reloaded, self.scheduler_written) = (false, false);
        self.workflows.keep();
        self.subscriptions.keep();
        self.stored.keep();
        self.usage.forget();
    }

    pub(crate) fn undo(&mut self, conn: &Connection) {
        self.scheduler.undo();
        self.scheduler_written = false;
        if std::mem::take(&mut self.scheduler_reloaded) {
            match scheduler_rebuild::load(conn) {
                Ok(scheduler) => self.scheduler = scheduler,
                Err(error) => warn!(%error, "the scheduler could not be read again: it is when the file is opened"),
            }
        }
        self.workflows.undo();
        self.subscriptions.undo();
        self.stored.undo();
        self.usage.forget();
    }
}
