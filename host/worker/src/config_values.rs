//! The values that tasks are configured with, read from the broker when a guest asks for the first time and kept for at most a
//! second.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::runtime::Handle;
use umbel_broker::Broker;
use umbel_capabilities::{Config, ConfigValues, Unavailable};
use umbel_compose::ConfigDocument;
use umbel_model::{TaskName, TenantId};

use crate::fresh::Fresh;

/// How long an answer of the broker is used.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// A value in memory beside its name and text, bytes.
const VALUE_BYTES: usize = 128;

/// The values of all tasks of a worker.
#[derive(Debug)]
pub(crate) struct ConfigCache {
    broker: Arc<dyn Broker>,
    kept: Fresh<(TenantId, Box<str>), ConfigValues>,
}

impl ConfigCache {
    pub(crate) fn new(broker: Arc<dyn Broker>, background: Handle) -> Arc<Self> {
        let bytes = |(_, task): &(TenantId, Box<str>), values: &ConfigValues| {
            let values = values.iter().map(|(name, value)| VALUE_BYTES + name.as_str().len() + value.len());
            values.sum::<usize>() + task.len() + VALUE_BYTES
        };
        Arc::new(Self { broker, kept: Fresh::new(background, KEPT_FOR, bytes) })
    }

    /// Those of an attempt. Nothing is read before the guest asks.
    pub(crate) fn of(self: &Arc<Self>, tenant: &TenantId, task: &str) -> AttemptConfig {
        AttemptConfig { cache: self.clone(), tenant: tenant.clone(), task: task.into() }
    }

    async fn found(&self, tenant: &TenantId, task: &str) -> Result<ConfigValues, Unavailable> {
        // A task of a job has a name that was checked when it was deployed.
        let Ok(name) = TaskName::new(task) else { return Err(Unavailable) };
        let read = || {
            let (broker, tenant, name) = (self.broker.clone(), tenant.clone(), name.clone());
            async move {
                ConfigDocument::of_task(&*broker, &tenant, &name).await.map(Arc::new).map_err(|error| {
                    tracing::warn!(%error, "the configuration of a task cannot be read");
                    Unavailable
                })
            }
        };
        self.kept.get(&(tenant.clone(), task.into()), read, || Unavailable).await
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
    async fn the_values_are_those_of_the_tenant_a_second_ago() {
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
        cache.kept.forget();
        assert_eq!(seen(&tenant).await, "x=1");
        assert_eq!(seen(&TenantId::new("other").unwrap()).await, "");
    }
}
