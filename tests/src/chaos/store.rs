//! The Redis of a chaos run: a primary with an append-only file, and its replica, which may be promoted.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::task::spawn_blocking;
use umbel_broker_conformance::redis_server::Options;

use crate::{RedisServer, until};

/// Of a command to a server that runs.
const COMMAND_LIMIT: Duration = Duration::from_secs(5);
/// Of changing a setting back.
const UNDO_LIMIT: Duration = Duration::from_secs(30);
/// How long a promotion may take before it is given up, ms.
const FAILOVER_MS: &str = "3000";

/// Something that is changed in a Redis that runs, and changed back later.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Setting {
    /// More replicas in sync are asked for than there are: no writes.
    Replicas,
    /// No memory is left: no writes that need some.
    Memory,
    /// The user may not call functions.
    Calls,
    /// The user may not publish, or only to no channel.
    Publish,
    Channels,
}

impl Setting {
    pub(crate) const RIGHTS: [Self; 3] = [Self::Calls, Self::Publish, Self::Channels];

    /// The command that makes it so.
    fn make(self) -> &'static [&'static str] {
        match self {
            Self::Replicas => &["CONFIG", "SET", "min-replicas-to-write", "9"],
            Self::Memory => &["CONFIG", "SET", "maxmemory", "1"],
            Self::Calls => &["ACL", "SETUSER", "default", "-fcall"],
            Self::Publish => &["ACL", "SETUSER", "default", "-publish"],
            Self::Channels => &["ACL", "SETUSER", "default", "resetchannels"],
        }
    }

    /// The command that undoes it.
    fn undo(self) -> &'static [&'static str] {
        match self {
            Self::Replicas => &["CONFIG", "SET", "min-replicas-to-write", "0"],
            Self::Memory => &["CONFIG", "SET", "maxmemory", "0"],
            Self::Calls | Self::Publish | Self::Channels => {
                &["ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all"]
            }
        }
    }
}

/// Both servers.
#[derive(Debug)]
pub(crate) struct Store {
    servers: Arc<Mutex<[RedisServer; 2]>>,
    primary: usize,
}

impl Store {
    pub(crate) fn start() -> Result<Self> {
        // `always`: what is acknowledged is on the disk. With `everysec` a killed Redis may forget a second of it, and a
        // run that finds a lost job could not say whose fault that is.
        let options = Options { appendonly: true, arguments: &["--appendfsync", "always"], ..Options::default() };
        let servers = [RedisServer::start(options), RedisServer::start(options)];
        let port = servers[0].port().to_string();
        redis::cmd("REPLICAOF").arg("127.0.0.1").arg(port).exec(&mut servers[1].connection())?;
        Ok(Self { servers: Arc::new(Mutex::new(servers)), primary: 0 })
    }

    fn servers(&self) -> MutexGuard<'_, [RedisServer; 2]> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port of the primary.
    pub(crate) fn port(&self) -> u16 {
        self.servers()[self.primary].port()
    }

    pub(crate) fn kill(&self) {
        self.servers()[self.primary].kill();
    }

    pub(crate) fn suspend(&self) {
        self.servers()[self.primary].suspend();
    }

    pub(crate) fn resume(&self) {
        self.servers()[self.primary].resume();
    }

    /// Starts the primary again, which reads its file first.
    pub(crate) async fn restart(&self) -> Result<()> {
        let (servers, primary) = (self.servers.clone(), self.primary);
        // It waits for Redis, and the proxies and clients must go on meanwhile.
        let restarted =
            spawn_blocking(move || servers.lock().unwrap_or_else(PoisonError::into_inner)[primary].restart());
        restarted.await.context("redis-server did not start again")
    }

    /// Changes a setting of the primary.
    pub(crate) async fn make(&self, setting: Setting) -> Result<()> {
        tell(self.port(), setting.make()).await.map(drop)
    }

    /// Changes it back, on both: the primary may be another one by now.
    pub(crate) async fn undo(&self, setting: Setting) -> Result<()> {
        let ports = self.servers().each_ref().map(RedisServer::port);
        for port in ports {
            // One that just came back may still be busy.
            until("a setting is undone", UNDO_LIMIT, || async { tell(port, setting.undo()).await.map(Some) }).await?;
        }
        Ok(())
    }

    /// Forgets all functions and scripts.
    pub(crate) async fn forget(&self) -> Result<()> {
        tell(self.port(), &["FUNCTION", "FLUSH", "SYNC"]).await?;
        tell(self.port(), &["SCRIPT", "FLUSH"]).await.map(drop)
    }

    /// Makes the replica the primary once it has everything. False when it is not in sync and nothing changed.
    pub(crate) async fn promote(&mut self) -> Result<bool> {
        let old = self.port();
        if tell(old, &["FAILOVER", "TIMEOUT", FAILOVER_MS]).await.is_err() {
            return Ok(false);
        }
        let changed = until("the failover has ended", COMMAND_LIMIT, || async {
            let info = tell(old, &["INFO", "replication"]).await?;
            Ok(info.contains("master_failover_state:no-failover").then(|| info.contains("role:slave")))
        });
        let changed = changed.await?;
        if changed {
            self.primary = 1 - self.primary;
        }
        Ok(changed)
    }
}

/// The answer to a command, as text.
async fn tell(port: u16, command: &'static [&'static str]) -> Result<String> {
    let told = spawn_blocking(move || -> Result<String> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
        let mut connection = client.get_connection_with_timeout(COMMAND_LIMIT)?;
        connection.set_read_timeout(Some(COMMAND_LIMIT))?;
        let mut built = redis::cmd(command[0]);
        built.arg(&command[1..]);
        let answer: redis::Value = built.query(&mut connection)?;
        ensure!(!matches!(answer, redis::Value::ServerError(_)), "{command:?}: {answer:?}");
        Ok(redis::from_redis_value::<String>(answer).unwrap_or_default())
    });
    told.await?
}
