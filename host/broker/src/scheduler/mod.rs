//! Which ready job is next, within all limits: the rules of `limits` as a structure in memory.
//!
//! The in-memory model and the SQLite broker both schedule with it, each with its own name for a job (`J`). It holds no
//! clock, and of a job only its place. A store that may roll back calls `keep` after each commit and `undo` after each
//! rollback. One that was opened again inserts its queued and running jobs with `restore` and ends with `open_all`: what
//! was blocked is open then, and every sub-queue starts level.

mod blocks;
mod branch;
mod claim;
mod controls;
mod idle_queues;
mod tenant_queues;
mod turns;
mod undo;

#[cfg(test)]
mod tests;

pub use branch::{Counts, Limit, LimitName, QueueId, SubQueueName};
pub use claim::{ClaimRound, Store};
pub use controls::Controls;
pub use tenant_queues::{Scheduler, ready_score};
