//! An operation on its way to the writer thread, and what that thread owns.

use std::{fs::File, sync::Arc};

use rusqlite::Connection;
use tokio::sync::oneshot;
use umbel_broker::{Error, Limits, Result, in_process::Channels};

use crate::writer::step::Step;
use crate::{error::Fault, timer::Timer};

/// An operation on its way through the writer.
pub(crate) trait Operation: Send {
    /// About how many jobs it touches.
    fn jobs(&self) -> usize;
    /// Does it; the answer is kept for `answer`. May run again after a rollback.
    fn run(&mut self, step: &mut Step<'_>) -> Result<(), Fault>;
    /// Tells the caller what became of it.
    fn answer(self: Box<Self>, committed: Result<()>);
}

pub(crate) struct Typed<T, F> {
    pub(crate) jobs: usize,
    pub(crate) work: F,
    pub(crate) value: Option<T>,
    pub(crate) reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Operation for Typed<T, F>
where
    T: Send,
    F: Fn(&mut Step<'_>) -> Result<T, Fault> + Send,
{
    fn jobs(&self) -> usize {
        self.jobs
    }

    fn run(&mut self, step: &mut Step<'_>) -> Result<(), Fault> {
        self.value = Some((self.work)(step)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let Self { value, reply, .. } = *self;
        let never_run = || Error::Failed("the operation was not run".into());
        // Whoever asked may have gone; what was done stays done.
        let _ = reply.send(committed.and_then(|()| value.ok_or_else(never_run)));
    }
}

/// The things that the writer thread owns.
pub(crate) struct Writer {
    pub(crate) conn: Connection,
    pub(crate) limits: Limits,
    /// Pages that submissions may fill.
    pub(crate) max_pages: Option<u64>,
    pub(crate) timer: Arc<Timer>,
    pub(crate) channels: Channels,
    /// Held until the connection is closed.
    pub(crate) lock: Option<File>,
}
