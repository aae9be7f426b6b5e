//! `umbel token create`: makes a token directly in the broker, for whoever has access to it.

use umbel_broker::Broker;
use umbel_model::TenantId;

use super::broker;
use crate::{Failure, Result, args::TokenOptions, output::Terminal};

pub async fn create(options: TokenOptions, terminal: &Terminal) -> Result {
    let (_, url) = broker::locate(&options.broker)?;
    let broker = broker::open(&url, &options.broker, true).await?;
    broker.check().await?;
    let token = make(&*broker, &options.tenant, &options.name, options.operator).await?;
    terminal.line(&token)?;
    terminal.note("keep it: it is stored only as a hash and cannot be shown again");
    if options.operator {
        terminal.note("it may order all workers about: give it to operators only");
    }
    Ok(())
}

/// Makes and stores a token.
pub async fn make(broker: &dyn Broker, tenant: &TenantId, name: &str, operator: bool) -> Result<String> {
    umbel_api::create_token(broker, tenant, name, operator).await.map_err(|error| match error {
        umbel_api::Error::Broker(error) => error.into(),
        other => Failure::new("token", other.to_string()),
    })
}
