//! Broker options: read only when the flags in the job's row say that there are any.

use rusqlite::Connection;
use umbel_broker::BrokerOptions;
use umbel_model::{OnWorkerLost, TaskName};

use crate::writer::jobs::head::Head;
use crate::{
    error::Fault,
    rows::{first, one},
};

/// Flags in `job.knobs`.
pub(crate) const ON_LOST: u8 = 1;
pub(crate) const LIMITS: u8 = 2;
pub(crate) const UNIQUE: u8 = 4;

const OPTIONS: &str = "SELECT text FROM knobs WHERE rid = ?";
const TASK: &str = "SELECT task FROM job WHERE rid = ?";

impl Head {
    /// With these broker options.
    pub(crate) fn with_broker_options(mut self, broker_options: Option<&BrokerOptions>) -> Self {
        let Some(broker_options) = broker_options else { return self };
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        self.has |= flag(broker_options.on_lost != OnWorkerLost::default(), ON_LOST)
            | flag(broker_options.limits.is_some(), LIMITS)
            | flag(broker_options.unique.is_some(), UNIQUE);
        self.broker_options = self.has_broker_options().then(|| Box::new(broker_options.clone()));
        self
    }

    pub(crate) fn has_broker_options(&self) -> bool {
        self.has & (ON_LOST | LIMITS | UNIQUE) > 0
    }

    /// Its broker options, if it has any.
    pub(crate) fn broker_options(&mut self, conn: &Connection) -> Result<Option<&BrokerOptions>, Fault> {
        if self.has_broker_options() && self.broker_options.is_none() {
            let stored = one(conn, OPTIONS, &[&self.rid], first)?;
            self.broker_options = Some(Box::new(stored.ok_or_else(|| Fault::stored("job", "its knobs are missing"))?));
        }
        Ok(self.broker_options.as_deref())
    }

    pub(crate) fn task(&self, conn: &Connection) -> Result<TaskName, Fault> {
        if let Some(task) = &self.task {
            return Ok(task.clone());
        }
        one(conn, TASK, &[&self.rid], first)?.ok_or_else(|| Fault::stored("job", "it is missing"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_knobs_costs_no_more_because_there_are_more() {
        for sql in [OPTIONS, TASK] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }
}
