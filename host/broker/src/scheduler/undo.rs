//! Taking back what was changed since the last `keep`, so that memory never runs ahead of what a store committed.

use umbel_model::TenantId;

use super::branch::{Branch, Counts, LimitName, Place, QueueId, SubQueueName};
use crate::{Control, Scope};

/// A change, with the value before it.
#[derive(Debug)]
pub(super) enum Change<J> {
    Job { id: QueueId, sub: Option<SubQueueName>, job: (u64, J), added: bool },
    Place { id: QueueId, branch: Branch, before: Option<Place> },
    Running { name: LimitName, before: u64 },
    Control { tenant: TenantId, scope: Scope, before: Control },
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
}

impl<J> Default for Undo<J> {
    fn default() -> Self {
        Self { changes: Vec::new(), counts: Vec::new(), queues: 0, seq: 0 }
    }
}

impl<J> Undo<J> {
    pub(super) fn forget(&mut self) {
        self.changes.clear();
    }

    pub(super) fn job(&mut self, id: QueueId, sub: Option<&SubQueueName>, job: (u64, J), added: bool) {
        self.changes.push(Change::Job { id, sub: sub.cloned(), job, added });
    }

    pub(super) fn place(&mut self, id: QueueId, branch: &Branch, before: Option<Place>) {
        self.changes.push(Change::Place { id, branch: branch.clone(), before });
    }

    pub(super) fn running(&mut self, name: &LimitName, before: u64) {
        self.changes.push(Change::Running { name: name.clone(), before });
    }

    pub(super) fn control(&mut self, tenant: &TenantId, scope: &Scope, before: Control) {
        self.changes.push(Change::Control { tenant: tenant.clone(), scope: scope.clone(), before });
    }
}
