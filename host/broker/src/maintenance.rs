//! Maintenance: the steps that background services call again and again, and the checks of a store.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use umbel_model::UnixMs;

use crate::Result;

/// Moves jobs whose time has come, takes back lost ones, deletes old ones, and checks the store.
#[async_trait]
pub trait Maintenance: Send + Sync + fmt::Debug + 'static {
    /// Opens what a rate had blocked, queues what is due and ends what expired, at most `max` each; cancels workflows at their deadline, at most `max`.
    async fn promote(&self, max: u32) -> Result<Promoted>;

    /// Takes back at most `max` expired leases: to their place in the queue the first time, to its end after that, and
    /// to the dead set after too many; or as `BrokerOptions::on_lost` says. Called every second: when more than
    /// `rules::lease::OUTAGE_MS` passed since the last call, the store was away, and workers could not renew their leases.
    /// Then nothing is taken back for `rules::lease::GRACE_MS`.
    async fn reap(&self, max: u32) -> Result<Reaped>;

    /// Deletes at most `max` jobs, nodes and workflows whose retention has passed, with all that belongs to them, and all
    /// idempotency keys, unique keys, rates and key-value entries that are over, in short steps; forgets queues (see `QUEUE_IDLE_MS`).
    /// Answers the number of jobs, nodes and workflows. A workflow cannot be found any more from its first deleted node on.
    async fn prune(&self, max: u32) -> Result<u32>;

    /// Does a small part of what is left to do with a store that an older release wrote, or writes, and of counting anew what tenants
    /// have stored, if that is due; whether more is left. Everything works meanwhile, but lists by label look at all jobs.
    async fn catch_up(&self) -> Result<bool> {
        Ok(false)
    }

    /// Takes or prolongs the lease of a background service for `process`, for `ttl_ms` from now; 0 gives it up. Answers how
    /// long another process still holds it, milliseconds; none when this one does. The lease only saves polling: every step
    /// is safe in any number of processes. A store of a single process has no leases.
    async fn hold_service(&self, service: &str, process: &str, ttl_ms: u64) -> Result<Option<u64>> {
        let _ = (service, process, ttl_ms);
        Ok(None)
    }

    /// Whether the store serves nobody now, as far as can be seen from here: it does not run, does not answer, or takes no
    /// writes. Then no other process can take leases back. False when nothing is known. Takes at most `within`. Asked by
    /// workers that cannot renew.
    async fn is_away(&self, within: Duration) -> bool;

    /// Checks that the store answers and that its settings are safe.
    async fn check(&self) -> Result<()>;

    /// Looks through everything that is stored for what should not be: records without an owner, sets that disagree with
    /// them, keys that nothing will delete, unsafe settings. With `fix` it repairs what it can. Slow; may run at any time, and
    /// then does not take what is under way for an error.
    async fn audit(&self, fix: bool) -> Result<Vec<Finding>>;
}

/// The result of a promotion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Promoted {
    pub moved: u32,
    pub expired: u32,
    /// Branches that a rate had blocked and that start again. While there is any, `next_due` may come sooner than it said: what is
    /// opened is blocked anew by the next claim.
    pub opened: u32,
    /// When the next one is due; now, when work items of workflows are left.
    pub next_due: Option<UnixMs>,
}

/// The result of a reaping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reaped {
    pub requeued: u32,
    /// To the dead set: after `max_deliveries`, or because their policy says so.
    pub buried: u32,
    /// Failed without the dead set, because their policy says so.
    pub failed: u32,
    /// Had been cancelled.
    pub revoked: u32,
}

/// Something that an audit found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The name of the check, such as `lease of a job that does not run`.
    pub check: String,
    /// How many times it was found.
    pub count: u64,
    /// One of them, such as a job's id.
    pub example: String,
    /// How many of them were repaired.
    pub fixed: u64,
}
