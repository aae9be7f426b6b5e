//! What attempts may reach, read from the broker when a guest asks for the first time and kept for at most a second.
//!
//! A module that asks for nothing reads nothing. Invariant: what is answered held at most `KEPT_FOR` ago, however slowly the
//! broker answered; when the broker cannot be asked, nothing is allowed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::runtime::Handle;
use umbel_broker::Broker;
use umbel_capabilities::{Effective, Grants, Unavailable};
use umbel_compose::{Approval, GrantLayer, GrantsDocument, default_bounds};
use umbel_model::{Declared, Digest, Permissions, TenantId};

use crate::fresh::Fresh;

/// How long an answer of the broker is used.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// A permission in memory, its text and what holds it: about as much, bytes.
const PERMISSION_BYTES: usize = 256;
/// An answer besides its permissions, bytes.
const ANSWER_BYTES: usize = 512;

/// The grants of all attempts of a worker.
#[derive(Debug)]
pub(crate) struct GrantsCache {
    broker: Arc<dyn Broker>,
    kept: Fresh<(TenantId, Digest), Arc<Found>>,
}

impl GrantsCache {
    pub(crate) fn new(broker: Arc<dyn Broker>, background: Handle) -> Arc<Self> {
        Arc::new(Self { broker, kept: Fresh::new(background, KEPT_FOR, |_, found: &Arc<Found>| found.bytes()) })
    }

    /// Those of an attempt. Nothing is read before the guest asks.
    pub(crate) fn of(self: &Arc<Self>, tenant: &TenantId, digest: Digest, task: &str) -> AttemptGrants {
        AttemptGrants { cache: self.clone(), tenant: tenant.clone(), digest, task: task.into() }
    }

    async fn found(&self, tenant: &TenantId, digest: Digest) -> Result<Arc<Found>, Unavailable> {
        let read = || {
            let (broker, tenant) = (self.broker.clone(), tenant.clone());
            async move {
                Found::read(&*broker, &tenant, digest).await.map(Arc::new).map_err(|error| {
                    tracing::warn!(%digest, %error, "what a module may reach cannot be looked up");
                    Unavailable
                })
            }
        };
        self.kept.get(&(tenant.clone(), digest), read, || Unavailable).await
    }
}

/// What the broker said about one module.
#[derive(Debug)]
struct Found {
    operator: Permissions,
    tenant: Option<Permissions>,
    approved: Declared,
    /// By task, as soon as one asks. Tasks that declare nothing of their own share the one without a name.
    effective: Mutex<HashMap<Box<str>, Arc<Effective>>>,
}

impl Found {
    async fn read(broker: &dyn Broker, tenant: &TenantId, digest: Digest) -> umbel_compose::Result<Self> {
        let (approval, own, bounds) = tokio::try_join!(
            Approval::read(broker, tenant, digest),
            GrantsDocument::read(broker, tenant, GrantLayer::Tenant),
            GrantsDocument::read(broker, tenant, GrantLayer::Operator),
        )?;
        Ok(Self {
            operator: bounds.0.unwrap_or_else(|| default_bounds().clone()),
            tenant: own.0,
            approved: approval.0.granted.map(|granted| granted.permissions).unwrap_or_default(),
            effective: Mutex::default(),
        })
    }

    fn of_task(&self, task: &str) -> Arc<Effective> {
        let has_own = self.approved.tasks.keys().any(|name| name.as_str() == task);
        let name = if has_own { task } else { "" };
        let mut effective = self.effective.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = effective.get(name) {
            return known.clone();
        }
        let of_task = Arc::new(Effective {
            operator: self.operator.clone(),
            tenant: self.tenant.clone(),
            approved: self.approved.of_task(task),
        });
        effective.insert(name.into(), of_task.clone());
        of_task
    }

    /// About the bytes that it takes once each of its tasks has asked.
    fn bytes(&self) -> usize {
        let bounds = self.operator.iter().count() + self.tenant.iter().flat_map(Permissions::iter).count();
        let of_tasks: usize = self.approved.tasks.values().map(|list| list.iter().count()).sum();
        let of_module = self.approved.module.iter().count();
        let copies = self.approved.tasks.len() + 2;
        ANSWER_BYTES + PERMISSION_BYTES * ((bounds + of_module) * copies + 2 * of_tasks)
    }
}

