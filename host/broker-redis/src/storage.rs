//! The bytes that tenants have stored, and may store.

use umbel_broker::{Result, StorageLimits, StoredBytes};
use umbel_model::TenantId;

use crate::{RedisBroker, answers::Answer, bytes::corrupt};

impl RedisBroker {
    pub(crate) async fn stored(&self, tenant: &TenantId) -> Result<StoredBytes> {
        let key = self.connection.keys.stored(tenant);
        let [jobs, logs, documents, modules, kv, blobs, schedules] =
            self.numbers(key, &["j", "l", "d", "m", "k", "b", "s"]).await?;
        Ok(StoredBytes { jobs, logs, documents: documents + schedules, modules, kv, blobs })
    }

    pub(crate) async fn own_storage_limits(&self, tenant: &TenantId) -> Result<StorageLimits> {
        let [jobs, documents, kv, blobs] =
            self.numbers(self.connection.keys.storage_limit(tenant), &["j", "d", "k", "b"]).await?;
        Ok(StorageLimits { jobs, documents, kv, blobs })
    }

    /// Numbers of a hash; 0 where there is none.
    async fn numbers<const N: usize>(&self, key: String, fields: &[&str; N]) -> Result<[u64; N]> {
        let hmget = redis::cmd("HMGET").arg(key).arg(fields).to_owned();
        let mut answer = Answer::new(self.command(&hmget).await?)?;
        let mut numbers = [0; N];
        for number in &mut numbers {
            let text = answer.maybe_bytes()?.map(String::from_utf8).transpose().map_err(corrupt)?;
            *number = text.map_or(Ok(0), |text| text.parse()).map_err(corrupt)?;
        }
        Ok(numbers)
    }
}
