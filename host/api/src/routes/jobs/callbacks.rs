//! A job with callbacks: the first node of a workflow whose other nodes start with its result or its error.

use std::{collections::BTreeMap, sync::Arc};

use umbel_compose::{Head, Options, SubmissionKey, with_callbacks};
use umbel_model::{
    RawList,
    canvas::{Signature as Step, node_job},
};

use crate::{
    outcome::Outcome,
    problem::{FieldError, Problem, Result},
    state::Api,
    submission::{Origin, Signature, task_name},
    time::now_ms,
    workflow_submission::Submission,
};

/// Submits the job of a signature and its callbacks. Answers the job.
pub(super) async fn submit(
    api: &Arc<Api>,
    signature: &Signature<'_>,
    mut options: Options,
    origin: Origin,
    key: Option<SubmissionKey>,
) -> Result<Outcome> {
    let stamps = origin.stamps(&mut options);
    let head = Head { key, ..Head::new(api.ids.workflow_id()?) };
    let (canvas, mut options, head) = with_callbacks(step(signature)?, options, head);
    // The key is the workflow's.
    options.idempotency_key = None;
    if let Some(at) = options.expires_at.take() {
        // A node's expiry counts from when it is ready: now, or after its delay, which is not part of it.
        let left = at.saturating_sub(now_ms()).max(1);
        let own = options.policy.expires_ms.filter(|ms| *ms > 0);
        options.policy.expires_ms = Some(own.map_or(left, |ms| ms.min(left)));
    }
    let permit = api.workflows.acquire(&origin.tenant).await?;
    let submission = Submission { api: api.clone(), tenant: origin.tenant, stamps, permit, pointer: "" };
    let submitted = submission.submit(|composer| composer.job_with_callbacks(canvas, options, head)).await;
    let (outcome, first) = submitted.map_err(placed)?;
    Ok(match outcome {
        Outcome::New(workflow) => Outcome::New(node_job(workflow, first)),
        other => Outcome::Replayed(node_job(other.id(), first)),
    })
}

/// The signature as a step of a canvas, without its options.
fn step(signature: &Signature<'_>) -> Result<Step> {
    let mut kwargs = BTreeMap::new();
    for (name, value) in signature.kwargs.iter().flat_map(|kwargs| kwargs.iter()) {
        if kwargs.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(Problem::invalid_arguments("an argument was given twice by name"));
        }
    }
    let args = signature.args.iter().flat_map(RawList::as_slice).map(|value| (*value).to_owned()).collect();
    Ok(Step { args, kwargs, ..Step::new(task_name(&signature.task)?) })
}

/// A problem of the canvas, in the words of the submission that it was made of.
fn placed(problem: Problem) -> Problem {
    let place = |pointer: &str| match pointer {
        _ if pointer.starts_with("/link_error/") => pointer.replacen("/link_error", "/options/on_failure", 1),
        _ if pointer.starts_with("/link/") => pointer.replacen("/link", "/options/on_success", 1),
        _ => pointer.to_owned(),
    };
    let errors = problem.first_errors(usize::MAX).iter();
    let errors =
        errors.map(|error| FieldError { pointer: place(&error.pointer), detail: error.detail.clone() }).collect();
    problem.errors(errors)
}
