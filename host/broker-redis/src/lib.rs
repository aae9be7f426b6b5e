//! The broker on Redis or Valkey: any number of workers, every step one function of a library that is loaded into the server.
//!
//! Invariants: a function reads the clock itself and touches the keys of one shard only; the rules are those of the
//! in-memory model, which the conformance suite compares with, answer by answer; what users sent is never parsed by a
//! function; no password gets into an error or a log. This crate knows nothing of HTTP and wasm.

mod answers;
mod audit;
mod blobs;
mod broker_options;
mod bytes;
mod connection;
mod controls;
mod decode;
mod deliveries;
mod dial;
mod durability;
mod encode;
mod events;
mod growth;
mod hints;
mod jobs;
mod keys;
mod kv;
mod labels;
mod library;
mod maintenance;
mod nodes;
mod recount;
mod registry;
mod scan;
mod schedules;
mod settings;
mod storage;
#[cfg(test)]
mod tests;
mod token;
mod upgrade;
mod usage;
mod workflows;

use std::{fmt, sync::Arc, time::Duration};

use redis::{Cmd, FromRedisValue, Value};
use umbel_broker::{Clock, Error, Limits, Result};

use answers::Answer;
use connection::{Connection, Failed, Repeat};
use deliveries::LostClaims;
pub use dial::RedisFiles;
use durability::Confirming;
use hints::Signals;
use keys::Keys;
use labels::Building;
use recount::Recount;
pub use settings::Durability;

/// The one shard that there is; keys are ready for more.
const SHARD: u32 = 0;

/// Where Redis is and how it is used.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://[user:password@]host[:port][/database]`, `rediss://…` over TLS, or `redis+unix:///path`.
    pub url: String,
    /// Authorities, a certificate and a password that are in files.
    pub files: RedisFiles,
    /// Use a server that deletes jobs when its memory is full. For development.
    pub allow_unsafe_settings: bool,
    pub clock: Clock,
    pub limits: Limits,
    /// When a change counts as kept.
    pub durability: Durability,
    /// How long a change waits for its confirmation by replicas or disk.
    pub confirm_timeout: Duration,
    /// What every key starts with; letters and digits.
    pub prefix: String,
    /// `connect` returns although the server cannot be reached, and goes on trying. A server that answers and is refused
    /// is an error all the same.
    pub wait_for_server: bool,
    /// How long an operation waits for a lost connection before it fails.
    pub patience: Duration,
    /// For connecting, with all that is checked then.
    pub connect_timeout: Duration,
    /// For one answer. The server is given up after it, so it is longer than any function or save may take.
    pub response_timeout: Duration,
}

impl RedisConfig {
    /// The defaults for a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            files: RedisFiles::default(),
            allow_unsafe_settings: false,
            clock: Clock::Server,
            limits: Limits::default(),
            durability: Durability::Server,
            confirm_timeout: Duration::from_secs(5),
            prefix: "umbel".into(),
            wait_for_server: false,
            patience: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for RedisConfig {
    /// Without the address: there may be a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("prefix", &self.prefix)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A broker on a Redis server. Many may share one; each has a connection of its own, and one more for hints.
pub struct RedisBroker {
    connection: Arc<Connection>,
    confirming: Option<Confirming>,
    signals: Signals,
    clock: Clock,
    limits: Limits,
    lost_claims: LostClaims,
    building: tokio::sync::Mutex<Option<Building>>,
    recount: tokio::sync::Mutex<Option<Recount>>,
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl RedisBroker {
    /// Connects. A lost connection is made anew for ever, by itself.
    ///
    /// # Errors
    /// `Unavailable` when the server does not answer (not with `wait_for_server`); `Refused` when it loses data, is too
    /// old, is a replica, wants another password, or holds data of a newer release; `Refused` for an address or a file that
    /// cannot be read, and for a certificate that is not trusted.
    pub async fn connect(config: RedisConfig) -> Result<Self> {
        let prefix_ok = !config.prefix.is_empty() && config.prefix.bytes().all(|b| b.is_ascii_alphanumeric());
        if !prefix_ok {
            return Err(Error::Refused("the prefix of the keys must be letters and digits".into()));
        }
        let connection = Connection::start(&config, Keys::new(&config.prefix, SHARD)).await?;
        let RedisConfig { clock, limits, durability, confirm_timeout, .. } = config;
        let confirming = Confirming::new(durability, confirm_timeout);
        let broker = Self {
            connection,
            confirming,
            signals: Signals::new(),
            clock,
            limits,
            lost_claims: LostClaims::default(),
            building: tokio::sync::Mutex::default(),
            recount: tokio::sync::Mutex::default(),
        };
        // Without a server, the next one who connects does it.
        if broker.connection.is_up() {
            broker.finish_upgrade().await?;
        }
        Ok(broker)
    }

    /// Calls a function. A server that does not have it (yet, or after a restart) is given the library first.
    pub(crate) async fn run(&self, function: &str, args: Vec<Vec<u8>>, repeat: Repeat) -> Result<Value> {
        let mut command = self.connection.library.call(function, self.connection.keys.routing());
        let now = self.clock.fixed_now().map(|now| now.to_string()).unwrap_or_default();
        let Limits { max_dead, max_job_bytes, max_document_bytes, .. } = self.limits;
        command.arg(format!("{now};{max_dead};{max_job_bytes};{max_document_bytes}")).arg(args);
        // It may be lost once more between the loading and the call.
        for _ in 0..3 {
            let answer = match self.confirming.as_ref().filter(|_| Confirming::covers(function)) {
                Some(confirming) => confirming.query(&self.connection, &command, repeat).await,
                None => self.connection.query(&command, repeat).await,
            };
            match answer {
                Ok(value) => return Ok(value),
                Err(Failed::Broker(error)) => return Err(error),
                Err(Failed::UnknownFunction) => match self.command(&self.connection.library.load()).await {
                    // Another process was faster.
                    Err(Error::Failed(why)) if why.contains("already exists") => {}
                    loaded => drop(loaded?),
                },
            }
        }
        Err(Error::Failed("the server forgets functions as soon as it is given them".into()))
    }

    /// Calls a function whose answer is a list.
    pub(crate) async fn answer(&self, function: &str, args: Vec<Vec<u8>>, repeat: Repeat) -> Result<Answer> {
        Answer::new(self.run(function, args, repeat).await?)
    }

    /// Calls a function whose answer is one value.
    pub(crate) async fn typed<T: FromRedisValue>(
        &self,
        function: &str,
        args: Vec<Vec<u8>>,
        repeat: Repeat,
    ) -> Result<T> {
        let value = self.run(function, args, repeat).await?;
        T::from_redis_value(value).map_err(|e| Error::Failed(format!("a function's answer cannot be read: {e}")))
    }

    /// A command that may be repeated.
    pub(crate) async fn command(&self, command: &Cmd) -> Result<Value> {
        self.connection.query(command, Repeat::Safe).await.map_err(|failed| match failed {
            Failed::Broker(error) => error,
            Failed::UnknownFunction => Error::Failed("a function is not known".into()),
        })
    }
}

/// Arguments of a function that are texts.
fn args<const N: usize>(texts: [&dyn fmt::Display; N]) -> Vec<Vec<u8>> {
    texts.map(|text| text.to_string().into_bytes()).into()
}

fn unknown_code() -> Error {
    Error::Failed("a function answered with a code that is not known".into())
}
