//! Entity tags: the version of what was read, so that a change of something else is refused.

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use serde::Serialize;

use crate::{
    body::ok,
    problem::{Problem, Result},
};

/// A JSON answer with its version.
pub(crate) fn tagged<T: Serialize>(value: &T, version: u64) -> Result {
    let mut response = ok(value)?;
    put(&mut response, version);
    Ok(response)
}

/// Says the version of what is answered.
pub(crate) fn put(response: &mut Response, version: u64) {
    response.headers_mut().extend(tag(version).map(|tag| (header::ETAG, tag)));
}

/// A problem that says the version of what was found.
pub(crate) fn with(problem: Problem, version: u64) -> Problem {
    match tag(version) {
        Some(tag) => problem.header(header::ETAG, tag),
        None => problem,
    }
}

fn tag(version: u64) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{version}\"")).ok()
}

/// The version that a caller read.
pub(crate) fn if_match(headers: &HeaderMap) -> Result<Option<u64>> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    if text == "*" {
        return Ok(None);
    }
    let version = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).and_then(|t| t.parse().ok());
    version.map(Some).ok_or_else(|| Problem::invalid_header("If-Match: pass on the `ETag` that was answered"))
}
