//! A broker that can be made to fail, in front of the model.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

use async_trait::async_trait;
use tokio::sync::{broadcast, watch};
use umbel_broker::*;
use umbel_broker_conformance::MemoryBroker;
use umbel_model::{BucketName, Digest, JobId, JobRecord, KvKey, QueueName, ScheduleName, TenantId, WorkerId};

/// Fails as many calls as it was told to, each after the real broker did nothing.
#[derive(Debug)]
pub struct Flaky {
    inner: MemoryBroker,
    pub failing_settles: AtomicU32,
    pub failing_renewals: AtomicU32,
    /// Reads and writes of key-value entries.
    pub failing_kv: AtomicU32,
    pub renewals: AtomicU32,
    /// It serves nobody, and how often it was asked.
    pub is_away: AtomicBool,
    pub asked_away: AtomicU32,
    /// Calls with a claim, alone or with settles.
    pub claims: AtomicU32,
    /// A settle that contains this job fails for another reason than reach.
    pub poison: Mutex<Option<JobId>>,
    /// A renewal that contains this job does.
    pub poison_renewal: Mutex<Option<JobId>>,
    /// Settles that come with a claim do.
    pub no_settle_with_claim: AtomicBool,
    /// Claims do, whatever comes with them.
    pub no_claims: AtomicBool,
    /// Answers to claims wait while this is set.
    pub late_claims: watch::Sender<bool>,
    pub heartbeats: AtomicU32,
    /// Each after the real broker did what it should.
    pub lost_heartbeats: AtomicU32,
    /// Nobody hears of cancels by a hint.
    pub deaf: AtomicBool,
    silence: broadcast::Sender<Signal>,
}

impl Flaky {
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryBroker::new(clock, Limits::default()),
            failing_settles: AtomicU32::new(0),
            failing_renewals: AtomicU32::new(0),
            failing_kv: AtomicU32::new(0),
            renewals: AtomicU32::new(0),
            is_away: AtomicBool::new(false),
            asked_away: AtomicU32::new(0),
            claims: AtomicU32::new(0),
            poison: Mutex::new(None),
            poison_renewal: Mutex::new(None),
            no_settle_with_claim: AtomicBool::new(false),
            no_claims: AtomicBool::new(false),
            late_claims: watch::channel(false).0,
            heartbeats: AtomicU32::new(0),
            lost_heartbeats: AtomicU32::new(0),
            deaf: AtomicBool::new(false),
            silence: broadcast::channel(1).0,
        })
    }
}

fn fails(left: &AtomicU32) -> Result<()> {
    match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
        Ok(_) => Err(Error::Unavailable("as the test wants".into())),
        Err(_) => Ok(()),
    }
}

#[async_trait]
impl Jobs for Flaky {
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        self.inner.submit(jobs).await
    }

    async fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>> {
        self.inner.job(tenant, id).await
    }

    async fn jobs(&self, query: &JobQuery) -> Result<JobPage> {
        self.inner.jobs(query).await
    }

    async fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>> {
        self.inner.logs(tenant, id, from, max).await
    }

    async fn act(&self, tenant: &TenantId, action: JobAction, ids: &[JobId]) -> Result<Vec<JobActed>> {
        self.inner.act(tenant, action, ids).await
    }
}

#[async_trait]
impl Deliveries for Flaky {
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        if self.no_claims.load(Ordering::SeqCst) {
            return Err(Error::Corrupt("as the test wants".into()));
        }
        let answer = self.inner.claim(claim).await;
        let _ = self.late_claims.subscribe().wait_for(|late| !late).await;
        answer
    }

    async fn renew(&self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>> {
        fails(&self.failing_renewals)?;
        self.renewals.fetch_add(1, Ordering::SeqCst);
        let poison = *self.poison_renewal.lock().unwrap();
        if renewals.iter().any(|renewal| Some(renewal.id) == poison) {
            return Err(Error::Corrupt("as the test wants".into()));
        }
        self.inner.renew(lease_ms, renewals).await
    }

    async fn settle(&self, settles: &[Settle], then: Option<&Claim>) -> Result<(Vec<Settled>, Vec<Delivery>)> {
        self.claims.fetch_add(u32::from(then.is_some()), Ordering::SeqCst);
        if !settles.is_empty() {
            fails(&self.failing_settles)?;
        }
        let unwanted = self.no_claims.load(Ordering::SeqCst)
            || (!settles.is_empty() && self.no_settle_with_claim.load(Ordering::SeqCst));
        if then.is_some() && unwanted {
            return Err(Error::Failed("as the test wants".into()));
        }
        let poison = *self.poison.lock().unwrap();
        if settles.iter().any(|settle| Some(settle.id) == poison) {
            return Err(Error::Failed("as the test wants".into()));
        }
        self.inner.settle(settles, then).await
    }
}

