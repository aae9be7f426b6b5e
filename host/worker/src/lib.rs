//! The worker: claims jobs, runs each in the sandbox, renews its lease and settles it, until it is drained.
//!
//! ```text
//!            broker  ⇄  poll loop ──local queue──▶ slots (guest threads) ──▶ sandbox
//!                          ▲  └── renew            │
//!                          └───── finished ◀───────┘
//! ```
//!
//! Invariants: leases are renewed on other threads than guests run on; a delivery is claimed only for a free slot, or
//! about 20 ms of work ahead while attempts are short; a settle is repeated until the broker answers or the lease is lost.
//! This crate must not know HTTP, Redis, SQL or wasmtime.

mod active_delivery;
mod attempt;
mod autoscale;
mod blobs;
mod broker_failures;
mod compilations;
mod completion;
mod config;
mod config_values;
mod error;
mod fresh;
mod grants;
mod guest_threads;
mod heartbeat;
mod hints;
mod invocation;
mod key_values;
mod leases;
mod memory;
mod operating_system;
mod outbox;
mod poll_loop;
mod prefetch;
mod queues;
mod request_composer;
mod reserve;
mod runtime;
mod secrets;
mod slots;
mod worker;
mod workflow_requests;

pub use blobs::AttemptBlobs;
pub use compilations::Compiling;
pub use config::{Queues, WorkerConfig};
pub use error::{Error, PrepareError};
pub use key_values::KeyValues;
pub use operating_system::{host_name, unique_worker_id};
pub use poll_loop::End;
pub use runtime::{Ready, Runtime, RuntimeConfig};
pub use worker::{Worker, WorkerHandle};
