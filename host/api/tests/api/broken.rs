//! A broker that fails when it is told to.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use tokio::sync::broadcast;
use umbel_broker::*;
use umbel_broker_conformance::MemoryBroker;
use umbel_model::{
    BucketName, Digest, JobId, JobRecord, KvKey, QueueName, ScheduleName, TenantId, WorkerId, WorkflowId,
};

/// An in-memory broker that answers `error` instead, while there is one.
#[derive(Debug, Default)]
pub struct Broken {
    inner: MemoryBroker,
    pub error: Mutex<Option<Error>>,
    /// Bytes of the specs of each submission.
    pub submitted_bytes: Mutex<Vec<usize>>,
    /// Fail as soon as a submission was stored.
    pub fail_after_submit: Mutex<Option<Error>>,
    /// Do the next step of a schedule, and answer as one does that was done and is repeated.
    pub lose_step: AtomicBool,
    /// Lists of jobs that are read now, and the most that were read at once.
    pub lists: Mutex<(usize, usize)>,
}

impl Broken {
    pub fn shared() -> Arc<Self> {
        Arc::default()
    }

    pub fn fail(&self, error: Error) {
        *self.error.lock().unwrap() = Some(error);
    }

    pub fn heal(&self) {
        *self.error.lock().unwrap() = None;
    }

    fn check(&self) -> Result<()> {
        self.error.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Jobs for Broken {
    async fn submit(&self, jobs: &[NewJob]) -> Result<Vec<Submitted>> {
        self.check()?;
        self.submitted_bytes.lock().unwrap().push(jobs.iter().map(|job| job.spec.len()).sum());
        let answers = self.inner.submit(jobs).await?;
        if let Some(error) = self.fail_after_submit.lock().unwrap().take() {
            self.fail(error);
        }
        Ok(answers)
    }

    async fn job(&self, tenant: &TenantId, id: JobId) -> Result<Option<JobRecord>> {
        self.check()?;
        self.inner.job(tenant, id).await
    }

    async fn jobs(&self, query: &JobQuery) -> Result<JobPage> {
        self.check()?;
        {
            let mut lists = self.lists.lock().unwrap();
            lists.0 += 1;
            lists.1 = lists.1.max(lists.0);
        }
        // Others come in between.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        self.lists.lock().unwrap().0 -= 1;
        self.inner.jobs(query).await
    }

    async fn logs(&self, tenant: &TenantId, id: JobId, from: u64, max: u32) -> Result<Vec<LogLine>> {
        self.check()?;
        self.inner.logs(tenant, id, from, max).await
    }

    async fn act(&self, tenant: &TenantId, action: JobAction, ids: &[JobId]) -> Result<Vec<JobActed>> {
        self.check()?;
        self.inner.act(tenant, action, ids).await
    }
}

#[async_trait]
impl Deliveries for Broken {
    async fn claim(&self, claim: &Claim) -> Result<Vec<Delivery>> {
        self.check()?;
        self.inner.claim(claim).await
    }

    async fn renew(&self, lease_ms: u64, renewals: &[Renewal]) -> Result<Vec<LeaseState>> {
        self.check()?;
        self.inner.renew(lease_ms, renewals).await
    }

    async fn settle(&self, settles: &[Settle], then: Option<&Claim>) -> Result<(Vec<Settled>, Vec<Delivery>)> {
        self.check()?;
        self.inner.settle(settles, then).await
    }
}

#[async_trait]
impl Workflows for Broken {
    async fn stage_workflow(&self, head: &WorkflowHead) -> Result<WorkflowSubmitted> {
        self.check()?;
        self.inner.stage_workflow(head).await
    }

    async fn stage_nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        nodes: &[NewNode],
    ) -> Result<WorkflowSubmitted> {
        self.check()?;
        self.inner.stage_nodes(tenant, id, first, nodes).await
    }

    async fn start_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowSubmitted> {
        self.check()?;
        let answer = self.inner.start_workflow(tenant, id).await?;
        if let Some(error) = self.fail_after_submit.lock().unwrap().take() {
            self.fail(error);
        }
        Ok(answer)
    }

    async fn workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<Option<WorkflowRecord>> {
        self.check()?;
        self.inner.workflow(tenant, id).await
    }

    async fn workflows(&self, query: &WorkflowQuery) -> Result<WorkflowPage> {
        self.check()?;
        self.inner.workflows(query).await
    }

    async fn nodes(
        &self,
        tenant: &TenantId,
        id: WorkflowId,
        first: u32,
        max: u32,
        results: Results,
    ) -> Result<NodePage> {
        self.check()?;
        self.inner.nodes(tenant, id, first, max, results).await
    }

    async fn values(&self, tenant: &TenantId, id: WorkflowId, first: u32, max: u32) -> Result<Vec<NodeValue>> {
        self.check()?;
        self.inner.values(tenant, id, first, max).await
    }

    async fn cancel_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowCancelled> {
        self.check()?;
        self.inner.cancel_workflow(tenant, id).await
    }

    async fn forget_workflow(&self, tenant: &TenantId, id: WorkflowId) -> Result<WorkflowForgot> {
        self.check()?;
        self.inner.forget_workflow(tenant, id).await
    }
}

#[async_trait]
impl Controls for Broken {
    async fn queues(&self, tenant: &TenantId) -> Result<Vec<QueueStats>> {
        self.check()?;
        self.inner.queues(tenant).await
    }

