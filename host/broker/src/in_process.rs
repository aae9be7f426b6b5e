//! The front of brokers that keep their jobs in this process, the model and SQLite: hints, and the traits' methods as reads
//! and writes of a store.

use std::collections::BTreeSet;

use tokio::sync::broadcast;
use umbel_model::{JobId, QueueName};

use crate::{Signal, Topic};

/// Hints that a slow receiver may fall behind before it is told to look for itself.
const SIGNALS: usize = 1_024;

/// Gathered while a step runs; told after its commit, forgotten when it fails.
#[derive(Debug, Default)]
pub struct Notifications {
    /// Jobs and workflows that ended.
    pub ended: Vec<JobId>,
    /// Running jobs to stop.
    pub to_cancel: Vec<JobId>,
    /// The next look at a schedule comes earlier than it did.
    pub earlier_look: bool,
}

/// Where hints are heard.
#[derive(Debug, Clone)]
pub struct Channels {
    work: broadcast::Sender<Signal>,
    done: broadcast::Sender<Signal>,
    cancel: broadcast::Sender<Signal>,
    schedules: broadcast::Sender<Signal>,
}

impl Default for Channels {
    fn default() -> Self {
        let sender = || broadcast::channel(SIGNALS).0;
        Self { work: sender(), done: sender(), cancel: sender(), schedules: sender() }
    }
}

impl Channels {
    pub fn subscribe(&self, topic: Topic) -> broadcast::Receiver<Signal> {
        match topic {
            Topic::Work => self.work.subscribe(),
            Topic::Done => self.done.subscribe(),
            Topic::Cancel => self.cancel.subscribe(),
            Topic::Schedules => self.schedules.subscribe(),
        }
    }

    /// Tells which queues got something to hand out, and the rest. No receiver is not an error: hints are for whoever
    /// listens.
    pub fn notify(&self, ready_in: BTreeSet<QueueName>, notifications: Notifications) {
        let Notifications { ended, to_cancel, earlier_look } = notifications;
        if !to_cancel.is_empty() {
            let _ = self.cancel.send(Signal::Cancel(to_cancel.into()));
        }
        if !ready_in.is_empty() {
            let _ = self.work.send(Signal::Work(ready_in.into_iter().collect()));
        }
        if !ended.is_empty() {
            let _ = self.done.send(Signal::Done(ended.into()));
        }
        if earlier_look {
            let _ = self.schedules.send(Signal::Schedules);
        }
    }
}

