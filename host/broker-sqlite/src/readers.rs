//! Reads, on threads and connections of their own: they see what is committed, and neither wait for the writer nor hold
//! it up. A database in memory has one connection only, so there the writer reads.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
};

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};
use umbel_broker::{Error, Result};

use crate::{error::Fault, schema, writer};

const THREADS: usize = 2;
/// Reads that may wait; a caller beyond them waits for room.
const INBOX: usize = 1_024;

type Read = Box<dyn FnOnce(&Connection) + Send>;

/// The way to the reading threads. Dropping it waits for them to end.
#[derive(Debug)]
pub(crate) struct Readers {
    inbox: Option<mpsc::Sender<Read>>,
    threads: Vec<JoinHandle<()>>,
}

impl Readers {
    pub(crate) fn start(path: &Path) -> Result<Self> {
        let (inbox, reads) = mpsc::channel::<Read>(INBOX);
        let reads = Arc::new(Mutex::new(reads));
        let mut readers = Self { inbox: Some(inbox), threads: Vec::new() };
        for number in 0..THREADS {
            let conn = schema::open_reader(path)?;
            let reads = reads.clone();
            let thread = std::thread::Builder::new().name(format!("umbel-sqlite-read-{number}")).spawn(move || {
                // The idle thread waits inside the lock, the other one for the lock: one read goes to one thread.
                let next = || reads.lock().unwrap_or_else(PoisonError::into_inner).blocking_recv();
                while let Some(read) = next() {
                    read(&conn);
                }
            });
            let thread = thread.map_err(|error| Error::Failed(format!("no thread for a reader: {error}")))?;
            readers.threads.push(thread);
        }
        Ok(readers)
    }

    /// No threads: `read` goes to the writer.
    pub(crate) fn none() -> Self {
        Self { inbox: None, threads: Vec::new() }
    }

    /// Runs `work` on one consistent view of what is committed.
    pub(crate) async fn read<T, F>(&self, writer: &writer::Handle, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Result<T, Fault> + Send + 'static,
    {
        let Some(inbox) = &self.inbox else {
            let read = move |step: &mut writer::Step<'_>| {
                step.write_all()?;
                work(step.conn)
            };
            return writer.write(1, read).await;
        };
        let stopped = || Error::Unavailable("the readers of the database have stopped".into());
        let (reply, answer) = oneshot::channel();
        let read: Read = Box::new(move |conn| {
            let _ = reply.send(in_transaction(conn, work).map_err(Error::from));
        });
        inbox.send(read).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}

fn in_transaction<T>(conn: &Connection, work: impl Fn(&Connection) -> Result<T, Fault>) -> Result<T, Fault> {
    conn.prepare_cached("BEGIN")?.execute([])?;
    let answer = work(conn);
    // Nothing was written: this only lets go of the view, and its failure must not hide the answer.
    let _ = conn.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
    if !conn.is_autocommit() {
        let _ = conn.execute_batch("ROLLBACK");
    }
    answer
}

impl Drop for Readers {
    fn drop(&mut self) {
        drop(self.inbox.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
