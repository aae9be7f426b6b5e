//! What a tenant may reach at most: by its own choice, and by the operator's. Two records of the tenant.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use umbel_broker::{Broker, DocumentKind};
use umbel_model::{Permissions, TenantId};

use crate::{Error, Result};

/// Whose record it is, as it is named in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantLayer {
    Tenant,
    Operator,
}

impl GrantLayer {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Operator => "operator",
        }
    }
}

/// A list of permissions beyond which nothing is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsDocument {
    pub permissions: Permissions,
}

impl GrantsDocument {
    /// The list of a layer, none when there is none, and the version of its record.
    pub async fn read(broker: &dyn Broker, tenant: &TenantId, layer: GrantLayer) -> Result<(Option<Permissions>, u64)> {
        let Some(document) = broker.document(tenant, DocumentKind::Grants, layer.name()).await? else {
            return Ok((None, 0));
        };
        let grants: Result<Self, _> = serde_json::from_str(&document.body);
        let grants = grants.map_err(|error| Error::Corrupt(format!("the {}'s grants: {error}", layer.name())))?;
        Ok((Some(grants.permissions), document.version))
    }
}

/// What a tenant may reach where the operator set no bounds: everything that is public, encrypted or the tenant's own.
pub fn default_bounds() -> &'static Permissions {
    static BOUNDS: LazyLock<Permissions> = LazyLock::new(|| {
        let texts = ["http https://*:*", "secret * reveal", "kv *", "blob"];
        let permissions = texts.iter().map(|text| text.parse().expect("fixed texts that are permissions"));
        Permissions::new(permissions).expect("a few of them")
    });
    &BOUNDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_private_addresses_and_plain_http_are_out_of_bounds() {
        let allows = |text: &str| default_bounds().covers(&text.parse().unwrap());
        for text in ["http https://api.example.com:8443/", "secret a reveal", "kv a", "blob read"] {
            assert!(allows(text), "{text}");
        }
        assert!(!allows("http http://api.example.com/") && !allows("network 10.0.0.0/8"));
    }
}
