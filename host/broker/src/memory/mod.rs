//! The rules of a broker as an in-memory model: what the real ones are compared with, and what other crates' tests
//! run on. Nothing survives the process. Clarity before speed.

mod arrivals;
mod audit;
mod claims;
mod dead_set;
mod deliveries;
mod events;
mod growth;
mod inspect;
mod lookup;
mod maintenance;
mod records;
mod registry;
mod requests;
mod state;
mod uniqueness;
mod workflows;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::broadcast;
use umbel_model::{JobId, JobRecord, QueueName, TenantId, UnixMs, WorkerId, WorkflowId};

use crate::*;
use state::State;

pub use crate::rules::lease::max_deliveries_message;
pub use inspect::Limited;

/// Hints that a slow receiver may fall behind before it is told to look for itself.
const SIGNALS: usize = 1_024;

/// A broker in memory.
#[derive(Debug)]
pub struct MemoryBroker {
    clock: Clock,
    state: Mutex<State>,
    work: broadcast::Sender<Signal>,
    done: broadcast::Sender<Signal>,
    cancel: broadcast::Sender<Signal>,
}

impl MemoryBroker {
    pub fn new(clock: Clock, limits: Limits) -> Self {
        let sender = || broadcast::channel(SIGNALS).0;
        Self { clock, state: Mutex::new(State::new(limits)), work: sender(), done: sender(), cancel: sender() }
    }

    fn now(&self) -> UnixMs {
        self.clock.fixed_now().unwrap_or_else(|| {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |d| d.as_millis() as UnixMs)
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.now = self.now();
        state.scheduler.now = state.now;
        state
    }

    /// Sends what the step wants told. No receiver is not an error: hints are for whoever listens.
    fn notify(&self, mut state: MutexGuard<'_, State>) {
        let (ready, ended) = (std::mem::take(&mut state.scheduler.ready_in), std::mem::take(&mut state.ended));
        let to_stop = std::mem::take(&mut state.to_stop);
        state.scheduler.keep();
        drop(state);
        if !to_stop.is_empty() {
            let _ = self.cancel.send(Signal::Cancel(to_stop.into()));
        }
        if !ready.is_empty() {
            let queues: Vec<QueueName> = ready.into_iter().collect();
            let _ = self.work.send(Signal::Work(queues.into()));
        }
        if !ended.is_empty() {
            let _ = self.done.send(Signal::Done(ended.into()));
        }
    }
}

#[async_trait]
impl Jobs for MemoryBroker {
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        let now = self.now();
        let mut state = self.state();
        let answers = jobs.iter().map(|job| state.submit(now, job)).collect();
        self.notify(state);
        Ok(answers)
    }

    async fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>> {
        Ok(self.state().job(tenant, id))
    }

    async fn jobs(&self, query: &JobQuery) -> Result<JobPage> {
        Ok(self.state().page(query))
    }

    async fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>> {
        Ok(self.state().logs(tenant, id, from, max))
    }

    async fn cancel(&self, tenant: &TenantId, id: JobId, terminate: bool) -> Result<Cancelled> {
        let mut state = self.state();
        let answer = state.cancel(self.now(), tenant, id, terminate);
        self.notify(state);
        Ok(answer)
    }

    async fn cancel_waiting(&self, tenant: &TenantId, id: JobId) -> Result<Cancelled> {
        let mut state = self.state();
        let answer = state.cancel_waiting(self.now(), tenant, id);
        self.notify(state);
        Ok(answer)
    }

    async fn run_now(&self, tenant: &TenantId, id: JobId) -> Result<RunNow> {
        let mut state = self.state();
        let answer = state.run_now(self.now(), tenant, id);
        self.notify(state);
        Ok(answer)
    }

    async fn forget(&self, tenant: &TenantId, id: JobId) -> Result<Forgot> {
        let now = self.now();
        Ok(self.state().forget(now, tenant, id))
    }
}

#[async_trait]
impl Deliveries for MemoryBroker {
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>> {
        let mut state = self.state();
        let deliveries = state.claim(self.now(), claim);
        self.notify(state);
        Ok(deliveries)
    }

    async fn renew(&self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>> {
        let now = self.now();
        let mut state = self.state();
        Ok(renewals.iter().map(|renewal| state.renew(now, lease_ms, renewal)).collect())
    }

    async fn settle(&self, settles: &[Settle], then: Option<&Claim>) -> Result<(Vec<Settled>, Vec<Delivery>)> {
        let now = self.now();
        let mut state = self.state();
        let answers = state.settle_all(now, settles, then);
        self.notify(state);
        Ok(answers)
    }
}

#[async_trait]
impl Workflows for MemoryBroker {
    async fn stage_workflow(&self, head: &WorkflowHead) -> Result<WorkflowSubmitted> {
        Ok(self.state().stage_workflow(self.now(), head))
    }

