//! The registry: which workers are alive, orders to them, and documents.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use umbel_model::{QueueName, TenantId, UnixMs, WorkerId};

use crate::{PAGE_BYTES, Result};

/// A worker that has not said for this long that it is alive is forgotten, milliseconds.
pub const WORKER_TTL_MS: u64 = 30_000;

/// Keeps workers, orders to them, and small documents.
#[async_trait]
pub trait Registry: Send + Sync + fmt::Debug + 'static {
    /// Says that a worker is alive, and asks for the last order to it. It is forgotten, and its order with it,
    /// `WORKER_TTL_MS` after the last time.
    async fn heartbeat(&self, worker: &WorkerInfo) -> Result<Option<WorkerOrder>>;

    /// Orders something of a worker: what is set replaces what was ordered before, the rest of that stays. Its number is
    /// chosen here.
    async fn order_worker(&self, worker: &WorkerId, order: &WorkerOrder) -> Result<Ordered>;

    /// Forgets a worker that ended in order.
    async fn forget_worker(&self, worker: &WorkerId) -> Result<()>;

    /// Workers alive, by id.
    async fn workers(&self) -> Result<Vec<WorkerInfo>>;

    /// Stores or (with no body) deletes a document if its version is as expected.
    async fn put_document(&self, put: &PutDocument) -> Result<DocumentPut>;

    /// One document.
    async fn document(&self, tenant: &TenantId, kind: DocumentKind, name: &str) -> Result<Option<Document>>;

    /// Documents of a kind by name, after `after`, at most `max`. A page ends at `PAGE_BYTES` of bodies, whatever `max` is.
    async fn documents(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        after: Option<&str>,
        max: u32,
    ) -> Result<DocumentPage>;

    /// The tenants that have documents of a kind, in order. Looks through all that is stored where that is not known
    /// otherwise: for background services, once in minutes. A tenant whose first one is stored meanwhile may be missing.
    async fn document_tenants(&self, kind: DocumentKind) -> Result<Vec<TenantId>>;
}

/// The state of a worker, as it reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerInfo {
    pub id: WorkerId,
    pub host: String,
    pub pid: u32,
    pub version: String,
    pub queues: Vec<QueueName>,
    pub slots: u32,
    pub running: u32,
    /// `running`, `draining`.
    pub state: String,
    pub started_at: UnixMs,
    /// Jobs settled since it started.
    pub settled: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Deliveries that it holds a lease on: those that run and those claimed ahead.
    #[serde(default)]
    pub leases: u32,
    /// Between which numbers of slots it scales by itself; the same when it does not.
    #[serde(default)]
    pub min_slots: u32,
    #[serde(default)]
    pub max_slots: u32,
    /// Queues that it does not serve.
    #[serde(default)]
    pub exclude: Vec<QueueName>,
    /// The number of the last order that it followed.
    #[serde(default)]
    pub order: u64,
}

/// Orders of an operator to one worker. Kept with the worker, and forgotten with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerOrder {
    /// Rises with each order: a worker follows one once, and says in `WorkerInfo::order` which was the last.
    pub number: u64,
    /// Claim nothing more; false: go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shutdown: Option<Shutdown>,
    /// Attempts at once, least and most: the same for a fixed number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<(u32, u32)>,
    /// Serve these queues from now on, instead of those it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<Vec<QueueName>>,
}

impl WorkerOrder {
    /// No order, to a worker that may have followed some before it was forgotten: the next one is newer than those.
    pub fn after(worker: &WorkerInfo) -> Self {
        Self { number: worker.order, ..Self::default() }
    }

    /// This order and a later one as one, with the next number.
    #[must_use]
    pub fn followed_by(self, later: &Self) -> Self {
        Self {
            number: self.number + 1,
            drain: later.drain.or(self.drain),
            shutdown: later.shutdown.or(self.shutdown),
            slots: later.slots.or(self.slots),
            queues: later.queues.clone().or(self.queues),
        }
    }
}

/// How a worker ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shutdown {
    /// When what runs has ended, however long that takes.
    Warm,
    /// After its grace time at the latest; what runs then is handed back.
    Soft,
    /// Now; what runs is handed back.
    Cold,
}

/// The answer to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ordered {
    /// Its number. The worker hears of it with its next heartbeat.
    Told(u64),
    /// No such worker is alive.
    Unknown,
}

umbel_model::named_enum! {
    /// The kinds of documents.
    pub enum DocumentKind {
        Module = "module",
        Task = "task",
        ApiToken = "api_token",
        /// Which queue a task's jobs go to.
        Routes = "routes",
        /// An action on many jobs.
        Bulk = "bulk",
        /// The operator's and the tenant's own layers of its controls.
        ControlLayers = "control_layers",
        /// That a module may reach what it asks for, by its digest.
        Approval = "approval",
        /// What the tenant may reach at most, by its own choice and by the operator's.
        Grants = "grants",
        /// Values that tasks are configured with: those of the tenant, and those of each task.
        Config = "config",
        /// A secret of the tenant, sealed.
        Secret = "secret",
        /// A key that seals the tenant's secrets, wrapped by a master key.
        SecretKey = "secret_key",
    }
}

/// A small JSON text under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub name: String,
    /// 1 when it was created; each write adds one.
    pub version: u64,
    pub body: String,
}

/// A page of documents, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentPage {
    pub documents: Vec<Document>,
    /// The name after which the next page begins; none at the end.
    pub next: Option<String>,
}

impl DocumentPage {
    /// The page that `documents` are, where at most `max` were asked for and the one that reached `PAGE_BYTES` is the last.
    pub fn new(documents: Vec<Document>, max: u32) -> Self {
        let bytes: usize = documents.iter().map(|document| document.body.len()).sum();
        let is_full = documents.len() as u64 >= u64::from(max) || bytes >= PAGE_BYTES;
        let next = documents.last().filter(|_| is_full).map(|last| last.name.clone());
        Self { documents, next }
    }
}

/// The condition of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    Version(u64),
}

/// A write of one document.
#[derive(Debug, Clone)]
pub struct PutDocument {
    pub tenant: TenantId,
    pub kind: DocumentKind,
    pub name: String,
    pub expect: Expect,
    /// None deletes.
    pub body: Option<String>,
    /// Bytes that are kept elsewhere for as long as the document is here, such as a module. They count with it.
    pub held_bytes: u64,
}

impl PutDocument {
    /// The answer when this version is stored (0: none), and as many documents of the kind as there may be (`is_full`).
    pub fn decide(&self, found: u64, is_full: bool) -> DocumentPut {
        let is_expected = match self.expect {
            Expect::Any => true,
            Expect::Absent => found == 0,
            Expect::Version(version) => found == version,
        };
        match &self.body {
            _ if !is_expected => DocumentPut::Conflict(found),
            None => DocumentPut::Stored(0),
            Some(_) if found == 0 && is_full => DocumentPut::Full,
            Some(_) => DocumentPut::Stored(found + 1),
        }
    }
}

/// The answer to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentPut {
    /// The version that is stored now; 0 after a delete.
    Stored(u64),
    /// The version found instead of the expected one; 0 when there is none.
    Conflict(u64),
    /// `max_documents` of this kind exist.
    Full,
    /// The tenant has stored as many bytes of documents, and of what they stand for, as it may.
    StorageFull,
}
