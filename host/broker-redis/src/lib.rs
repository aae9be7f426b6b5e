//! The broker on Redis or Valkey: any number of workers, every step one function of a library that is loaded into the server.
//!
//! Invariants: a function reads the clock itself and touches the keys of one shard only; the rules are those of the
//! in-memory model, which the conformance suite compares with, answer by answer; what users sent is never parsed by a
//! function; no password gets into an error or a log. This crate knows nothing of HTTP and wasm.

mod answers;
mod audit;
mod broker_options;
mod bytes;
mod connection;
mod controls;
mod decode;
mod encode;
mod events;
mod growth;
mod jobs;
mod keys;
mod library;
mod maintenance;
mod nodes;
mod reading;
mod registry;
mod settings;
mod signals;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod upgrade;
mod workflows;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, Value};
use tokio::sync::broadcast;
use umbel_broker::*;
use umbel_model::{JobId, JobRecord, QueueName, TenantId, WorkerId, WorkflowId};

use connection::{Connection, Failed, Repeat};
use keys::Keys;
use signals::Signals;

/// The one shard that there is; keys are ready for more.
const SHARD: u32 = 0;

/// Where Redis is and how it is used.
#[derive(Clone)]
pub struct RedisConfig {
    /// `redis://[user:password@]host[:port][/database]`, or `redis+unix:///path`.
    pub url: String,
    /// Use a server that deletes jobs when its memory is full. For development.
    pub allow_unsafe_settings: bool,
    pub clock: Clock,
    pub limits: Limits,
    /// What every key starts with; letters and digits.
    pub prefix: String,
    /// `connect` returns although the server cannot be reached, and goes on trying. A server that answers and is refused
    /// is an error all the same.
    pub wait_for_server: bool,
    /// How long an operation waits for a lost connection before it fails.
    pub patience: Duration,
    /// For connecting, with all that is checked then.
    pub connect_timeout: Duration,
    /// For one answer. The server is given up after it, so it is longer than any function or save may take.
    pub response_timeout: Duration,
}

