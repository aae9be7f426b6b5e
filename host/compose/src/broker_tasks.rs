//! Tasks as the broker has them, remembered for a second.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use moka::future::Cache;
use umbel_broker::Broker;
use umbel_model::{Digest, TaskName, TenantId};

use crate::{Error, Result, RouteTable, Routes, TaskDocument, TaskFacts, TaskSource, pinned_task};

/// A deploy is seen at most this late.
const TTL: Duration = Duration::from_secs(1);
/// Entries of one cache at most.
const MAX_CACHED: u64 = 1_024;

/// Reads tasks from the broker's documents. Remembers each, also that there is none, for a second.
#[derive(Debug)]
pub struct BrokerTasks {
    broker: Arc<dyn Broker>,
    tasks: Cache<(TenantId, TaskName), Option<Arc<TaskFacts>>>,
    routes: Cache<TenantId, Arc<RouteTable>>,
}

impl BrokerTasks {
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        let tasks = Cache::builder().max_capacity(MAX_CACHED).time_to_live(TTL).build();
        let routes = Cache::builder().max_capacity(MAX_CACHED).time_to_live(TTL).build();
        Self { broker, tasks, routes }
    }

    /// The tenant's routes, at most a second old.
    async fn routes(&self, tenant: &TenantId) -> Result<Arc<RouteTable>> {
        if let Some(table) = self.routes.get(tenant).await {
            return Ok(table);
        }
        let (routes, _) = Routes::read(&*self.broker, tenant).await?;
        let table = routes.compile().map_err(|(at, why)| Error::Corrupt(format!("route {at}: {why}")))?;
        let table = Arc::new(table);
        self.routes.insert(tenant.clone(), table.clone()).await;
        Ok(table)
    }
}

#[async_trait]
impl TaskSource for BrokerTasks {
    async fn task(&self, tenant: &TenantId, name: &TaskName) -> Result<Option<Arc<TaskFacts>>> {
        let key = (tenant.clone(), name.clone());
        if let Some(known) = self.tasks.get(&key).await {
            return Ok(known);
        }
        let facts = match TaskDocument::read(&*self.broker, tenant, name).await? {
            None => None,
            Some((document, _)) => {
                let facts = document.facts(Some(&*self.routes(tenant).await?));
                Some(Arc::new(facts.ok_or_else(|| Error::Corrupt(format!("task `{name}` points at nothing")))?))
            }
        };
        self.tasks.insert(key, facts.clone()).await;
        Ok(facts)
    }

    async fn pinned(&self, tenant: &TenantId, name: &TaskName, digest: Digest) -> Result<Option<Arc<TaskFacts>>> {
        let Some(document) = pinned_task(&*self.broker, tenant, name, digest).await? else {
            return Ok(None);
        };
        Ok(document.facts(Some(&*self.routes(tenant).await?)).map(Arc::new))
    }
}
