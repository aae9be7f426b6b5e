//! The state that the handlers share.

use std::{sync::Arc, time::Duration};

use moka::future::Cache;
use tokio::sync::Semaphore;
use umbel_broker::{Broker, Watch, WorkflowRecord};
use umbel_bulk::{Carrier, LargeStore};
use umbel_compose::{Limits, RouteTable, Rules, TaskFacts};
use umbel_model::{JobId, JobRecord, TaskName, TenantId, WorkflowId};
use umbel_modules::{Inspector, ModuleStore};

use crate::{
    admission::{FairSemaphore, Memory, Places},
    auth::Tokens,
    config::ApiConfig,
    id_generator::IdGenerator,
    problem::{Problem, Result},
    schemas::{HEAVY_CHECKS, SchemaCache},
};

/// Another server's deploy is seen at most this late; one's own at once.
const DEPLOYED_TTL: Duration = Duration::from_secs(1);
/// Bytes of tasks that are kept for that long, as `task_bytes` guesses them.
const CACHED_TASKS_BYTES: u64 = 32 << 20;
/// Tables of routes: each may have some megabytes of compiled expressions.
const CACHED_ROUTES: u64 = 100;
const MAX_DRAINS: usize = 64;
/// Lists that are read at once.
const MAX_LISTS: usize = 4;
/// Lists of tokens that are read at once; at most one of them for each tenant.
const MAX_TOKEN_LISTS: usize = 2;
/// Trees of workflows that are read at once; at most one of them for each tenant.
const MAX_TREES: usize = 4;

/// Bytes of small answers, and of small bodies, for which each tenant has room besides; and of those of all tenants.
const SMALL_ANSWER: usize = 1 << 20;
const SMALL_ANSWERS: usize = 64 << 20;
const SMALL_BODY: usize = 2 << 20;
const SMALL_BODIES: usize = 64 << 20;

/// The state of the API: what it asks, its limits, and its short-lived caches.
#[derive(Debug)]
pub struct Api {
    pub(crate) config: ApiConfig,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) store: ModuleStore,
    /// Large arguments and results, which are in the module store as well.
    pub(crate) large: LargeStore,
    pub(crate) inspector: Arc<dyn Inspector>,
    pub(crate) watch: Watch,
    pub(crate) tokens: Tokens,
    pub(crate) tasks: Cache<(TenantId, TaskName), Arc<TaskFacts>>,
    pub(crate) routes: Cache<TenantId, Arc<RouteTable>>,
    pub(crate) schemas: SchemaCache,
    pub(crate) ids: IdGenerator,
    pub(crate) places: Places,
    /// Requests that wait for the end of something.
    pub(crate) waits: FairSemaphore,
    /// Memory of large answers until they are written.
    pub(crate) answers: Memory,
    /// Memory of JSON bodies until their requests wait or are answered.
    pub(crate) bodies: Memory,
    pub(crate) batches: FairSemaphore,
    pub(crate) uploads: FairSemaphore,
    pub(crate) small_uploads: FairSemaphore,
    pub(crate) blob_uploads: FairSemaphore,
    pub(crate) workflows: FairSemaphore,
    /// Streams of events.
    pub(crate) streams: FairSemaphore,
    /// Lists that are read from the broker: of each tenant one after the other, so that one tenant's do not fill the broker.
    pub(crate) lists: FairSemaphore,
    /// Lists of tokens: each reads those of all tenants.
    pub(crate) token_lists: FairSemaphore,
    /// Trees and pictures of workflows.
    pub(crate) trees: FairSemaphore,
    pub(crate) rules: Rules,
    /// Limits how many refused bodies of callers without a token are read to their end.
    pub(crate) drains: Semaphore,
    /// Limits how many long checks of arguments run at once; at most one of each tenant.
    pub(crate) checks: Arc<FairSemaphore>,
}

