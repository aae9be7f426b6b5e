//! Workers that are alive.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{body::answer, problem::Problem, state::Api, views::Worker};

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Workers {
    items: Vec<Worker>,
}

/// Workers that said within 30 s that they are alive, by id.
#[utoipa::path(get, path = "/v1/workers", tag = "workers", responses((status = 200, body = Workers)))]
pub(crate) async fn list(State(api): State<Arc<Api>>) -> Result<Response, Problem> {
    let items = api.broker.workers().await?.into_iter().map(Worker::from).collect();
    answer(StatusCode::OK, &Workers { items })
}
