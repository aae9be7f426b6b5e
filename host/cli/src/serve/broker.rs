//! Opens the broker that a URL names.

use std::{path::PathBuf, sync::Arc, time::Duration};

use umbel_broker::Broker;
use umbel_broker_redis::{Durability, RedisBroker, RedisConfig, RedisFiles};
use umbel_broker_sqlite::{SqliteBroker, SqliteConfig};

use super::data::Data;
use crate::{Exit, Failure, Result, args::BrokerFlags};

/// Where jobs are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerUrl {
    Sqlite(PathBuf),
    Redis(String),
}

/// The data folder, and the broker of `--broker` or else the SQLite file of that folder.
pub fn locate(flags: &BrokerFlags) -> Result<(Data, BrokerUrl)> {
    let data = Data::open(&flags.data)?;
    let url = flags.broker.as_deref().map(BrokerUrl::parse).transpose()?;
    let url = url.unwrap_or_else(|| BrokerUrl::Sqlite(data.database()));
    Ok((data, url))
}

impl BrokerUrl {
    fn parse(url: &str) -> Result<Self> {
        match url.split_once(':') {
            Some(("sqlite", "" | "//")) => {
                Err(Failure::usage("the sqlite broker needs a file").help("write --broker sqlite:./umbel.db"))
            }
            Some(("sqlite", path)) => Ok(Self::Sqlite(path.strip_prefix("//").unwrap_or(path).into())),
            Some(("redis" | "rediss" | "redis+unix" | "unix", _)) => Ok(Self::Redis(url.to_owned())),
            // Valkey's own names for the same.
            Some(("valkey", rest)) => Ok(Self::Redis(format!("redis:{rest}"))),
            Some(("valkeys", rest)) => Ok(Self::Redis(format!("rediss:{rest}"))),
            _ => Err(Failure::usage("the broker's address cannot be used")
                .help("write --broker sqlite:PATH or --broker redis://HOST:PORT/DB")),
        }
    }

    /// For people: without a password.
    pub fn shown(&self) -> String {
        match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Redis(url) => match (url.split_once("://"), url.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
                _ => url.clone(),
            },
        }
    }
}

/// There is no such file.
pub fn missing(url: &BrokerUrl) -> Failure {
    let message = format!("there is no broker {}", url.shown());
    Failure::new("no_broker", message).exit(Exit::NotFound).help("name it with --broker or --data")
}

/// Opens the broker. A Redis that cannot be reached is an error or, with `wait_for_server`, is waited for, for ever; one
/// that is refused is an error.
pub async fn open(url: &BrokerUrl, flags: &BrokerFlags, wait_for_server: bool) -> Result<Arc<dyn Broker>> {
    let limits = flags.limits.limits();
    Ok(match url {
        BrokerUrl::Sqlite(_) if flags.durability != Durability::Server => {
            let why = "--durability is for Redis: the SQLite broker syncs its disk before each answer";
            return Err(Failure::usage(why).help("leave it out, or name a Redis with --broker"));
        }
        BrokerUrl::Sqlite(_) if flags.redis.files() != RedisFiles::default() => {
            let why = "--redis-ca-file, --redis-cert and --redis-password-file are for Redis, and the broker is a SQLite file";
            return Err(Failure::usage(why).help("leave them out, or name a Redis with --broker"));
        }
        BrokerUrl::Sqlite(path) => Arc::new(SqliteBroker::open(SqliteConfig { limits, ..SqliteConfig::new(path) })?),
        BrokerUrl::Redis(address) => {
            let allow_unsafe_settings = flags.allow_unsafe_redis;
            let config = RedisConfig::new(address);
            let durability = flags.durability;
            let files = flags.redis.files();
            let config = RedisConfig { files, durability, allow_unsafe_settings, wait_for_server, limits, ..config };
            Arc::new(RedisBroker::connect(config).await?)
        }
    })
}

/// Waits until the broker answers, and says so while it does not.
pub async fn wait_for(broker: &dyn Broker, url: &BrokerUrl) -> Result {
    let mut pause = Duration::from_millis(250);
    let mut said = false;
    loop {
        match broker.check().await {
            Ok(()) => {
                if said {
                    tracing::info!(broker = url.shown(), "the broker answers");
                }
                return Ok(());
            }
            Err(error) if error.is_transient() => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(broker = url.shown(), %error, "waiting for the broker, for ever; start it or correct --broker");
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_their_broker_and_others_are_refused() {
        assert_eq!(BrokerUrl::parse("sqlite:./x.db").unwrap(), BrokerUrl::Sqlite("./x.db".into()));
        assert_eq!(BrokerUrl::parse("sqlite:///x.db").unwrap(), BrokerUrl::Sqlite("/x.db".into()));
        assert!(matches!(BrokerUrl::parse("redis://h:1/2"), Ok(BrokerUrl::Redis(_))));
        assert_eq!(BrokerUrl::parse("valkeys://h:1/2").unwrap(), BrokerUrl::Redis("rediss://h:1/2".into()));
        assert!(BrokerUrl::parse("postgres://h").is_err() && BrokerUrl::parse("sqlite:").is_err());
    }

    #[test]
    fn a_password_is_never_shown() {
        let url = BrokerUrl::parse("redis://user:secret@host:6379/0").unwrap();
        assert_eq!(url.shown(), "redis://…@host:6379/0");
    }
}
