//! The worker: claims jobs, runs each in the sandbox, renews its lease, settles it, and drains.
//!
//! ```text
//!            broker  ⇄  poll loop ──line──▶ slots (guest threads) ──▶ sandbox
//!                          ▲  └── renew            │
//!                          └───── finished ◀───────┘
//! ```
//!
//! Invariants: leases are kept on other threads than guests run on; nothing is claimed that has no slot, apart from
//! about 20 ms of short work; an outcome is settled until the broker answers, or the lease is lost.
//! This crate must not know HTTP, Redis, SQL or wasmtime.

mod active;
mod additions;
mod attempt;
mod autoscale;
mod completion;
mod config;
mod error;
mod heartbeat;
mod hints;
mod invocation;
mod leases;
mod outbox;
mod poll_loop;
mod prefetch;
mod queues;
mod runtime;
mod slots;
mod worker;
mod workflow_requests;

pub use config::{Queues, WorkerConfig};
pub use error::{Error, PrepareError};
pub use heartbeat::host_name;
pub use poll_loop::End;
pub use runtime::{Runtime, RuntimeConfig};
pub use worker::{Worker, WorkerHandle};