/// Implements the traits, `Maintenance` apart, for a broker with the methods `read` and `write` and the field `channels`.
/// Each method becomes a call of the same name on what `read` or `write` lends, with copies of the arguments. The line
///
/// ```text
/// write[1] run_now(&tenant: TenantId, id: JobId) -> RunNow;
/// ```
///
/// stands for
///
/// ```text
/// async fn run_now(&self, tenant: &TenantId, id: JobId) -> Result<RunNow> {
///     let tenant = tenant.to_owned();
///     self.write(1, move |step| step.run_now(&tenant, id)).await
/// }
/// ```
///
/// The number behind `write` is about how many jobs it touches. `?x: T` is an argument of the type `Option<&T>`.
#[macro_export]
macro_rules! serve_in_process {
    ($Broker:ty) => {
        const _: () = {
            use umbel_model::{
                BucketName, Digest, JobId, JobRecord, KvKey, QueueName, ScheduleName, TenantId, WorkerId, WorkflowId,
            };
            use $crate::{rules::{growth::jobs_touched, schedules::jobs_started}, *};

            $crate::serve_in_process! { $Broker: Jobs
                write[jobs.len()] submit(&jobs: [NewJob]) -> Vec<Submitted>;
                read job(&tenant: TenantId, id: JobId) -> Option<JobRecord>;
                read jobs(&query: JobQuery) -> JobPage;
                read logs(&tenant: TenantId, id: JobId, from: u64, max: u32) -> Vec<LogLine>;
                write[ids.len()] act(&tenant: TenantId, action: JobAction, &ids: [JobId]) -> Vec<JobActed>;
            }
            $crate::serve_in_process! { $Broker: Deliveries
                write[claim.max as usize] claim(&claim: Claim) -> Vec<Delivery>;
                write[renewals.len()] renew(lease_ms: u64, &renewals: [Renewal]) -> Vec<LeaseState>;
                write[jobs_touched(&settles, then.as_ref())] settle(&settles: [Settle], ?then: Claim) -> (Vec<Settled>, Vec<Delivery>);
            }
            $crate::serve_in_process! { $Broker: Workflows
                write[head.templates.len()] stage_workflow(&head: WorkflowHead) -> WorkflowSubmitted;
                write[nodes.len()] stage_nodes(&tenant: TenantId, id: WorkflowId, first: u32, &nodes: [NewNode])
                    -> WorkflowSubmitted;
                write[ADVANCE as usize] start_workflow(&tenant: TenantId, id: WorkflowId) -> WorkflowSubmitted;
                read workflow(&tenant: TenantId, id: WorkflowId) -> Option<WorkflowRecord>;
                read workflows(&query: WorkflowQuery) -> WorkflowPage;
                read nodes(&tenant: TenantId, id: WorkflowId, first: u32, max: u32, results: Results) -> NodePage;
                read values(&tenant: TenantId, id: WorkflowId, first: u32, max: u32) -> Vec<NodeValue>;
                write[ADVANCE as usize] cancel_workflow(&tenant: TenantId, id: WorkflowId) -> WorkflowCancelled;
                write[ADVANCE as usize] forget_workflow(&tenant: TenantId, id: WorkflowId) -> WorkflowForgot;
            }
            $crate::serve_in_process! { $Broker: Controls
                read queues(&tenant: TenantId) -> Vec<QueueStats>;
                read oldest_ready(&tenant: TenantId) -> Vec<(QueueName, u64)>;
                write[1] delete_queue(&tenant: TenantId, &queue: QueueName) -> QueueDeleted;
                read ready_queues() -> Vec<QueueName>;
                write[1] set_control(&tenant: TenantId, &scope: Scope, &patch: ControlPatch) -> ControlSet;
                read controls(&tenant: TenantId) -> Vec<(Scope, Control)>;
                read stored_bytes(&tenant: TenantId) -> StoredBytes;
                read storage_limits(&tenant: TenantId) -> StorageLimits;
                write[1] set_storage_limits(&tenant: TenantId, limits: StorageLimits) -> ();
                {
                    fn default_storage_limits(&self) -> StorageLimits {
                        self.storage_limits
                    }
                }
            }
            $crate::serve_in_process! { $Broker: Registry
                write[1] heartbeat(&worker: WorkerInfo) -> Option<WorkerOrder>;
                write[1] order_worker(&worker: WorkerId, &order: WorkerOrder) -> Ordered;
                write[1] forget_worker(&worker: WorkerId) -> ();
                read workers() -> Vec<WorkerInfo>;
                write[1] put_document(&put: PutDocument) -> DocumentPut;
                read document(&tenant: TenantId, kind: DocumentKind, &name: str) -> Option<Document>;
                read documents(&tenant: TenantId, kind: DocumentKind, ?after: str, max: u32) -> DocumentPage;
                read document_tenants(kind: DocumentKind) -> Vec<TenantId>;
            }
            $crate::serve_in_process! { $Broker: KeyValues
                read kv_get(&tenant: TenantId, &bucket: BucketName, &keys: [KvKey]) -> Vec<Option<KvEntry>>;
                write[1] kv_write(&write: KvWrite) -> KvWritten;
                read kv_list(&query: KvQuery) -> KvPage;
                read kv_buckets(&tenant: TenantId) -> Vec<KvBucket>;
                write[max as usize] kv_delete_bucket(&tenant: TenantId, &bucket: BucketName, max: u32) -> KvBucketDeleted;
            }
            $crate::serve_in_process! { $Broker: UsageSums
                read usage(&query: UsageQuery) -> UsagePage;
            }
            $crate::serve_in_process! { $Broker: Blobs
                write[1] put_blob(&put: PutBlob) -> BlobPut;
                read blob(&tenant: TenantId, digest: Digest) -> Option<BlobRecord>;
                read blobs(&tenant: TenantId, ?after: Digest, max: u32) -> BlobPage;
                write[1] delete_blob(&tenant: TenantId, digest: Digest) -> BlobDeleted;
                write[max as usize] collect_blobs(retention_ms: u64, max: u32) -> Vec<BlobGone>;
            }
            $crate::serve_in_process! { $Broker: Schedules
                write[jobs_started(&steps)] schedule_steps(&steps: [ScheduleStep]) -> Vec<ScheduleStepped>;
                read schedule(&tenant: TenantId, &name: ScheduleName) -> Option<ScheduleRecord>;
                read schedules(&query: ScheduleQuery) -> SchedulePage;
                read due_schedules(max: u32) -> DueSchedules;
                read fires(&tenant: TenantId, &name: ScheduleName, before: Option<u64>, max: u32) -> Vec<Fire>;
            }
            $crate::serve_in_process! { $Broker: Events
                write[1] follow(&tenant: TenantId) -> u64;
                read events(&tenant: TenantId, after: u64, max: u32) -> EventPage;
                {
                    async fn signals(&self, topic: Topic) -> Result<tokio::sync::broadcast::Receiver<Signal>> {
                        Ok(self.channels.subscribe(topic))
                    }
                }
            }
        };
    };
    ($Broker:ty: $Trait:ident $(
        $access:ident$([$jobs:expr])? $method:ident($($(&$lent:ident)? $(?$maybe:ident)? $($copied:ident)?: $T:ty),*) -> $Answer:ty;
    )* $({ $($by_hand:tt)* })?) => {
        #[async_trait::async_trait]
        impl $Trait for $Broker {
            $(async fn $method(&self, $($($lent: &$T)? $($maybe: Option<&$T>)? $($copied: $T)?),*) -> Result<$Answer> {
                $($(let $lent = $lent.to_owned();)? $(let $maybe = $maybe.map(ToOwned::to_owned);)?)*
                self.$access($($jobs,)? move |store| store.$method($(
                    $(&$lent)? $($maybe.as_ref().map(std::borrow::Borrow::<$T>::borrow))? $($copied)?
                ),*)).await
            })*
            $($($by_hand)*)?
        }
    };
}
