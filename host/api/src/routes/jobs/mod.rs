//! Jobs: look, wait, cancel, retry, forget.

pub(crate) mod batch;
mod callbacks;
pub(crate) mod events;
pub(crate) mod list;
pub(crate) mod output;
pub(crate) mod submit;

use std::time::Duration;

use axum::{http::StatusCode, response::IntoResponse as _};
use serde::Deserialize;
use umbel_broker::{Cancelled, Forgot, RunNow, Waiter};
use umbel_compose::Digests;
use umbel_model::{JobId, JobState, Policy};
use utoipa::{IntoParams, ToSchema};

use crate::{
    auth::Caller,
    body::{answer, ok},
    extract::{Context, OptionalJson, Query, WaitQuery},
    footprint,
    job_detail::job_detail,
    outcome::{Outcome, respond},
    problem::{Problem, Result},
    redrive,
    state::Api,
    time::Timestamp,
    views::{Job, ResumeDigest},
    waits_for::waits_for,
};

/// The answer to a submission that was stored. The `waiter` was made before the submission, and waits for the job if that is new.
pub(crate) async fn respond_with_job(
    api: &Api,
    caller: &Caller,
    outcome: Outcome,
    wait: Duration,
    waiter: Option<Waiter>,
) -> Result {
    // What is stored is answered in any case.
    let wait = footprint::wait(api, &caller.tenant, wait).map_or(Duration::ZERO, |()| wait);
    let found = match (outcome, waiter) {
        (Outcome::New(_), Some(waiter)) => api.watch.new_job(&caller.tenant, waiter, wait).await,
        _ => api.watch.job(&caller.tenant, outcome.id(), wait).await,
    };
    let found = match found {
        Ok(Some(record)) => Ok(Some((record.state.is_terminal(), job_detail(api, record).await?))),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    respond("/v1/jobs", outcome, found)
}

/// One job; with `wait`, once it has ended or the time is over.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", params(WaitQuery), responses((status = 200, body = Job)))]
pub(crate) async fn show(Context { api, caller, id, .. }: Context<JobId>, Query(query): Query<WaitQuery>) -> Result {
    let wait = query.wait(&api)?;
    footprint::wait(&api, &caller.tenant, wait)?;
    let record = api.watch.job(&caller.tenant, id, wait).await?.ok_or_else(|| Problem::no_job(id))?;
    let waits = !record.state.is_terminal() && record.state != JobState::Running;
    let waiting = waits.then(|| record.clone());
    let mut job = job_detail(&api, record).await?;
    if let Some(record) = waiting {
        let policy = job.policy.as_ref().map(Policy::resolve).unwrap_or_default();
        job.waits_for = waits_for(&api, &record, &policy).await?;
        let since = record.history.last().map_or(record.created_at, |attempt| attempt.ended_at);
        job.waits_since = Some(Timestamp(since));
    }
    ok(&job)
}

/// Deletes a job that has ended, with its log and its result.
///
/// A node is deleted with its workflow.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", responses((status = 204, description = "It is gone")))]
pub(crate) async fn forget(Context { api, caller, id, .. }: Context<JobId>) -> Result {
    match api.broker.forget(&caller.tenant, id).await? {
        Forgot::Forgotten => {}
        Forgot::NotEnded(state) => {
            let detail = format!("job {id} is {}; cancel it first", state.as_str());
            return Err(Problem::job_not_ended(detail));
        }
        Forgot::Node => {
            let detail = format!("job {id} is a node: it is deleted with its workflow");
            return Err(Problem::workflow_node(detail));
        }
        Forgot::NotFound => return Err(Problem::no_job(id)),
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
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs", params(CancelBody), request_body = Option<CancelBody>,
    responses(
        (status = 200, body = Job, description = "It is revoked"),
        (status = 202, body = Job, description = "It runs; its worker was asked to stop it"),
    )
)]
pub(crate) async fn cancel(
    Context { api, caller, id, .. }: Context<JobId>,
    Query(query): Query<CancelBody>,
    OptionalJson(body): OptionalJson<CancelBody>,
) -> Result {
    let terminate = body.terminate.or(query.terminate).unwrap_or(true);
    let status = match api.broker.cancel(&caller.tenant, id, terminate).await? {
        Cancelled::Revoked | Cancelled::AlreadyEnded(JobState::Revoked) => StatusCode::OK,
        Cancelled::Requested | Cancelled::Runs => StatusCode::ACCEPTED,
        Cancelled::AlreadyEnded(state) => {
            return Err(Problem::job_ended(format!("job {id} is {}", state.as_str())));
        }
        Cancelled::NotFound => return Err(Problem::no_job(id)),
    };
    answer(status, &job_detail(&api, api.job(&caller.tenant, id).await?).await?)
}

/// How to repeat a failed job.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RetryBody {
    /// Which module the new job runs: `pinned`, that of the failed job; `current`, the one that its task points at now.
    #[schema(value_type = ResumeDigest)]
    digest: Digests,
}

/// Runs a scheduled or retrying job now; repeats a failed one as a new job.
///
/// With the digest `current` only a failed job is repeated: the module of one that waits is pinned.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", tag = "jobs", request_body = Option<RetryBody>,
    responses(
        (status = 200, body = Job, description = "The job is queued"),
        (status = 202, body = Job, description = "A new job repeats the failed one"),
    )
)]
pub(crate) async fn retry(
    Context { api, caller, id, request_id }: Context<JobId>,
    OptionalJson(body): OptionalJson<RetryBody>,
) -> Result {
    let run_now = match body.digest {
        Digests::Pinned => api.broker.run_now(&caller.tenant, id).await?,
        Digests::Current => RunNow::NotWaiting(api.job(&caller.tenant, id).await?.state),
    };
    let record = match run_now {
        RunNow::Queued => {
            let record = api.job(&caller.tenant, id).await?;
            return ok(&job_detail(&api, record).await?);
        }
        RunNow::NotFound => return Err(Problem::no_job(id)),
        RunNow::NotWaiting(JobState::Failed) => api.job(&caller.tenant, id).await?,
        RunNow::NotWaiting(state) if state.is_terminal() => {
            let detail = format!("job {id} is {}; submit a new one", state.as_str());
            return Err(Problem::job_ended(detail));
        }
        RunNow::NotWaiting(state) if body.digest == Digests::Current => {
            let detail =
                format!("job {id} is {}: its module is pinned; cancel it and submit another one", state.as_str());
            return Err(Problem::job_not_waiting(detail));
        }
        RunNow::NotWaiting(state) => {
            return Err(Problem::job_not_waiting(format!("job {id} is {} already", state.as_str())));
        }
    };
    let how = redrive::How { digests: body.digest, ..redrive::How::new(&request_id.0) };
    let mut new = redrive::redrive(&api, &[record], &how).await?;
    let new = new.pop().unwrap_or_else(|| Err(Problem::no_broker_answer()))?;
    respond_with_job(&api, &caller, Outcome::New(new), Duration::ZERO, None).await
}
