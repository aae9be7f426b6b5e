//! Deliveries: how workers claim jobs, keep their leases and settle.

use std::fmt;

use async_trait::async_trait;
use umbel_model::{AttemptRecord, Digest, JobId, Progress, QueueName, Resolution, TenantId, Token, WorkerId};

use crate::{DeliveredNode, Growth, LogLine, Result, SettledBlobs};

/// Lease of a delivery, milliseconds. Renewed at a third of it.
pub const DEFAULT_LEASE_MS: u64 = 15_000;
/// Ready jobs that one claim looks at beyond those it returns: it buries the expired ones that it meets.
pub const CLAIM_SCAN: u32 = 128;
/// Tenants that one claim may limit; those behind them are not limited.
pub const MAX_LIMITED_TENANTS: usize = 100;

/// Hands jobs to workers and records how their attempts ended.
#[async_trait]
pub trait Deliveries: Send + Sync + fmt::Debug + 'static {
    /// Hands out at most `claim.max` ready jobs: fairly between tenants, whatever queues they use; of a tenant from its
    /// queues as `claim.queues` says; inside a queue by priority (9 first) and then age; within limits that hold across all
    /// workers (see the rules in `limits`). Expired jobs met on the way end `expired`.
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>>;

    /// How many jobs a claim of `max` jobs should take in a row from one queue of a tenant: more than one where a look at a
    /// queue costs as much as some jobs, and jobs that came one after the other are not stored together anyway.
    fn in_row(&self, max: u32) -> u32 {
        let _ = max;
        1
    }

    /// Prolongs leases to `lease_ms` from now, keeps progress and log lines. One answer per renewal, in order.
    async fn renew(&self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>>;

    /// Ends deliveries, and claims more in the same step. One answer per settle, in order.
    async fn settle(&self, settles: &[Settle], then: Option<&Claim>) -> Result<(Vec<Settled>, Vec<Delivery>)>;
}

/// A worker's request for jobs.
#[derive(Debug, Clone)]
pub struct Claim {
    pub worker: WorkerId,
    pub queues: ClaimQueues,
    pub max: u32,
    pub lease_ms: u64,
    /// Random and never used twice: delivery `i` of this claim has the token `<seed>-<i>`.
    pub token_seed: Token,
    pub limited: LimitedTenants,
    /// Jobs that it takes in a row from one queue of a tenant, when it asks all: 0 and 1 are one after the other. See
    /// [`Deliveries::in_row`].
    pub in_row: u32,
}

/// Tenants of which a claim takes few jobs, so that a worker does not fill its last slots with long attempts. By default none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LimitedTenants {
    /// At most [`MAX_LIMITED_TENANTS`].
    pub tenants: Vec<TenantId>,
    /// Jobs of all of them together.
    pub max: u32,
}

/// The queues that a claim asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimQueues {
    /// These: of each tenant the first one that has something to hand out.
    Named(Vec<QueueName>),
    /// All but these: of each tenant one after the other, [`Claim::in_row`] jobs from each.
    AllBut(Vec<QueueName>),
}

impl From<Vec<QueueName>> for ClaimQueues {
    fn from(names: Vec<QueueName>) -> Self {
        Self::Named(names)
    }
}

/// A job handed to a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub tenant: TenantId,
    pub id: JobId,
    pub queue: QueueName,
    pub token: Token,
    /// Microseconds since the epoch, or one more than the last one: only ever rises.
    pub fence: u64,
    /// JSON text of the `JobSpec`.
    pub spec: String,
    /// Retries used before this attempt.
    pub retries: u32,
    /// 1 unless deliveries of this attempt were lost.
    pub delivery: u32,
    /// Of a workflow's node: then `spec` is that of its template.
    pub node: Option<Box<DeliveredNode>>,
}

/// A message of a worker about a delivery that it holds.
#[derive(Debug, Clone)]
pub struct Renewal {
    pub tenant: TenantId,
    pub id: JobId,
    pub token: Token,
    /// Replaces what was said before.
    pub progress: Option<Progress>,
    /// Appended to the job's log.
    pub logs: Vec<LogLine>,
}

/// The answer to one renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    Held,
    /// Held, and somebody asked to stop the job.
    Cancel,
    /// Somebody else's now, or ended: stop the guest and say nothing more.
    Lost,
}

/// The end of one delivery.
#[derive(Debug, Clone)]
pub struct Settle {
    pub tenant: TenantId,
    pub id: JobId,
    pub token: Token,
    pub resolution: Resolution,
    /// Appended to the job's history.
    pub record: Option<AttemptRecord>,
    pub progress: Option<Progress>,
    pub logs: Vec<LogLine>,
    /// Stored with `Succeed` and `Replace`, dropped with any other resolution.
    pub growth: Option<Box<Growth>>,
    /// Taken with `Succeed` and `Replace`, dropped with any other resolution.
    pub blobs: Option<Box<SettledBlobs>>,
}

/// The answer to one settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Recorded,
    /// This very settle was recorded before.
    AlreadyDone,
    /// The token is not the current one; nothing was changed.
    Lost,
    /// There is no room for its growth, or no group to add members to; nothing was changed, and the lease is still
    /// held.
    NoCapacity,
    /// Its result or its growth refers to this blob, which the tenant does not have; nothing was changed, and the lease is still held.
    MissingBlob(Digest),
    /// There is no room for the bytes of the blobs that it wrote; nothing was changed, and the lease is still held.
    BlobStorageFull,
    /// With the blobs that it wrote the tenant would have more than so many; nothing was changed, and the lease is still held.
    TooManyBlobs(u64),
}
