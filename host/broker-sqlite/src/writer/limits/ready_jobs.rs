//! The ready jobs of the file, and used rates, as the scheduler asks for them.

use rusqlite::{Connection, Row};
use tracing::warn;
use umbel_broker::{
    JobLimits,
    scheduler::{Limit, LimitName, Store},
};
use umbel_model::{TaskName, TenantId, UnixMs, rate::Used};

use crate::writer::{
    jobs::head::Head,
    jobs::head::{self},
};
use crate::{
    error::Fault,
    rows::{insert, one, read, run},
};

const USED: &str =
    "SELECT until_us, interval_us, burst FROM rate WHERE tenant = ? AND kind = ? AND name = ? AND key = ?";

/// The kind, name and key of a rate in its table. The kind is that of a control, and 3 for a key.
fn rate_columns(limit: &Limit) -> (i64, &str, &str) {
    match limit {
        Limit::Tenant => (0, "", ""),
        Limit::Queue(queue) => (1, queue.as_str(), ""),
        Limit::Task(task) => (2, task.as_str(), ""),
        Limit::Key(task, key) => (3, task.as_str(), key.as_str()),
    }
}

/// The ready jobs of the file as the scheduler sees them.
pub(crate) struct ReadyJobs<'a> {
    pub(crate) conn: &'a Connection,
    pub(crate) now: UnixMs,
    /// How many tenant queues there are.
    pub(crate) queues: usize,
    /// The job that was looked at, and its spec or (of a node) its arguments.
    pub(crate) looked: Option<(Head, String)>,
}

impl ReadyJobs<'_> {
    fn head(&mut self) -> Result<&mut Head, Fault> {
        let looked = self.looked.as_mut().map(|(head, _)| head);
        looked.ok_or_else(|| Fault::stored("queued job", "it was not looked at"))
    }
}

impl Store<i64> for ReadyJobs<'_> {
    type Error = Fault;

    fn look(&mut self, _: &TenantId, rid: i64) -> Result<Option<bool>, Fault> {
        self.looked = head::ready(self.conn, self.queues, rid)?;
        if self.looked.is_none() {
            warn!(rid, "a queued job or what it is to run is missing: it waits, see what an audit says");
        }
        Ok(self.looked.as_ref().map(|(head, _)| head.expired(self.now)))
    }

    fn task(&mut self) -> Result<TaskName, Fault> {
        let conn = self.conn;
        self.head()?.task(conn)
    }

    fn limits(&mut self) -> Result<JobLimits, Fault> {
        let conn = self.conn;
        let broker_options = self.head()?.broker_options(conn)?;
        Ok(broker_options.and_then(|broker_options| broker_options.limits.clone()).unwrap_or_default())
    }

    fn moved(&mut self) -> Result<(), Fault> {
        let rid = self.head()?.rid;
        run(self.conn, "UPDATE job SET lane = 1 WHERE rid = ?", &[&rid])
    }

    fn used(&mut self, (tenant, limit): &LimitName) -> Result<Option<Used>, Fault> {
        let (kind, name, key) = rate_columns(limit);
        let decode = |row: &Row<'_>| Ok(read!(row => Used { until_us, interval_us, burst }));
        one(self.conn, USED, &[tenant, &kind, &name, &key], decode)
    }

    fn set_used(&mut self, (tenant, limit): &LimitName, used: Used) -> Result<(), Fault> {
        let (kind, name, key) = rate_columns(limit);
        insert!(self.conn, "INSERT OR REPLACE INTO rate" {
            tenant: tenant, kind: kind, name: name, key: key, until_us: used.until_us, interval_us: used.interval_us,
            burst: used.burst
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_look_at_a_rate_costs_more_because_there_are_more() {
        crate::tests::assert_costs_what_it_finds(USED);
    }
}
