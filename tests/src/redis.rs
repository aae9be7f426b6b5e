//! Real Redis servers of a test's own: the guard that the Redis broker's tests use, with the settings of the scenarios.

use anyhow::Result;
use umbel_broker_conformance::redis_server::Options;
pub use umbel_broker_conformance::redis_server::RedisServer;

/// Without persistence, as the peers' benchmarks run it.
pub fn redis() -> RedisServer {
    RedisServer::start(Options::default())
}

/// With an append-only file that is flushed every second, as README.md recommends.
pub fn durable_redis() -> RedisServer {
    RedisServer::start(Options { appendonly: true, arguments: &["--appendfsync", "everysec"], ..Options::default() })
}

/// With these arguments.
pub fn redis_with(arguments: &'static [&'static str]) -> RedisServer {
    RedisServer::start(Options { arguments, ..Options::default() })
}

/// Every key of a server.
pub fn redis_keys(server: &RedisServer) -> Result<Vec<String>> {
    Ok(::redis::cmd("KEYS").arg("*").query(&mut server.connection())?)
}
