//! What a job gives: its log and its result.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
};
use futures::stream;
use serde::{Deserialize, Serialize};
use umbel_model::JobId;
use utoipa::{IntoParams, ToSchema};

use crate::{
    admission::Permit,
    auth::Caller,
    body::{Of, answer, query_of},
    job_detail::result_text,
    paging,
    problem::{Code, Problem},
    redrive,
    state::Api,
    views::Line,
};

/// What is written of a result at once, bytes.
const PIECE_BYTES: usize = 64 << 10;

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

/// What a job wrote.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/logs", tag = "jobs", params(("id" = String, Path), LogsQuery),
    responses((status = 200, body = Lines))
)]
pub(crate) async fn logs(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Of(id): Of<JobId>,
    uri: Uri,
) -> Result<Response, Problem> {
    let query: LogsQuery = query_of(&uri)?;
    // 2^53: what a JSON number of any reader can hold.
    let from = query.from.unwrap_or(0).min(1 << 53);
    let lines = api.broker.logs(&caller.tenant, id, from, paging::limit_of(query.limit)?).await?;
    if lines.is_empty() {
        redrive::find(&api, &caller.tenant, id).await?;
    }
    let next_from = from + lines.len() as u64;
    let items = lines.into_iter().zip(from..).map(|(line, number)| Line::new(number, line)).collect();
    answer(StatusCode::OK, &Lines { items, next_from })
}

/// The result of a job as its task wrote it, whatever its size.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/result", tag = "jobs", params(("id" = String, Path)),
    responses((status = 200, content_type = "application/json", body = serde_json::Value))
)]
pub(crate) async fn result(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Of(id): Of<JobId>,
) -> Result<Response, Problem> {
    let record = redrive::find(&api, &caller.tenant, id).await?;
    if !record.state.is_terminal() {
        let detail = format!("job {id} is {}; wait for its end", record.state.as_str());
        return Err(Problem::new(Code::JobNotEnded, detail));
    }
    let state = record.state.as_str();
    let turn = api.results.take(&caller.tenant).await?;
    let text = result_text(&api, record).await?;
    let text = text.ok_or_else(|| {
        let detail = format!("job {id} is {state}, and no result of it is kept");
        Problem::new(Code::NoResult, detail)
    })?;
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], in_pieces(text, turn)).into_response())
}

/// A body whose turn ends when its reader has taken the last piece of it.
fn in_pieces(text: String, turn: Permit) -> Body {
    let whole = Bytes::from(text);
    let pieces = stream::unfold((whole, turn), |(mut left, turn)| async move {
        if left.is_empty() {
            return None;
        }
        let piece = left.split_to(left.len().min(PIECE_BYTES));
        Some((Ok::<_, Infallible>(piece), (left, turn)))
    });
    Body::from_stream(pieces)
}
