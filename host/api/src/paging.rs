//! Lists come in pages: a limit, an opaque cursor to go on, and no totals.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use umbel_broker::{Document, DocumentKind};
use umbel_model::TenantId;
use utoipa::IntoParams;

use crate::{
    problem::{Problem, Result},
    state::Api,
};

/// Items of a page when the caller does not say.
const DEFAULT_LIMIT: u32 = 50;
/// Most items of a page.
pub(crate) const MAX_LIMIT: u32 = 200;

/// The part of a list that a caller wants.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// From 1 to 200; 50 when not given.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl PageQuery {
    pub(crate) fn limit(&self) -> Option<u32> {
        self.limit
    }

    pub(crate) fn cursor(&self) -> Option<&str> {
        self.cursor.as_deref()
    }
}

/// The number of items that a caller wants.
pub(crate) fn limit_of(limit: Option<u32>) -> Result<u32> {
    match limit.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        _ => Err(Problem::invalid_query(format!("limit: from 1 to {MAX_LIMIT}"))),
    }
}

/// The cursor of a position in a list.
pub(crate) fn cursor(position: &str) -> String {
    URL_SAFE_NO_PAD.encode(position)
}

/// The position that a cursor stands for, as `parse` reads it.
pub(crate) fn parse_cursor<T>(cursor: Option<&str>, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
    let Some(cursor) = cursor else { return Ok(None) };
    let text = URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let position = text.as_deref().and_then(parse);
    position.map(Some).ok_or_else(|| Problem::invalid_cursor("pass on `next_cursor` as it was answered"))
}

/// A page of the tenant's documents of a kind, by name, and the cursor of the next one: none at the end. Large
/// documents fill a page before its limit.
pub(crate) async fn documents(
    api: &Api,
    tenant: &TenantId,
    kind: DocumentKind,
    query: &PageQuery,
) -> Result<(Vec<Document>, Option<String>)> {
    let limit = limit_of(query.limit)?;
    let after = parse_cursor(query.cursor.as_deref(), |text| Some(text.to_owned()))?;
    let page = api.broker.documents(tenant, kind, after.as_deref(), limit).await?;
    Ok((page.documents, page.next.as_deref().map(cursor)))
}
