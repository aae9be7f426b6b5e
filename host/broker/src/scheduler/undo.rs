//! Taking back what was changed since the last `keep`, so that memory never runs ahead of what a store committed.

use umbel_model::TenantId;

use super::{
    Counts, LimitName, QueueId, Scheduler, SubQueueName,
    branch::{Branch, Place},
};
use crate::{Control, Scope};

/// What was changed, as it was.
#[derive(Debug)]
enum Change<J> {
    Job { id: QueueId, sub: Option<SubQueueName>, job: (u64, J), added: bool },
    Place { id: QueueId, branch: Branch, before: Option<Place> },
    Running { name: LimitName, before: u64 },
    Control { tenant: TenantId, scope: Scope, before: Control },
}

/// All that was changed since the last `keep`.
#[derive(Debug)]
pub(super) struct Undo<J> {
    changes: Vec<Change<J>>,
    /// Of tenant queues whose counts were changed.
    counts: Vec<(QueueId, Counts)>,
    /// How many tenant queues there were.
    queues: usize,
    seq: u64,
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

impl<J: Ord + Copy> Scheduler<J> {
    pub(super) fn remember_counts(&mut self, id: QueueId) {
        let of = &mut self.queues[id];
        if !of.touched {
            of.touched = true;
            self.undo.counts.push((id, of.counts.clone()));
        }
    }

    /// Tenant queues whose counts may have changed since the last `keep`, with the counts of then.
    pub fn changed(&self) -> &[(QueueId, Counts)] {
        &self.undo.counts
    }

    /// The last score's number of the last `keep`.
    pub fn seq_kept(&self) -> u64 {
        self.undo.seq
    }

    /// What was changed stays.
    pub fn keep(&mut self) {
        for (id, _) in self.undo.counts.drain(..) {
            self.queues[id].touched = false;
        }
        self.undo.changes.clear();
        (self.undo.queues, self.undo.seq) = (self.queues.len(), self.seq);
    }

    /// All is as it was at the last `keep`.
    pub fn undo(&mut self) {
        for change in std::mem::take(&mut self.undo.changes).into_iter().rev() {
            match change {
                Change::Job { id, sub, job, added } => {
                    self.queues[id].ready.change(sub.as_ref(), job, !added);
                }
                Change::Place { id, branch, before } => {
                    self.put_place(id, &branch, before);
                }
                Change::Running { name, before } => self.put_running(&name, before),
                Change::Control { tenant, scope, before } => self.controls.put(&tenant, &scope, before),
            }
        }
        for (id, counts) in std::mem::take(&mut self.undo.counts) {
            let of = &mut self.queues[id];
            of.touched = false;
            let old = std::mem::replace(&mut of.counts, counts);
            let (finish, block) = (of.counts.finish, of.counts.blocked.clone());
            self.index_finish(id, old.finish, finish);
            self.index_block(id, &Branch::QUEUE, old.blocked.as_ref(), block.as_ref());
        }
        for of in self.queues.drain(self.undo.queues..) {
            if let Some(queues) = self.by_name.get_mut(&of.tenant) {
                queues.remove(&of.queue);
                if queues.is_empty() {
                    self.by_name.remove(&of.tenant);
                }
            }
        }
        self.seq = self.undo.seq;
        self.ready_in.clear();
    }
}
