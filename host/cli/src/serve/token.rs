//! `umbel token`: makes, lists and revokes tokens directly in the broker, for whoever has access to it.

use std::sync::Arc;

use umbel_api::NewToken;
use umbel_broker::Broker;

use super::broker;
use crate::{
    Failure, Result,
    args::{BrokerFlags, RevokeOptions, TokenOptions, TokensOptions},
    output::{Page, Terminal},
};

/// Columns of a list of tokens.
const COLUMNS: &str = "ID, TENANT, NAME, OPERATOR, GRANT, CREATED = created_at, EXPIRES = expires_at";

async fn opened(flags: &BrokerFlags) -> Result<Arc<dyn Broker>> {
    let (_, url) = broker::locate(flags)?;
    let broker = broker::open(&url, flags, true).await?;
    broker.check().await?;
    Ok(broker)
}

pub async fn create(options: TokenOptions, terminal: &Terminal) -> Result {
    let broker = opened(&options.broker).await?;
    let TokenOptions { name, tenant, expires, operator, grant, .. } = &options;
    let new = NewToken { tenant, name, operator: *operator, grant: *grant, lives_ms: *expires };
    let token = make(&*broker, new).await?;
    terminal.line(&token)?;
    terminal.note("keep it: it is stored only as a hash and cannot be shown again");
    if options.operator {
        terminal.note("it may order all workers about: give it to operators only");
    }
    Ok(())
}

pub async fn list(options: TokensOptions, terminal: &Terminal) -> Result {
    let broker = opened(&options.broker).await?;
    let tokens = umbel_api::list_tokens(&*broker, options.tenant.as_ref()).await.map_err(failure)?;
    terminal.list(&Page::of(&tokens)?, COLUMNS)
}

pub async fn revoke(options: RevokeOptions, terminal: &Terminal) -> Result {
    let broker = opened(&options.broker).await?;
    match umbel_api::revoke_token(&*broker, None, &options.id).await.map_err(failure)? {
        Some(token) => {
            terminal
                .note(&format!("revoked {} of the tenant {}; servers refuse it within 5 s", token.name, token.tenant));
            Ok(())
        }
        None => Err(Failure::new("token_not_found", format!("there is no token {}", options.id))
            .help("`umbel token list` shows the ids")),
    }
}

/// Makes and stores a token.
pub async fn make(broker: &dyn Broker, new: NewToken<'_>) -> Result<String> {
    umbel_api::create_token(broker, new).await.map_err(failure)
}

fn failure(error: umbel_api::Error) -> Failure {
    match error {
        umbel_api::Error::Broker(error) => error.into(),
        other => Failure::new("token", other.to_string()),
    }
}
