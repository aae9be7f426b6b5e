//! The controls of tenants, queues and tasks.

use std::collections::{BTreeMap, HashMap};

use umbel_model::TenantId;

use crate::{Control, Scope};

/// All controls. Those that set nothing are not in it.
#[derive(Debug, Default)]
pub struct Controls(HashMap<TenantId, BTreeMap<Scope, Control>>);

impl Controls {
    pub fn find(&self, tenant: &TenantId, scope: &Scope) -> Option<&Control> {
        self.0.get(tenant)?.get(scope)
    }

    /// The control of a scope; the default if none is set.
    pub fn get(&self, tenant: &TenantId, scope: &Scope) -> Control {
        self.find(tenant, scope).cloned().unwrap_or_default()
    }

    /// Whether a tenant has any: most have none.
    pub fn has_any(&self, tenant: &TenantId) -> bool {
        self.0.contains_key(tenant)
    }

    /// Whether a task of a tenant has one. Tasks are the last in the order of `Scope`.
    pub fn has_of_task(&self, tenant: &TenantId) -> bool {
        let last = self.0.get(tenant).and_then(BTreeMap::last_key_value);
        matches!(last, Some((Scope::Task(_), _)))
    }

    /// All of a tenant, in the order of `Scope`.
    pub fn of_tenant(&self, tenant: &TenantId) -> Vec<(Scope, Control)> {
        let all = self.0.get(tenant).into_iter().flatten();
        all.map(|(scope, control)| (scope.clone(), control.clone())).collect()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets a control without opening or closing anything: as it was stored.
    pub fn put(&mut self, tenant: &TenantId, scope: &Scope, control: Control) {
        let of = self.0.entry(tenant.clone()).or_default();
        if control == Control::default() {
            of.remove(scope);
        } else {
            of.insert(scope.clone(), control);
        }
        if of.is_empty() {
            self.0.remove(tenant);
        }
    }
}
