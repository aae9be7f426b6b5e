//! A job with callbacks: the first node of a workflow whose other nodes start with its result or its error.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, value::RawValue};
use umbel_broker::{Idempotency, Start};
use umbel_compose::{Head, Options, Stamps};
use umbel_model::{
    Canvas, JobId,
    canvas::{Shape, Signature as Step, node_job},
};

use super::super::workflows::{Work, composed, stored};
use crate::{
    auth::Caller,
    id_generator,
    problem::{Code, FieldError, Problem},
    state::Api,
    submission::{Origin, Signature, task_name},
};

/// Submits the job of a signature and what follows it. Answers the job, and whether it was there before.
pub(crate) async fn submit(
    api: &Arc<Api>,
    caller: &Caller,
    signature: &Signature<'_>,
    mut options: Options,
    origin: Origin,
    idempotency: Option<Idempotency>,
) -> Result<(JobId, bool), Problem> {
    let stamps = Stamps {
        tags: std::mem::take(&mut options.tags),
        headers: std::mem::take(&mut options.headers),
        traceparent: origin.traceparent,
        request_id: Some(origin.request_id),
    };
    let keep_ms = options.policy.result_ttl_ms;
    let link = std::mem::take(&mut options.on_success);
    let link_error = std::mem::take(&mut options.on_failure);
    let canvas = Canvas { link, link_error, ..Canvas::new(Shape::Task(step(signature, &options)?)) };
    let head = Head { idempotency, ..Head::new(api.ids.workflow_id()?) };
    // Nodes are kept as long as their workflow.
    let head = Head { keep_ms: keep_ms.unwrap_or(head.keep_ms), ..head };
    let turn = api.workflows.take(&caller.tenant).await?;
    let work = Work { api: api.clone(), caller: caller.clone(), stamps, turn };
    let (composed, turn) = composed(work, "", |composer| composer.workflow(canvas, head)).await.map_err(placed)?;
    let first = composed.head.starts.first().map_or(0, |range| range.first);
    let (workflow, replayed) = stored(api, composed).await?;
    drop(turn);
    Ok((node_job(workflow, first), replayed))
}

/// The signature as a step of a canvas: its options are those that a node may have.
fn step(signature: &Signature<'_>, options: &Options) -> Result<Step, Problem> {
    let mut named = BTreeMap::new();
    for (name, value) in signature.kwargs.as_ref().map_or(&[][..], |kwargs| &kwargs.0) {
        if named.insert(name.to_string(), (*value).to_owned()).is_some() {
            return Err(Problem::new(Code::InvalidArguments, "an argument was given twice by name"));
        }
    }
    let mut policy = options.policy.clone();
    if let Some(at) = options.expires_at {
        // A node's expiry counts from when it is ready: now, or after its delay, which is not part of it.
        let left = at.saturating_sub(id_generator::now_ms()).max(1);
        policy.expires_ms = Some(policy.expires_ms.filter(|ms| *ms > 0).map_or(left, |ms| ms.min(left)));
    }
    let mut fields = match serde_json::to_value(&policy) {
        Ok(Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    match options.start {
        Some(Start::After(ms)) => drop(fields.insert("countdown_ms".into(), ms.into())),
        Some(Start::At(at)) => {
            let eta = serde_json::to_value(crate::time::Time(at)).unwrap_or_default();
            fields.insert("eta".into(), eta);
        }
        Some(Start::Now) | None => {}
    }
    let text = Value::Object(fields).to_string();
    Ok(Step {
        args: signature.args.iter().flatten().map(|value| (*value).to_owned()).collect(),
        kwargs: named,
        options: RawValue::from_string(text).ok(),
        ..Step::new(task_name(&signature.task)?)
    })
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
