//! The conformance suite on a real server, and what only Redis can do: vanish, restart, be full, be set up wrongly.

mod audit;
mod chords;
mod contract;
mod cost;
mod durability;
mod events;
mod faults;
mod full;
mod growth;
mod hints;
mod labels;
mod large;
mod library;
mod lists;
mod maintenance;
mod readiness;
mod recount;
mod schedules;
mod serving;
mod storage;
mod tls;
mod turns;
mod usage;
mod workflows;

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use redis::Value;
use tokio::sync::broadcast;
use umbel_broker::*;
use umbel_broker_conformance::{self as conformance, Subject};
use umbel_model::{JobId, QueueName, TenantId, WorkerId};

use super::*;
use conformance::redis_server::{Options, RedisServer, Tls};

/// One server for all tests of this process; the kernel ends it with the process.
fn server() -> &'static RedisServer {
    static SERVER: OnceLock<RedisServer> = OnceLock::new();
    SERVER.get_or_init(|| RedisServer::start(Options { tls: Some(Tls::Good), ..Options::default() }))
}

/// One of the server's databases, empty, for as long as a test needs it: flushing one is faster than deleting the keys
/// of one prefix, and 10,000 histories must not pile up.
#[derive(Debug)]
struct Database(u32);

static FREE: Mutex<Vec<u32>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Database {
    async fn take() -> Self {
        let used = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let database = Self(used.unwrap_or_else(|| NEXT.fetch_add(1, Ordering::SeqCst) as u32));
        assert!(database.0 < 64, "the server has 64 databases");
        database
    }

    fn url(&self) -> String {
        format!("{}{}", server().url(), self.0)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

/// Unique, so that hints of one test do not reach another.
fn unique_prefix() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("t{}", COUNT.fetch_add(1, Ordering::SeqCst))
}

/// Over TLS with `UMBEL_REDIS_TLS=1`: then the whole suite is, with its random histories.
async fn subject() -> Subject {
    subject_over(std::env::var_os("UMBEL_REDIS_TLS").is_some_and(|value| value == "1")).await
}

async fn subject_over(tls: bool) -> Subject {
    let database = Database::take().await;
    let (clock, now) = Clock::manual(conformance::START_MS);
    let way = if tls { tls::over_tls(server(), &database.0.to_string()) } else { RedisConfig::new(database.url()) };
    let config = RedisConfig { clock, limits: conformance::limits(), prefix: unique_prefix(), ..way };
    let broker = RedisBroker::connect(config).await.unwrap();
    broker.command(&redis::cmd("FLUSHDB")).await.unwrap();
    // A store that was empty when it was taken over.
    broker.run("take_over", Vec::new(), Repeat::Safe).await.unwrap();
    Subject { broker: Arc::new(broker), now, keep: Box::new(database) }
}

umbel_broker_conformance::conformance_suite!(subject);
