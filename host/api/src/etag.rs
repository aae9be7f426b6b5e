//! Entity tags: the version of what was read, so that a change of something else is refused.

use axum::{
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use serde::Serialize;
use umbel_broker::Expect;

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

/// What a write expects, by the headers of conditional requests.
pub(crate) fn expected(headers: &HeaderMap) -> Result<Expect> {
    let only_new = match headers.get(header::IF_NONE_MATCH) {
        None => false,
        Some(value) if value == "*" => true,
        Some(_) => return Err(Problem::invalid_header("If-None-Match: send `*` to write only what is not there")),
    };
    if headers.get(header::IF_MATCH).is_some_and(|value| value == "*") {
        return Err(Problem::invalid_header("If-Match: pass on the `ETag` that was answered"));
    }
    match (if_match(headers)?, only_new) {
        (None, false) => Ok(Expect::Any),
        (None, true) => Ok(Expect::Absent),
        (Some(version), false) => Ok(Expect::Version(version)),
        (Some(_), true) => Err(Problem::invalid_header("send If-Match or If-None-Match, not both")),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    #[test]
    fn headers_of_conditional_requests_are_read_or_refused() {
        let of = |headers: &[(HeaderName, &'static str)]| {
            let headers = headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
            expected(&headers.collect()).ok()
        };
        assert_eq!(of(&[]), Some(Expect::Any));
        assert_eq!(of(&[(header::IF_MATCH, "\"7\"")]), Some(Expect::Version(7)));
        assert_eq!(of(&[(header::IF_NONE_MATCH, "*")]), Some(Expect::Absent));
        for wrong in [
            &[(header::IF_MATCH, "7")][..],
            &[(header::IF_MATCH, "*")],
            &[(header::IF_NONE_MATCH, "\"7\"")],
            &[(header::IF_MATCH, "\"7\""), (header::IF_NONE_MATCH, "*")],
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }
}
