//! Turns the end of a delivery into its settle: the resolution under its task's policy, and the record of the attempt.
//!
//! Invariants: a delivery that is handed back costs its job nothing, unless the job may run only once and was started; a
//! message that the policy keeps secret is in no record and no log line.

use std::sync::Arc;

use umbel_broker::{
    Delivery, Growth, Settle, Settled, SettledBlobs, WORKER_LOST, WORKER_LOST_MESSAGE, rules::storage::STORAGE_QUOTA,
};
use umbel_model::{Acks, AttemptRecord, Failure, Outcome, Policy, Resolution, Usage, WorkerId, WorkflowId, decide};

use crate::{
    active_delivery::ActiveDelivery,
    operating_system::{random_u64, unix_ms},
};

/// The end of one delivery on this worker.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) active: Arc<ActiveDelivery>,
    pub(crate) settle: Settle,
    /// On its slot, microseconds. None if no guest ran.
    pub(crate) took_us: Option<u64>,
}

impl Finished {
    /// The end of a delivery whose growth or blobs the broker refused with this answer: an error, retried as its policy says.
    pub(crate) fn refused(active: Arc<ActiveDelivery>, refused: &Settle, answer: Settled) -> Self {
        let policy = active.policy();
        let failure = kept(refusal(answer), policy);
        // A job that may run only once has run: it is not the guest that failed.
        let outcome = match policy.acks {
            Acks::Early => Outcome::Fatal(failure.clone()),
            Acks::Late => Outcome::Error { failure: failure.clone(), retry_after_ms: None },
        };
        let record = refused.record.clone().map(|record| AttemptRecord {
            outcome: "error".into(),
            failure: Some(failure),
            ..record
        });
        let resolution = decide(outcome, policy, active.delivery.retries, random_u64());
        // The broker refused the reports with the rest.
        let (progress, logs) = (refused.progress.clone(), refused.logs.clone());
        let settle = Settle { progress, logs, ..active.settle(resolution, record) };
        Self { active, settle, took_us: None }
    }

    /// Gives back a delivery that no slot has started.
    pub(crate) fn released(active: Arc<ActiveDelivery>) -> Self {
        let settle = active.settle(Resolution::Release, None);
        Self { active, settle, took_us: None }
    }

    /// The end of a delivery whose attempt panicked.
    pub(crate) fn panicked(active: Arc<ActiveDelivery>, worker: &WorkerId) -> Self {
        let delivery = &active.delivery;
        tracing::error!(tenant = %delivery.tenant, job = %delivery.id, %worker, "the host panicked while it ran a job");
        let settle = Ended::unrun(Outcome::Fatal(host_panic())).settle(&active, worker);
        Self { active, settle, took_us: None }
    }
}

/// What is said of a success that the broker did not take.
fn refusal(answer: Settled) -> Failure {
    match answer {
        Settled::MissingBlob(digest) => Failure::new(
            "missing_blob",
            format!("its result, or a job that it adds, refers to the blob {digest}, which is not stored"),
        ),
        Settled::BlobStorageFull => Failure::new(
            STORAGE_QUOTA,
            "the blobs that it wrote were not kept: the tenant has stored as many bytes of blobs as it may; delete some, or let an \
             operator raise the limit; then redrive it",
        ),
        Settled::TooManyBlobs(max) => Failure::new(
            STORAGE_QUOTA,
            format!(
                "the blobs that it wrote were not kept: a tenant has at most {max} blobs; delete some, then redrive it"
            ),
        ),
        _ => Failure::new(
            "host_limit:canvas_room",
            "there is no room for the jobs that the task wants to add: a queue, or the list of workflows, is full, or its group is \
             over",
        ),
    }
}

/// How an attempt ended, before the policy says what follows.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) usage: Usage,
    /// The guest was called.
    pub(crate) ran: bool,
    /// The workflows and members that its guest requested, ready to be stored with its outcome.
    pub(crate) growth: Option<Box<Growth>>,
    pub(crate) replaced_by: Option<WorkflowId>,
    /// The blobs that it wrote, and those to which its result refers.
    pub(crate) blobs: Option<Box<SettledBlobs>>,
}

impl Ended {
    pub(crate) fn unrun(outcome: Outcome) -> Self {
        Self { outcome, usage: Usage::default(), ran: false, growth: None, replaced_by: None, blobs: None }
    }

