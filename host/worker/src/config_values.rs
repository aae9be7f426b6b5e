//! The values that tasks are configured with, read from the broker when a guest asks for the first time and kept for at most a
//! second.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use moka::future::Cache;
use tokio::runtime::Handle;
use umbel_broker::Broker;
use umbel_capabilities::{Config, ConfigValues, Unavailable};
use umbel_compose::ConfigDocument;
use umbel_model::{TaskName, TenantId};

/// How long an answer of the broker is used.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// Bytes of such answers, about.
const KEPT_BYTES: u64 = 16 << 20;
/// A value in memory beside its name and text, bytes.
const VALUE_BYTES: usize = 128;

/// The values of all tasks of a worker.
pub(crate) struct ConfigCache {
    broker: Arc<dyn Broker>,
    /// Where the broker is asked: never on the guests' threads.
    background: Handle,
    kept: Cache<(TenantId, Box<str>), Found>,
}

/// What the broker said, and when it was asked.
#[derive(Debug, Clone)]
struct Found {
    asked_at: Instant,
    values: ConfigValues,
}

impl fmt::Debug for ConfigCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigCache").finish_non_exhaustive()
    }
}

impl ConfigCache {
    pub(crate) fn new(broker: Arc<dyn Broker>, background: Handle) -> Arc<Self> {
        let weigh = |(_, task): &(TenantId, Box<str>), found: &Found| {
            let values = found.values.iter().map(|(name, value)| VALUE_BYTES + name.as_str().len() + value.len());
            u32::try_from(values.sum::<usize>() + task.len() + VALUE_BYTES).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder().weigher(weigh).max_capacity(KEPT_BYTES).time_to_live(KEPT_FOR).build();
        Arc::new(Self { broker, background, kept })
    }

    /// Those of an attempt. Nothing is read before the guest asks.
    pub(crate) fn of(self: &Arc<Self>, tenant: &TenantId, task: &str) -> AttemptConfig {
        AttemptConfig { cache: self.clone(), tenant: tenant.clone(), task: task.into() }
    }

    async fn found(&self, tenant: &TenantId, task: &str) -> Result<ConfigValues, Unavailable> {
        let key = (tenant.clone(), Box::from(task));
        for _ in 0..2 {
            let found = self.kept.try_get_with_by_ref(&key, self.read(&key)).await.map_err(|error| (*error).clone())?;
            // A broker that answers slowly says how it was when it was asked.
            if found.asked_at.elapsed() < KEPT_FOR {
                return Ok(found.values);
            }
            self.kept.invalidate(&key).await;
        }
        Err(Unavailable)
    }

    async fn read(&self, (tenant, task): &(TenantId, Box<str>)) -> Result<Found, Unavailable> {
        // A task of a job has a name that was checked when it was deployed.
        let Ok(task) = TaskName::new(task) else { return Err(Unavailable) };
        let (broker, tenant, asked_at) = (self.broker.clone(), tenant.clone(), Instant::now());
        let reading = self.background.spawn(async move { ConfigDocument::of_task(&*broker, &tenant, &task).await });
        match reading.await {
            Ok(Ok(values)) => Ok(Found { asked_at, values: Arc::new(values) }),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the configuration of a task cannot be read");
                Err(Unavailable)
            }
            Err(_) => Err(Unavailable),
        }
    }
}

/// The values of one attempt's task.
#[derive(Debug)]
pub(crate) struct AttemptConfig {
    cache: Arc<ConfigCache>,
    tenant: TenantId,
    task: Box<str>,
}

#[async_trait]
impl Config for AttemptConfig {
    async fn now(&self) -> Result<ConfigValues, Unavailable> {
        self.cache.found(&self.tenant, &self.task).await
    }
}

#[cfg(test)]
mod tests {
    use umbel_broker::{DocumentKind, Expect, PutDocument};
    use umbel_broker_conformance::MemoryBroker;
    use umbel_compose::ConfigLayer;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_used_again_and_not_for_longer_than_a_second() {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new(Default::default(), Default::default()));
        let cache = ConfigCache::new(broker.clone(), Handle::current());
        let tenant = TenantId::new("t").unwrap();
        let seen = async |tenant: &TenantId| {
            let values = cache.of(tenant, "a").now().await.unwrap();
            values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(seen(&tenant).await, "");
        let put = PutDocument {
            tenant: tenant.clone(),
            kind: DocumentKind::Config,
            name: ConfigLayer::Tenant.record(),
            expect: Expect::Any,
            body: Some(r#"{"values":{"x":"1"}}"#.into()),
            held_bytes: 0,
        };
        broker.put_document(&put).await.unwrap();
        assert_eq!(seen(&tenant).await, "", "it is kept");
        // One that took its time to come is asked for again.
        let old = Found { asked_at: Instant::now().checked_sub(KEPT_FOR).unwrap(), values: Arc::default() };
        cache.kept.insert((tenant.clone(), "a".into()), old).await;
        assert_eq!(seen(&tenant).await, "x=1");
        assert_eq!(seen(&TenantId::new("other").unwrap()).await, "");
    }
}
