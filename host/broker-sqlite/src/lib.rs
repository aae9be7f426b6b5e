//! The embedded broker: one SQLite file, one process, one writer thread with group commit.
//!
//! Invariants: an acknowledged operation is on the disk (unless `Synchronous::Off` was chosen); a second process on the
//! same file is refused; readers see what is committed and hold up nobody. The rules are those of
//! `umbel_broker::memory`, answer by answer; the conformance suite compares them. This crate must not know HTTP or wasm.

mod audit;
mod config;
mod error;
mod lock;
mod notifications;
mod readers;
mod reads;
mod rows;
mod schema;
mod templates;
mod timer;
mod workflows;
mod writer;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::broadcast;
use umbel_broker::*;
use umbel_model::{JobId, JobRecord, QueueName, TenantId, WorkerId, WorkflowId};

pub use config::{SqliteConfig, Synchronous};
use error::Fault;
use notifications::Channels;
use readers::Readers;
use timer::Timer;
use writer::{Handle, Step, Writer};

/// A broker in one file. Dropping it finishes what was asked, and waits for that.
pub struct SqliteBroker {
    // Before the writer: the last connection to close empties the write-ahead log.
    readers: Readers,
    writer: Handle,
    timer: Arc<Timer>,
    channels: Channels,
}

impl SqliteBroker {
    /// Opens or makes the file.
    ///
    /// # Errors
    /// `Refused` when another process has it, when the folder cannot be used, or when the file belongs to another
    /// program or a newer version; `Corrupt` when it is no database; `Full` when there is no room to make it.
    pub fn open(config: SqliteConfig) -> Result<Self> {
        let lock = lock::acquire(&config.path)?;
        let (conn, max_pages) = schema::open_writer(&config)?;
        schema::end_leases(&conn);
        let (timer, channels) = (Arc::new(Timer::new(config.clock)), Channels::new());
        let readers = Readers::start(&config.path)?;
        let (limits, lock) = (config.limits, Some(lock));
        let writer = Writer { conn, limits, max_pages, timer: timer.clone(), channels: channels.clone(), lock };
        Ok(Self { readers, writer: Handle::start(writer)?, timer, channels })
    }

    /// A broker that lives as long as it is held, on the real clock: for tests of others.
    pub fn in_memory() -> Result<Self> {
        Self::in_memory_with(Clock::default(), Limits::default())
    }

    /// The same on a clock and with limits of the test's choice.
    pub fn in_memory_with(clock: Clock, limits: Limits) -> Result<Self> {
        let conn = schema::open_in_memory()?;
        let (timer, channels) = (Arc::new(Timer::new(clock)), Channels::new());
        let writer =
            Writer { conn, limits, max_pages: None, timer: timer.clone(), channels: channels.clone(), lock: None };
        Ok(Self { readers: Readers::none(), writer: Handle::start(writer)?, timer, channels })
    }

    async fn write<T, F>(&self, jobs: usize, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&mut Step<'_>) -> Result<T, Fault> + Send + 'static,
    {
        self.writer.write(jobs, work).await
    }

    async fn read<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Fn(&rusqlite::Connection) -> Result<T, Fault> + Send + 'static,
    {
        self.readers.read(&self.writer, work).await
    }
}

impl fmt::Debug for SqliteBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteBroker").finish_non_exhaustive()
    }
}

#[async_trait]
impl Jobs for SqliteBroker {
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        let jobs = jobs.to_vec();
        self.write(jobs.len(), move |step| {
            step.check_room()?;
            jobs.iter().map(|job| step.submit(job)).collect()
        })
        .await
    }

    async fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>> {
        let tenant = tenant.clone();
        self.read(move |conn| reads::job(conn, &tenant, id)).await
    }

    async fn jobs(&self, query: &JobQuery) -> Result<JobPage> {
        let query = query.clone();
        self.read(move |conn| reads::page(conn, &query)).await
    }

    async fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>> {
        let tenant = tenant.clone();
        self.read(move |conn| reads::logs(conn, &tenant, id, from, max)).await
    }

    async fn cancel(&self, tenant: &TenantId, id: JobId, terminate: bool) -> Result<Cancelled> {
        let tenant = tenant.clone();
        self.write(1, move |step| step.cancel(&tenant, id, terminate, false)).await
    }

    async fn cancel_waiting(&self, tenant: &TenantId, id: JobId) -> Result<Cancelled> {
        let tenant = tenant.clone();
        self.write(1, move |step| step.cancel(&tenant, id, true, true)).await
    }

    async fn run_now(&self, tenant: &TenantId, id: JobId) -> Result<RunNow> {
        let tenant = tenant.clone();
        self.write(1, move |step| step.run_now(&tenant, id)).await
    }

    async fn forget(&self, tenant: &TenantId, id: JobId) -> Result<Forgot> {
        let tenant = tenant.clone();
        self.write(1, move |step| step.forget(&tenant, id)).await
    }
}

#[async_trait]
impl Deliveries for SqliteBroker {
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>> {
        let claim = claim.clone();
        self.write(claim.max as usize, move |step| step.claim(&claim)).await
    }

    async fn renew(&self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>> {
        let renewals = renewals.to_vec();
        self.write(renewals.len(), move |step| renewals.iter().map(|r| step.renew(lease_ms, r)).collect()).await
    }

    async fn settle(&self, settles: &[Settle], then: Option<&Claim>) -> Result<(Vec<Settled>, Vec<Delivery>)> {
        let (settles, then) = (settles.to_vec(), then.cloned());
        let grown: usize =
            settles.iter().filter_map(|s| s.growth.as_deref()).map(umbel_broker::rules::room::nodes_of).sum();
        let jobs = settles.len() + grown + then.as_ref().map_or(0, |claim| claim.max as usize);
        self.write(jobs, move |step| step.settle_all(&settles, then.as_ref())).await
    }
}

#[async_trait]
impl Workflows for SqliteBroker {
    async fn stage_workflow(&self, head: &WorkflowHead) -> Result<WorkflowSubmitted> {
        let head = head.clone();
        self.write(head.templates.len(), move |step| step.stage_workflow(&head)).await
    }

