//! Configuration values as an attempt reads them. No permission is needed: they are what people want its task to know.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use umbel_model::ConfigName;

use crate::grants::Unavailable;

/// Values by their names.
pub type ConfigValues = Arc<BTreeMap<ConfigName, String>>;

/// The values of one task, whatever store is behind.
#[async_trait]
pub trait Config: Send + Sync + fmt::Debug {
    /// All values as they are now, or were at most a second ago. Waits without holding a thread of guests.
    async fn now(&self) -> Result<ConfigValues, Unavailable>;
}

/// The same values all the time.
#[derive(Debug, Clone, Default)]
pub struct FixedConfig(pub ConfigValues);

#[async_trait]
impl Config for FixedConfig {
    async fn now(&self) -> Result<ConfigValues, Unavailable> {
        Ok(self.0.clone())
    }
}
