//! The way to the writer thread, and what that thread does.

use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};
use umbel_broker::{Error, Result};

use crate::error::Fault;
use crate::writer::{
    commit::group::Group, commit::operation::Operation, commit::operation::Typed, commit::operation::Writer,
    state::known::Known, step::Step,
};

/// Operations that may wait for the writer; a caller beyond them waits for room.
const INBOX: usize = 1_024;
/// Operations of one group at most.
const GROUP_OPS: usize = 256;
/// Jobs that a group may touch before it takes no more operations: bounds how long an answer can take.
const GROUP_JOBS: usize = 4_000;

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
