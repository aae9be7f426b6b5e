//! Jobs: submit one, look, wait, cancel, retry, forget.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use umbel_broker::{Cancelled, Forgot, RunNow};
use umbel_compose::check_key;
use umbel_model::{JobId, JobState};
use utoipa::{IntoParams, ToSchema};

pub(crate) mod batch;
mod callbacks;
pub(crate) mod events;
pub(crate) mod list;
pub(crate) mod output;

use crate::{
    auth::Caller,
    body::{Of, answer, checked_text, json_or_nothing, object_of, query_of, read_json, wait_of},
    canvas_schema::Step,
    job_detail::whole,
    middleware::RequestId,
    problem::{Code, Problem},
    redrive,
    state::Api,
    submission::{Origin, Outcome, Signature, Template, drop_unused, idempotency, options_of, submitted, task_name},
    task_cache::deployed,
    views::Job,
    views::PolicyFields,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Says `duplicate` when a unique job was there already.
const UMBEL_UNIQUE: HeaderName = HeaderName::from_static("umbel-unique");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Answer when it has ended, or after this long: `10s`. At most 60 s.
    wait: Option<String>,
}

impl WaitQuery {
    pub(crate) fn wait(&self) -> Option<&str> {
        self.wait.as_deref()
    }
}

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
pub(crate) async fn submit(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(request_id): Extension<RequestId>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let query: WaitQuery = query_of(&uri)?;
    let wait = wait_of(&api, query.wait.as_deref())?;
    let origin = Origin::of(&caller, &request_id, &headers);
    let bytes = read_json(&api, &headers, body).await?;
    let signature: Signature<'_> = object_of(checked_text(&bytes)?)?;
    let options = signature.options.map(|json| options_of(json.get())).transpose()?.unwrap_or_default();
    let key = key_of(&headers, options.idempotency_key.as_deref(), "options.idempotency_key")?;
    if !options.on_success.is_empty() || !options.on_failure.is_empty() {
        let idempotency = key.map(|key| idempotency(&key, &bytes));
        let (id, replayed) = callbacks::submit(&api, &caller, &signature, options, origin, idempotency).await?;
        let outcome = if replayed { Outcome::Replayed(id) } else { Outcome::New(id) };
        return respond(&api, &caller, outcome, wait).await;
    }
    let task = deployed(&api, &caller.tenant, &task_name(&signature.task)?).await?;
    let template = Template::new(&api, task, &options, &origin)?;
    let job = template.job(&api, &signature, key.map(|key| idempotency(&key, &bytes))).await?;
    let new = job.id;
    let answers = api.broker.submit(std::slice::from_ref(&job)).await?;
    let stored = answers.first().ok_or_else(|| Problem::new(Code::Internal, "the broker did not answer"))?;
    drop_unused(&api.store, &job, *stored).await;
    let outcome = submitted(*stored, new)?;
    tracing::debug!(job = %outcome.id(), task = %job.task, ?outcome, "job submitted");
    respond(&api, &caller, outcome, wait).await
}

impl Origin {
    pub(crate) fn of(caller: &Caller, request_id: &RequestId, headers: &HeaderMap) -> Self {
        let traceparent = headers.get(TRACEPARENT).and_then(|v| v.to_str().ok()).filter(|text| is_traceparent(text));
        Self {
            tenant: caller.tenant.clone(),
            request_id: request_id.0.to_string(),
            traceparent: traceparent.map(str::to_owned),
        }
    }
}

/// W3C trace context, version 00. What is not is left out, as the standard asks.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, len| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = text.split('-').take(5).collect();
    let [version, trace, parent, flags] = parts[..] else { return false };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    version == "00" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && !zero(trace) && !zero(parent)
}

/// The idempotency key of a submission: of the header, or of the body, which calls it `place`.
pub(crate) fn key_of(headers: &HeaderMap, in_body: Option<&str>, place: &str) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(in_body.map(str::to_owned)) };
    let refused = |detail: String| Problem::new(Code::InvalidHeader, format!("Idempotency-Key: {detail}"));
    let key = value.to_str().map_err(|_| refused("use visible ASCII characters".into()))?;
    check_key(key).map_err(refused)?;
    match in_body {
        Some(other) if other != key => Err(refused(format!("{place} says something else"))),
        _ => Ok(Some(key.to_owned())),
    }
}

/// The answer to a submission that was stored: whatever happens now, it never reads as a failure to submit, which a
/// client would answer with a second job.
pub(crate) async fn respond(api: &Api, caller: &Caller, outcome: Outcome, wait: Duration) -> Result<Response, Problem> {
    let (id, is_new) = (outcome.id(), matches!(outcome, Outcome::New(_)));
    let mut response = match api.watch.job(&caller.tenant, id, wait).await {
        Ok(Some(record)) => {
            let done = record.state.is_terminal() || !is_new;
            answer(if done { StatusCode::OK } else { StatusCode::ACCEPTED }, &whole(api, record).await?)?
        }
        // It ended, and was forgotten or its retention is over.
        Ok(None) => answer(StatusCode::OK, &Stored { id: id.to_string() })?,
        Err(error) => {
            tracing::warn!(job = %id, %error, "a stored job cannot be read back; its id is answered");
            answer(StatusCode::ACCEPTED, &Stored { id: id.to_string() })?
        }
    };
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/jobs/{id}")) {
        headers.insert(header::LOCATION, location);
    }
    match outcome {
        Outcome::New(_) => {}
        Outcome::Replayed(_) => {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        Outcome::Duplicate(_) => {
            headers.insert(UMBEL_UNIQUE, HeaderValue::from_static("duplicate"));
        }
    }
    Ok(response)
}

