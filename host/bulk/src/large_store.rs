//! Large values of the module store, as the broker's readers ask for them.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use umbel_broker::{LargeValues, ValueError};
use umbel_model::{LargeValue, TenantId};
use umbel_modules::{Error, ModuleStore};

/// Reads large values of a module store.
#[derive(Debug, Clone)]
pub struct LargeStore(pub ModuleStore);

#[async_trait]
impl LargeValues for LargeStore {
    async fn read(&self, tenant: &TenantId, stored: &LargeValue) -> Result<String, ValueError> {
        self.0.value(tenant, stored).await.map_err(|error| value_error(&error))
    }
}

impl LargeStore {
    /// A value in pieces, see `ModuleStore::value_pieces`.
    pub async fn pieces(
        &self,
        tenant: &TenantId,
        stored: &LargeValue,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, ValueError> {
        self.0.value_pieces(tenant, stored).await.map_err(|error| value_error(&error))
    }
}

/// Whether a value is lost, or cannot be read now.
pub(crate) fn value_error(error: &Error) -> ValueError {
    match error {
        Error::ValueMissing { .. } | Error::ValueCorrupted { .. } => ValueError::Lost(error.to_string()),
        _ => ValueError::Unavailable(error.to_string()),
    }
}
