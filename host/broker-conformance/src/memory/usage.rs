//! Sums of usage of the in-memory model.

use umbel_model::TenantId;

use super::{records::Key, state::State};
use umbel_broker::{
    rules::usage::{Gathering, hour_of, hours, row_of},
    *,
};

impl State {
    /// Adds to the sums of a job's task in this hour.
    pub(super) fn add_usage(&mut self, key: &Key, more: &UsageSum) {
        let (tenant, hour) = (&key.0, hour_of(self.now));
        let task = self.jobs[key].record.task.as_str();
        let rows = self.usage.keys().filter(|(of, at, task)| of == tenant && *at == hour && !task.is_empty());
        let has_row = self.usage.contains_key(&(tenant.clone(), hour, task.to_owned()));
        let row = row_of(task, has_row, rows.count() as u64, self.limits.max_usage_tasks).to_owned();
        self.usage.entry((tenant.clone(), hour, row)).or_default().add(more);
    }

    pub(super) fn usage(&self, query: &UsageQuery) -> UsagePage {
        let hours = hours(query, self.now, self.limits.usage_retention_ms);
        let mut gathering = Gathering::new(query);
        let asked = |(tenant, hour, _): &(TenantId, u64, String)| *tenant == query.tenant && hours.contains(hour);
        for ((_, hour, task), sum) in self.usage.iter().filter(|(key, _)| asked(key)) {
            if !gathering.add(*hour, task, sum) {
                break;
            }
        }
        gathering.finish()
    }
}