/// What one attempt may reach.
#[derive(Debug)]
pub(crate) struct AttemptGrants {
    cache: Arc<GrantsCache>,
    tenant: TenantId,
    digest: Digest,
    task: Box<str>,
}

#[async_trait]
impl Grants for AttemptGrants {
    async fn now(&self) -> Result<Arc<Effective>, Unavailable> {
        Ok(self.cache.found(&self.tenant, self.digest).await?.of_task(&self.task))
    }
}

#[cfg(test)]
mod tests {
    use umbel_broker::{DocumentKind, Expect, PutDocument};
    use umbel_broker_conformance::MemoryBroker;
    use umbel_compose::Granted;
    use umbel_model::TaskName;

    use super::*;

    struct World {
        broker: Arc<dyn Broker>,
        cache: Arc<GrantsCache>,
        tenant: TenantId,
        digest: Digest,
    }

    impl World {
        async fn new(declared: &[(Option<&str>, &str)]) -> Self {
            let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new(Default::default(), Default::default()));
            let cache = GrantsCache::new(broker.clone(), Handle::current());
            let (tenant, digest) = (TenantId::new("t1").unwrap(), Digest::of(b"m"));
            let tasks = ["a", "b"].map(|name| TaskName::new(name).unwrap());
            let permissions = Declared::read(declared.iter().copied(), &tasks).unwrap();
            let granted = Granted { permissions, at: 1, by: "test".into(), inherited_from: None };
            let approval = Approval { granted: Some(granted), waiting: None };
            approval.write(&*broker, &tenant, digest, 0).await.unwrap();
            Self { broker, cache, tenant, digest }
        }

        async fn set(&self, layer: GrantLayer, texts: &[&str]) {
            let permissions = Permissions::new(texts.iter().map(|text| text.parse().unwrap())).unwrap();
            let put = PutDocument {
                tenant: self.tenant.clone(),
                kind: DocumentKind::Grants,
                name: layer.name().into(),
                expect: Expect::Any,
                body: Some(serde_json::to_string(&GrantsDocument { permissions }).unwrap()),
                held_bytes: 0,
            };
            self.broker.put_document(&put).await.unwrap();
            self.cache.kept.forget();
        }

        async fn denied(&self, task: &str, permission: &str) -> String {
            let effective = self.cache.of(&self.tenant, self.digest, task).now().await.unwrap();
            let denied = effective.allow(&permission.parse().unwrap()).err();
            denied.map(|denied| format!("{:?}", denied.layer)).unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn an_attempt_may_reach_what_its_task_declared_and_all_layers_allow() {
        let world = World::new(&[(None, "kv x"), (Some("a"), "secret s"), (None, "http http://plain.example")]).await;
        assert_eq!(world.denied("a", "kv x").await, "");
        assert_eq!(world.denied("a", "secret s").await, "");
        assert_eq!(world.denied("b", "secret s").await, "Module");
        assert_eq!(world.denied("b", "http http://plain.example").await, "Operator");
        world.set(GrantLayer::Tenant, &["kv x read"]).await;
        assert_eq!(world.denied("b", "kv x").await, "Tenant");
        assert_eq!(world.denied("b", "kv x read").await, "");
        world.set(GrantLayer::Operator, &["blob"]).await;
        assert_eq!(world.denied("b", "kv x read").await, "Operator");
        Approval::forget(&*world.broker, &world.tenant, world.digest).await.unwrap();
        world.cache.kept.forget();
        assert_eq!(world.denied("b", "kv x read").await, "Module");
    }

    #[tokio::test]
    async fn another_tenant_with_the_same_module_is_not_approved() {
        let world = World::new(&[(None, "kv x")]).await;
        let other = World { tenant: TenantId::new("t2").unwrap(), cache: world.cache.clone(), ..world };
        assert_eq!(other.denied("a", "kv x").await, "Module");
    }
}