    async fn oldest_ready(&self, tenant: &TenantId) -> Result<Vec<(QueueName, u64)>> {
        self.check()?;
        self.inner.oldest_ready(tenant).await
    }

    async fn delete_queue(&self, tenant: &TenantId, queue: &QueueName) -> Result<QueueDeleted> {
        self.check()?;
        self.inner.delete_queue(tenant, queue).await
    }

    async fn ready_queues(&self) -> Result<Vec<QueueName>> {
        self.check()?;
        self.inner.ready_queues().await
    }

    async fn set_control(&self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> Result<ControlSet> {
        self.check()?;
        self.inner.set_control(tenant, scope, patch).await
    }

    async fn controls(&self, tenant: &TenantId) -> Result<Vec<(Scope, Control)>> {
        self.check()?;
        self.inner.controls(tenant).await
    }

    async fn stored_bytes(&self, tenant: &TenantId) -> Result<StoredBytes> {
        self.check()?;
        self.inner.stored_bytes(tenant).await
    }

    async fn storage_limits(&self, tenant: &TenantId) -> Result<StorageLimits> {
        self.check()?;
        self.inner.storage_limits(tenant).await
    }

    async fn set_storage_limits(&self, tenant: &TenantId, limits: StorageLimits) -> Result<()> {
        self.check()?;
        self.inner.set_storage_limits(tenant, limits).await
    }

    fn default_storage_limits(&self) -> StorageLimits {
        self.inner.default_storage_limits()
    }
}

#[async_trait]
impl Registry for Broken {
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>> {
        self.check()?;
        self.inner.heartbeat(worker).await
    }

    async fn order_worker(&self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered> {
        self.check()?;
        self.inner.order_worker(worker, order).await
    }

    async fn forget_worker(&self, worker: &WorkerId) -> Result<()> {
        self.check()?;
        self.inner.forget_worker(worker).await
    }

    async fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.check()?;
        self.inner.workers().await
    }

    async fn put_document(&self, put: &PutDocument) -> Result<DocumentPut> {
        self.check()?;
        self.inner.put_document(put).await
    }

    async fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Result<Option<Document>> {
        self.check()?;
        self.inner.document(tenant, kind, name).await
    }

    async fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Result<DocumentPage> {
        self.check()?;
        self.inner.documents(tenant, kind, after, max).await
    }

    async fn document_tenants(&self, kind: DocumentKind) -> Result<Vec<TenantId>> {
        self.check()?;
        self.inner.document_tenants(kind).await
    }
}

#[async_trait]
impl KeyValues for Broken {
    async fn kv_get(&self, tenant: &TenantId, bucket: &BucketName, keys: &[KvKey]) -> Result<Vec<Option<KvEntry>>> {
        self.check()?;
        self.inner.kv_get(tenant, bucket, keys).await
    }

    async fn kv_write(&self, write: &KvWrite) -> Result<KvWritten> {
        self.check()?;
        self.inner.kv_write(write).await
    }

