//! Requests of users about jobs: cancel them, run them now, forget them.

use umbel_broker::{Cancelled, Forgot, JobActed, JobAction, RunNow, rules::lease::is_let_end};
use umbel_model::{JobId, JobState, TenantId};

use crate::error::Fault;
use crate::writer::{
    jobs::head::{self, Head},
    step::Step,
};

impl Step<'_> {
    pub(crate) fn act(&mut self, tenant: &TenantId, action: JobAction, ids: &[JobId]) -> Result<Vec<JobActed>, Fault> {
        let mut acted = Vec::with_capacity(ids.len());
        for id in ids {
            acted.push(match action {
                JobAction::Cancel { terminate } => JobActed::Cancelled(self.cancel(tenant, *id, terminate)?),
                JobAction::CancelWaiting => JobActed::Cancelled(self.cancel_waiting(tenant, *id)?),
                JobAction::RunNow => JobActed::RunNow(self.run_now(tenant, *id)?),
                JobAction::Forget => JobActed::Forgot(self.forget(tenant, *id)?),
            });
        }
        if acted.contains(&JobActed::Cancelled(Cancelled::Revoked)) {
            self.advance()?;
        }
        Ok(acted)
    }

    fn cancel(&mut self, tenant: &TenantId, id: JobId, terminate: bool) -> Result<Cancelled, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, tenant, id)? else {
            return Ok(Cancelled::NotFound);
        };
        if self.is_hidden(&head)? {
            return Ok(Cancelled::NotFound);
        }
        let state = head.state;
        if state.is_terminal() {
            return Ok(Cancelled::AlreadyEnded(state));
        }
        if state == JobState::Running && !terminate {
            head.let_end = is_let_end(terminate, head.cancel_requested, head.let_end);
            head.cancel_requested = true;
            self.save(&mut head)?;
            return Ok(Cancelled::Requested);
        }
        self.cancel_job(&mut head, JobState::Revoked)?;
        Ok(if state == JobState::Running { Cancelled::Requested } else { Cancelled::Revoked })
    }

    fn cancel_waiting(&mut self, tenant: &TenantId, id: JobId) -> Result<Cancelled, Fault> {
        let head = head::by_id(self.conn, self.scheduler, tenant, id)?;
        let runs = head.is_some_and(|head| head.state == JobState::Running);
        if runs { Ok(Cancelled::Runs) } else { self.cancel(tenant, id, true) }
    }

    /// Whether a job is the node of a workflow that is staged or half deleted.
    fn is_hidden(&mut self, head: &Head) -> Result<bool, Fault> {
        head.workflow.map_or(Ok(false), |rid| Ok(self.workflows.flow(self.conn, rid)?.is_hidden()))
    }

    fn run_now(&mut self, tenant: &TenantId, id: JobId) -> Result<RunNow, Fault> {
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

    fn forget(&mut self, tenant: &TenantId, id: JobId) -> Result<Forgot, Fault> {
        let Some(mut head) = head::by_id(self.conn, self.scheduler, tenant, id)? else { return Ok(Forgot::NotFound) };
        if head.workflow.is_some() {
            return Ok(if self.is_hidden(&head)? { Forgot::NotFound } else { Forgot::Node });
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
