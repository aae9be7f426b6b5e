//! Taking back what was changed since the last `keep`, so that memory never runs ahead of what a store committed.

use umbel_model::TenantId;

use super::{
    branch::{Branch, Counts, LimitName, Place, QueueId, SubQueueName},
    turns::Turns,
};
use crate::{Control, Scope};

/// A change, with the value before it.
#[derive(Debug)]
pub(super) enum Change<J> {
    Job { id: QueueId, sub: Option<SubQueueName>, job: (u64, J), added: bool },
    Place { id: QueueId, branch: Branch, before: Option<Place> },
    Running { name: LimitName, before: u64 },
    Control { tenant: TenantId, scope: Scope, before: Control },
    Finish { tenant: TenantId, before: Option<u64> },
}

/// All that was changed since the last `keep`.
#[derive(Debug)]
pub(super) struct Undo<J> {
    pub(super) changes: Vec<Change<J>>,
    /// Of tenant queues whose counts were changed.
    pub(super) counts: Vec<(QueueId, Counts)>,
    /// How many tenant queues there were.
    pub(super) queues: usize,
    pub(super) seq: u64,
    /// Virtual time.
    pub(super) time: u64,
}

impl<J> Default for Undo<J> {
    fn default() -> Self {
        Self { changes: Vec::new(), counts: Vec::new(), queues: 0, seq: 0, time: Turns::default().time }
    }
}
