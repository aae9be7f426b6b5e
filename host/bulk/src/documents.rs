//! Documents of actions on many jobs: how they are written and read.

use serde::{Serialize, de::DeserializeOwned};
use umbel_broker::{Broker, Document, DocumentKind, DocumentPut, Expect, PutDocument, Result};
use umbel_model::TenantId;

/// Nobody's tenant, which has what belongs to no tenant: the index, the tokens, the broker's name.
pub fn system_tenant() -> TenantId {
    TenantId::new("system").expect("a fixed name that keeps the rule")
}

/// Writes a document, or deletes it when there is no body.
pub(crate) async fn write<T: Serialize>(
    broker: &dyn Broker,
    tenant: &TenantId,
    name: String,
    expect: Expect,
    body: Option<&T>,
) -> Result<DocumentPut> {
    let body = body.map(|body| serde_json::to_string(body).expect("an action has text keys only"));
    broker
        .put_document(&PutDocument {
            tenant: tenant.clone(),
            kind: DocumentKind::Bulk,
            name,
            expect,
            body,
            held_bytes: 0,
        })
        .await
}

/// The body of a document; none, and a line of the log, when it cannot be read.
pub(crate) fn readable<T: DeserializeOwned>(document: &Document) -> Option<T> {
    let unreadable = |error: &serde_json::Error| {
        tracing::error!(document = %document.name, %error, "an action on many jobs cannot be read, and is left alone");
    };
    serde_json::from_str(&document.body).inspect_err(unreadable).ok()
}
