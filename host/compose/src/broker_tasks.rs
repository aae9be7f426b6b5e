//! Tasks as the broker has them, remembered for a moment.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use umbel_broker::{Broker, DocumentKind};
use umbel_model::{TaskName, TenantId};

use crate::{Error, Result, RouteTable, Routes, TaskDocument, TaskFacts, TaskSource};

/// A deploy is seen at most this late.
const TTL: Duration = Duration::from_secs(1);
/// Tasks remembered at most.
const MAX_CACHED: usize = 1_024;

type Known = (Instant, Option<Arc<TaskFacts>>);

/// Reads tasks from the broker's documents. Remembers each, also that there is none, for a second.
#[derive(Debug)]
pub struct BrokerTasks {
    broker: Arc<dyn Broker>,
    known: Mutex<HashMap<(TenantId, TaskName), Known>>,
    routes: Mutex<HashMap<TenantId, (Instant, Arc<RouteTable>)>>,
}

impl BrokerTasks {
    pub fn new(broker: Arc<dyn Broker>) -> Self {
        Self { broker, known: Mutex::default(), routes: Mutex::default() }
    }

    /// The tenant's routes, at most a second old.
    async fn routes(&self, tenant: &TenantId) -> Result<Arc<RouteTable>> {
        {
            let known = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, table)) = known.get(tenant)
                && at.elapsed() < TTL
            {
                return Ok(table.clone());
            }
        }
        let (routes, _) = Routes::read(&*self.broker, tenant).await?;
        let table = routes.compile().map_err(|(at, why)| Error::Corrupt(format!("route {at}: {why}")))?;
        let (table, now) = (Arc::new(table), Instant::now());
        let mut known = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CACHED {
            known.retain(|_, (at, _)| now.duration_since(*at) < TTL);
        }
        known.insert(tenant.clone(), (now, table.clone()));
        Ok(table)
    }

    fn remember(&self, key: (TenantId, TaskName), facts: Option<Arc<TaskFacts>>) {
        let now = Instant::now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_CACHED {
            known.retain(|_, (at, _)| now.duration_since(*at) < TTL);
            if known.len() >= MAX_CACHED {
                known.clear();
            }
        }
        known.insert(key, (now, facts));
    }
}

#[async_trait]
impl TaskSource for BrokerTasks {
    async fn task(&self, tenant: &TenantId, name: &TaskName) -> Result<Option<Arc<TaskFacts>>> {
        let key = (tenant.clone(), name.clone());
        // In a block: the lock is not held while the broker is asked.
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((at, facts)) = known.get(&key)
                && at.elapsed() < TTL
            {
                return Ok(facts.clone());
            }
        }
        let facts = match self.broker.document(tenant, DocumentKind::Task, name.as_str()).await? {
            None => None,
            Some(document) => {
                let parsed: TaskDocument = serde_json::from_str(&document.body)
                    .map_err(|error| Error::Corrupt(format!("task `{name}`: {error}")))?;
                let routes = self.routes(tenant).await?;
                let facts = parsed
                    .facts(Some(&routes))
                    .ok_or_else(|| Error::Corrupt(format!("task `{name}` points at nothing")))?;
                Some(Arc::new(facts))
            }
        };
        self.remember(key, facts.clone());
        Ok(facts)
    }
}
