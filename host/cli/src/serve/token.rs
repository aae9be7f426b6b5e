//! `umbel token create`: makes a token directly in the broker, for whoever has access to it.

use umbel_broker::Broker;
use umbel_model::TenantId;

use crate::{
    args::TokenOptions,
    failure::Failure,
    output::Terminal,
    serve::{
        broker::{self, BrokerUrl},
        data::Data,
    },
};

pub async fn create(options: TokenOptions, terminal: &Terminal) -> Result<(), Failure> {
    let data = Data::open(&options.broker.data)?;
    let url = BrokerUrl::from_flags(&options.broker, &data)?;
    let broker = broker::open(&url, &options.broker).await?;
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
pub async fn make(broker: &dyn Broker, tenant: &TenantId, name: &str, operator: bool) -> Result<String, Failure> {
    umbel_api::create_token(broker, tenant, name, operator).await.map_err(|error| match error {
        umbel_api::Error::Broker(error) => error.into(),
        other => Failure::new("token", other.to_string()),
    })
}
