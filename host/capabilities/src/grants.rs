//! What an attempt is allowed: the operator's bounds, the tenant's grants and the approval of its module, all three at once.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use umbel_model::{
    Permission, Permissions,
    permission::{HttpTarget, Network},
};

/// Tells what holds for one attempt. Each host call asks, so that what is narrowed or revoked holds while a guest runs.
#[async_trait]
pub trait Grants: Send + Sync + fmt::Debug {
    /// What holds now, or held at most a second ago.
    async fn now(&self) -> Result<Arc<Effective>, Unavailable>;
}

/// The store that knows the grants cannot be asked: nothing is allowed until it can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what this attempt is allowed cannot be looked up now")]
pub struct Unavailable;

/// Why an attempt may not use a bucket, blobs or a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What is allowed: only what all layers allow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    /// The operator's bounds for this tenant.
    pub operator: Permissions,
    /// The tenant's own bounds; none: whatever is approved.
    pub tenant: Option<Permissions>,
    /// What the module was approved for, as far as this task declares it.
    pub approved: Permissions,
}

/// Who must allow something that is denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The module's manifest does not declare it, or it is not approved.
    Module,
    Tenant,
    Operator,
}

/// Why a call of a guest is denied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Denied {
    /// The permission that is missing, as text to paste.
    pub missing: String,
    pub layer: Layer,
}

impl Denied {
    fn text(&self) -> String {
        let missing = &self.missing;
        match self.layer {
            Layer::Module => format!(
                "the module is not allowed `{missing}`: declare it in the module's permissions, push the module and approve it"
            ),
            Layer::Tenant => format!("the tenant's grants do not allow `{missing}`"),
            Layer::Operator => format!("the operator's bounds do not allow `{missing}`"),
        }
    }
}

impl Effective {
    /// Whether everything that `asked` allows is allowed.
    pub fn allow(&self, asked: &Permission) -> Result<(), Denied> {
        self.each(|layer| layer.covers(asked), || asked.to_string())
    }

    /// Whether a request may be made.
    pub fn allow_http(&self, target: &HttpTarget<'_>) -> Result<(), Denied> {
        self.each(|layer| layer.allow_http(target), || target.to_string())
    }

    /// Addresses that are not public and may be reached nevertheless: only an operator can say so.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.operator.networks()
    }

    fn each(&self, allows: impl Fn(&Permissions) -> bool, missing: impl Fn() -> String) -> Result<(), Denied> {
        let layers = [
            (Layer::Module, Some(&self.approved)),
            (Layer::Tenant, self.tenant.as_ref()),
            (Layer::Operator, Some(&self.operator)),
        ];
        match layers.into_iter().find(|(_, layer)| layer.is_some_and(|layer| !allows(layer))) {
            None => Ok(()),
            Some((layer, _)) => Err(Denied { missing: missing(), layer }),
        }
    }
}

/// Grants nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoGrants;

#[async_trait]
impl Grants for NoGrants {
    async fn now(&self) -> Result<Arc<Effective>, Unavailable> {
        Ok(Arc::default())
    }
}

/// Grants the same all the time.
#[derive(Debug, Clone)]
pub struct FixedGrants(pub Arc<Effective>);

#[async_trait]
impl Grants for FixedGrants {
    async fn now(&self) -> Result<Arc<Effective>, Unavailable> {
        Ok(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Permissions {
        Permissions::new(texts.iter().map(|text| text.parse().unwrap())).unwrap()
    }

    #[test]
    fn what_one_layer_does_not_allow_is_denied_and_the_layer_named() {
        let effective = Effective {
            operator: list(&["kv *"]),
            tenant: Some(list(&["kv a", "kv b"])),
            approved: list(&["kv a", "kv c"]),
        };
        let layer = |text: &str| effective.allow(&text.parse().unwrap()).err().map(|denied| denied.layer);
        assert_eq!(layer("kv a"), None);
        assert_eq!(layer("kv b"), Some(Layer::Module));
        assert_eq!(layer("kv c"), Some(Layer::Tenant));
        let bounded = Effective { operator: list(&["kv x"]), ..effective.clone() };
        assert_eq!(bounded.allow(&"kv a".parse().unwrap()).unwrap_err().layer, Layer::Operator);
        assert_eq!(Effective { tenant: None, ..effective }.allow(&"kv c".parse().unwrap()), Ok(()));
        assert_eq!(Effective::default().allow(&"kv a".parse().unwrap()).unwrap_err().layer, Layer::Module);
    }
}
