//! Entity tags: the version of what was read, so that a change of something else is refused.

use axum::http::{HeaderMap, HeaderValue, header};
use serde::Serialize;

use crate::{
    body::ok,
    problem::{Problem, Result},
};

/// A JSON answer with its version.
pub(crate) fn tagged<T: Serialize>(value: &T, version: u64) -> Result {
    let mut response = ok(value)?;
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    Ok(response)
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
