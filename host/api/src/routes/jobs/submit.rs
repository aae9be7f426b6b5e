//! Submitting one job.

use std::collections::BTreeMap;

use axum::{body::Body, http::HeaderMap};
use umbel_broker::Submitted;
use utoipa::ToSchema;

use super::{callbacks, respond_with_job};
use crate::{
    body::{Checked, object_of},
    canvas_schema::Step,
    extract::{Context, Query, WaitQuery},
    outcome::submitted,
    problem::{Problem, Result},
    storage_quota,
    submission::{NewJobs, Origin, Signature, key_of, known_job, options_of, submission_key},
    views::{Job, PolicyFields},
};

/// One call of a task.
// The OpenAPI document is made from it; the handler reads `Signature`, which borrows.
#[derive(Debug, ToSchema)]
#[schema(as = Submission)]
#[expect(dead_code, reason = "describes the body, is never built")]
pub(crate) struct SubmissionBody {
    task: String,
    /// By position.
    #[schema(value_type = Option<Vec<Value>>)]
    args: Option<Vec<serde_json::Value>>,
    /// By name.
    #[schema(value_type = Option<Object>)]
    kwargs: Option<serde_json::Value>,
    options: Option<SubmissionOptions>,
}

/// The fields of a policy, and when to start.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, is never built")]
pub(crate) struct SubmissionOptions {
    #[schema(inline)]
    #[serde(flatten)]
    policy: PolicyFields,
    /// Start so many milliseconds after the submission.
    countdown_ms: Option<u64>,
    /// Start at this time, RFC 3339.
    #[schema(format = DateTime)]
    eta: Option<String>,
    /// Ends `expired` if it has not started by then, RFC 3339; the earlier of this and `expires_ms` counts.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// As the header `Idempotency-Key`: the same key and body answer with the first job for a day.
    idempotency_key: Option<String>,
    /// Words to find it by: at most 16, of 1 to 64 characters.
    tags: Option<Vec<String>>,
    /// Stamps to find it by: at most 16, names of 1 to 64 characters without `:`, values of at most 256.
    headers: Option<BTreeMap<String, String>>,
    /// A step or a list of steps, at most 16, that run with its result. The job is then the first node of a workflow.
    on_success: Option<Vec<Step>>,
    /// The same for its error.
    on_failure: Option<Vec<Step>>,
}

impl std::fmt::Debug for SubmissionOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SubmissionOptions")
    }
}

/// Submits a job.
///
/// Arguments are checked against the task's parameters and their JSON Schemas.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs",
    params(
        WaitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body answer with the first job"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, carried through the job"),
    ),
    request_body = SubmissionBody,
    responses(
        (status = 202, body = Job, description = "It waits or runs"),
        (status = 200, body = Job, description = "It has ended, or the idempotency key was known, or (with the header `Umbel-Unique: duplicate`) a unique job like it was there"),
    )
)]
pub(crate) async fn submit(cx: Context, Query(query): Query<WaitQuery>, headers: HeaderMap, body: Body) -> Result {
    let Context { api, caller, request_id, .. } = cx;
    let wait = query.wait(&api)?;
    let origin = Origin::of(&caller, &request_id, &headers);
    let checked = Checked::read(&api, &headers, body, api.config.max_body_bytes).await?;
    let signature: Signature<'_> = object_of(checked.text())?;
    let options = signature.options.map(|json| options_of(json.get())).transpose()?.unwrap_or_default();
    let key = key_of(&headers, options.idempotency_key.as_deref(), "options.idempotency_key")?;
    let key = key.map(|key| submission_key(&key, &checked.0));
    let mut waiter = None;
    let outcome = if options.on_success.is_empty() && options.on_failure.is_empty() {
        let template = origin.template(&api, &signature.task, options).await?;
        let mut new = NewJobs::default();
        let body = key.as_ref().map(|key| key.canonical_body.clone());
        let id = new.add(&api, &template, &signature, key).await?;
        waiter = (!wait.is_zero()).then(|| api.watch.waiter(id));
        let answers = new.submit(&*api.broker, &api.store).await?;
        let full = storage_quota::of_any(&api, &caller.tenant, &answers).await;
        match *answers.first().ok_or_else(Problem::no_broker_answer)? {
            Submitted::Conflict(first) => known_job(&api, &caller.tenant, first, body.as_deref()).await?,
            answer => submitted(answer, id, full.as_ref())?,
        }
    } else {
        callbacks::submit(&api, &signature, options, origin, key).await?
    };
    tracing::debug!(job = %outcome.id(), task = &*signature.task, ?outcome, "job submitted");
    // It is not kept for as long as the caller waits.
    drop(checked);
    respond_with_job(&api, &caller, outcome, wait, waiter).await
}