#[async_trait]
impl Workflows for Flaky {
    async fn stage_workflow(&self, head: &WorkflowHead) -> Result<WorkflowSubmitted> {
        self.inner.stage_workflow(head).await
    }

    async fn stage_nodes(&self, t: &TenantId, id: JobId, first: u32, nodes: &[NewNode]) -> Result<WorkflowSubmitted> {
        self.inner.stage_nodes(t, id, first, nodes).await
    }

    async fn start_workflow(&self, tenant: &TenantId, id: JobId) -> Result<WorkflowSubmitted> {
        self.inner.start_workflow(tenant, id).await
    }

    async fn workflow(&self, tenant: &TenantId, id: JobId) -> Result<Option<WorkflowRecord>> {
        self.inner.workflow(tenant, id).await
    }

    async fn workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage> {
        self.inner.workflows(query).await
    }

    async fn nodes(&self, tenant: &TenantId, id: JobId, first: u32, max: u32, results: Results) -> Result<NodePage> {
        self.inner.nodes(tenant, id, first, max, results).await
    }

    async fn values(&self, tenant: &TenantId, id: JobId, first: u32, max: u32) -> Result<Vec<NodeValue>> {
        self.inner.values(tenant, id, first, max).await
    }

    async fn cancel_workflow(&self, tenant: &TenantId, id: JobId) -> Result<WorkflowCancelled> {
        self.inner.cancel_workflow(tenant, id).await
    }

    async fn forget_workflow(&self, tenant: &TenantId, id: JobId) -> Result<WorkflowForgot> {
        self.inner.forget_workflow(tenant, id).await
    }
}

#[async_trait]
impl Controls for Flaky {
    async fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>> {
        self.inner.queues(tenant).await
    }

    async fn oldest_ready(&self, tenant: &TenantId) -> Result<Vec<(QueueName, u64)>> {
        self.inner.oldest_ready(tenant).await
    }

    async fn delete_queue(&self, tenant: &TenantId, queue: &QueueName) -> Result<QueueDeleted> {
        self.inner.delete_queue(tenant, queue).await
    }

    async fn ready_queues(&self) -> Result<Vec<QueueName>> {
        self.inner.ready_queues().await
    }

    async fn set_control(&self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<ControlSet> {
        self.inner.set_control(tenant, scope, patch).await
    }

    async fn controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>> {
        self.inner.controls(tenant).await
    }

    async fn stored_bytes(&self, tenant: &TenantId) -> Result<StoredBytes> {
        self.inner.stored_bytes(tenant).await
    }

    async fn storage_limits(&self, tenant: &TenantId) -> Result<StorageLimits> {
        self.inner.storage_limits(tenant).await
    }

    async fn set_storage_limits(&self, tenant: &TenantId, limits: StorageLimits) -> Result<()> {
        self.inner.set_storage_limits(tenant, limits).await
    }

    fn default_storage_limits(&self) -> StorageLimits {
        self.inner.default_storage_limits()
    }
}

#[async_trait]
impl Registry for Flaky {
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>> {
        let answer = self.inner.heartbeat(worker).await;
        self.heartbeats.fetch_add(1, Ordering::SeqCst);
        fails(&self.lost_heartbeats)?;
        answer
    }

    async fn order_worker(&self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered> {
        self.inner.order_worker(worker, order).await
    }

    async fn forget_worker(&self, worker: &WorkerId) -> Result<()> {
        self.inner.forget_worker(worker).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.inner.workers().await
    }

    async fn put_document(&self, put: &PutDocument) -> Result<DocumentPut> {
        self.inner.put_document(put).await
    }

    async fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Result<Option<Document>> {
        self.inner.document(tenant, kind, name).await
    }

    async fn documents(&self, t: &TenantId, k: DocumentKind, after: Option<&str>, max: u32) -> Result<DocumentPage> {
        self.inner.documents(t, k, after, max).await
    }

    async fn document_tenants(&self, kind: DocumentKind) -> Result<Vec<TenantId>> {
        self.inner.document_tenants(kind).await
    }
}

#[async_trait]
impl KeyValues for Flaky {
    async fn kv_get(&self, tenant: &TenantId, bucket: &BucketName, keys: &[KvKey]) -> Result<Vec<Option<KvEntry>>> {
        fails(&self.failing_kv)?;
        self.inner.kv_get(tenant, bucket, keys).await
    }