    /// The settle of this end.
    pub(crate) fn settle(self, active: &ActiveDelivery, worker: &WorkerId) -> Settle {
        let Self { outcome, usage, ran, growth, replaced_by, blobs } = self;
        let policy = active.policy();
        let outcome = match outcome {
            // The job may run only once, and it did.
            Outcome::Released if ran && policy.acks == Acks::Early => {
                Outcome::Fatal(Failure::new(WORKER_LOST, WORKER_LOST_MESSAGE))
            }
            Outcome::Released => return active.settle(Resolution::Release, None),
            Outcome::Reject { .. } if policy.forgets_failures() => Outcome::Reject { reason: String::new() },
            other => other,
        };
        let outcome = outcome.map_failure(|failure| kept(failure, policy));
        let failure = match &outcome {
            Outcome::Error { failure, .. } | Outcome::Fatal(failure) | Outcome::Trap(failure) => Some(failure.clone()),
            Outcome::Reject { reason } => Some(Failure::new("rejected", reason.as_str())),
            _ => None,
        };
        let outcome_name = replaced_by.map_or(name(&outcome), |_| "replaced");
        let record = active.record(worker, outcome_name, failure, usage);
        let random = if matches!(outcome, Outcome::Error { .. } | Outcome::Trap(_)) { random_u64() } else { 0 };
        let outcome = match outcome {
            Outcome::Value(_) if !active.keeps_result() => Outcome::Ignore,
            other => other,
        };
        let resolution = match replaced_by {
            Some(workflow) => Resolution::Replace { workflow },
            None => decide(outcome, policy, active.delivery.retries, random),
        };
        if let Resolution::Fail { failure } = &resolution {
            active.log_failed(worker, failure);
        }
        Settle { growth, blobs, ..active.settle(resolution, Some(record)) }
    }
}

/// The part of a failure that its policy keeps.
fn kept(failure: Failure, policy: &Policy) -> Failure {
    if policy.forgets_failures() {
        return Failure::new(failure.kind, "");
    }
    // An expected failure is recorded without its backtrace.
    let frames = if policy.expects(&failure.kind) { Vec::new() } else { failure.frames };
    Failure { frames, ..failure }
}

impl ActiveDelivery {
    fn record(&self, worker: &WorkerId, outcome: &str, failure: Option<Failure>, usage: Usage) -> AttemptRecord {
        AttemptRecord {
            attempt: self.attempt(),
            delivery: self.delivery.delivery,
            worker: worker.clone(),
            ended_at: unix_ms(),
            outcome: outcome.to_owned(),
            failure,
            usage,
        }
    }

    fn settle(&self, resolution: Resolution, record: Option<AttemptRecord>) -> Settle {
        let Delivery { tenant, id, token, .. } = &self.delivery;
        let (tenant, token) = (tenant.clone(), token.clone());
        Settle {
            tenant,
            id: *id,
            token,
            resolution,
            record,
            progress: None,
            logs: Vec::new(),
            growth: None,
            blobs: None,
        }
    }

    /// For operators: the kind of the failure and where it happened. Its message may hold a secret of the guest.
    fn log_failed(&self, worker: &WorkerId, failure: &Failure) {
        let (Delivery { tenant, id: job, queue, .. }, kind) = (&self.delivery, &failure.kind);
        let (attempt, task) = (self.attempt(), self.task());
        if self.policy().expects(kind) {
            tracing::info!(%tenant, %job, %queue, attempt, %worker, ?task, ?kind, "job failed as its task expects");
        } else {
            tracing::warn!(%tenant, %job, %queue, attempt, %worker, ?task, ?kind, "job failed");
        }
    }
}

/// Without the panic's message, which is in the worker's log and not for a tenant.
pub(crate) fn host_panic() -> Failure {
    Failure::new("host_panic", "umbel panicked while it ran this attempt; the worker's log says where")
}

/// The outcome's name in a job's history.
pub(crate) fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Value(_) => "succeeded",
        Outcome::Error { .. } => "error",
        Outcome::Fatal(_) => "fatal",
        Outcome::Snooze { .. } => "snoozed",
        Outcome::Reject { .. } => "rejected",
        Outcome::Ignore => "ignored",
        Outcome::Trap(_) => "trap",
        Outcome::Revoked => "revoked",
        Outcome::Released => "released",
    }
}

#[cfg(test)]
mod tests {
    use umbel_model::Frame;

    use super::*;

