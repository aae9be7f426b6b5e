//! Tasks as the broker has them, remembered for a second.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use umbel_broker::Broker;
use umbel_model::{TaskName, TenantId};

use crate::{Error, Result, RouteTable, Routes, TaskDocument, TaskFacts, TaskSource};

/// A deploy is seen at most this late.
const TTL: Duration = Duration::from_secs(1);
/// Entries of one cache at most.
const MAX_CACHED: usize = 1_024;

/// Values that are forgotten after `TTL`.
#[derive(Debug)]
struct Cache<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K: Hash + Eq, V: Clone> Cache<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).filter(|(at, _)| at.elapsed() < TTL).map(|(_, value)| value.clone())
    }

    fn insert(&self, key: K, value: V) {
        let now = Instant::now();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CACHED {
            known.retain(|_, (at, _)| now.duration_since(*at) < TTL);
            if known.len() >= MAX_CACHED {
                known.clear();
            }
        }
        known.insert(key, (now, value));
    }
}

/// Reads tasks from the broker's documents. Remembers each, also that there is none, for a second.
#[derive(Debug)]
pub struct BrokerTasks {
    broker: Arc<dyn Broker>,
    tasks: Cache<(TenantId, TaskName), Option<Arc<TaskFacts>>>,
    routes: Cache<TenantId, Arc<RouteTable>>,
}

impl BrokerTasks {
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, tasks: Cache(Mutex::default()), routes: Cache(Mutex::default()) }
    }

    /// The tenant's routes, at most a second old.
    async fn routes(&self, tenant: &TenantId) -> Result<Arc<RouteTable>> {
        if let Some(table) = self.routes.get(tenant) {
            return Ok(table);
        }
        let (routes, _) = Routes::read(&*self.broker, tenant).await?;
        let table = routes.compile().map_err(|(at, why)| Error::Corrupt(format!("route {at}: {why}")))?;
        let table = Arc::new(table);
        self.routes.insert(tenant.clone(), table.clone());
        Ok(table)
    }
}

#[async_trait]
impl TaskSource for BrokerTasks {
    async fn task(&self, tenant: &TenantId, name: &TaskName) -> Result<Option<Arc<TaskFacts>>> {
        let key = (tenant.clone(), name.clone());
        if let Some(known) = self.tasks.get(&key) {
            return Ok(known);
        }
        let facts = match TaskDocument::read(&*self.broker, tenant, name).await? {
            None => None,
            Some((document, _)) => {
                let facts = document.facts(Some(&*self.routes(tenant).await?));
                Some(Arc::new(facts.ok_or_else(|| Error::Corrupt(format!("task `{name}` points at nothing")))?))
            }
        };
        self.tasks.insert(key, facts.clone());
        Ok(facts)
    }
}
