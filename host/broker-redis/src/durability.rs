//! Changes that are answered only when replicas have them.
//!
//! Redis answers a write before its replicas have it, so a failover can lose what was answered. `WAIT` counts the writes
//! of its own connection and blocks what comes after it there. So each such change has a connection of its own until it
//! is confirmed, and nobody waits behind it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use redis::{Cmd, Value};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use umbel_broker::{Error, Result};

use crate::{
    connection::{Connection, Failed, NOT_READY_PAUSE, Repeat, Verdict, is_unknown_function, verdict},
    dial::Wire,
    settings::Durability,
};

/// Changes that wait for replicas at once, each on a connection of its own.
const MAX_CONNECTIONS: usize = 32;
/// The functions whose answer says that a change is kept. What only workers and background services call is not among
/// them: a lost claim or outcome makes a job run again, and loses none. But on the word of `collect_blobs` bytes are destroyed,
/// for which a record must not come back.
const CONFIRMED: [&str; 19] = [
    "submit",
    "start_workflow",
    "cancel",
    "cancel_workflow",
    "run_now",
    "forget",
    "forget_workflow",
    "control",
    "delete_queue",
    "put_document",
    "delete_document",
    "kv_write",
    "kv_delete",
    "kv_delete_bucket",
    "put_blob",
    "delete_blob",
    "collect_blobs",
    "schedule_steps",
    "delete_schedules",
];

/// The connections for changes that are confirmed.
#[derive(Debug)]
pub(crate) struct Confirming {
    how: Durability,
    timeout: Duration,
    idle: Mutex<Vec<Wire>>,
    turns: Semaphore,
}

impl Confirming {
    /// None if the server's own word is enough. `timeout`: how long a change waits for its confirmation.
    pub(crate) fn new(how: Durability, timeout: Duration) -> Option<Self> {
        let turns = Semaphore::new(MAX_CONNECTIONS);
        (how != Durability::Server).then(|| Self { how, timeout, idle: Mutex::default(), turns })
    }

    /// Whether this function's changes are confirmed.
    pub(crate) fn covers(function: &str) -> bool {
        CONFIRMED.contains(&function)
    }

    /// Calls a function, and answers when its change is confirmed.
    pub(crate) async fn query(&self, connection: &Connection, command: &Cmd, repeat: Repeat) -> Result<Value, Failed> {
        let deadline = Instant::now() + connection.patience;
        let Ok(Ok(_turn)) = timeout_at(deadline + self.timeout, self.turns.acquire()).await else {
            let why = format!("{MAX_CONNECTIONS} changes wait for replicas already");
            return Err(Failed::Broker(Error::Unavailable(why)));
        };
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut own = match idle {
                Some(own) => own,
                None => connection.open().await.map_err(Failed::Broker)?.0,
            };
            let error = match command.query_async::<Value>(&mut own).await {
                Ok(value) => {
                    let confirmed = self.confirmations(connection, &mut own).await.map_err(Failed::Broker)?;
                    // Also without enough of them: a new connection for each change would cost more than the change.
                    self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(own);
                    return self.check(confirmed).map(|()| value).map_err(Failed::Broker);
                }
                Err(error) => error,
            };
            if is_unknown_function(&error) {
                return Err(Failed::UnknownFunction);
            }
            // An idle connection may have been lost long ago, with all others.
            let verdict = verdict(&error);
            if verdict == Verdict::Lost {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            let is_final = verdict == Verdict::Answered || (verdict == Verdict::Lost && repeat == Repeat::OnlyUnsent);
            if is_final || Instant::now() + NOT_READY_PAUSE >= deadline {
                return Err(Failed::Broker(connection.told(&error)));
            }
            tokio::time::sleep(NOT_READY_PAUSE).await;
        }
    }

    /// Replicas (or disks) that have what this connection wrote, as soon as they are enough or the time is over.
    async fn confirmations(&self, connection: &Connection, own: &mut Wire) -> Result<i64> {
        let ms = self.timeout.as_millis() as u64;
        let command = match self.how {
            Durability::Server => return Ok(0),
            Durability::Replicated(n) => redis::cmd("WAIT").arg(n).arg(ms).to_owned(),
            // The server's own disk, and no replica's.
            Durability::Fsync => redis::cmd("WAITAOF").arg(1).arg(0).arg(ms).to_owned(),
        };
        let answer = command.query_async::<Value>(own).await;
        Ok(match answer.map_err(|error| Error::Unconfirmed(connection.told(&error).to_string()))? {
            Value::Int(replicas) => replicas,
            Value::Array(counts) => match counts.first() {
                Some(Value::Int(disks)) => *disks,
                _ => 0,
            },
            _ => 0,
        })
    }

    fn check(&self, confirmed: i64) -> Result<()> {
        let (wanted, what) = match self.how {
            Durability::Server => return Ok(()),
            Durability::Replicated(n) => (n, "replicas"),
            Durability::Fsync => (1, "disks"),
        };
        if confirmed >= i64::from(wanted) {
            return Ok(());
        }
        Err(Error::Unconfirmed(format!("{confirmed} of {wanted} {what} had it after {} s", self.timeout.as_secs_f32())))
    }
}
