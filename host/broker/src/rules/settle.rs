//! The steps that follow an outcome.

use umbel_model::{Failure, JobState, Resolution, WorkflowId};

/// Whether an outcome may add workflows and members: a cancelled job does not come back, and adds nothing when it ends.
pub fn may_grow(resolution: &Resolution, cancel_requested: bool) -> bool {
    match resolution {
        Resolution::Succeed { .. } => true,
        Resolution::Replace { .. } => !cancel_requested,
        _ => false,
    }
}

/// Where a job goes when its delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    End(JobState),
    /// For so many milliseconds. It starts a new attempt, which is a retry if the state is `Retrying`.
    Delay(JobState, u64),
    /// Back to its place, as if it had not been delivered.
    Release,
    /// Until the workflow that replaces it has ended.
    Wait(WorkflowId),
}

/// Decides where a job goes after an outcome. A cancelled job does not come back.
pub fn next(resolution: &Resolution, cancel_requested: bool) -> Next {
    match resolution {
        Resolution::Succeed { .. } => Next::End(JobState::Succeeded),
        Resolution::Fail { .. } => Next::End(JobState::Failed),
        Resolution::Revoke => Next::End(JobState::Revoked),
        _ if cancel_requested => Next::End(JobState::Revoked),
        Resolution::Retry { delay_ms, .. } => Next::Delay(JobState::Retrying, *delay_ms),
        Resolution::Snooze { delay_ms } => Next::Delay(JobState::Scheduled, *delay_ms),
        Resolution::Release => Next::Release,
        Resolution::Replace { workflow } => Next::Wait(*workflow),
    }
}

/// The failure that an outcome leaves behind when this is what follows.
pub fn failure(resolution: &Resolution, next: Next) -> Option<&Failure> {
    match resolution {
        Resolution::Fail { failure } => Some(failure),
        Resolution::Retry { failure, .. } if next != Next::End(JobState::Revoked) => Some(failure),
        _ => None,
    }
}

/// Whether a job that is in `state` now, replaced by `child`, can be there because of this outcome: then a settle that is
/// repeated was recorded.
pub fn could_have_followed(resolution: &Resolution, state: JobState, child: Option<WorkflowId>) -> bool {
    match resolution {
        Resolution::Replace { workflow } => child == Some(*workflow) || state == JobState::Revoked,
        Resolution::Succeed { .. } => state == JobState::Succeeded,
        Resolution::Fail { .. } => state == JobState::Failed,
        Resolution::Revoke => state == JobState::Revoked,
        Resolution::Retry { .. } | Resolution::Snooze { .. } | Resolution::Release => {
            !matches!(state, JobState::Running | JobState::Succeeded | JobState::Failed | JobState::Waiting)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_job_is_not_retried_and_keeps_its_result() {
        let retry = Resolution::Snooze { delay_ms: 5 };
        assert_eq!(next(&retry, false), Next::Delay(JobState::Scheduled, 5));
        assert_eq!(next(&retry, true), Next::End(JobState::Revoked));
        assert_eq!(next(&Resolution::Succeed { result: None }, true), Next::End(JobState::Succeeded));
    }
}