/// What is known of a stored job that is gone already, or while the broker cannot be read.
#[derive(Debug, Serialize)]
struct Stored {
    id: String,
}

/// One job; with `wait`, once it has ended or the time is over.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path), WaitQuery),
    responses((status = 200, body = Job))
)]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Of(id): Of<JobId>,
    uri: Uri,
) -> Result<Response, Problem> {
    let query: WaitQuery = query_of(&uri)?;
    let wait = wait_of(&api, query.wait.as_deref())?;
    let record = api.watch.job(&caller.tenant, id, wait).await?.ok_or_else(|| redrive::unknown(id))?;
    answer(StatusCode::OK, &whole(&api, record).await?)
}

/// Deletes a job that has ended, with its log and its result.
///
/// A node is deleted with its workflow.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path)),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn forget(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Of(id): Of<JobId>,
) -> Result<Response, Problem> {
    match api.broker.forget(&caller.tenant, id).await? {
        Forgot::Forgotten => {}
        Forgot::NotEnded(state) => {
            let detail = format!("job {id} is {}; cancel it first", state.as_str());
            return Err(Problem::new(Code::JobNotEnded, detail));
        }
        Forgot::Node => {
            let detail = format!("job {id} is a node: it is deleted with its workflow");
            return Err(Problem::new(Code::WorkflowNode, detail));
        }
        Forgot::NotFound => return Err(redrive::unknown(id)),
    }
    if let Err(error) = api.store.delete_values(&caller.tenant, id).await {
        // The sweeper finds them.
        tracing::debug!(job = %id, %error, "values of a forgotten job are left");
    }
    tracing::info!(job = %id, "job forgotten");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// How to cancel.
#[derive(Debug, Default, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct CancelBody {
    /// False: what runs is left to end, and is not retried. True when not given.
    terminate: Option<bool>,
}

/// Revokes a job that waits; asks the worker of a running one to stop it, or lets it end.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path), CancelBody),
    request_body = Option<CancelBody>,
    responses(
        (status = 200, body = Job, description = "It is revoked"),
        (status = 202, body = Job, description = "It runs; its worker was asked to stop it"),
    )
)]
pub(crate) async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Of(id): Of<JobId>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let query: CancelBody = query_of(&uri)?;
    let body: CancelBody = json_or_nothing(&api, &headers, body).await?;
    let terminate = body.terminate.or(query.terminate).unwrap_or(true);
    let status = match api.broker.cancel(&caller.tenant, id, terminate).await? {
        Cancelled::Revoked | Cancelled::AlreadyEnded(JobState::Revoked) => StatusCode::OK,
        Cancelled::Requested | Cancelled::Runs => StatusCode::ACCEPTED,
        Cancelled::AlreadyEnded(state) => {
            return Err(Problem::new(Code::JobEnded, format!("job {id} is {}", state.as_str())));
        }
        Cancelled::NotFound => return Err(redrive::unknown(id)),
    };
    answer(status, &whole(&api, redrive::find(&api, &caller.tenant, id).await?).await?)
}

/// Runs a scheduled or retrying job now; repeats a failed one as a new job.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", tag = "jobs", params(("id" = String, Path)),
    responses(
        (status = 200, body = Job, description = "The job is queued"),
        (status = 202, body = Job, description = "A new job repeats the failed one"),
    )
)]
pub(crate) async fn retry(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(request_id): Extension<RequestId>,
    Of(id): Of<JobId>,
) -> Result<Response, Problem> {
    let record = match api.broker.run_now(&caller.tenant, id).await? {
        RunNow::Queued => {
            let record = redrive::find(&api, &caller.tenant, id).await?;
            return answer(StatusCode::OK, &whole(&api, record).await?);
        }
        RunNow::NotFound => return Err(redrive::unknown(id)),
        RunNow::NotWaiting(JobState::Failed) => redrive::find(&api, &caller.tenant, id).await?,
        RunNow::NotWaiting(state) if state.is_terminal() => {
            let detail = format!("job {id} is {}; submit a new one", state.as_str());
            return Err(Problem::new(Code::JobEnded, detail));
        }
        RunNow::NotWaiting(state) => {
            return Err(Problem::new(Code::JobNotWaiting, format!("job {id} is {} already", state.as_str())));
        }
    };
    let how = redrive::How::new(&request_id.0);
    let mut new = redrive::redrive(&api, &[record], &how).await?;
    let new = new.pop().unwrap_or_else(|| Err(Problem::new(Code::Internal, "the broker did not answer")))?;
    respond(&api, &caller, Outcome::New(new), Duration::ZERO).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_taken_only_in_its_one_form() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }
}
