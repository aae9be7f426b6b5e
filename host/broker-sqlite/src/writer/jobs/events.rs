//! Recording changes of jobs for those who follow a tenant.

use umbel_broker::{Event, FOLLOW_MS};
use umbel_model::TenantId;

use crate::writer::{
    jobs::head::Head, state::event_subscriptions::Subscription, state::event_subscriptions::TRIM,
    state::event_subscriptions::keeps_events, step::FollowUp, step::Step,
};
use crate::{
    error::Fault,
    rows::{changed, run},
};

/// Events that one prune deletes at most.
const EVENT_SWEEP: u64 = 5_000;

const SWEEP: &str = "DELETE FROM event WHERE tenant = ?1
    AND number IN (SELECT number FROM event WHERE tenant = ?1 ORDER BY number LIMIT ?2)";

impl Step<'_> {
    pub(crate) fn follow(&mut self, tenant: &TenantId) -> Result<u64, Fault> {
        self.subscriptions.end_until(self.now);
        let known = self.subscriptions.all.get(tenant).copied();
        let last = match known {
            Some(following) if following.until > 0 => following.last,
            ended => {
                if let Some(ended) = ended {
                    self.write_subscriptions()?;
                    run(self.conn, TRIM, &[tenant, &ended.last])?;
                }
                self.now.saturating_mul(1_000).max(self.subscriptions.newest + 1) - 1
            }
        };
        let until = self.now.saturating_add(FOLLOW_MS);
        self.subscriptions.set(tenant, Some(Subscription { until, last }));
        self.subscriptions.look_ahead();
        Ok(last)
    }

    /// The job's state was changed.
    pub(crate) fn record_event(&mut self, head: &Head) -> Result<(), Fault> {
        if !self.subscriptions.is_anybody() {
            return Ok(());
        }
        let tenant = self.scheduler.tenant(head.queue_id);
        if let Some(number) = self.subscriptions.next_number(self.now, tenant) {
            let event = Event { number, at: self.now, job: head.id, task: head.task(self.conn)?, state: head.state };
            self.subscriptions.pending.push((tenant.clone(), event));
        }
        Ok(())
    }

    /// Whether somebody may follow a tenant: what is not yet stored must then know its task.
    pub(crate) fn is_followed(&self, tenant: &TenantId) -> bool {
        self.subscriptions.is_anybody() && self.subscriptions.all.contains_key(tenant)
    }

    pub(crate) fn write_subscriptions(&mut self) -> Result<(), Fault> {
        let keep = keeps_events(self.conn, self.subscriptions, self.max_pages, self.follow_up == FollowUp::All)?;
        self.subscriptions.write(self.conn, keep)
    }

    /// Deletes the events of followings that have ended.
    pub(crate) fn sweep_events(&mut self) -> Result<(), Fault> {
        // Those that nobody missed, later: as long as that a clock may be set back, and all brokers agree.
        self.subscriptions.end_until(self.now.saturating_sub(FOLLOW_MS));
        let over = self.subscriptions.all.iter().filter(|(_, following)| following.until == 0);
        let over: Vec<TenantId> = over.map(|(tenant, _)| tenant.clone()).collect();
        if over.is_empty() {
            return Ok(());
        }
        self.write_subscriptions()?;
        let mut budget = EVENT_SWEEP;
        for tenant in over {
            let deleted = changed(self.conn, SWEEP, &[&tenant, &budget])?;
            budget = budget.saturating_sub(deleted);
            if budget == 0 {
                break;
            }
            self.subscriptions.set(&tenant, None);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleting_events_costs_what_it_deletes() {
        crate::tests::assert_costs_what_it_finds(SWEEP);
    }
}
