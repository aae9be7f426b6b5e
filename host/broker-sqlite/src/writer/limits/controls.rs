//! Controls, tenant queues and rates in the file.

use umbel_broker::{Control, ControlPatch, ControlSet, QueueDeleted, Scope, scheduler::QueueId};
use umbel_model::{QueueName, TenantId};

use crate::writer::{state::scheduler_rebuild, step::Step};
use crate::{
    error::Fault,
    rows::{changed, insert, queue_row, run},
};

const SWEEP_RATES: &str = "DELETE FROM rate WHERE (tenant, kind, name, key) IN
    (SELECT tenant, kind, name, key FROM rate INDEXED BY rate_until WHERE until_us <= ? LIMIT ?)";

/// The kind and name of a scope in tables.
fn column(scope: &Scope) -> (i64, &str) {
    match scope {
        Scope::Tenant => (0, ""),
        Scope::Queue(queue) => (1, queue.as_str()),
        Scope::Task(task) => (2, task.as_str()),
    }
}

impl Step<'_> {
    /// The number of a tenant queue, made if there is none.
    pub(crate) fn queue_id(&mut self, tenant: &TenantId, queue: &QueueName) -> Result<QueueId, Fault> {
        let is_new = self.scheduler.find_any(tenant, queue).is_none();
        let id = self.scheduler.queue_id(tenant, queue);
        if is_new {
            self.insert_queue(id, tenant, queue)?;
        }
        Ok(id)
    }

    fn insert_queue(&self, id: QueueId, tenant: &TenantId, queue: &QueueName) -> Result<(), Fault> {
        let sql = "INSERT INTO line (id, tenant, queue, ready, running, delayed, paused, used_at)
            VALUES (?, ?, ?, 0, 0, 0, 0, ?)";
        run(self.conn, sql, &[&queue_row(id), tenant, queue, &self.now])
    }

    pub(crate) fn delete_queue(&mut self, tenant: &TenantId, queue: &QueueName) -> Result<QueueDeleted, Fault> {
        Ok(self.scheduler.delete_queue(tenant, queue))
    }

    pub(crate) fn set_control(
        &mut self,
        tenant: &TenantId,
        scope: &Scope,
        patch: &ControlPatch,
    ) -> Result<ControlSet, Fault> {
        let new = match scope {
            Scope::Queue(queue) if self.scheduler.find_any(tenant, queue).is_none() => Some(queue),
            _ => None,
        };
        let answer = self.scheduler.set_control(tenant, scope, patch, self.limits);
        let ControlSet::Set(control) = &answer else { return Ok(answer) };
        if let Some(queue) = new {
            let id = self.scheduler.queue_id(tenant, queue);
            self.insert_queue(id, tenant, queue)?;
        }
        let (kind, name) = column(scope);
        if *control == Control::default() {
            let sql = "DELETE FROM control WHERE tenant = ? AND kind = ? AND name = ?";
            run(self.conn, sql, &[tenant, &kind, &name])?;
        } else {
            let text = serde_json::to_string(control)?;
            insert!(self.conn, "INSERT OR REPLACE INTO control" { tenant: tenant, kind: kind, name: name, text: text })?;
        }
        Ok(answer)
    }

    /// Forgets rates that are not used up any more; whether there may be more.
    pub(crate) fn sweep_rates(&self, max: u32) -> Result<bool, Fault> {
        Ok(changed(self.conn, SWEEP_RATES, &[&self.now.saturating_mul(1_000), &max])? == u64::from(max))
    }

    /// Reads the scheduler from the file again, after its rows were repaired.
    pub(crate) fn reload_scheduler(&mut self) -> Result<(), Fault> {
        *self.scheduler = scheduler_rebuild::load(self.conn)?;
        self.scheduler.now = self.now;
        self.scheduler.ready_in = self.scheduler.ready_queues();
        *self.scheduler_reloaded = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_rates_costs_what_it_deletes() {
        crate::tests::assert_costs_what_it_finds(SWEEP_RATES);
    }
}
