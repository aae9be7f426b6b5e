//! Whether the server lives, is ready, and what it is.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{body::ok, problem::Result, state::Api};

/// A state in one word.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok`.
    status: &'static str,
}

/// The name and version of the server.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Version {
    /// `umbel`.
    name: &'static str,
    version: &'static str,
}

/// Whether the process answers. The one path without a token.
#[utoipa::path(get, path = "/livez", tag = "health", security(()), responses((status = 200, body = Health)))]
pub(crate) async fn livez() -> Response {
    (StatusCode::OK, axum::Json(Health { status: "ok" })).into_response()
}

/// Whether the broker answers and its settings are safe.
#[utoipa::path(get, path = "/readyz", tag = "health", responses((status = 200, body = Health)))]
pub(crate) async fn readyz(State(api): State<Arc<Api>>) -> Result {
    api.broker.check().await?;
    ok(&Health { status: "ok" })
}

/// The server's version.
#[utoipa::path(get, path = "/version", tag = "health", responses((status = 200, body = Version)))]
pub(crate) async fn version() -> Result {
    ok(&Version { name: "umbel", version: env!("CARGO_PKG_VERSION") })
}
