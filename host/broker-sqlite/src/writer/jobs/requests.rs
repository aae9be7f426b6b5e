//! Requests of users about one job: cancel it, run it now, forget it.

use umbel_broker::{Cancelled, Forgot, RunNow, rules::lease::is_let_end};
use umbel_model::{JobId, JobState, TenantId};

use crate::error::Fault;
use crate::writer::{jobs::head, step::Step};

impl Step<'_> {
    /// `waiting`: only if it does not run.
    pub(crate) fn cancel(
        &mut self,
        tenant: &TenantId,
        id: JobId,
        terminate: bool,
        waiting: bool,
    ) -> Result<Cancelled, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, tenant, id)? else {
            return Ok(Cancelled::NotFound);
        };
        if let Some(workflow) = head.workflow
            && self.workflows.flow(self.conn, workflow)?.is_hidden()
        {
            return Ok(Cancelled::NotFound);
        }
        let state = head.state;
        if state.is_terminal() {
            return Ok(Cancelled::AlreadyEnded(state));
        }
        if waiting && state == JobState::Running {
            return Ok(Cancelled::Runs);
        }
        let let_end = is_let_end(terminate, head.cancel_requested, head.let_end);
        head.cancel_requested = true;
        if state != JobState::Running {
            self.leave(&mut head)?;
            self.finish(&mut head, JobState::Revoked)?;
            self.save(&mut head)?;
            self.give_up_child(&head, JobState::Revoked)?;
            self.advance()?;
            return Ok(Cancelled::Revoked);
        }
        head.let_end = let_end;
        if terminate {
            self.notifications.cancel_asked(id);
        }
        self.save(&mut head)?;
        Ok(Cancelled::Requested)
    }

    pub(crate) fn run_now(&mut self, tenant: &TenantId, id: JobId) -> Result<RunNow, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, tenant, id)? else { return Ok(RunNow::NotFound) };
        if !matches!(head.state, JobState::Scheduled | JobState::Retrying) {
            return Ok(RunNow::NotWaiting(head.state));
        }
        // One that has expired is left to the promoter.
        if !head.expired(self.now) {
            self.leave(&mut head)?;
            self.enqueue(&mut head)?;
            self.save(&mut head)?;
        }
        Ok(RunNow::Queued)
    }

    pub(crate) fn forget(&mut self, tenant: &TenantId, id: JobId) -> Result<Forgot, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, tenant, id)? else { return Ok(Forgot::NotFound) };
        if let Some(workflow) = head.workflow {
            let hidden = self.workflows.flow(self.conn, workflow)?.is_hidden();
            return Ok(if hidden { Forgot::NotFound } else { Forgot::Node });
        }
        if !head.state.is_terminal() {
            return Ok(Forgot::NotEnded(head.state));
        }
        // Nobody could look at what a duplicate is answered with.
        if let Some((key, _)) = self.held_by(&mut head)? {
            self.drop_key(&head, &key)?;
        }
        self.delete_job(&mut head)?;
        Ok(Forgot::Forgotten)
    }
}
