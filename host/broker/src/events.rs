//! Events: the changes of a tenant's jobs, for those who follow it live. And hints.
//!
//! Nothing is recorded while nobody follows: `follow` says that somebody does, for `FOLLOW_MS`. From then on each
//! change of a job's state (of nodes, too; not of nodes that become `waiting`) appends one event. They are numbered
//! without gaps; the first number of a following is the broker's time in microseconds, or one more than the last number
//! if that is larger, so numbers rise across followings. At most `MAX_EVENTS` of a tenant are kept, the newest, and
//! none once the following has ended. A job that is handed back or requeued in the step in which it was taken has one
//! event for each state that it was in.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::broadcast;
use umbel_model::{JobId, JobState, QueueName, TaskName, TenantId, UnixMs};

use crate::Result;

/// How long one `follow` lasts, milliseconds: two reconnections of a browser.
pub const FOLLOW_MS: u64 = 120_000;
/// Events of one tenant that are kept.
pub const MAX_EVENTS: u64 = 10_000;

/// Follows a tenant's jobs, and hints at what changed.
#[async_trait]
pub trait Events: Send + Sync + fmt::Debug + 'static {
    /// Says that somebody follows the tenant's jobs, for `FOLLOW_MS` from now. Answers the number of the last event, or
    /// one less than that of the first.
    async fn follow(&self, tenant: &TenantId) -> Result<u64>;

    /// The events after number `after`, at most `max`.
    async fn events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<EventPage>;

    /// Hints of a topic from now on. A hint may be missing or late: poll as well. Never blocks the sender: a slow
    /// receiver sees `Lagged` and should look at the store.
    async fn signals(&self, topic: Topic) -> Result<broadcast::Receiver<Signal>>;
}

/// One change of a job's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub number: u64,
    /// By the broker's clock.
    pub at: UnixMs,
    pub job: JobId,
    pub task: TaskName,
    /// Its state after the change.
    pub state: JobState,
}

/// Some events of a tenant, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventPage {
    pub events: Vec<Event>,
    /// Events after the one that was asked for were not kept, or it is of no following.
    pub missed: bool,
    /// The number of the last event; before the first one, one less than its number will be. 0: nobody follows.
    pub last: u64,
}

/// The topics of hints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Topic {
    Work,
    Done,
    Cancel,
    Schedules,
}

/// A hint. The store is the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signal {
    /// Jobs became ready in these queues.
    Work(Arc<[QueueName]>),
    /// These jobs ended.
    Done(Arc<[JobId]>),
    /// These running jobs should be stopped.
    Cancel(Arc<[JobId]>),
    /// The next look at a schedule comes earlier than it did.
    Schedules,
    /// Hints may have been missed: look.
    Resync,
}