/// A guess of the bytes of a task: defaults of its parameters may be large.
fn task_bytes(facts: &TaskFacts) -> u32 {
    let texts = facts.parameters.iter().map(|p| p.name.len() + p.default.as_ref().map_or(0, |text| text.get().len()));
    u32::try_from(2_048 + texts.sum::<usize>()).unwrap_or(u32::MAX)
}

impl Api {
    /// Starts listening for the ends of jobs: call it within a tokio runtime.
    pub fn new(config: ApiConfig, broker: Arc<dyn Broker>, store: ModuleStore, inspector: Arc<dyn Inspector>) -> Self {
        let permit_wait = Duration::from_millis(config.permit_wait_ms);
        Self {
            watch: Watch::start(broker.clone()),
            tokens: Tokens::new(config.max_token_lookups),
            tasks: Cache::builder()
                .max_capacity(CACHED_TASKS_BYTES)
                .weigher(|_, facts: &Arc<TaskFacts>| task_bytes(facts))
                .time_to_live(DEPLOYED_TTL)
                .support_invalidation_closures()
                .build(),
            routes: Cache::builder().max_capacity(CACHED_ROUTES).time_to_live(DEPLOYED_TTL).build(),
            schemas: SchemaCache::new(permit_wait),
            ids: IdGenerator::default(),
            places: Places::new(
                (config.max_in_flight, config.max_tenant_in_flight),
                (config.reserved_in_flight, config.tenant_reserved_in_flight),
            ),
            waits: FairSemaphore::new(config.max_waits, config.max_tenant_waits, permit_wait),
            answers: Memory::new(
                (config.max_answer_bytes, config.max_tenant_answer_bytes),
                (SMALL_ANSWERS, SMALL_ANSWER),
                permit_wait,
            ),
            bodies: Memory::new(
                (config.max_bodies_bytes, config.max_tenant_bodies_bytes),
                (SMALL_BODIES, SMALL_BODY),
                permit_wait,
            ),
            batches: FairSemaphore::new(config.max_batches, config.max_tenant_batches, permit_wait),
            uploads: FairSemaphore::new(config.max_uploads, 1, permit_wait),
            small_uploads: FairSemaphore::new(config.max_small_uploads, config.max_tenant_uploads, permit_wait),
            blob_uploads: FairSemaphore::new(config.max_blob_uploads, config.max_tenant_blob_uploads, permit_wait),
            workflows: FairSemaphore::new(
                config.max_workflow_submissions,
                config.max_tenant_workflow_submissions,
                permit_wait,
            ),
            streams: FairSemaphore::new(config.max_streams, config.max_tenant_streams, permit_wait),
            lists: FairSemaphore::new(MAX_LISTS, 1, permit_wait),
            token_lists: FairSemaphore::new(MAX_TOKEN_LISTS, 1, permit_wait),
            trees: FairSemaphore::new(MAX_TREES, 1, permit_wait),
            rules: Rules {
                bounds: config.bounds.clone(),
                limits: Limits { max_arguments_bytes: config.max_arguments_bytes, ..Limits::default() },
            },
            drains: Semaphore::new(MAX_DRAINS),
            checks: Arc::new(FairSemaphore::new(HEAVY_CHECKS, 1, permit_wait)),
            config,
            broker,
            large: LargeStore(store.clone()),
            store,
            inspector,
        }
    }

    /// One job of the tenant.
    pub(crate) async fn job(&self, tenant: &TenantId, id: JobId) -> Result<JobRecord> {
        self.broker.job(tenant, id).await?.ok_or_else(|| Problem::no_job(id))
    }

    /// One workflow of the tenant.
    pub(crate) async fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowRecord> {
        self.broker.workflow(tenant, id).await?.ok_or_else(|| Problem::no_workflow(id))
    }

    /// Everything that redriving and actions on many jobs need.
    pub(crate) fn carrier(&self) -> Carrier<'_> {
        Carrier { broker: &*self.broker, store: Some(&self.store), bounds: &self.config.bounds }
    }
}
