//! Which broker's jobs have the large values in a folder. A broker has a random name, and the folder keeps the name of the
//! broker whose values it holds: the sweeper of another broker knows none of those jobs, and would delete all values.

use umbel_broker::{Broker, DocumentKind, DocumentPut, Error as BrokerError, Expect, PutDocument};
use umbel_bulk::system_tenant;
use umbel_modules::ModuleStore;

use crate::Error;

/// The document with the broker's name. Older releases read only the document `routes` of this kind.
const NAME: &str = "values-owner";
const KIND: DocumentKind = DocumentKind::Routes;

/// The broker's name; none while no sweeper has named it.
async fn name_of(broker: &dyn Broker) -> Result<Option<String>, BrokerError> {
    Ok(broker.document(&system_tenant(), KIND, NAME).await?.map(|document| document.body.trim_matches('"').to_owned()))
}

/// The broker's name; gives it one if it has none.
async fn named(broker: &dyn Broker) -> Result<String, Error> {
    if let Some(known) = name_of(broker).await? {
        return Ok(known);
    }
    let new = ModuleStore::new_owner()?;
    let put = PutDocument {
        tenant: system_tenant(),
        kind: KIND,
        name: NAME.into(),
        expect: Expect::Absent,
        body: Some(format!("\"{new}\"")),
        held_bytes: 0,
    };
    match broker.put_document(&put).await? {
        DocumentPut::Stored(_) => Ok(new),
        // Another replica was faster.
        DocumentPut::Conflict(_) => {
            let known = name_of(broker).await?;
            Ok(known.ok_or_else(|| BrokerError::Unavailable("the broker's name was deleted".into()))?)
        }
        DocumentPut::Full | DocumentPut::StorageFull => {
            Err(BrokerError::Unavailable("there is no room for the broker's name".into()).into())
        }
    }
}

/// Whether the values of this store are those of the broker's jobs. Names the broker and claims the store if nobody has yet:
/// values of an older release belong to the first broker that asks.
pub(crate) async fn owns(broker: &dyn Broker, store: &ModuleStore) -> Result<bool, Error> {
    let name = named(broker).await?;
    Ok(store.claim_values(&name).await? == name)
}

/// The name of the other broker whose values the store holds, if there is one. Changes nothing.
///
/// # Errors
/// The broker or the store cannot be read.
pub async fn other_owner(broker: &dyn Broker, store: &ModuleStore) -> Result<Option<String>, Error> {
    let (own, found) = (name_of(broker).await?, store.values_owner().await?);
    Ok(found.filter(|found| own.as_ref() != Some(found)))
}
