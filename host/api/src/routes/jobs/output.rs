//! The output of a job: its log and its result.

use axum::{
    http::{StatusCode, header},
    response::IntoResponse as _,
};
use serde::{Deserialize, Serialize};
use umbel_model::JobId;
use utoipa::{IntoParams, ToSchema};

use crate::{
    body::ok,
    extract::{Context, Query},
    job_detail::result_body,
    paging,
    problem::{Problem, Result},
    views::Line,
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogsQuery {
    /// Number of the first line; 0 when not given.
    from: Option<u64>,
    /// From 1 to 200; 50 when not given.
    limit: Option<u32>,
}

/// Lines of a job's log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Lines {
    items: Vec<Line>,
    /// The `from` to go on with, now or when the job has written more.
    next_from: u64,
}

/// The log of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/logs", tag = "jobs", params(LogsQuery),
    responses((status = 200, body = Lines))
)]
pub(crate) async fn logs(Context { api, caller, id, .. }: Context<JobId>, Query(query): Query<LogsQuery>) -> Result {
    // 2^53: what a JSON number of any reader can hold.
    let from = query.from.unwrap_or(0).min(1 << 53);
    let lines = api.broker.logs(&caller.tenant, id, from, paging::limit_of(query.limit)?).await?;
    if lines.is_empty() {
        api.job(&caller.tenant, id).await?;
    }
    let next_from = from + lines.len() as u64;
    let items = lines.into_iter().zip(from..).map(|(line, number)| Line::new(number, line)).collect();
    ok(&Lines { items, next_from })
}

/// The result of a job as its task wrote it, whatever its size.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/result", tag = "jobs",
    responses((status = 200, content_type = "application/json", body = serde_json::Value))
)]
pub(crate) async fn result(Context { api, caller, id, .. }: Context<JobId>) -> Result {
    let record = api.job(&caller.tenant, id).await?;
    if !record.state.is_terminal() {
        let detail = format!("job {id} is {}; wait for its end", record.state.as_str());
        return Err(Problem::job_not_ended(detail));
    }
    let state = record.state.as_str();
    let body = result_body(&api, record).await?;
    let body = body.ok_or_else(|| {
        let detail = format!("job {id} is {state}, and no result of it is kept");
        Problem::no_result(detail)
    })?;
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}
