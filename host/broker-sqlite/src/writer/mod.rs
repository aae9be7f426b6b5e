//! The one thread that writes: it takes all operations that wait, runs them in one transaction, commits once, and then
//! answers them all.
//!
//! Invariants: nothing is answered before its commit, and what failed leaves no trace, on disk or in memory. When one
//! operation of a group fails, the group is rolled back and each of its operations runs again in a transaction of its
//! own, so that it spoils no other. That is cheaper than a savepoint for each, because failures are rare.

mod advance;
mod broker_options;
mod deliveries;
mod flows;
mod followed;
mod group;
mod growth;
mod head;
mod inserts;
mod keeping;
mod mending;
mod records;
mod removal;
mod stage;
mod step;
mod stored_scheduler;
mod submit;
mod sweeps;
mod todo;
mod wishes;

use std::{fs::File, sync::Arc, thread::JoinHandle};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;
use umbel_broker::{Error, Limits, Result, scheduler::Scheduler};

use crate::{error::Fault, news::Channels, timer::Timer};
use flows::Flows;
use followed::{Followed, keeps_events};
use group::Group;
pub(crate) use growth::nodes_of;
use step::FollowUp;
pub(crate) use step::Step;

/// Operations that may wait for the writer; a caller beyond them waits for room.
const INBOX: usize = 1_024;
/// Operations of one group at most.
const GROUP_OPS: usize = 256;
/// Jobs that a group may touch before it takes no more operations: bounds how long an answer can take.
const GROUP_JOBS: usize = 4_000;

/// An operation on its way through the writer.
pub(crate) trait Operation: Send {
    /// About how many jobs it touches.
    fn jobs(&self) -> usize;
    /// Does it; the answer is kept for `answer`. May run again after a rollback.
    fn run(&mut self, step: &mut Step<'_>) -> Result<(), Fault>;
    /// Tells the caller what became of it.
    fn answer(self: Box<Self>, committed: Result<()>);
}

struct Typed<T, F> {
    jobs: usize,
    work: F,
    value: Option<T>,
    reply: oneshot::Sender<Result<T>>,
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

/// What the writer thread owns.
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

/// What the writer keeps in memory of the database, and what a group that fails undoes.
#[derive(Debug)]
struct Known {
    scheduler: Scheduler<i64>,
    /// It was read again by the group under way.
    scheduler_reloaded: bool,
    /// Its counts were written in the middle of the group under way.
    scheduler_written: bool,
    flows: Flows,
    followed: Followed,
}

impl Known {
    fn load(conn: &Connection) -> Result<Self, Fault> {
        Ok(Self {
            scheduler: stored_scheduler::load(conn)?,
            scheduler_reloaded: false,
            scheduler_written: false,
            flows: Flows::load(conn)?,
            followed: Followed::load(conn)?,
        })
    }

    fn flush(&mut self, conn: &Connection, max_pages: Option<u64>, follow_up: FollowUp) -> Result<(), Fault> {
        self.flows.flush(conn)?;
        stored_scheduler::flush(conn, &self.scheduler, self.scheduler_written)?;
        let keep = keeps_events(conn, &self.followed, max_pages, follow_up)?;
        self.followed.write(conn, keep)
    }

    fn keep(&mut self) {
        self.scheduler.keep();
        (self.scheduler_reloaded, self.scheduler_written) = (false, false);
        self.flows.keep();
        self.followed.keep();
    }

    fn undo(&mut self, conn: &Connection) {
        self.scheduler.undo();
        self.scheduler_written = false;
        if std::mem::take(&mut self.scheduler_reloaded) {
            match stored_scheduler::load(conn) {
                Ok(scheduler) => self.scheduler = scheduler,
                Err(error) => warn!(%error, "the scheduler could not be read again: it is when the file is opened"),
            }
        }
        self.flows.undo();
        self.followed.undo();
    }
}

/// The way to the writer thread. Dropping it ends the thread when it has done what waits, and waits for that.
#[derive(Debug)]
pub(crate) struct Handle {
    inbox: Option<mpsc::Sender<Box<dyn Operation>>>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    pub(crate) fn start(writer: Writer) -> Result<Self> {
        let known = Known::load(&writer.conn)?;
        let (inbox, operations) = mpsc::channel(INBOX);
        let thread = std::thread::Builder::new()
            .name("umbel-sqlite-writer".into())
            .spawn(move || serve(writer, known, operations))
            .map_err(|error| Error::Failed(format!("no thread for the writer: {error}")))?;
        Ok(Self { inbox: Some(inbox), thread: Some(thread) })
    }

    /// Runs `work` in a transaction; answers when that is committed.
    pub(crate) async fn write<T, F>(&self, jobs: usize, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Step<'_>) -> Result<T, Fault> + Send + 'static,
    {
        let stopped = || Error::Unavailable("the writer of the database has stopped".into());
        let (reply, answer) = oneshot::channel();
        let operation = Box::new(Typed { jobs, work, value: None, reply });
        let inbox = self.inbox.as_ref().ok_or_else(stopped)?;
        inbox.send(operation).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.inbox.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there was reported by its hook already.
            let _ = thread.join();
        }
    }
}

fn serve(writer: Writer, known: Known, mut operations: mpsc::Receiver<Box<dyn Operation>>) {
    let mut group = Group::new(&writer, known);
    let mut waiting: Vec<Box<dyn Operation>> = Vec::with_capacity(GROUP_OPS);
    while let Some(first) = operations.blocking_recv() {
        let mut jobs = first.jobs();
        waiting.push(first);
        while waiting.len() < GROUP_OPS && jobs < GROUP_JOBS {
            let Ok(next) = operations.try_recv() else { break };
            jobs = jobs.saturating_add(next.jobs());
            waiting.push(next);
        }
        group.serve(&mut waiting);
    }
    drop(group);
    // The connection before the lock: nobody may open the file while this process still has it.
    let Writer { conn, lock, .. } = writer;
    drop(conn);
    drop(lock);
}
