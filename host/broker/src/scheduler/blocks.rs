//! Blocking branches that a limit or a pause holds back, and opening them again.

use umbel_model::{TenantId, UnixMs};

use super::{
    branch::{Block, Branch, Limit, LimitName, Place, QueueId, SubQueueName, limits_of},
    tenant_queues::Scheduler,
    undo::Change,
};
use crate::{Control, ControlPatch, ControlSet, Limits, Scope};

impl<J: Ord + Copy> Scheduler<J> {
    pub(super) fn block(&mut self, id: QueueId, branch: &Branch, why: Block) {
        self.set_block(id, branch, Some(why));
    }

    /// Opens a branch, whatever blocked it, and has workers told if that opens its tenant queue.
    pub(super) fn unblock(&mut self, id: QueueId, branch: &Branch) {
        if self.set_block(id, branch, None) {
            self.ready_in.insert(self.queues[id].queue.clone());
        }
    }

    /// True if the tenant queue opened by it.
    fn set_block(&mut self, id: QueueId, branch: &Branch, block: Option<Block>) -> bool {
        let Some(task) = &branch.task else { return self.change(id, |counts| counts.blocked = block) };
        let Some(place) = self.queues[id].ready.place(branch) else { return false };
        let place = Place { blocked: block, ..place.clone() };
        self.set_place(id, branch, Some(place));
        // Without a key it is the task's own place: settling any key of it, there or not, settles that.
        let name = SubQueueName { task: task.clone(), key: branch.key.clone().unwrap_or_default() };
        self.settle_sub_queue(id, Some(&name));
        self.change(id, |_| {})
    }

    /// Opens what a cap blocks.
    fn unblock_full(&mut self, name: &LimitName) {
        let mut blocked: Vec<_> = self.full.get(name).cloned().unwrap_or_default().into_iter().collect();
        // What opens first is served first: by name.
        blocked.sort_by(|(a, _), (b, _)| self.queues[*a].queue.cmp(&self.queues[*b].queue));
        for (id, branch) in blocked {
            self.unblock(id, &branch);
        }
    }

    /// Opens at most `max` branches that a rate blocked until now; how many, and when the next one is to be opened.
    pub fn open_rates(&mut self, max: u32) -> (u32, Option<UnixMs>) {
        let due = self.by_time.iter().take(max as usize).take_while(|(at, ..)| *at <= self.now);
        let due: Vec<(QueueId, Branch)> = due.map(|(_, _, _, branch, id)| (*id, branch.clone())).collect();
        for (id, branch) in &due {
            self.unblock(*id, branch);
        }
        (due.len() as u32, self.by_time.first().map(|(at, ..)| *at))
    }

    /// A delivery ended: opens what waited for its end.
    pub(super) fn release_capacity(&mut self, id: QueueId, sub: Option<&SubQueueName>) {
        self.change(id, |counts| counts.running = counts.running.saturating_sub(1));
        let tenant = self.queues[id].tenant.clone();
        let mut name = (tenant, Limit::Tenant);
        for limit in sub.into_iter().flat_map(limits_of) {
            name.1 = limit;
            self.count_running(&name, -1);
            self.unblock_full(&name);
        }
        if !self.full.is_empty() {
            name.1 = Limit::Queue(self.queues[id].queue.clone());
            self.unblock_full(&name);
            name.1 = Limit::Tenant;
            self.unblock_full(&name);
        }
    }

    /// Changes a control, and opens all that is blocked of its scope. A tenant has at most `max_tasks` of tasks.
    pub fn set_control(
        &mut self,
        tenant: &TenantId,
        scope: &Scope,
        patch: &ControlPatch,
        limits: &Limits,
    ) -> ControlSet {
        if let Scope::Queue(queue) = scope
            && self.find(tenant, queue).is_none()
        {
            if Control::default().patched(patch) == Control::default() {
                return ControlSet::Unknown;
            }
            if self.queues_of(tenant) >= limits.max_queues {
                return ControlSet::TooManyQueues;
            }
            self.queue_id(tenant, queue);
        }
        let before = self.controls.get(tenant, scope);
        let control = before.patched(patch);
        let is_new_task = matches!(scope, Scope::Task(_)) && before == Control::default() && control != before;
        let tasks =
            self.controls.of_tenant(tenant).iter().filter(|(of, _)| matches!(of, Scope::Task(_))).count() as u64;
        if is_new_task && tasks >= limits.max_documents {
            return ControlSet::Full;
        }
        self.controls.put(tenant, scope, control.clone());
        self.undo.changes.push(Change::Control { tenant: tenant.clone(), scope: scope.clone(), before });
        for id in self.of_tenant(tenant) {
            match scope {
                Scope::Queue(queue) if *queue != self.queues[id].queue => {}
                Scope::Task(task) => self.unblock(id, &Branch::task(task)),
                scope => {
                    let (paused, now) = (control.paused, self.now);
                    let opened = self.change(id, |counts| {
                        counts.blocked = None;
                        if *scope != Scope::Tenant {
                            counts.used_at = Some(now);
                        }
                        *(if *scope == Scope::Tenant { &mut counts.tenant_paused } else { &mut counts.paused }) =
                            paused;
                    });
                    if opened {
                        self.ready_in.insert(self.queues[id].queue.clone());
                    }
                }
            }
        }
        ControlSet::Set(control)
    }
}
