//! Conditional and range requests (RFC 9110) for what never changes: its digest is its entity tag.

use std::ops::Range;

use axum::http::{HeaderMap, header};
use umbel_model::Digest;

/// What of a blob is to be answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Range(Range<u64>),
    /// The range begins behind its end.
    Outside,
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Whether the caller has it already, as `If-None-Match` says.
pub(crate) fn is_known(headers: &HeaderMap, digest: Digest) -> bool {
    let tag = format!("\"{digest}\"");
    let is_this = |given: &str| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag;
    text(headers, header::IF_NONE_MATCH).is_some_and(|list| list.split(',').any(|given| is_this(given.trim())))
}

/// The part that `Range` asks for. A header that is no single range of bytes is left alone, as the RFC allows, and so is one
/// whose `If-Range` names something else.
pub(crate) fn asked(headers: &HeaderMap, digest: Digest, size: u64) -> Part {
    let is_other = text(headers, header::IF_RANGE).is_some_and(|given| given != format!("\"{digest}\""));
    match text(headers, header::RANGE) {
        Some(range) if !is_other => parse(range, size).unwrap_or(Part::Whole),
        _ => Part::Whole,
    }
}

/// None: it is no single range.
fn parse(text: &str, size: u64) -> Option<Part> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| -> Option<u64> {
        // A plus sign is no digit.
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    };
    let range = match (first, last) {
        ("", count) => match number(count)? {
            0 => return Some(Part::Outside),
            count => size.saturating_sub(count)..size,
        },
        (first, "") => number(first)?..size,
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    Some(if range.start < size { Part::Range(range) } else { Part::Outside })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(all: &[(header::HeaderName, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    #[test]
    fn a_range_is_read_as_the_rfc_says() {
        let of = |text: &str, size| asked(&headers(&[(header::RANGE, text)]), Digest::of(b"x"), size);
        for (text, range) in [
            ("bytes=0-0", 0..1),
            ("bytes=2-5", 2..6),
            ("bytes=2-99", 2..10),
            ("bytes=9-", 9..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
            ("bytes=0-18446744073709551615", 0..10),
        ] {
            assert_eq!(of(text, 10), Part::Range(range), "{text}");
        }
        for text in ["bytes=10-", "bytes=10-12", "bytes=-0"] {
            assert_eq!(of(text, 10), Part::Outside, "{text}");
        }
        assert_eq!(of("bytes=0-", 0), Part::Outside);
        for text in [
            "bytes=5-2",
            "bytes=0-1,4-5",
            "items=0-1",
            "bytes=",
            "bytes=-",
            "bytes=+1-2",
            "bytes=a-b",
            "bytes=99999999999999999999-",
        ] {
            assert_eq!(of(text, 10), Part::Whole, "{text}");
        }
    }

    #[test]
    fn conditions_compare_the_entity_tag() {
        let digest = Digest::of(b"x");
        let (tag, other) = (format!("\"{digest}\""), format!("\"{}\"", Digest::of(b"y")));
        let part =
            |if_range: &str| asked(&headers(&[(header::RANGE, "bytes=0-0"), (header::IF_RANGE, if_range)]), digest, 10);
        assert_eq!((part(&tag), part(&other), part("x")), (Part::Range(0..1), Part::Whole, Part::Whole));
        let known = |value: &str| is_known(&headers(&[(header::IF_NONE_MATCH, value)]), digest);
        assert!(known(&tag) && known("*") && known(&format!("{other}, W/{tag}")));
        assert!(!known(&other) && !is_known(&HeaderMap::new(), digest));
    }
}
