//! The one thread that writes: it takes all operations that wait, runs them in one transaction, commits once, and then
//! answers them all.
//!
//! Invariants: nothing is answered before its commit, and what failed leaves no trace, on disk or in memory. When one
//! operation of a group fails, the group is rolled back and each of its operations runs again in a transaction of its
//! own, so that it spoils no other. That is cheaper than a savepoint for each, because failures are rare.
//!
//! `commit` runs groups, `step` is one operation under way, `state` is kept in memory between them and knows neither. The
//! other rooms are the operations.

mod blobs;
mod commit;
mod jobs;
mod kv;
mod limits;
mod maintenance;
mod registry;
mod schedules;
mod state;
mod step;
mod workflows;

pub(crate) use commit::{handle::Handle, operation::Writer};
pub(crate) use jobs::labels::UNLABELLED;
pub(crate) use step::Step;
