//! One step of a history on one broker.

use umbel_model::{BucketName, KvKey};

use super::{schedules::looked_at, steps::Parts, *};

/// A step with all that it names: the same for the model and for the broker.
#[derive(Debug, Clone)]
pub(super) enum Doing {
    Nothing,
    /// `again`: twice.
    Submit(Vec<NewJob>, bool),
    /// `lost`: nobody hears what was claimed.
    Claim(Claim, bool),
    Renew(Renewal),
    /// With a second claim, the whole call is made again with that.
    Settle(Vec<Settle>, Option<Claim>, Option<Claim>),
    Promote(u32),
    Reap(u32),
    Prune(u32),
    Cancel(TenantId, JobId, bool),
    Purge(TenantId, QueueName),
    Forget(TenantId, JobId),
    RunNow(TenantId, JobId),
    Pause(TenantId, QueueName, bool),
    Control(TenantId, Scope, ControlPatch),
    LimitStorage(TenantId, StorageLimits),
    KvWrite(Box<KvWrite>),
    KvRead(KvQuery),
    KvDeleteBucket(TenantId, BucketName, u32),
    PutBlob(PutBlob),
    DeleteBlob(TenantId, Digest),
    CollectBlobs(u64, u32),
    ReadBlobs(TenantId, Option<Digest>, u32),
    /// `again`: twice.
    ChangeSchedules(Vec<ScheduleStep>, bool),
    ReadSchedules(TenantId, u8, u32),
    Heartbeat(WorkerInfo),
    Order(WorkerId, WorkerOrder),
    ForgetWorker(WorkerId),
    Follow(TenantId),
    Events(TenantId, u64, u32),
    List(JobQuery),
    Flow(Box<NewWorkflow>, Parts),
    CancelFlow(TenantId, WorkflowId),
    ForgetFlow(TenantId, WorkflowId),
    ListFlows(WorkflowQuery),
}

/// What came of a step.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// Every answer, in words.
    pub(super) text: String,
    /// What somebody holds from now on.
    pub(super) claimed: Vec<Delivery>,
    /// What was handed out, heard of or not.
    pub(super) handed: Vec<Delivery>,
    pub(super) submitted: Vec<Submitted>,
    pub(super) settled: Vec<Settled>,
    pub(super) stepped: Vec<ScheduleStepped>,
}

