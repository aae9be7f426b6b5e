//! Fields of requests and answers: those that are about one connection are taken out.

use http::{HeaderMap, HeaderName, header};

use crate::http::{config::AttemptLimits, error::HttpError};

/// What guests may not set and do not see: it is about a connection, or said by the host. In lower case.
pub const FORBIDDEN_HEADERS: &[&str] = &[
    "connection",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Takes out what is forbidden, and what the field `connection` names.
pub(crate) fn strip(fields: &mut HeaderMap) {
    let named: Vec<HeaderName> = fields
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        // A field that says how long the body is never is about the connection.
        if name != header::CONTENT_LENGTH {
            fields.remove(name);
        }
    }
    for name in FORBIDDEN_HEADERS {
        fields.remove(*name);
    }
}

/// Bytes of the fields as they are sent.
pub(crate) fn bytes(fields: &HeaderMap) -> usize {
    // A colon, a space and a line's end.
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// Checks the head of a request, of which `other_bytes` are not in fields; answers its size.
pub(crate) fn check_request(
    fields: &HeaderMap,
    other_bytes: usize,
    limits: &AttemptLimits,
) -> Result<usize, HttpError> {
    let total = bytes(fields) + other_bytes;
    if total > limits.head_bytes || fields.len() > limits.fields {
        return Err(HttpError::RequestHead { max: limits.head_bytes, fields: limits.fields });
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_a_connection_is_taken_out() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-hop, content-length"),
            ("x-hop", "1"),
            ("x-kept", "2"),
            ("transfer-encoding", "chunked"),
            ("host", "other.example"),
            ("proxy-authorization", "Basic x"),
            ("content-length", "3"),
        ] {
            fields.append(name, value.parse().unwrap());
        }
        strip(&mut fields);
        let names: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(fields.contains_key("x-kept") && fields.contains_key("content-length"));
    }

    #[test]
    fn a_head_is_bounded_in_bytes_and_fields() {
        let mut fields = HeaderMap::new();
        fields.append("a", "b".parse().unwrap());
        let limits = AttemptLimits { head_bytes: 10, fields: 1, ..AttemptLimits::default() };
        assert_eq!(check_request(&fields, 4, &limits), Ok(10));
        assert!(check_request(&fields, 5, &limits).is_err());
        fields.append("a", "".parse().unwrap());
        assert!(check_request(&fields, 0, &limits).is_err());
    }
}
