//! The worker: claims jobs, runs each in the sandbox, renews its lease, settles it, and drains.
//!
//! ```text
//!            broker  ⇄  conductor ──line──▶ slots (guest threads) ──▶ sandbox
//!                          ▲  └── renew            │
//!                          └───── finished ◀───────┘
//! ```
//!
//! Invariants: leases are kept on other threads than guests run on; nothing is claimed that has no slot, apart from
//! about 20 ms of short work; an outcome is settled until the broker answers, or the lease is lost.
//! This crate must not know HTTP, Redis, SQL or wasmtime.

mod active;
mod asked;
mod attempt;
mod conductor;
mod config;
mod error;
mod growth;
mod heartbeat;
mod held;
mod hints;
mod outbox;
mod pace;
mod queues;
mod runtime;
mod scale;
mod settling;
mod slots;
mod wishes;
mod worker;

pub use conductor::End;
pub use config::{Queues, WorkerConfig};
pub use error::{Error, PrepareError};
pub use heartbeat::host_name;
pub use runtime::{Runtime, RuntimeConfig};
pub use worker::{Worker, WorkerHandle};
