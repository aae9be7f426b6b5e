//! How the nodes of a workflow wait for each other.

use umbel_model::{JobState, OnFailure, canvas::When};

use crate::{INLINE_INPUT_BYTES, Input, Status, WorkflowState};

/// How a job ended, as its workflow sees it.
pub fn status_of(state: JobState) -> Status {
    match state {
        JobState::Succeeded => Status::Ok,
        JobState::Skipped => Status::Skipped,
        _ => Status::Failed,
    }
}

/// The status that a node's end has for the nodes that wait for it.
pub fn adjusted(raw: Status, on_failure: OnFailure) -> Status {
    if raw == Status::Failed && on_failure != OnFailure::Fail { Status::Ok } else { raw }
}

/// The status that a node sees: one that waits for a failure is readied by it, and skipped without it; a link is skipped
/// after a failure that is not minded.
fn taken(when: When, raw: Status, adjusted: Status) -> Status {
    match (when, raw) {
        (When::Link, Status::Failed) if adjusted == Status::Ok => Status::Skipped,
        (When::Success | When::Link, _) => adjusted,
        (When::Failure, Status::Failed) => Status::Ok,
        (When::Failure, _) => Status::Skipped,
    }
}

/// The input of a node whose source is this job, with this result: small ones of jobs that were not replaced come along.
pub fn input(source: u32, state: JobState, is_replaced: bool, result: &str) -> Input {
    if state == JobState::Succeeded && !is_replaced && result.len() <= INLINE_INPUT_BYTES {
        Input::Value(result.to_owned())
    } else {
        Input::Result(source)
    }
}

/// The effect of an arrival at a waiting job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobArrival {
    Ready,
    End(JobState),
    /// It fails as `UPSTREAM_FAILED`, and not into the dead set.
    FailUpstream,
}

/// Decides about a waiting job, whose workflow may have been `cancelled`.
pub fn arrive_at_job(when: When, raw: Status, adjusted: Status, cancelled: Option<JobState>) -> JobArrival {
    match (taken(when, raw, adjusted), cancelled) {
        (Status::Skipped, _) => JobArrival::End(JobState::Skipped),
        (_, Some(how)) => JobArrival::End(how),
        (Status::Ok, None) => JobArrival::Ready,
        (Status::Failed, None) => JobArrival::FailUpstream,
    }
}

/// The arrivals that a join has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JoinProgress {
    pub pending: u32,
    pub failed: u32,
    pub skipped: u32,
    /// How it ended.
    pub status: Option<Status>,
}

/// The effect of an arrival at a join.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct JoinArrival {
    /// It was the first failure of a group that is to be cancelled then.
    pub cancels_scope: bool,
    /// It was the last arrival: the join ended so.
    pub ended: Option<Status>,
}

impl JoinProgress {
    /// Whether the group still takes members: one whose rest was cancelled does not.
    pub fn takes_members(&self, cancel_rest: bool) -> bool {
        self.status.is_none() && !(cancel_rest && self.failed > 0)
    }

    /// Counts an arrival. A join without members waits for what its group waits for, as a job would.
    pub fn arrive(
        &mut self,
        (when, has_members, cancel_rest): (When, bool, bool),
        raw: Status,
        adjusted: Status,
    ) -> JoinArrival {
        let mut arrival = JoinArrival::default();
        if self.pending == 0 || self.status.is_some() {
            return arrival;
        }
        self.pending -= 1;
        match if has_members { adjusted } else { taken(when, raw, adjusted) } {
            Status::Ok => {}
            Status::Skipped => self.skipped += 1,
            Status::Failed => {
                self.failed += 1;
                arrival.cancels_scope = self.failed == 1 && cancel_rest;
            }
        }
        if self.pending == 0 {
            self.status = Some(match (self.failed, self.skipped) {
                (0, 0) => Status::Ok,
                (0, _) => Status::Skipped,
                _ => Status::Failed,
            });
            arrival.ended = self.status;
        }
        arrival
    }
}

/// The state of a workflow that is over: its end node ended so, and it may have been cancelled.
pub fn workflow_state(end: Status, cancelled: Option<JobState>) -> WorkflowState {
    match (end, cancelled) {
        (Status::Ok, _) => WorkflowState::Succeeded,
        (_, Some(JobState::Expired)) => WorkflowState::Expired,
        (_, Some(_)) => WorkflowState::Revoked,
        (_, None) => WorkflowState::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_ends_with_its_last_arrival_and_cancels_its_scope_once() {
        let mut join = JoinProgress { pending: 3, ..JoinProgress::default() };
        let mut arrive = |status| join.arrive((When::Success, true, true), status, status);
        assert_eq!(arrive(Status::Failed), JoinArrival { cancels_scope: true, ended: None });
        assert_eq!(arrive(Status::Failed), JoinArrival::default());
        assert_eq!(arrive(Status::Ok), JoinArrival { cancels_scope: false, ended: Some(Status::Failed) });
        assert_eq!(arrive(Status::Ok), JoinArrival::default());
    }

    #[test]
    fn an_error_callback_is_readied_by_a_raw_failure_only() {
        let arrive = |raw, adjusted| arrive_at_job(When::Failure, raw, adjusted, None);
        assert_eq!(arrive(Status::Failed, Status::Ok), JobArrival::Ready);
        assert_eq!(arrive(Status::Ok, Status::Ok), JobArrival::End(JobState::Skipped));
        let link = |raw, adjusted| arrive_at_job(When::Link, raw, adjusted, None);
        assert_eq!(link(Status::Failed, Status::Ok), JobArrival::End(JobState::Skipped));
        assert_eq!(link(Status::Failed, Status::Failed), JobArrival::FailUpstream);
        assert_eq!(link(Status::Ok, Status::Ok), JobArrival::Ready);
        let cancelled = arrive_at_job(When::Success, Status::Ok, Status::Ok, Some(JobState::Expired));
        assert_eq!(cancelled, JobArrival::End(JobState::Expired));
    }
}
