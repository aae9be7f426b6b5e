//! Limits: the scheduler's view of the file, and controls.

mod controls;
pub(super) mod ready_jobs;
