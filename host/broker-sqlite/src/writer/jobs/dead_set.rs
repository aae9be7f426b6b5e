//! The dead set: jobs that failed and are kept to be looked at and redriven.

use umbel_broker::rules::dead_set;
use umbel_model::JobId;

use crate::writer::{
    jobs::head::Head,
    jobs::head::{self},
    step::Step,
};
use crate::{
    error::Fault,
    rows::{first, one},
};

const OLDEST_DEAD: &str = "SELECT id FROM job INDEXED BY job_dead WHERE tenant = ? AND dead = 1 ORDER BY id LIMIT 1";

impl Step<'_> {
    /// Puts a job that ends into the dead set; the oldest leaves it when there are too many.
    pub(crate) fn bury(&mut self, head: &mut Head) -> Result<(), Fault> {
        head.dead = true;
        self.scheduler.change(head.queue_id, |counts| counts.dead += 1);
        let tenant = self.scheduler.tenant(head.queue_id);
        if self.scheduler.sum(tenant, |counts| counts.dead) <= self.limits.max_dead {
            return Ok(());
        }
        let oldest: Option<JobId> = one(self.conn, OLDEST_DEAD, &[tenant], first)?;
        let Some(oldest) = oldest.filter(|oldest| *oldest < head.id) else { return self.leave_dead_for_room(head) };
        let Some(mut oldest) = head::by_id(self.conn, self.scheduler, tenant, oldest)? else { return Ok(()) };
        self.leave_dead_for_room(&mut oldest)?;
        self.save(&mut oldest)
    }

    fn leave_dead_for_room(&mut self, head: &mut Head) -> Result<(), Fault> {
        self.leave_dead(head);
        let held = self.held_by(head)?.map_or(0, |(_, until)| until);
        let without = dead_set::delete_at_without(head.finished_at, head.result_ttl_ms, held);
        head.at = head.at.map(|_| without);
        Ok(())
    }

    pub(crate) fn leave_dead(&mut self, head: &mut Head) {
        if std::mem::take(&mut head.dead) {
            self.scheduler.change(head.queue_id, |counts| counts.dead = counts.dead.saturating_sub(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_the_oldest_dead_job_costs_no_more_because_there_are_more() {
        crate::tests::assert_costs_what_it_finds(OLDEST_DEAD);
    }
}
