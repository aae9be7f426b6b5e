//! The middleware of every request: its id, its query, its token, admission, its time limit, and a net for panics.
//!
//! One middleware and not a stack of layers: each layer costs every request a boxed future, and the order matters.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt as _;
use tracing::Instrument as _;

use crate::{
    body::drain,
    connections::Connection,
    footprint::{self, Footprint},
    known_queries::KnownQueries,
    problem::{Problem, Result},
    state::Api,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of a path and query.
const MAX_URI_BYTES: usize = 8 << 10;
/// The one path without a token.
pub(crate) const LIVEZ: &str = "/livez";
pub(crate) const READYZ: &str = "/readyz";

/// The id of a request: the caller's if it is sane, else one of ours.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(X_REQUEST_ID).and_then(|v| v.to_str().ok()).filter(|text| is_sane(text));
        match given {
            Some(id) => Self(id.into()),
            None => {
                let mut bytes = [0; 12];
                // Without random bytes the id is all zeros: it names nothing secret, and the request can go on.
                let _ = getrandom::fill(&mut bytes);
                Self(hex::encode(bytes).into())
            }
        }
    }
}

/// Safe in a header, a log line and a record.
fn is_sane(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// What the middleware needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Front {
    pub(crate) api: Arc<Api>,
    pub(crate) known_queries: Arc<KnownQueries>,
}

/// The middleware itself.
pub(crate) async fn middleware(State(front): State<Front>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = RequestId::of(request.headers());
    let method = request.method().clone();
    let path: String = request.uri().path().chars().take(256).collect();
    request.extensions_mut().insert(id.clone());
    let span = tracing::info_span!("request", request_id = &*id.0, tenant = tracing::field::Empty);
    let answer = AssertUnwindSafe(admit(&front, request, next)).catch_unwind().instrument(span.clone()).await;
    let answer = answer.unwrap_or_else(|_| {
        span.in_scope(|| tracing::error!(%method, ?path, "a handler panicked"));
        Err(Problem::internal("the server's log says more under this request's id"))
    });
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        let allow = response.headers_mut().remove(axum::http::header::ALLOW);
        response = problem.render(&id.0);
        response.headers_mut().extend(allow.map(|allow| (axum::http::header::ALLOW, allow)));
    }
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    let elapsed_us = started.elapsed().as_micros() as u64;
    span.in_scope(|| match status {
        500.. => tracing::warn!(%method, ?path, status, elapsed_us, "answered"),
        _ => tracing::debug!(%method, ?path, status, elapsed_us, "answered"),
    });
    response
}

async fn admit(front: &Front, mut request: Request, next: Next) -> Result {
    let Front { api, known_queries } = front;
    let uri = request.uri();
    if uri.path_and_query().is_some_and(|p| p.as_str().len() > MAX_URI_BYTES) {
        return Err(Problem::uri_too_long(format!("a path and query have at most {MAX_URI_BYTES} bytes")));
    }
    if uri.path() == LIVEZ {
        known_queries.check(route(&request), request.method(), uri)?;
        return Ok(next.run(request).await);
    }
    let caller = match api.tokens.caller(&*api.broker, request.headers()).await {
        Ok(caller) => caller,
        // A stranger's slow body must not keep others out: it takes no place.
        Err(problem) => return Err(turned_away(api, request, problem).await),
    };
    if let Some(connection) = request.extensions().get::<Arc<Connection>>() {
        connection.is_known();
    }
    let tenant = caller.tenant.clone();
    tracing::Span::current().record("tenant", tenant.as_str());
    let footprint = Footprint::new(tenant.clone(), api.places.take(&tenant, controls(&request))?);
    known_queries.check(route(&request), request.method(), request.uri())?;
    let limit = time_limit(api, &request);
    let list = if reads_list(&request) { Some(api.lists.acquire(&tenant).await?) } else { None };
    request.extensions_mut().insert(caller);
    let response = footprint.clone().scope(tokio::time::timeout(limit, next.run(request))).await;
    drop(list);
    let late = |_| Problem::request_timeout(format!("it was given up after {} s", limit.as_secs()));
    footprint::guarded(api, footprint, response.map_err(late)?).await
}

/// The path of a request's route, with the names of its parameters.
fn route(request: &Request) -> Option<&str> {
    request.extensions().get::<MatchedPath>().map(MatchedPath::as_str)
}

/// Whether a request says how it goes on with work that was given before, or asks how the server is.
fn controls(request: &Request) -> bool {
    let path = request.uri().path();
    let last = path.rsplit('/').next().unwrap_or_default();
    path == READYZ
        || request.method() == Method::DELETE
        || request.method() == Method::PUT && last == "grants"
        || request.method() == Method::POST
            && matches!(last, "cancel" | "pause" | "purge" | "abort" | "drain" | "shutdown")
        || request.method() == Method::PATCH
            && (path == "/v1/tenant" || last == "control" || path.starts_with("/v1/queues/"))
}

/// Whether a request reads many records of the broker.
fn reads_list(request: &Request) -> bool {
    let lists = [
        "/v1/bulk",
        "/v1/dead",
        "/v1/jobs",
        "/v1/jobs/{id}/logs",
        "/v1/kv",
        "/v1/kv/{bucket}",
        "/v1/modules",
        "/v1/queues",
        "/v1/schedules",
        "/v1/schedules/{name}/fires",
        "/v1/secrets",
        "/v1/tasks",
        "/v1/workers/{id}/jobs",
        "/v1/workflows",
        "/v1/workflows/{id}/nodes",
    ];
    request.method() == Method::GET && route(request).is_some_and(|route| lists.contains(&route))
}

/// Reads the rest of a request without a valid token, so that its sender sees the answer; when there are many of them, the
/// connection closes instead.
async fn turned_away(api: &Api, request: Request, problem: Problem) -> Problem {
    let Ok(_permit) = api.drains.try_acquire() else {
        return problem.closing();
    };
    drain(request.into_body()).await;
    problem
}

fn time_limit(api: &Api, request: &Request) -> Duration {
    let path = request.uri().path();
    let is_upload = request.method() == Method::POST
        && (matches!(path, "/v1/modules" | "/v1/jobs/batch" | "/v1/workflows")
            || path.starts_with("/v1/workflows/") && path.ends_with("/resume"))
        || request.method() == Method::PUT && path == "/v1/blobs";
    Duration::from_millis(if is_upload { api.config.upload_timeout_ms } else { api.config.request_timeout_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_could_break_a_log_line_is_replaced() {
        for bad in ["", "a b", "a\u{1b}[31m", "é", &"x".repeat(65)] {
            assert!(!is_sane(bad), "{bad:?}");
        }
        assert!(is_sane("01J-abc.def_9"));
    }
}