/// Does it.
pub(super) async fn perform(broker: &dyn Broker, doing: &Doing) -> Done {
    let mut done = Done::default();
    done.text = match doing {
        Doing::Nothing => String::new(),
        Doing::Submit(jobs, again) => {
            for _ in 0..1 + u8::from(*again) {
                done.submitted.extend(broker.submit(jobs).await.unwrap());
            }
            format!("{:?}", done.submitted)
        }
        Doing::Claim(claim, lost) => {
            done.handed = broker.claim(claim).await.unwrap();
            if !lost {
                done.claimed.clone_from(&done.handed);
            }
            format!("{:?}", done.handed)
        }
        Doing::Renew(renewal) => {
            format!("{:?}", broker.renew(DEFAULT_LEASE_MS, std::slice::from_ref(renewal)).await)
        }
        Doing::Settle(settles, then, again) => {
            (done.settled, done.handed) = broker.settle(settles, then.as_ref()).await.unwrap();
            done.claimed.clone_from(&done.handed);
            if let Some(again) = again {
                let (settled, claimed) = broker.settle(settles, Some(again)).await.unwrap();
                done.settled.extend(settled);
                done.handed.extend(claimed.iter().cloned());
                done.claimed = claimed;
            }
            format!("{:?} {:?}", done.settled, done.handed)
        }
        Doing::Promote(max) => format!("{:?}", broker.promote(*max).await),
        Doing::Reap(max) => format!("{:?}", broker.reap(*max).await),
        Doing::Prune(max) => format!("{:?}", broker.prune(*max).await),
        Doing::Cancel(tenant, id, terminate) => format!("{:?}", broker.cancel(tenant, *id, *terminate).await),
        Doing::Purge(tenant, queue) => purge(broker, tenant, queue).await,
        Doing::Forget(tenant, id) => format!("{:?}", broker.forget(tenant, *id).await),
        Doing::RunNow(tenant, id) => format!("{:?}", broker.run_now(tenant, *id).await),
        Doing::Pause(tenant, queue, paused) => format!("{:?}", broker.set_paused(tenant, queue, *paused).await),
        Doing::Control(tenant, scope, patch) => format!("{:?}", broker.set_control(tenant, scope, patch).await),
        Doing::LimitStorage(tenant, limits) => {
            broker.set_storage_limits(tenant, *limits).await.unwrap();
            format!("{:?}", broker.storage_limits(tenant).await)
        }
        Doing::KvWrite(write) => format!("{:?}", broker.kv_write(write).await),
        Doing::KvRead(query) => {
            let keys: Vec<KvKey> = (0..4).map(kv_key).collect();
            let entries = broker.kv_get(&query.tenant, &query.bucket, &keys).await;
            let buckets = broker.kv_buckets(&query.tenant).await;
            format!("{entries:?} {:?} {buckets:?}", broker.kv_list(query).await)
        }
        Doing::KvDeleteBucket(tenant, bucket, max) => {
            format!("{:?}", broker.kv_delete_bucket(tenant, bucket, *max).await)
        }
        Doing::PutBlob(put) => format!("{:?}", broker.put_blob(put).await),
        Doing::DeleteBlob(tenant, digest) => format!("{:?}", broker.delete_blob(tenant, *digest).await),
        Doing::CollectBlobs(retention_ms, max) => format!("{:?}", broker.collect_blobs(*retention_ms, *max).await),
        Doing::ReadBlobs(tenant, after, max) => {
            let one = broker.blob(tenant, after.unwrap_or(blob_digest(0))).await;
            format!("{one:?} {:?}", broker.blobs(tenant, after.as_ref(), *max).await)
        }
        Doing::ChangeSchedules(steps, again) => {
            for _ in 0..1 + u8::from(*again) {
                done.stepped.extend(broker.schedule_steps(steps).await.unwrap());
            }
            format!("{:?}", done.stepped)
        }
        Doing::ReadSchedules(tenant, schedule, max) => looked_at(broker, tenant, *schedule, *max).await,
        Doing::Heartbeat(worker) => {
            format!("{:?} {:?}", broker.heartbeat(worker).await, broker.workers().await)
        }
        Doing::Order(worker, order) => format!("{:?}", broker.order_worker(worker, order).await),
        Doing::Follow(tenant) => format!("{:?}", broker.follow(tenant).await),
        Doing::Events(tenant, after, max) => format!("{:?}", broker.events(tenant, *after, *max).await),
        Doing::ForgetWorker(worker) => format!("{:?}", broker.forget_worker(worker).await),
        Doing::List(query) => format!("{:?} {:?}", broker.jobs(query).await, broker.ready_queues().await),
        Doing::Flow(flow, parts) => submit_parts(broker, flow, *parts).await,
        Doing::CancelFlow(tenant, id) => format!("{:?}", broker.cancel_workflow(tenant, *id).await),
        Doing::ForgetFlow(tenant, id) => format!("{:?}", broker.forget_workflow(tenant, *id).await),
        Doing::ListFlows(query) => format!("{:?}", broker.workflows(query).await),
    };
    done
}

/// A key of histories: some begin alike.
pub(super) fn kv_key(n: u8) -> KvKey {
    KvKey::new(["a", "ab", "b/é", "c"][n as usize % 4]).unwrap()
}

/// Cancels what waits in a queue, as a bulk action does: page by page, each in one step; and deletes it, if it can.
async fn purge(broker: &dyn Broker, tenant: &TenantId, queue: &QueueName) -> String {
    let mut answers = Vec::new();
    for state in [JobState::Queued, JobState::Scheduled, JobState::Retrying] {
        let query = JobQuery { state: Some(state), queue: Some(queue.clone()), ..all_jobs(tenant, false) };
        let ids: Vec<JobId> = broker.jobs(&query).await.unwrap().jobs.iter().map(|job| job.id).collect();
        answers.push((broker.act(tenant, JobAction::CancelWaiting, &ids).await.unwrap(), ids));
    }
    format!("{answers:?} {:?}", broker.delete_queue(tenant, queue).await)
}

/// Goes on whatever the answers are, as one does whose replies are lost; but nobody starts what has no room for its nodes.
async fn submit_parts(broker: &dyn Broker, flow: &NewWorkflow, parts: Parts) -> String {
    let (t, id) = (&flow.head.tenant, flow.head.id);
    let mut answers = vec![broker.stage_workflow(&flow.head).await.unwrap()];
    if parts != Parts::Head {
        let size = MAX_NODES_A_CALL as usize;
        for (at, nodes) in flow.nodes.chunks(size).enumerate() {
            answers.push(broker.stage_nodes(t, id, (at * size) as u32, nodes).await.unwrap());
        }
    }
    let is_refused = |answer: &WorkflowSubmitted| {
        matches!(answer, WorkflowSubmitted::StorageFull | WorkflowSubmitted::MissingBlob(_))
    };
    if parts == Parts::All && !answers.iter().any(is_refused) {
        answers.push(broker.start_workflow(t, id).await.unwrap());
    }
    format!("{answers:?}")
}
