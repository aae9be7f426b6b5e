//! The harness of the black-box scenarios and the benchmark: processes that never outlive their test, a client, guests.
//!
//! Nothing here knows a crate of `host/`, but the Redis servers and certificates for tests and the worker of `chaos` that settles too
//! late: Umbel is only met as its users meet it, as a binary and over HTTP.

pub mod attacks;
pub mod case;
pub mod chaos;
mod client;
pub mod component;
pub mod documents;
pub mod draw;
mod guests;
mod process;
pub mod proxy;
mod redis;
mod service;
mod times;
pub mod wasm;
pub mod workflow;

use std::{
    fmt::Display,
    future::Future,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

pub use crate::redis::{RedisServer, durable_redis, redis, redis_keys, redis_with};
pub use client::{Answer, Client};
pub use guests::guest;
pub use process::{Process, umbel_binary, umbel_command};
pub use service::{Dev, DevOptions, Split, answers, on_both};
pub use times::{next_sunday_from, time_ms, written};

/// A port of 127.0.0.1 that nobody listens on.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// Asks until the answer is there or `limit` has passed. The wait is bounded and ends with the event, not with luck.
pub async fn until<T, F>(what: impl Display, limit: Duration, mut ask: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        let last = ask().await;
        if let Ok(Some(answer)) = last {
            return Ok(answer);
        }
        if start.elapsed() > limit {
            match last {
                Err(e) => bail!("{what}: not after {limit:?}; the last try: {e:#}"),
                Ok(_) => bail!("{what}: not after {limit:?}"),
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
