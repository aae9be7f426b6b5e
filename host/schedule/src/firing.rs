//! What becomes of a schedule's nominal times: which are started, which wait, which are left out and why. Plain decisions.
//!
//! Whoever finds a schedule due reads it, calls [`decide`], and asks the broker for one step: the new state is stored, and the
//! run is started, if the schedule is still as it was read. So of any number of servers that decide at once one succeeds, and
//! the others read anew. Each call decides about one nominal time at most; those that are left out before it are recorded with it.
//!
//! # The rules
//!
//! - A nominal time is *due* at itself and its offset (`window_ms`, `jitter_ms`). Of those that are due, `catch_up` says which
//!   may start: `all` within `catch_up_window_ms`; only the `latest` one within it; or `none` but one that is on time
//!   ([`ON_TIME_MS`]). The others are *missed*.
//! - While a run is not over, or others wait, `overlap` decides: the time is `skip`ped; it waits as the only one
//!   (`buffer_one`) or among [`MAX_WAITING`] (`buffer_all`); it waits while the run is cancelled (`cancel`); or it starts
//!   beside it (`allow`).
//! - What cannot be started is tried again after a growing pause, until the window is over or, unless `catch_up` is `all`, a newer
//!   time is due. Then it has *failed*.
//! - While a schedule is paused nothing happens. When it goes on, times that passed are due if `keep_missed` says so.
//! - Each nominal time is recorded exactly once as started, skipped, missed or failed.

mod decision;
mod orders;
mod policy;
mod record;
mod run_id;
mod state;

#[cfg(test)]
mod tests;

pub use decision::{Decision, Start, Times, could_not_start, decide, resume};
pub use orders::{abort_backfill, add_backfill, changed, created, pause, skip_next};
pub use policy::{CatchUp, FiringPolicy, Overlap};
pub use record::{FireRecord, Verdict, reason_of};
pub use run_id::{job_id, workflow_id};
pub use state::{Backfill, FiringState, Pause, Retry, Run, RunEnd};

/// A fire is on time up to so long after it was due, milliseconds: another server takes over within 2 s.
pub const ON_TIME_MS: u64 = 10_000;
/// Nominal times that wait for a run to end, at most.
pub const MAX_WAITING: usize = 100;
/// Runs that are remembered until they end, at most.
pub const MAX_RUNS: usize = 16;
/// Backfills of a schedule at a time.
pub const MAX_BACKFILLS: usize = 4;
/// Missed times are counted up to so many.
pub const MAX_COUNTED: u32 = 1_000;