    async fn kv_write(&self, write: &KvWrite) -> Result<KvWritten> {
        fails(&self.failing_kv)?;
        self.inner.kv_write(write).await
    }

    async fn kv_list(&self, query: &KvQuery) -> Result<KvPage> {
        fails(&self.failing_kv)?;
        self.inner.kv_list(query).await
    }

    async fn kv_buckets(&self, tenant: &TenantId) -> Result<Vec<KvBucket>> {
        fails(&self.failing_kv)?;
        self.inner.kv_buckets(tenant).await
    }

    async fn kv_delete_bucket(&self, tenant: &TenantId, bucket: &BucketName, max: u32) -> Result<KvBucketDeleted> {
        fails(&self.failing_kv)?;
        self.inner.kv_delete_bucket(tenant, bucket, max).await
    }
}

#[async_trait]
impl UsageSums for Flaky {
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage> {
        self.inner.usage(query).await
    }
}

#[async_trait]
impl Blobs for Flaky {
    async fn put_blob(&self, put: &PutBlob) -> Result<BlobPut> {
        self.inner.put_blob(put).await
    }

    async fn blob(&self, tenant: &TenantId, digest: Digest) -> Result<Option<BlobRecord>> {
        self.inner.blob(tenant, digest).await
    }

    async fn blobs(&self, tenant: &TenantId, after: Option<&Digest>, max: u32) -> Result<BlobPage> {
        self.inner.blobs(tenant, after, max).await
    }

    async fn delete_blob(&self, tenant: &TenantId, digest: Digest) -> Result<BlobDeleted> {
        self.inner.delete_blob(tenant, digest).await
    }

    async fn collect_blobs(&self, retention_ms: u64, max: u32) -> Result<Vec<BlobGone>> {
        self.inner.collect_blobs(retention_ms, max).await
    }
}

#[async_trait]
impl Schedules for Flaky {
    async fn schedule_steps(&self, steps: &[ScheduleStep]) -> Result<Vec<ScheduleStepped>> {
        self.inner.schedule_steps(steps).await
    }

    async fn schedule(&self, tenant: &TenantId, name: &ScheduleName) -> Result<Option<ScheduleRecord>> {
        self.inner.schedule(tenant, name).await
    }

    async fn schedules(&self, query: &ScheduleQuery) -> Result<SchedulePage> {
        self.inner.schedules(query).await
    }

    async fn due_schedules(&self, max: u32) -> Result<DueSchedules> {
        self.inner.due_schedules(max).await
    }

    async fn fires(&self, tenant: &TenantId, name: &ScheduleName, before: Option<u64>, max: u32) -> Result<Vec<Fire>> {
        self.inner.fires(tenant, name, before, max).await
    }
}

#[async_trait]
impl Events for Flaky {
    async fn follow(&self, tenant: &TenantId) -> Result<u64> {
        self.inner.follow(tenant).await
    }

    async fn events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<umbel_broker::EventPage> {
        self.inner.events(tenant, after, max).await
    }

    async fn signals(&self, topic: Topic) -> Result<broadcast::Receiver<Signal>> {
        if topic == Topic::Cancel && self.deaf.load(Ordering::SeqCst) {
            return Ok(self.silence.subscribe());
        }
        self.inner.signals(topic).await
    }
}

#[async_trait]
impl Maintenance for Flaky {
    async fn promote(&self, max: u32) -> Result<Promoted> {
        self.inner.promote(max).await
    }

    async fn reap(&self, max: u32) -> Result<Reaped> {
        self.inner.reap(max).await
    }

    async fn prune(&self, max: u32) -> Result<u32> {
        self.inner.prune(max).await
    }

    async fn is_away(&self, _: std::time::Duration) -> bool {
        self.asked_away.fetch_add(1, Ordering::SeqCst);
        self.is_away.load(Ordering::SeqCst)
    }

    async fn check(&self) -> Result<()> {
        self.inner.check().await
    }

    async fn audit(&self, fix: bool) -> Result<Vec<Finding>> {
        self.inner.audit(fix).await
    }
}
