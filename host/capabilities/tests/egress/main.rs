//! The egress suite: what outgoing requests reach, and what they never reach. Proved at the socket: listeners on forbidden
//! addresses count connections, and the count must be 0.
//!
//! All servers are on loopback. `127.0.1.0/24` stands for the public internet, opened by a `network` permission as an operator
//! would; every other address is forbidden, as in production.

#![allow(clippy::unwrap_used, reason = "a test may; the lint sees test functions only, not what they call")]

mod addresses;
mod bodies;
mod dns;
mod names;
mod policy;
mod secrets;
mod server;
mod servers;
mod tls;
mod world;