    fn settled(outcome: Outcome, ran: bool, policy: &str) -> (Resolution, Option<Failure>) {
        let active = ActiveDelivery::for_test(1, "not even a record");
        active.set_task("task", &serde_json::from_str(policy).unwrap());
        let settle = Ended { ran, ..Ended::unrun(outcome) }.settle(&active, &WorkerId::new("w").unwrap());
        (settle.resolution, settle.record.and_then(|record| record.failure))
    }

    fn trap() -> Outcome {
        let frames = vec![Frame { function: "f".into() }];
        Outcome::Trap(Failure { frames, ..Failure::new("memory", "a secret").with_details(Some("1".into())) })
    }

    #[test]
    fn a_panic_fails_its_job_and_keeps_its_words_to_itself() {
        let finished =
            Finished::panicked(ActiveDelivery::for_test(1, "not even a record"), &WorkerId::new("w").unwrap());
        let Resolution::Fail { failure } = finished.settle.resolution else { panic!("{:?}", finished.settle) };
        assert_eq!(failure.kind, "host_panic");
        let record = finished.settle.record.unwrap();
        assert_eq!((record.attempt, record.outcome.as_str(), record.failure), (3, "fatal", Some(failure)));
    }

    #[test]
    fn what_may_run_only_once_is_handed_back_only_before_it_ran() {
        let early = r#"{"acks":"early"}"#;
        assert!(matches!(settled(Outcome::Released, false, early).0, Resolution::Release));
        assert!(matches!(settled(Outcome::Released, true, "{}").0, Resolution::Release));
        let Resolution::Fail { failure } = settled(Outcome::Released, true, early).0 else { panic!() };
        assert_eq!(failure.kind, WORKER_LOST);
    }

    #[test]
    fn a_policy_that_keeps_no_errors_keeps_their_kinds_only() {
        let policy = r#"{"ignore_result":true,"store_errors_even_if_ignored":false,"max_retries":9}"#;
        let bare = |kind: &str| Some(Failure::new(kind, ""));
        assert_eq!(settled(trap(), true, policy).1, bare("memory"));
        let error = Outcome::Error { failure: Failure::new("Timeout", "a secret"), retry_after_ms: None };
        let (resolution, said) = settled(error, true, policy);
        let Resolution::Retry { failure, .. } = resolution else { panic!("{resolution:?}") };
        assert_eq!((Some(failure), said), (bare("Timeout"), bare("Timeout")));
        let reject = Outcome::Reject { reason: "a secret".into() };
        assert_eq!(settled(reject, true, policy).1, bare("rejected"));
        assert_ne!(settled(trap(), true, r#"{"ignore_result":true}"#).1, bare("memory"));
    }

    #[test]
    fn a_result_that_nobody_wants_is_not_stored() {
        let value = || Outcome::Value(serde_json::value::RawValue::from_string("7".into()).unwrap());
        let result = |policy: &str| match settled(value(), true, policy).0 {
            Resolution::Succeed { result } => result.map(|result| result.get().to_owned()),
            other => panic!("{other:?}"),
        };
        assert_eq!((result(r#"{"ignore_result":true}"#), result("{}")), (None, Some("7".into())));
    }

    #[test]
    fn an_expected_failure_has_no_frames() {
        assert!(settled(trap(), true, r#"{"throws":["mem*"]}"#).1.unwrap().frames.is_empty());
        assert_eq!(settled(trap(), true, "{}").1.unwrap().frames.len(), 1);
    }

    #[test]
    fn growth_without_room_is_retried_unless_the_job_may_run_only_once() {
        let refused = |policy: &str| {
            let active = ActiveDelivery::for_test(1, "not even a record");
            active.set_task("task", &serde_json::from_str(policy).unwrap());
            let worker = WorkerId::new("w").unwrap();
            let ran = Ended { ran: true, growth: Some(Box::default()), ..Ended::unrun(Outcome::Ignore) };
            let settle = ran.settle(&active, &worker);
            Finished::refused(active, &settle, Settled::NoCapacity).settle
        };
        let late = refused(r#"{"max_retries":9}"#);
        assert!(matches!(late.resolution, Resolution::Retry { .. }), "{late:?}");
        let early = refused(r#"{"max_retries":9,"acks":"early"}"#);
        let Resolution::Fail { failure } = early.resolution else { panic!("{early:?}") };
        assert_eq!((failure.kind.as_str(), early.growth.is_none()), ("host_limit:canvas_room", true));
        assert_eq!(early.record.and_then(|record| record.failure), Some(failure));
    }
}
