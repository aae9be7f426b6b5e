//! What the handlers share.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::sync::Semaphore;
use umbel_broker::{Broker, Watch};
use umbel_bulk::{Carrier, LargeStore};
use umbel_compose::{Limits, RouteTable, Rules};
use umbel_model::{TaskName, TenantId};
use umbel_modules::{Inspector, ModuleStore};

use crate::{
    admission::{FairSemaphore, TenantSemaphores},
    auth::Tokens,
    config::ApiConfig,
    id_generator::IdGenerator,
    schemas::{SchemaCache, Turns},
    task_cache::Deployed,
};

/// Another server's deploy is seen at most this late; one's own at once.
const DEPLOYED_TTL: Duration = Duration::from_secs(1);
const CACHED_TASKS: u64 = 10_000;
/// Tables of routes: each may have some megabytes of compiled expressions.
const CACHED_ROUTES: u64 = 100;
const MAX_DRAINS: usize = 64;
/// Trees of workflows being read at once; of these, one for each tenant.
const MAX_TREES: usize = 4;
/// Results of any size on their way to readers at once, and of one tenant: each may be 64 MiB.
const MAX_RESULTS: usize = 8;
const MAX_TENANT_RESULTS: usize = 2;

/// The state of the API: what it asks, its limits, and its short-lived caches.
#[derive(Debug)]
pub struct Api {
    pub(crate) config: ApiConfig,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) store: ModuleStore,
    /// Large arguments and results, which lie there, too.
    pub(crate) large: LargeStore,
    pub(crate) inspector: Arc<dyn Inspector>,
    pub(crate) watch: Watch,
    pub(crate) tokens: Tokens,
    pub(crate) deployed: Cache<(TenantId, TaskName), Arc<Deployed>>,
    pub(crate) routes: Cache<TenantId, Arc<RouteTable>>,
    pub(crate) schemas: SchemaCache,
    pub(crate) ids: IdGenerator,
    pub(crate) in_flight: Semaphore,
    pub(crate) tenants_in_flight: TenantSemaphores,
    pub(crate) batches: FairSemaphore,
    pub(crate) uploads: FairSemaphore,
    pub(crate) workflows: FairSemaphore,
    /// Streams of events.
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) tenants_streams: TenantSemaphores,
    /// Trees and pictures of workflows.
    pub(crate) trees: FairSemaphore,
    /// Results of any size, until their readers have them.
    pub(crate) results: FairSemaphore,
    pub(crate) rules: Rules,
    /// Refused bodies of strangers that are read and forgotten.
    pub(crate) drains: Semaphore,
    pub(crate) checks: Turns,
}

impl Api {
    /// Starts listening for the ends of jobs: call it within a tokio runtime.
    pub fn new(config: ApiConfig, broker: Arc<dyn Broker>, store: ModuleStore, inspector: Arc<dyn Inspector>) -> Self {
        let turn_wait = Duration::from_millis(config.turn_wait_ms);
        Self {
            watch: Watch::start(broker.clone()),
            tokens: Tokens::new(),
            deployed: Cache::builder()
                .max_capacity(CACHED_TASKS)
                .time_to_live(DEPLOYED_TTL)
                .support_invalidation_closures()
                .build(),
            routes: Cache::builder().max_capacity(CACHED_ROUTES).time_to_live(DEPLOYED_TTL).build(),
            schemas: SchemaCache::new(),
            ids: IdGenerator::default(),
            in_flight: Semaphore::new(config.max_in_flight),
            tenants_in_flight: TenantSemaphores::new(config.max_tenant_in_flight),
            batches: FairSemaphore::new(config.max_batches, config.max_tenant_batches, turn_wait),
            uploads: FairSemaphore::new(config.max_uploads, config.max_tenant_uploads, turn_wait),
            workflows: FairSemaphore::new(
                config.max_workflow_submissions,
                config.max_tenant_workflow_submissions,
                turn_wait,
            ),
            streams: Arc::new(Semaphore::new(config.max_streams)),
            tenants_streams: TenantSemaphores::new(config.max_tenant_streams),
            trees: FairSemaphore::new(MAX_TREES, 1, turn_wait),
            results: FairSemaphore::new(MAX_RESULTS, MAX_TENANT_RESULTS, turn_wait),
            rules: Rules {
                bounds: config.bounds.clone(),
                limits: Limits { max_arguments_bytes: config.max_arguments_bytes, ..Limits::default() },
            },
            drains: Semaphore::new(MAX_DRAINS),
            checks: Turns::default(),
            config,
            broker,
            large: LargeStore(store.clone()),
            store,
            inspector,
        }
    }

    /// What doing again, and actions on many jobs, need.
    pub(crate) fn carrier(&self) -> Carrier<'_> {
        Carrier { broker: &*self.broker, store: Some(&self.store), bounds: &self.config.bounds }
    }
}
