//! The rules of a broker as an in-memory model: what the real ones are compared with, and what other crates' tests
//! run on. Nothing survives the process. Clarity before speed.

mod arrivals;
mod canvas;
mod growth;
mod lookup;
mod registry;
mod state;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::broadcast;
use umbel_model::{JobId, JobRecord, QueueName, TenantId, UnixMs, WorkerId, WorkflowId};

use crate::{types::*, *};
use state::State;

pub use state::max_deliveries_message;

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
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what the step wants told. No receiver is not an error: hints are for whoever listens.
    fn tell(&self, mut state: MutexGuard<'_, State>) {
        let (ready, ended) = (std::mem::take(&mut state.ready_in), std::mem::take(&mut state.ended));
        let to_stop = std::mem::take(&mut state.to_stop);
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
impl Broker for MemoryBroker {
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        let now = self.now();
        let mut state = self.state();
        let answers = jobs.iter().map(|job| state.submit(now, job)).collect();
        self.tell(state);
        Ok(answers)
    }

    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>> {
        let mut state = self.state();
        let deliveries = state.claim(self.now(), claim);
        self.tell(state);
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
        self.tell(state);
        Ok(answers)
    }

    async fn promote(&self, max: u32) -> Result<Promoted> {
        let mut state = self.state();
        let promoted = state.promote(self.now(), max);
        self.tell(state);
        Ok(promoted)
    }

    async fn reap(&self, max: u32) -> Result<Reaped> {
        let mut state = self.state();
        let reaped = state.reap(self.now(), max);
        self.tell(state);
        Ok(reaped)
    }

    async fn prune(&self, max: u32) -> Result<u32> {
        Ok(self.state().prune(self.now(), max))
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

    async fn cancel(&self, tenant: &TenantId, id: JobId) -> Result<Cancelled> {
        let mut state = self.state();
        let answer = state.cancel(self.now(), tenant, id);
        self.tell(state);
        if answer == Cancelled::Requested {
            let _ = self.cancel.send(Signal::Cancel([id].into()));
        }
        Ok(answer)
    }

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
        self.tell(state);
        Ok(answer)
    }

    async fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>> {
        Ok(self.state().workflow(&(tenant.clone(), id)))
    }

    async fn workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage> {
        Ok(self.state().workflow_page(query))
    }

    async fn nodes(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeRecord>> {
        Ok(self.state().nodes(tenant, id, first, max))
    }

    async fn values(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeValue>> {
        Ok(self.state().values(tenant, id, first, max))
    }

    async fn cancel_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled> {
        let mut state = self.state();
        let answer = state.cancel_workflow(self.now(), &(tenant.clone(), id));
        self.tell(state);
        Ok(answer)
    }

    async fn run_now(&self, tenant: &TenantId, id: JobId) -> Result<RunNow> {
        let mut state = self.state();
        let answer = state.run_now(self.now(), tenant, id);
        self.tell(state);
        Ok(answer)
    }

    async fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>> {
        Ok(self.state().queues(tenant))
    }

    async fn ready_queues(&self) -> Result<Vec<QueueName>> {
        Ok(self.state().ready_queues())
    }

    async fn set_paused(&self, tenant: &TenantId, queue: &QueueName, paused: bool) -> Result<bool> {
        let mut state = self.state();
        let known = state.set_paused(tenant, queue, paused);
        self.tell(state);
        Ok(known)
    }

    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<()> {
        let now = self.now();
        self.state().heartbeat(now, worker);
        Ok(())
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

    async fn signals(&self, topic: Topic) -> Result<broadcast::Receiver<Signal>> {
        Ok(match topic {
            Topic::Work => self.work.subscribe(),
            Topic::Done => self.done.subscribe(),
            Topic::Cancel => self.cancel.subscribe(),
        })
    }

    async fn check(&self) -> Result<()> {
        Ok(())
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
