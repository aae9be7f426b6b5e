//! The decisions of a broker as plain functions: no store, no clock.
//!
//! The in-memory model and the SQLite broker call them, so that a rule is written once. What is next within limits is
//! decided in `scheduler`. The Redis broker decides in its scripts; the conformance suite compares the answers.

pub mod join;
pub mod lease;
pub mod retention;
pub mod room;
pub mod settle;
pub mod uniqueness;
