//! One operation under way, inside the transaction of its group.

use rusqlite::Connection;
use umbel_broker::{Limits, in_process::Notifications, rules::lease::Reaping, scheduler::Scheduler};
use umbel_model::UnixMs;

use crate::writer::{
    state::event_subscriptions::EventSubscriptions, state::scheduler_rebuild, state::stored::Stored,
    state::usage::UsageSums, state::workflow_state::WorkflowStates,
};
use crate::{error::Fault, rows::run};

/// How much of the work list an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::writer) enum FollowUp {
    All,
    /// Only the items that it added itself: the rest found no room.
    Own,
    Nothing,
}

/// One operation under way, inside the transaction of its group.
pub(crate) struct Step<'a> {
    pub(crate) conn: &'a Connection,
    pub(in crate::writer) scheduler: &'a mut Scheduler<i64>,
    /// The scheduler was read again: after a rollback it must be once more.
    pub(in crate::writer) scheduler_reloaded: &'a mut bool,
    /// The counts of tenant queues were written in the middle of the group.
    pub(in crate::writer) scheduler_written: &'a mut bool,
    pub(in crate::writer) workflows: &'a mut WorkflowStates,
    pub(in crate::writer) subscriptions: &'a mut EventSubscriptions,
    pub(in crate::writer) stored: &'a mut Stored,
    pub(in crate::writer) usage: &'a mut UsageSums,
    pub(in crate::writer) reaping: &'a mut Reaping,
    pub(in crate::writer) limits: &'a Limits,
    pub(in crate::writer) max_pages: Option<u64>,
    pub(in crate::writer) notifications: &'a mut Notifications,
    pub(in crate::writer) follow_up: FollowUp,
    /// The same for all that the operation does.
    pub(in crate::writer) now: UnixMs,
}

impl Step<'_> {
    /// Writes what is there: a file that takes no writes is found.
    pub(crate) fn check(&mut self) -> Result<(), Fault> {
        run(self.conn, "UPDATE meta SET seq = seq", &[])
    }

    /// For reads in the middle of a group: what memory knows is written.
    pub(crate) fn write_all(&mut self) -> Result<(), Fault> {
        scheduler_rebuild::flush(self.conn, self.scheduler, true)?;
        *self.scheduler_written = true;
        self.workflows.write(self.conn)?;
        self.stored.write(self.conn)?;
        self.usage.write(self.conn, self.limits.max_usage_tasks)?;
        self.write_subscriptions()
    }
}
