//! Queues, and the controls that users set about a tenant, a queue or a task.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use umbel_model::{QueueName, Rate, TaskName, TenantId};

use crate::{Limits, Result};

/// Queues that `ready_queues` names at most: as many as a tenant may have.
pub const MAX_READY_QUEUES: u32 = 1_000;

/// A queue into which no job came for so long, milliseconds, is forgotten once it is empty: a day. It is empty when it
/// has no job that is queued, running, scheduled, retrying or dead, and no control. It is there again when a job comes
/// into it.
pub const QUEUE_IDLE_MS: u64 = 86_400_000;

/// Lists queues, and pauses or limits what is handed out.
#[async_trait]
pub trait Controls: Send + Sync + fmt::Debug + 'static {
    /// The tenant's queues by name.
    async fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>>;

    /// How long the job that is ready longest has been ready, milliseconds, for each queue of a tenant that has one: of the jobs
    /// that are first of their priority. Of jobs that have limits, only `MAX_SUB_QUEUES_SEEN` sub-queues may be looked at, and
    /// only those that may start.
    async fn oldest_ready(&self, tenant: &TenantId) -> Result<Vec<(QueueName, u64)>>;

    /// Forgets a queue that is empty, as `prune` does after `QUEUE_IDLE_MS`.
    async fn delete_queue(&self, tenant: &TenantId, queue: &QueueName) -> Result<QueueDeleted>;

    /// Queues in which jobs of any tenant can be handed out now, by name; the first `MAX_READY_QUEUES`.
    async fn ready_queues(&self) -> Result<Vec<QueueName>>;

    /// Changes what holds for a tenant, one of its queues or tasks from now on.
    async fn set_control(&self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<ControlSet>;

    /// All controls of a tenant that are not the default, in the order of `Scope`.
    async fn controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>>;

    /// How many bytes of the tenant's are stored, as they were counted with each change of them.
    async fn stored_bytes(&self, tenant: &TenantId) -> Result<StoredBytes>;

    /// What an operator set that the tenant may store; 0: as much as the broker lets each.
    async fn storage_limits(&self, tenant: &TenantId) -> Result<StorageLimits>;

    /// Sets that. It holds from now on; nothing is deleted.
    async fn set_storage_limits(&self, tenant: &TenantId, limits: StorageLimits) -> Result<()>;

    /// What each tenant may store for which nothing is set.
    fn default_storage_limits(&self) -> StorageLimits;

    /// Stops or resumes handing out a queue's jobs. Durable; running jobs go on. A queue that is not known is made when it
    /// is paused. Answers whether the queue is known then.
    async fn set_paused(&self, tenant: &TenantId, queue: &QueueName, paused: bool) -> Result<bool> {
        let patch = ControlPatch { paused: Some(paused), ..ControlPatch::default() };
        Ok(matches!(self.set_control(tenant, &Scope::Queue(queue.clone()), &patch).await?, ControlSet::Set(_)))
    }
}

/// Bytes that are stored of a tenant: `rules::storage` says what counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoredBytes {
    /// Of jobs and workflows: specs, arguments, results, failures, progress, histories and logs, and the large values that they
    /// refer to.
    pub jobs: u64,
    /// The part of it that is log lines.
    pub logs: u64,
    /// Of documents and of what they stand for (`PutDocument::held_bytes`), and of schedules.
    pub documents: u64,
    /// The part of it that is modules and their documents.
    pub modules: u64,
    /// Of key-value entries, those included that have expired and are not deleted yet.
    pub kv: u64,
    /// Of blobs, and of what their records take.
    pub blobs: u64,
}

/// Sub-queues of a queue at whose first jobs `Controls::oldest_ready` looks at most.
pub const MAX_SUB_QUEUES_SEEN: u32 = 100;

/// What a tenant may store of what `StoredBytes` counts; 0: any number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageLimits {
    #[serde(default)]
    pub jobs: u64,
    #[serde(default)]
    pub documents: u64,
    #[serde(default)]
    pub kv: u64,
    #[serde(default)]
    pub blobs: u64,
}

impl StorageLimits {
    /// Most bytes of a limit; more is as good as none.
    pub const MOST: u64 = 1 << 52;

