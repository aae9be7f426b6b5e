//! Tokens: list, revoke. Making one needs access to the broker: `umbel token create`.

use axum::{http::StatusCode, response::IntoResponse as _};
use serde::{Deserialize, Serialize};
use umbel_model::TenantId;
use utoipa::{IntoParams, ToSchema};

use crate::{
    auth::{Caller, TokenInfo, list_tokens, revoke_token},
    body::ok,
    extract::{Context, Query, TokenParam},
    paging::{self, limit_of},
    problem::{Problem, Result},
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TokensQuery {
    /// Those of this tenant, for operators; of the caller's own when not given.
    tenant: Option<String>,
    /// Those of all tenants, for operators.
    #[serde(default)]
    all: bool,
    /// From 1 to 200; 50 when not given.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

impl TokensQuery {
    /// Whose tokens: none is everybody's.
    fn tenant(&self, caller: &Caller) -> Result<Option<TenantId>> {
        let named = self.tenant.as_deref().map(|name| name.parse::<TenantId>());
        let named = named.transpose().map_err(|error| Problem::invalid_query(format!("tenant: {error}")))?;
        if self.all || named.as_ref().is_some_and(|tenant| *tenant != caller.tenant) {
            caller.must_operate()?;
        }
        Ok(if self.all { None } else { Some(named.unwrap_or_else(|| caller.tenant.clone())) })
    }
}

/// A page of tokens, by id.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokens {
    items: Vec<TokenInfo>,
    next_cursor: Option<String>,
}

/// The tenant's tokens, without what they are: only hashes are stored.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", params(TokensQuery), responses((status = 200, body = Tokens)))]
pub(crate) async fn list(Context { api, caller, .. }: Context, Query(query): Query<TokensQuery>) -> Result {
    let tenant = query.tenant(&caller)?;
    let limit = limit_of(query.limit)? as usize;
    let after = paging::parse_cursor(query.cursor.as_deref(), |text| Some(text.to_owned()))?.unwrap_or_default();
    let _permit = api.token_lists.acquire(&caller.tenant).await?;
    let mut items = list_tokens(&*api.broker, tenant.as_ref()).await?;
    items.retain(|token| token.id > after);
    let is_more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| is_more).map(|last| paging::cursor(&last.id));
    ok(&Tokens { items, next_cursor })
}

/// Revokes a token of the tenant; an operator revokes that of any tenant. Every server refuses it within 5 seconds, and ends its
/// streams of events.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens",
    responses((status = 204, description = "It is revoked"))
)]
pub(crate) async fn revoke(Context { api, caller, id, .. }: Context<TokenParam>) -> Result {
    let tenant = (!caller.operator).then_some(&caller.tenant);
    match revoke_token(&*api.broker, tenant, &id).await? {
        Some(_) => Ok(StatusCode::NO_CONTENT.into_response()),
        None => Err(Problem::token_not_found("`GET /v1/tokens` lists those that there are")),
    }
}