    async fn stage_nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        nodes: &[NewNode],
    ) -> Result<WorkflowSubmitted> {
        Ok(self.state().stage_nodes(self.now(), &(tenant.clone(), id), first, nodes))
    }

    async fn start_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowSubmitted> {
        let mut state = self.state();
        let answer = state.start_workflow(self.now(), &(tenant.clone(), id));
        self.notify(state);
        Ok(answer)
    }

    async fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>> {
        Ok(self.state().workflow(&(tenant.clone(), id)))
    }

    async fn workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage> {
        Ok(self.state().workflow_page(query))
    }

    async fn nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
        results: Results,
    ) -> Result<NodePage> {
        Ok(self.state().nodes(tenant, id, first..first.saturating_add(max.min(MAX_NODES_A_CALL)), results))
    }

    async fn values(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeValue>> {
        Ok(self.state().values(tenant, id, first, max))
    }

    async fn cancel_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled> {
        let mut state = self.state();
        let answer = state.cancel_workflow(self.now(), &(tenant.clone(), id));
        self.notify(state);
        Ok(answer)
    }
}

#[async_trait]
impl Controls for MemoryBroker {
    async fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>> {
        Ok(self.state().queues(tenant))
    }

    async fn delete_queue(&self, tenant: &TenantId, queue: &QueueName) -> Result<QueueDeleted> {
        let mut state = self.state();
        let answer = state.scheduler.delete_queue(tenant, queue);
        self.notify(state);
        Ok(answer)
    }

    async fn ready_queues(&self) -> Result<Vec<QueueName>> {
        Ok(self.state().ready_queues())
    }

    async fn set_control(&self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<ControlSet> {
        let mut state = self.state();
        let answer = state.set_control(tenant, scope, patch);
        self.notify(state);
        Ok(answer)
    }

    async fn controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>> {
        Ok(self.state().scheduler.controls.of_tenant(tenant))
    }
}

#[async_trait]
impl Registry for MemoryBroker {
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>> {
        let now = self.now();
        Ok(self.state().heartbeat(now, worker))
    }

    async fn order_worker(&self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered> {
        let now = self.now();
        Ok(self.state().order_worker(now, worker, order))
    }

    async fn forget_worker(&self, worker: &WorkerId) -> Result<()> {
        self.state().forget_worker(worker);
        Ok(())
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let now = self.now();
        Ok(self.state().workers(now))
    }

    async fn put_document(&self, put: &PutDocument) -> Result<DocumentPut> {
        Ok(self.state().put_document(put))
    }

    async fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Result<Option<Document>> {
        Ok(self.state().document(tenant, kind, name))
    }

    async fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Result<Vec<Document>> {
        Ok(self.state().documents(tenant, kind, after, max))
    }
}

#[async_trait]
impl Events for MemoryBroker {
    async fn follow(&self, tenant: &TenantId) -> Result<u64> {
        let now = self.now();
        Ok(self.state().follow(now, tenant))
    }

    async fn events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<EventPage> {
        let now = self.now();
        Ok(self.state().events(now, tenant, after, max))
    }

    async fn signals(&self, topic: Topic) -> Result<broadcast::Receiver<Signal>> {
        Ok(match topic {
            Topic::Work => self.work.subscribe(),
            Topic::Done => self.done.subscribe(),
            Topic::Cancel => self.cancel.subscribe(),
        })
    }
}

#[async_trait]
impl Maintenance for MemoryBroker {
    async fn promote(&self, max: u32) -> Result<Promoted> {
        let mut state = self.state();
        let promoted = state.promote(self.now(), max);
        self.notify(state);
        Ok(promoted)
    }

    async fn reap(&self, max: u32) -> Result<Reaped> {
        let mut state = self.state();
        let reaped = state.reap(self.now(), max);
        self.notify(state);
        Ok(reaped)
    }

    async fn prune(&self, max: u32) -> Result<u32> {
        Ok(self.state().prune(self.now(), max))
    }

    async fn hold_service(&self, service: &str, process: &str, ttl_ms: u64) -> Result<Option<u64>> {
        let now = self.now();
        Ok(self.state().hold_service(now, service, process, ttl_ms))
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn audit(&self, _: bool) -> Result<Vec<Finding>> {
        Ok(self.state().audit())
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new(Clock::Server, Limits::default())
    }
}

/// A broker in memory behind the trait, on the real clock.
pub fn shared() -> Arc<dyn Broker> {
    Arc::new(MemoryBroker::default())
}
