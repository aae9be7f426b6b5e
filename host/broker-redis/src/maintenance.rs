//! The passage of time, and actions on single jobs: promote, reap, prune, cancel, run now.

use umbel_broker::{
    Cancelled, Error, Forgot, Promoted, Reaped, Result, RunNow, WORKER_LOST, WORKER_LOST_MESSAGE,
    memory::max_deliveries_message,
};
use umbel_model::{Failure, JobId, JobState, TenantId};

use crate::{RedisBroker, answers::Answer, bytes::corrupt, connection::Repeat, keys::member};

/// Jobs of one call; it stops everybody else while it runs.
const BATCH: u32 = 1_000;

impl RedisBroker {
    /// At most `BATCH` at a time.
    pub(crate) async fn promote_batch(&self, max: u32) -> Result<Promoted> {
        let args = vec![max.min(BATCH).to_string().into_bytes()];
        let mut answer = Answer::new(self.run("promote", args, Repeat::Safe).await?)?;
        Ok(Promoted {
            moved: answer.number()? as u32,
            expired: answer.number()? as u32,
            opened: answer.number()? as u32,
            next_due: u64::try_from(answer.number()?).ok(),
        })
    }

    /// At most `BATCH` at a time.
    pub(crate) async fn reap_batch(&self, max: u32) -> Result<Reaped> {
        // The model has the words; the function puts the number in.
        let number = u32::MAX;
        let failure = Failure::new("max_deliveries", max_deliveries_message(number));
        let failure = serde_json::to_vec(&failure).map_err(corrupt)?;
        let lost = serde_json::to_vec(&Failure::new(WORKER_LOST, WORKER_LOST_MESSAGE)).map_err(corrupt)?;
        let args = vec![max.min(BATCH).to_string().into_bytes(), failure, number.to_string().into_bytes(), lost];
        let mut answer = Answer::new(self.run("reap", args, Repeat::Safe).await?)?;
        Ok(Reaped {
            requeued: answer.number()? as u32,
            buried: answer.number()? as u32,
            revoked: answer.number()? as u32,
            failed: answer.number()? as u32,
        })
    }

    /// At most `BATCH` at a time; then keys, until none is over.
    pub(crate) async fn prune_batch(&self, max: u32) -> Result<u32> {
        let (deleted, mut keys) = self.prune_once(max.min(BATCH)).await?;
        while keys >= BATCH {
            (_, keys) = self.prune_once(0).await?;
        }
        Ok(deleted)
    }

    async fn prune_once(&self, max: u32) -> Result<(u32, u32)> {
        let args = vec![max.to_string().into_bytes(), BATCH.to_string().into_bytes()];
        self.typed("prune", args, Repeat::Safe).await
    }

    /// `how`: see the function.
    pub(crate) async fn cancel_one(&self, tenant: &TenantId, id: JobId, how: u8) -> Result<Cancelled> {
        let args = vec![member(tenant, id).into_bytes(), how.to_string().into_bytes()];
        let code: i64 = self.typed("cancel", args, Repeat::Safe).await?;
        Ok(match state(code)? {
            None => Cancelled::NotFound,
            Some(JobState::Running) if how == 2 => Cancelled::Runs,
            Some(JobState::Running) => Cancelled::Requested,
            Some(state) if state.is_terminal() => Cancelled::AlreadyEnded(state),
            Some(_) => Cancelled::Revoked,
        })
    }

    pub(crate) async fn forget_one(&self, tenant: &TenantId, id: JobId) -> Result<Forgot> {
        let args = vec![member(tenant, id).into_bytes()];
        let code: i64 = self.typed("forget", args, Repeat::OnlyUnsent).await?;
        Ok(match code {
            -2 => Forgot::Node,
            _ => match state(code)? {
                None => Forgot::NotFound,
                Some(state) if state.is_terminal() => Forgot::Forgotten,
                Some(state) => Forgot::NotEnded(state),
            },
        })
    }

    pub(crate) async fn run_one_now(&self, tenant: &TenantId, id: JobId) -> Result<RunNow> {
        let args = vec![member(tenant, id).into_bytes()];
        let code: i64 = self.typed("run_now", args, Repeat::Safe).await?;
        Ok(match state(code)? {
            None => RunNow::NotFound,
            Some(JobState::Scheduled | JobState::Retrying) => RunNow::Queued,
            Some(state) => RunNow::NotWaiting(state),
        })
    }
}

/// The state of a function's code; none for -1.
fn state(code: i64) -> Result<Option<JobState>> {
    if code < 0 {
        return Ok(None);
    }
    let state = usize::try_from(code).ok().and_then(|n| JobState::ALL.get(n));
    state.map(|s| Some(*s)).ok_or_else(|| Error::Corrupt("a job's state is not known".into()))
}
