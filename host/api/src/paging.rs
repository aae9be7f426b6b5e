//! Lists come in paging: a limit, an opaque cursor to go on, and no totals.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::problem::{Code, Problem};

/// Items of a page when the caller does not say.
const DEFAULT_LIMIT: u32 = 50;
/// Most items of a page.
pub(crate) const MAX_LIMIT: u32 = 200;

/// The number of items that a caller wants.
pub(crate) fn limit_of(limit: Option<u32>) -> Result<u32, Problem> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(Problem::new(Code::InvalidQuery, format!("limit: from 1 to {MAX_LIMIT}"))),
    }
}

/// A cursor that stands for `place`.
pub(crate) fn cursor(place: &str) -> String {
    URL_SAFE_NO_PAD.encode(place)
}

/// The place that a cursor stands for, as `parse` reads it.
pub(crate) fn place_of<T>(cursor: Option<&str>, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let text = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let place = text.as_deref().and_then(parse);
    place.map(Some).ok_or_else(|| Problem::new(Code::InvalidCursor, "pass on `next_cursor` as it was answered"))
}

/// The cursor after a page of documents: none when the page was not filled.
pub(crate) fn next_by_name(documents: &[umbel_broker::Document], limit: u32) -> Option<String> {
    let last = documents.last().filter(|_| documents.len() as u64 >= u64::from(limit))?;
    Some(cursor(&last.name))
}
