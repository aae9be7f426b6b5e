//! Tenant queues that nobody uses are forgotten: see `QUEUE_IDLE_MS`. Their numbers stay, because jobs that have ended and
//! nodes that wait name them.

use umbel_model::{QueueName, TenantId};

use super::{QueueId, Scheduler};
use crate::{QUEUE_IDLE_MS, QueueDeleted, Scope};

impl<J: Ord + Copy> Scheduler<J> {
    /// Whether a tenant queue is not forgotten.
    pub fn is_known(&self, id: QueueId) -> bool {
        self.queues[id].counts.used_at.is_some()
    }

    /// Whether it has no jobs but those that ended, none of them dead, and no control.
    fn is_unused(&self, id: QueueId) -> bool {
        let of = &self.queues[id];
        let has_control = self.controls.find(&of.tenant, &Scope::Queue(of.queue.clone())).is_some();
        of.counts.held() == [0; 3] && of.counts.running == 0 && !has_control
    }

    /// Forgets the tenant queues into which no job came for `QUEUE_IDLE_MS`, if they are empty.
    pub fn forget_queues(&mut self) {
        for id in 0..self.queues.len() {
            let used_at = self.queues[id].counts.used_at;
            if used_at.is_some_and(|at| at.saturating_add(QUEUE_IDLE_MS) <= self.now) {
                let used_at = (!self.is_unused(id)).then_some(self.now);
                self.change(id, |counts| counts.used_at = used_at);
            }
        }
    }

    /// Forgets a tenant queue, if it is empty.
    pub fn delete_queue(&mut self, tenant: &TenantId, queue: &QueueName) -> QueueDeleted {
        let Some(id) = self.find(tenant, queue) else { return QueueDeleted::NotFound };
        if !self.is_unused(id) {
            return QueueDeleted::NotEmpty;
        }
        self.change(id, |counts| counts.used_at = None);
        QueueDeleted::Deleted
    }
}