    /// Those of a broker.
    pub fn of(limits: &Limits) -> Self {
        Self {
            jobs: limits.max_job_bytes,
            documents: limits.max_document_bytes,
            kv: limits.max_kv_bytes,
            blobs: limits.max_blob_bytes,
        }
    }

    /// These, or where they say 0 the others.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        let or = |own: u64, other: u64| if own == 0 { other } else { own };
        Self {
            jobs: or(self.jobs, others.jobs),
            documents: or(self.documents, others.documents),
            kv: or(self.kv, others.kv),
            blobs: or(self.blobs, others.blobs),
        }
    }
}

/// How many jobs of a queue are where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStats {
    pub name: QueueName,
    pub queued: u64,
    pub running: u64,
    /// Scheduled or retrying.
    pub delayed: u64,
    /// In the dead set.
    #[serde(default)]
    pub dead: u64,
    pub paused: bool,
}

/// The answer to the deletion of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueDeleted {
    Deleted,
    /// It has jobs that have not ended, dead jobs or a control.
    NotEmpty,
    NotFound,
}

/// What a control is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    Tenant,
    Queue(QueueName),
    Task(TaskName),
}

/// A pause and limits of a tenant, a queue or a task, set while the service runs. Durable. `Control::default()` sets
/// nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Nothing of it is handed out; what runs goes on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// 0: any number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: u32,
    /// Of a queue: its jobs run on one worker at a time.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exclusive: bool,
}

/// A change of a control: what is none stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlPatch {
    pub paused: Option<bool>,
    pub rate: Option<Option<Rate>>,
    pub concurrency: Option<u32>,
    pub exclusive: Option<bool>,
}

impl Control {
    #[must_use]
    pub fn patched(&self, patch: &ControlPatch) -> Self {
        Self {
            paused: patch.paused.unwrap_or(self.paused),
            rate: patch.rate.unwrap_or(self.rate),
            concurrency: patch.concurrency.unwrap_or(self.concurrency),
            exclusive: patch.exclusive.unwrap_or(self.exclusive),
        }
    }
}

impl Control {
    /// The stricter one of both, field by field: both pauses hold, the lower rate and the lower concurrency.
    ///
    /// Example: `10/s` and no concurrency with `100/m` and 5 at once is `100/m` and 5 at once.
    #[must_use]
    pub fn with_stricter(&self, other: &Self) -> Self {
        let per_ms = |rate: &Rate| (u128::from(rate.count), u128::from(rate.period_ms.max(1)));
        let slower = |a: Rate, b: Rate| {
            let ((a_count, a_ms), (b_count, b_ms)) = (per_ms(&a), per_ms(&b));
            if (a_count * b_ms, a.burst) <= (b_count * a_ms, b.burst) { a } else { b }
        };
        let at_once = [self.concurrency, other.concurrency].into_iter().filter(|concurrency| *concurrency > 0);
        Self {
            paused: self.paused || other.paused,
            rate: match (self.rate, other.rate) {
                (Some(a), Some(b)) => Some(slower(a, b)),
                (a, b) => a.or(b),
            },
            concurrency: at_once.min().unwrap_or(0),
            exclusive: self.exclusive || other.exclusive,
        }
    }
}

/// The answer to a change of a control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ControlSet {
    /// The control that holds now.
    Set(Control),
    /// No job was ever sent to this queue, and nothing is to be set for it.
    Unknown,
    /// It would be one more queue than `max_queues`.
    TooManyQueues,
    /// `max_documents` tasks have a control.
    Full,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stricter_control_is_the_slower_rate_and_the_fewer_jobs_whoever_set_them() {
        let rate = |count, period_ms| Some(Rate { count, period_ms, burst: 1 });
        let own = Control { rate: rate(10, 1_000), exclusive: true, ..Control::default() };
        let operator = Control { rate: rate(100, 60_000), concurrency: 5, paused: true, ..Control::default() };
        let both = Control { exclusive: true, ..operator.clone() };
        assert_eq!((own.with_stricter(&operator), operator.with_stricter(&own)), (both.clone(), both));
        assert_eq!(own.with_stricter(&Control::default()), own);
        let fewer = Control { concurrency: 2, ..Control::default() };
        assert_eq!(operator.with_stricter(&fewer).concurrency, 2);
    }
}
