//! Group commit.

mod group;
pub(super) mod handle;
pub(super) mod operation;
mod write_ahead_log;