impl RedisConfig {
    /// The defaults for a server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            allow_unsafe_settings: false,
            clock: Clock::Server,
            limits: Limits::default(),
            prefix: "umbel".into(),
            wait_for_server: false,
            patience: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for RedisConfig {
    /// Without the address: there may be a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("prefix", &self.prefix)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A broker on a Redis server. Many may share one; each has a connection of its own, and one more for hints.
pub struct RedisBroker {
    connection: Arc<Connection>,
    signals: Signals,
    clock: Clock,
    limits: Limits,
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl RedisBroker {
    /// Connects. A lost connection is made anew for ever, by itself.
    ///
    /// # Errors
    /// `Unavailable` when the server does not answer (not with `wait_for_server`); `Refused` when it loses data, is too
    /// old, is a replica, wants another password, or holds data of a newer release; `Refused` for an address that
    /// cannot be read or asks for TLS.
    pub async fn connect(config: RedisConfig) -> Result<Self> {
        let prefix_ok = !config.prefix.is_empty() && config.prefix.bytes().all(|b| b.is_ascii_alphanumeric());
        if !prefix_ok {
            return Err(Error::Refused("the prefix of the keys must be letters and digits".into()));
        }
        let connection = Connection::start(&config, Keys::new(&config.prefix, SHARD)).await?;
        let RedisConfig { clock, limits, .. } = config;
        let broker = Self { connection, signals: Signals::new(), clock, limits };
        // Without a server, the next one who connects does it.
        if broker.connection.is_up() {
            broker.finish_upgrade().await?;
        }
        Ok(broker)
    }

    /// Calls a function. A server that does not have it (yet, or after a restart) is given the library first.
    pub(crate) async fn run(&self, function: &str, args: Vec<Vec<u8>>, repeat: Repeat) -> Result<Value> {
        let mut command = self.connection.library.call(function, self.connection.keys.routing());
        let now = self.clock.fixed_now().map(|now| now.to_string()).unwrap_or_default();
        command.arg(format!("{now};{}", self.limits.max_dead)).arg(args);
        // It may be lost once more between the loading and the call.
        for _ in 0..3 {
            match self.connection.query(&command, repeat).await {
                Ok(value) => return Ok(value),
                Err(Failed::Broker(error)) => return Err(error),
                Err(Failed::UnknownFunction) => match self.command(&self.connection.library.load()).await {
                    // Another process was faster.
                    Err(Error::Failed(why)) if why.contains("already exists") => {}
                    loaded => drop(loaded?),
                },
            }
        }
        Err(Error::Failed("the server forgets functions as soon as it is given them".into()))
    }

    /// Calls a function whose answer is one value.
    pub(crate) async fn typed<T: FromRedisValue>(
        &self,
        function: &str,
        args: Vec<Vec<u8>>,
        repeat: Repeat,
    ) -> Result<T> {
        let value = self.run(function, args, repeat).await?;
        T::from_redis_value(value).map_err(|e| Error::Failed(format!("a function's answer cannot be read: {e}")))
    }

    /// A command that may be repeated.
    pub(crate) async fn command(&self, command: &Cmd) -> Result<Value> {
        self.connection.query(command, Repeat::Safe).await.map_err(|failed| match failed {
            Failed::Broker(error) => error,
            Failed::UnknownFunction => Error::Failed("a function is not known".into()),
        })
    }
}

#[async_trait]
impl Jobs for RedisBroker {
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        self.submit_batches(jobs).await
    }

    async fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>> {
        self.read_job(tenant, id).await
    }

    async fn jobs(&self, query: &JobQuery) -> Result<JobPage> {
        self.list_jobs(query).await
    }

    async fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>> {
        self.read_logs(tenant, id, from, max).await
    }

    async fn cancel(&self, tenant: &TenantId, id: JobId, terminate: bool) -> Result<Cancelled> {
        self.cancel_one(tenant, id, u8::from(terminate)).await
    }

    async fn cancel_waiting(&self, tenant: &TenantId, id: JobId) -> Result<Cancelled> {
        self.cancel_one(tenant, id, 2).await
    }

    async fn run_now(&self, tenant: &TenantId, id: JobId) -> Result<RunNow> {
        self.run_one_now(tenant, id).await
    }

    async fn forget(&self, tenant: &TenantId, id: JobId) -> Result<Forgot> {
        self.forget_one(tenant, id).await
    }
}

#[async_trait]
impl Deliveries for RedisBroker {
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>> {
        Ok(self.settle_batches(&[], Some(claim)).await?.1)
    }

    async fn renew(&self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>> {
        self.renew_batches(lease_ms, renewals).await
    }

    async fn settle(&self, settles: &[Settle], then: Option<&Claim>) -> Result<(Vec<Settled>, Vec<Delivery>)> {
        self.settle_batches(settles, then).await
    }
}

#[async_trait]
impl Workflows for RedisBroker {
    async fn stage_workflow(&self, head: &WorkflowHead) -> Result<WorkflowSubmitted> {
        self.stage(head).await
    }

    async fn stage_nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        nodes: &[NewNode],
    ) -> Result<WorkflowSubmitted> {
        self.stage_some(tenant, id, first, nodes).await
    }

    async fn start_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowSubmitted> {
        self.start(tenant, id).await
    }

    async fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>> {
        self.read_workflow(tenant, id).await
    }

    async fn workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage> {
        self.list_workflows(query).await
    }

    async fn nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
        results: Results,
    ) -> Result<NodePage> {
        self.read_nodes(tenant, id, first, max, results).await
    }

    async fn values(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeValue>> {
        self.read_values(tenant, id, first, max).await
    }

    async fn cancel_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled> {
        self.cancel_all(tenant, id).await
    }
}

#[async_trait]
impl Controls for RedisBroker {
    async fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>> {
        self.list_queues(tenant).await
    }

    async fn delete_queue(&self, tenant: &TenantId, queue: &QueueName) -> Result<QueueDeleted> {
        self.drop_queue(tenant, queue).await
    }

    async fn ready_queues(&self) -> Result<Vec<QueueName>> {
        self.list_ready_queues().await
    }

    async fn set_control(&self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<ControlSet> {
        self.patch_control(tenant, scope, patch).await
    }

    async fn controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>> {
        self.list_controls(tenant).await
    }
}

#[async_trait]
impl Registry for RedisBroker {
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>> {
        self.keep_worker(worker).await
    }

    async fn order_worker(&self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered> {
        self.give_order(worker, order).await
    }

    async fn forget_worker(&self, worker: &WorkerId) -> Result<()> {
        self.drop_worker(worker).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.list_workers().await
    }

    async fn put_document(&self, put: &PutDocument) -> Result<DocumentPut> {
        self.write_document(put).await
    }

    async fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Result<Option<Document>> {
        self.read_document(tenant, kind, name).await
    }

    async fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Result<Vec<Document>> {
        self.list_documents(tenant, kind, after, max).await
    }
}

#[async_trait]
impl Events for RedisBroker {
    async fn follow(&self, tenant: &TenantId) -> Result<u64> {
        self.follow_tenant(tenant).await
    }

    async fn events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<EventPage> {
        self.read_events(tenant, after, max).await
    }

    async fn signals(&self, topic: Topic) -> Result<broadcast::Receiver<Signal>> {
        Ok(self.signals.receiver(&self.connection, topic).await)
    }
}

#[async_trait]
impl Maintenance for RedisBroker {
    async fn promote(&self, max: u32) -> Result<Promoted> {
        self.promote_batch(max).await
    }

    async fn reap(&self, max: u32) -> Result<Reaped> {
        self.reap_batch(max).await
    }

    async fn prune(&self, max: u32) -> Result<u32> {
        self.prune_batch(max).await
    }

    async fn hold_service(&self, service: &str, process: &str, ttl_ms: u64) -> Result<Option<u64>> {
        let args = [service, process, &ttl_ms.to_string()].map(|arg| arg.as_bytes().to_vec()).to_vec();
        let others_ms: i64 = self.typed("hold_service", args, Repeat::Safe).await?;
        Ok(u64::try_from(others_ms).ok())
    }

    async fn check(&self) -> Result<()> {
        self.connection.check().await
    }

    async fn audit(&self, fix: bool) -> Result<Vec<Finding>> {
        self.look_through(fix).await
    }
}