    async fn kv_list(&self, query: &KvQuery) -> Result<KvPage> {
        self.check()?;
        self.inner.kv_list(query).await
    }

    async fn kv_buckets(&self, tenant: &TenantId) -> Result<Vec<KvBucket>> {
        self.check()?;
        self.inner.kv_buckets(tenant).await
    }

    async fn kv_delete_bucket(&self, tenant: &TenantId, bucket: &BucketName, max: u32) -> Result<KvBucketDeleted> {
        self.check()?;
        self.inner.kv_delete_bucket(tenant, bucket, max).await
    }
}

#[async_trait]
impl UsageSums for Broken {
    async fn usage(&self, query: &UsageQuery) -> Result<UsagePage> {
        self.check()?;
        self.inner.usage(query).await
    }
}

#[async_trait]
impl Blobs for Broken {
    async fn put_blob(&self, put: &PutBlob) -> Result<BlobPut> {
        self.check()?;
        self.inner.put_blob(put).await
    }

    async fn blob(&self, tenant: &TenantId, digest: Digest) -> Result<Option<BlobRecord>> {
        self.check()?;
        self.inner.blob(tenant, digest).await
    }

    async fn blobs(&self, tenant: &TenantId, after: Option<&Digest>, max: u32) -> Result<BlobPage> {
        self.check()?;
        self.inner.blobs(tenant, after, max).await
    }

    async fn delete_blob(&self, tenant: &TenantId, digest: Digest) -> Result<BlobDeleted> {
        self.check()?;
        self.inner.delete_blob(tenant, digest).await
    }

    async fn collect_blobs(&self, retention_ms: u64, max: u32) -> Result<Vec<BlobGone>> {
        self.check()?;
        self.inner.collect_blobs(retention_ms, max).await
    }
}

#[async_trait]
impl Schedules for Broken {
    async fn schedule_steps(&self, steps: &[ScheduleStep]) -> Result<Vec<ScheduleStepped>> {
        self.check()?;
        let done = self.inner.schedule_steps(steps).await?;
        if self.lose_step.swap(false, Ordering::SeqCst) {
            return self.inner.schedule_steps(steps).await;
        }
        Ok(done)
    }

    async fn schedule(&self, tenant: &TenantId, name: &ScheduleName) -> Result<Option<ScheduleRecord>> {
        self.check()?;
        self.inner.schedule(tenant, name).await
    }

    async fn schedules(&self, query: &ScheduleQuery) -> Result<SchedulePage> {
        self.check()?;
        self.inner.schedules(query).await
    }

    async fn due_schedules(&self, max: u32) -> Result<DueSchedules> {
        self.check()?;
        self.inner.due_schedules(max).await
    }

    async fn fires(&self, tenant: &TenantId, name: &ScheduleName, before: Option<u64>, max: u32) -> Result<Vec<Fire>> {
        self.check()?;
        self.inner.fires(tenant, name, before, max).await
    }
}

#[async_trait]
impl Events for Broken {
    async fn follow(&self, tenant: &TenantId) -> Result<u64> {
        self.check()?;
        self.inner.follow(tenant).await
    }

    async fn events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<EventPage> {
        self.check()?;
        self.inner.events(tenant, after, max).await
    }

    async fn signals(&self, topic: Topic) -> Result<broadcast::Receiver<Signal>> {
        self.inner.signals(topic).await
    }
}

#[async_trait]
impl Maintenance for Broken {
    async fn promote(&self, max: u32) -> Result<Promoted> {
        self.check()?;
        self.inner.promote(max).await
    }

    async fn reap(&self, max: u32) -> Result<Reaped> {
        self.check()?;
        self.inner.reap(max).await
    }

    async fn prune(&self, max: u32) -> Result<u32> {
        self.check()?;
        self.inner.prune(max).await
    }

    async fn is_away(&self, within: std::time::Duration) -> bool {
        self.inner.is_away(within).await
    }

    async fn check(&self) -> Result<()> {
        self.check()
    }

    async fn audit(&self, fix: bool) -> Result<Vec<Finding>> {
        self.check()?;
        self.inner.audit(fix).await
    }
}
