//! Key-value entries of a tenant as its guests reach them: through the broker, on the threads for waiting, and with the delivery's
//! token in each write.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use umbel_broker::{
    Broker, Error, Expect, KvChange, KvDelivery, KvEntry, KvQuery, KvWrite, KvWritten, Result as BrokerResult,
};
use umbel_capabilities::{
    KeyValue, KvError,
    kv::{At, Entry, EntryPage, Expected},
};
use umbel_model::{BucketName, KvKey, TenantId};

/// The entries of one tenant, for one delivery.
#[derive(Debug, Clone)]
pub struct KeyValues {
    broker: Arc<dyn Broker>,
    tenant: TenantId,
    /// None: whoever writes does not lose the right to.
    delivery: Option<KvDelivery>,
    /// Where the broker is waited for: never on the guests' threads.
    background: Handle,
}

impl KeyValues {
    pub fn new(broker: Arc<dyn Broker>, tenant: TenantId, delivery: Option<KvDelivery>, background: Handle) -> Self {
        Self { broker, tenant, delivery, background }
    }

    /// Asks the broker, away from the guests' threads.
    async fn ask<T: Send + 'static>(
        &self,
        ask: impl Future<Output = BrokerResult<T>> + Send + 'static,
    ) -> Result<T, KvError> {
        let answer = AbortOnDropHandle::new(self.background.spawn(ask)).await;
        let answer = answer.unwrap_or_else(|_| Err(Error::Failed("the call was not ended".into())));
        answer.map_err(|error| {
            tracing::debug!(tenant = %self.tenant, %error, "a key-value call failed");
            match error {
                Error::Full(_) => KvError::Quota("the store of this service is full: nothing was written".into()),
                _ => KvError::unreachable(),
            }
        })
    }

    async fn write(&self, at: At, change: KvChange) -> Result<KvWritten, KvError> {
        let At { bucket, key, expect } = at;
        let expect = match expect {
            Expected::Any => Expect::Any,
            Expected::Absent => Expect::Absent,
            Expected::Version(version) => Expect::Version(version),
        };
        let (tenant, delivery) = (self.tenant.clone(), self.delivery.clone());
        let write = KvWrite { tenant, bucket, key, expect, change, delivery };
        let broker = self.broker.clone();
        let written = self.ask(async move { broker.kv_write(&write).await }).await?;
        refusal(written).map_or(Ok(written), Err)
    }
}

/// Why nothing was written, if that is the answer.
fn refusal(written: KvWritten) -> Option<KvError> {
    let quota = |text: String| Some(KvError::Quota(text));
    match written {
        KvWritten::Stored(_) | KvWritten::Counted(..) | KvWritten::Deleted(_) => None,
        KvWritten::Conflict(version) => Some(KvError::Conflict(version)),
        KvWritten::Stale => Some(KvError::Stale),
        KvWritten::TooLarge(max) => Some(KvError::TooLarge(max)),
        KvWritten::NotANumber => Some(KvError::NotANumber),
        KvWritten::Overflow => Some(KvError::Overflow),
        KvWritten::TooManyBuckets(max) => quota(format!("the tenant has {max} key-value buckets, as many as it may")),
        KvWritten::StorageFull => quota(
            "the tenant has as many bytes of key-value entries as it may: delete some, or store them for less time"
                .into(),
        ),
    }
}

fn told(entry: KvEntry) -> Entry {
    let KvEntry { version, expires_at, value } = entry;
    Entry { version, expires_at, value }
}

fn unexpected<T>() -> Result<T, KvError> {
    Err(KvError::unreachable())
}

#[async_trait]
impl KeyValue for KeyValues {
    async fn get(&self, bucket: BucketName, keys: Vec<KvKey>) -> Result<Vec<Option<Entry>>, KvError> {
        let (broker, tenant) = (self.broker.clone(), self.tenant.clone());
        let entries = self.ask(async move { broker.kv_get(&tenant, &bucket, &keys).await }).await?;
        Ok(entries.into_iter().map(|entry| entry.map(told)).collect())
    }

    async fn set(&self, at: At, value: Vec<u8>, ttl_ms: u64) -> Result<u64, KvError> {
        match self.write(at, KvChange::Set { value, ttl_ms }).await? {
            KvWritten::Stored(version) => Ok(version),
            _ => unexpected(),
        }
    }

    async fn add(&self, at: At, delta: i64, initial: i64, ttl_ms: u64) -> Result<i64, KvError> {
        match self.write(at, KvChange::Add { delta, initial, ttl_ms }).await? {
            KvWritten::Counted(_, sum) => Ok(sum),
            _ => unexpected(),
        }
    }

    async fn delete(&self, at: At) -> Result<bool, KvError> {
        match self.write(at, KvChange::Delete).await? {
            KvWritten::Deleted(was_there) => Ok(was_there),
            _ => unexpected(),
        }
    }

    async fn list(
        &self,
        bucket: BucketName,
        prefix: String,
        after: Option<KvKey>,
        max: u32,
    ) -> Result<EntryPage, KvError> {
        let (broker, tenant) = (self.broker.clone(), self.tenant.clone());
        let query = KvQuery { tenant, bucket, prefix, after, max };
        let page = self.ask(async move { broker.kv_list(&query).await }).await?;
        let entries = page.entries.into_iter().map(|(key, entry)| (key, told(entry))).collect();
        Ok(EntryPage { entries, next: page.next })
    }
}
