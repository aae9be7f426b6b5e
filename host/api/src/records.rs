//! The records that the API keeps as documents.

use serde::Serialize;
use umbel_broker::{DocumentKind, Expect, PutDocument};
use umbel_model::TenantId;

/// The write of a record as JSON.
pub(crate) fn write_of<T: Serialize>(
    tenant: &TenantId,
    kind: DocumentKind,
    name: impl ToString,
    expect: Expect,
    body: &T,
) -> PutDocument {
    let body = serde_json::to_string(body).expect("a record has text keys only");
    PutDocument { tenant: tenant.clone(), kind, name: name.to_string(), expect, body: Some(body), held_bytes: 0 }
}
