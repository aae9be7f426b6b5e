//! The controls of tenants, queues and tasks.

use std::collections::{BTreeMap, HashMap};

use umbel_model::{QueueName, TaskName, TenantId};

use crate::{Control, Scope};

#[derive(Debug, Default)]
struct OfTenant {
    tenant: Control,
    queues: BTreeMap<QueueName, Control>,
    tasks: BTreeMap<TaskName, Control>,
}

/// All controls.
#[derive(Debug, Default)]
pub struct Controls(HashMap<TenantId, OfTenant>);

impl Controls {
    /// The tenant's own control, if the tenant has any control at all.
    pub fn tenant(&self, tenant: &TenantId) -> Option<&Control> {
        self.0.get(tenant).map(|of| &of.tenant)
    }

    pub fn queue(&self, tenant: &TenantId, queue: &QueueName) -> Option<&Control> {
        self.0.get(tenant)?.queues.get(queue)
    }

    pub fn task(&self, tenant: &TenantId, task: &TaskName) -> Option<&Control> {
        self.0.get(tenant)?.tasks.get(task)
    }

    /// How many tasks of a tenant have one.
    pub fn tasks(&self, tenant: &TenantId) -> u64 {
        self.0.get(tenant).map_or(0, |of| of.tasks.len() as u64)
    }

    /// The control of a scope; the default if none is set.
    pub fn get(&self, tenant: &TenantId, scope: &Scope) -> Control {
        let found = match scope {
            Scope::Tenant => self.tenant(tenant),
            Scope::Queue(queue) => self.queue(tenant, queue),
            Scope::Task(task) => self.task(tenant, task),
        };
        found.cloned().unwrap_or_default()
    }

    /// All of a tenant, in the order of `Scope`.
    pub fn of_tenant(&self, tenant: &TenantId) -> Vec<(Scope, Control)> {
        let Some(of) = self.0.get(tenant) else { return Vec::new() };
        let own = (of.tenant != Control::default()).then(|| (Scope::Tenant, of.tenant.clone()));
        let queues = of.queues.iter().map(|(queue, control)| (Scope::Queue(queue.clone()), control.clone()));
        let tasks = of.tasks.iter().map(|(task, control)| (Scope::Task(task.clone()), control.clone()));
        own.into_iter().chain(queues).chain(tasks).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a control without opening or closing anything: as it was stored.
    pub fn put(&mut self, tenant: &TenantId, scope: &Scope, control: Control) {
        let of = self.0.entry(tenant.clone()).or_default();
        let is_none = control == Control::default();
        match scope {
            Scope::Tenant => of.tenant = control,
            Scope::Queue(queue) if is_none => drop(of.queues.remove(queue)),
            Scope::Queue(queue) => drop(of.queues.insert(queue.clone(), control)),
            Scope::Task(task) if is_none => drop(of.tasks.remove(task)),
            Scope::Task(task) => drop(of.tasks.insert(task.clone(), control)),
        }
        if of.tenant == Control::default() && of.queues.is_empty() && of.tasks.is_empty() {
            self.0.remove(tenant);
        }
    }
}
