//! The decisions of a broker as plain functions: no store, no clock.
//!
//! The in-memory model and the SQLite broker call them, so that a rule is written once. What is next within limits is
//! decided in `scheduler`. The Redis broker decides in its scripts; the conformance suite compares the answers.

pub mod blobs;
pub mod capacity;
pub mod dead_set;
pub mod growth;
pub mod history;
pub mod join;
pub mod kv;
pub mod lease;
pub mod retention;
pub mod schedules;
pub mod settle;
pub mod storage;
pub mod uniqueness;
pub mod usage;
pub mod work_items;
