//! Controls as the writer knows them: what was set about tenants, queues and tasks.
//!
//! The table `control` holds the same. What a group set can be undone, as in `lines`.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, params};
use umbel_broker::{Control, ControlPatch, ControlSet, Scope};
use umbel_model::{QueueName, TaskName, TenantId};

use super::step::Step;
use crate::{
    error::Fault,
    reads::json,
    rows::{self, name},
};

#[derive(Debug, Default)]
struct OfTenant {
    tenant: Control,
    queues: BTreeMap<QueueName, Control>,
    tasks: BTreeMap<TaskName, Control>,
}

#[derive(Debug, Default)]
pub(super) struct Controls {
    all: HashMap<TenantId, OfTenant>,
    /// What the group under way set, as it was.
    before: Vec<(TenantId, Scope, Control)>,
}

/// What a scope is called in tables.
pub(super) fn column(scope: &Scope) -> (i64, &str) {
    match scope {
        Scope::Tenant => (0, ""),
        Scope::Queue(queue) => (1, queue.as_str()),
        Scope::Task(task) => (2, task.as_str()),
    }
}

impl Controls {
    pub(super) fn load(conn: &Connection) -> Result<Self, Fault> {
        let mut controls = Self::default();
        let mut statement = conn.prepare("SELECT tenant, kind, name, text FROM control")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let scope = rows::scope(row, 1)?;
            let text = row.get_ref(3)?.as_str().map_err(|error| Fault::stored("control", error))?;
            controls.put(&name(row, 0)?, &scope, json("control", text)?);
        }
        Ok(controls)
    }

    /// Tenants that are paused.
    pub(super) fn paused(&self) -> impl Iterator<Item = &TenantId> {
        self.all.iter().filter(|(_, of)| of.tenant.paused).map(|(tenant, _)| tenant)
    }

    pub(super) fn tenant(&self, tenant: &TenantId) -> Option<&Control> {
        self.all.get(tenant).map(|of| &of.tenant)
    }

    pub(super) fn queue(&self, tenant: &TenantId, queue: &QueueName) -> Option<&Control> {
        self.all.get(tenant)?.queues.get(queue)
    }

    pub(super) fn task(&self, tenant: &TenantId, task: &TaskName) -> Option<&Control> {
        self.all.get(tenant)?.tasks.get(task)
    }

    /// Tasks of a tenant that have one.
    pub(super) fn tasks(&self, tenant: &TenantId) -> u64 {
        self.all.get(tenant).map_or(0, |of| of.tasks.len() as u64)
    }

    fn get(&self, tenant: &TenantId, scope: &Scope) -> Control {
        let found = match scope {
            Scope::Tenant => self.tenant(tenant),
            Scope::Queue(queue) => self.queue(tenant, queue),
            Scope::Task(task) => self.task(tenant, task),
        };
        found.cloned().unwrap_or_default()
    }

    fn put(&mut self, tenant: &TenantId, scope: &Scope, control: Control) {
        let of = self.all.entry(tenant.clone()).or_default();
        let is_none = control == Control::default();
        match scope {
            Scope::Tenant => of.tenant = control,
            Scope::Queue(queue) if is_none => drop(of.queues.remove(queue)),
            Scope::Queue(queue) => drop(of.queues.insert(queue.clone(), control)),
            Scope::Task(task) if is_none => drop(of.tasks.remove(task)),
            Scope::Task(task) => drop(of.tasks.insert(task.clone(), control)),
        }
        if of.tenant == Control::default() && of.queues.is_empty() && of.tasks.is_empty() {
            self.all.remove(tenant);
        }
    }

    fn set(&mut self, conn: &Connection, tenant: &TenantId, scope: &Scope, control: &Control) -> Result<(), Fault> {
        let (kind, name) = column(scope);
        if *control == Control::default() {
            let sql = "DELETE FROM control WHERE tenant = ? AND kind = ? AND name = ?";
            conn.prepare_cached(sql)?.execute(params![tenant.as_str(), kind, name])?;
        } else {
            let sql = "INSERT OR REPLACE INTO control (tenant, kind, name, text) VALUES (?, ?, ?, ?)";
            let text = serde_json::to_string(control)?;
            conn.prepare_cached(sql)?.execute(params![tenant.as_str(), kind, name, text])?;
        }
        self.before.push((tenant.clone(), scope.clone(), self.get(tenant, scope)));
        self.put(tenant, scope, control.clone());
        Ok(())
    }

    /// The group was committed.
    pub(super) fn keep(&mut self) {
        self.before.clear();
    }

    /// The group was rolled back.
    pub(super) fn undo(&mut self) {
        for (tenant, scope, control) in std::mem::take(&mut self.before).into_iter().rev() {
            self.put(&tenant, &scope, control);
        }
    }
}

impl Step<'_> {
    pub(crate) fn set_control(
        &mut self,
        tenant: &TenantId,
        scope: &Scope,
        patch: &ControlPatch,
    ) -> Result<ControlSet, Fault> {
        if let Scope::Queue(queue) = scope
            && self.lines.find(tenant, queue).is_none()
        {
            return Ok(ControlSet::Unknown);
        }
        let control = self.controls.get(tenant, scope).patched(patch);
        let is_new = control != Control::default()
            && matches!(scope, Scope::Task(task) if self.controls.task(tenant, task).is_none());
        if is_new && self.controls.tasks(tenant) >= self.limits.max_documents {
            return Ok(ControlSet::Full);
        }
        self.controls.set(self.conn, tenant, scope, &control)?;
        let paused = control.paused;
        match scope {
            Scope::Tenant => {
                for line in self.lines.of_tenant(tenant) {
                    self.open_line(line, |counts| (counts.parked, counts.tenant_paused) = (None, paused));
                }
            }
            Scope::Queue(queue) => {
                if let Some(line) = self.lines.find(tenant, queue) {
                    let used_at = Some(self.now);
                    self.open_line(line, |counts| {
                        (counts.parked, counts.paused, counts.used_at) = (None, paused, used_at);
                    });
                }
            }
            Scope::Task(task) => self.open_task(tenant, task)?,
        }
        Ok(ControlSet::Set(control))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_group_set_is_undone_with_it() {
        let conn = crate::schema::open_in_memory().unwrap();
        let mut controls = Controls::load(&conn).unwrap();
        let (tenant, task) = (TenantId::new("t").unwrap(), Scope::Task(TaskName::new("add").unwrap()));
        let paused = Control { paused: true, ..Control::default() };
        controls.set(&conn, &tenant, &task, &paused).unwrap();
        controls.keep();
        for control in [&Control::default(), &Control { concurrency: 1, ..Control::default() }] {
            controls.set(&conn, &tenant, &task, control).unwrap();
        }
        controls.set(&conn, &tenant, &Scope::Tenant, &paused).unwrap();
        assert_eq!(Controls::load(&conn).unwrap().paused().count(), 1);
        controls.undo();
        assert_eq!((controls.get(&tenant, &task), controls.tasks(&tenant)), (paused, 1));
        assert_eq!(controls.paused().count(), 0);
    }
}