    async fn stage_nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        nodes: &[NewNode],
    ) -> Result<WorkflowSubmitted> {
        let (tenant, nodes) = (tenant.clone(), nodes.to_vec());
        self.write(nodes.len(), move |step| step.stage_nodes(&tenant, id, first, &nodes)).await
    }

    async fn start_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowSubmitted> {
        let tenant = tenant.clone();
        self.write(ADVANCE as usize, move |step| step.start_workflow(&tenant, id)).await
    }

    async fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>> {
        let tenant = tenant.clone();
        self.read(move |conn| workflows::workflow(conn, &tenant, id)).await
    }

    async fn workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage> {
        let query = query.clone();
        self.read(move |conn| workflows::page(conn, &query)).await
    }

    async fn nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
        results: Results,
    ) -> Result<NodePage> {
        let tenant = tenant.clone();
        self.read(move |conn| workflows::nodes(conn, &tenant, id, first, max, results)).await
    }

    async fn values(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeValue>> {
        let tenant = tenant.clone();
        self.read(move |conn| workflows::values(conn, &tenant, id, first, max)).await
    }

    async fn cancel_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled> {
        let tenant = tenant.clone();
        self.write(ADVANCE as usize, move |step| step.cancel_workflow(&tenant, id)).await
    }
}

#[async_trait]
impl Controls for SqliteBroker {
    async fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>> {
        let tenant = tenant.clone();
        self.read(move |conn| reads::queues(conn, &tenant)).await
    }

    async fn delete_queue(&self, tenant: &TenantId, queue: &QueueName) -> Result<QueueDeleted> {
        let (tenant, queue) = (tenant.clone(), queue.clone());
        self.write(1, move |step| Ok(step.delete_queue(&tenant, &queue))).await
    }

    async fn ready_queues(&self) -> Result<Vec<QueueName>> {
        self.read(reads::ready_queues).await
    }

    async fn set_control(&self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<ControlSet> {
        let (tenant, scope, patch) = (tenant.clone(), scope.clone(), patch.clone());
        self.write(1, move |step| step.set_control(&tenant, &scope, &patch)).await
    }

    async fn controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>> {
        let tenant = tenant.clone();
        self.read(move |conn| reads::controls(conn, &tenant)).await
    }
}

#[async_trait]
impl Registry for SqliteBroker {
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>> {
        let worker = worker.clone();
        self.write(1, move |step| step.heartbeat(&worker)).await
    }

    async fn order_worker(&self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered> {
        let (worker, order) = (worker.clone(), order.clone());
        self.write(1, move |step| step.order_worker(&worker, &order)).await
    }

    async fn forget_worker(&self, worker: &WorkerId) -> Result<()> {
        let worker = worker.clone();
        self.write(1, move |step| step.forget_worker(&worker)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let now = self.timer.now();
        self.read(move |conn| reads::workers(conn, now)).await
    }

    async fn put_document(&self, put: &PutDocument) -> Result<DocumentPut> {
        let put = put.clone();
        self.write(1, move |step| step.put_document(&put)).await
    }

    async fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Result<Option<Document>> {
        let (tenant, name) = (tenant.clone(), name.to_owned());
        self.read(move |conn| reads::document(conn, &tenant, kind, &name)).await
    }

    async fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Result<Vec<Document>> {
        let (tenant, after) = (tenant.clone(), after.map(str::to_owned));
        self.read(move |conn| reads::documents(conn, &tenant, kind, after.as_deref(), max)).await
    }
}

#[async_trait]
impl Events for SqliteBroker {
    async fn follow(&self, tenant: &TenantId) -> Result<u64> {
        let tenant = tenant.clone();
        self.write(1, move |step| step.follow(&tenant)).await
    }

    async fn events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<EventPage> {
        let (tenant, now) = (tenant.clone(), self.timer.now());
        self.read(move |conn| reads::events(conn, now, &tenant, after, max)).await
    }

    async fn signals(&self, topic: Topic) -> Result<broadcast::Receiver<Signal>> {
        Ok(self.channels.subscribe(topic))
    }
}

#[async_trait]
impl Maintenance for SqliteBroker {
    async fn promote(&self, max: u32) -> Result<Promoted> {
        self.write(max as usize, move |step| step.promote(max)).await
    }

    async fn reap(&self, max: u32) -> Result<Reaped> {
        self.write(max as usize, move |step| step.reap(max)).await
    }

    async fn prune(&self, max: u32) -> Result<u32> {
        let (deleted, mut has_keys) = self.write(max as usize, move |step| step.prune(max)).await?;
        while has_keys {
            (_, has_keys) = self.write(0, move |step| step.prune(0)).await?;
        }
        Ok(deleted)
    }

    async fn check(&self) -> Result<()> {
        self.read(reads::check).await
    }

    async fn audit(&self, fix: bool) -> Result<Vec<Finding>> {
        let found = self.read(audit::findings).await?;
        if !fix || found.is_empty() {
            return Ok(found);
        }
        // As much as there is in a group: nothing else is to wait behind it in the same one.
        self.write(usize::MAX / 2, |step| step.repair()).await
    }
}
