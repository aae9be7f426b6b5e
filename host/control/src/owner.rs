//! Whose values lie in a folder: a broker has a random name, and the folder keeps the name of the broker whose jobs' values
//! it has. A sweeper of another broker knows none of those jobs, and would delete them all.

use umbel_broker::{Broker, DocumentKind, DocumentPut, Error, Expect, PutDocument};
use umbel_model::TenantId;
use umbel_modules::ModuleStore;

use crate::service::StepError;

/// The broker's document that has its name. It lies beside the tokens, under a kind of which older releases read no other
/// document than `routes`.
const NAME: &str = "values-owner";
const KIND: DocumentKind = DocumentKind::Routes;

fn home() -> TenantId {
    TenantId::new("system").expect("a fixed name that keeps the rule")
}

/// The broker's name; none when no sweeper gave it one.
async fn name_of(broker: &dyn Broker) -> Result<Option<String>, Error> {
    Ok(broker.document(&home(), KIND, NAME).await?.map(|document| document.body.trim_matches('"').to_owned()))
}

/// The broker's name, which it is given if it has none.
async fn named(broker: &dyn Broker) -> Result<String, StepError> {
    if let Some(known) = name_of(broker).await? {
        return Ok(known);
    }
    let new = ModuleStore::new_owner()?;
    let put = PutDocument {
        tenant: home(),
        kind: KIND,
        name: NAME.into(),
        expect: Expect::Absent,
        body: Some(format!("\"{new}\"")),
    };
    match broker.put_document(&put).await? {
        DocumentPut::Stored(_) => Ok(new),
        // Another replica was faster.
        DocumentPut::Conflict(_) => {
            let known = name_of(broker).await?;
            Ok(known.ok_or_else(|| Error::Unavailable("the broker's name was deleted".into()))?)
        }
        DocumentPut::Full => Err(Error::Unavailable("there is no room for the broker's name".into()).into()),
    }
}

/// Whether the values of this store are those of the broker's jobs. Both get their names where there are none: what an
/// older release left belongs to the first who asks.
pub(crate) async fn owns(broker: &dyn Broker, store: &ModuleStore) -> Result<bool, StepError> {
    let name = named(broker).await?;
    Ok(store.claim_values(&name).await? == name)
}

/// Whose values lie in the store, if they are another broker's. Changes nothing.
///
/// # Errors
/// The broker or the store cannot be read.
pub async fn other_owner(broker: &dyn Broker, store: &ModuleStore) -> Result<Option<String>, OwnerError> {
    let (own, found) = (name_of(broker).await?, store.values_owner().await?);
    Ok(found.filter(|found| own.as_ref() != Some(found)))
}

/// Why it cannot be said whose values they are.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnerError {
    #[error(transparent)]
    Broker(#[from] Error),
    #[error(transparent)]
    Store(#[from] umbel_modules::Error),
}
