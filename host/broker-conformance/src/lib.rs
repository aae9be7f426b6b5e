//! One suite for every broker: named scenarios, random histories compared with the in-memory model (`memory`), and random canvases
//! compared with a sequential one.
//!
//! A crate that implements `Broker` calls `conformance_suite!` with a closure that makes an empty `Subject` on a manual
//! clock; each scenario becomes a test of its own.

#![allow(clippy::unwrap_used)]

mod blobs;
mod broker_options;
mod celery;
mod controls;
mod dead;
mod flows;
mod histories;
mod kv;
mod labels;
mod leases;
mod limits;
mod lists;
mod lost;
pub mod memory;
#[cfg(test)]
mod model;
mod queues;
mod random;
mod random_canvases;
pub mod redis_server;
mod registry;
mod schedules;
mod storage;
mod sub_queues;
mod submission;
mod suite;
mod unique;
mod usage;
mod workflows;

use std::{
    any::Any,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::future::BoxFuture;
use serde_json::{json, value::RawValue};
use umbel_model::{
    Digest, Failure, JobId, JobRecord, JobState, NodeArguments, OnFailure, QueueName, Resolution, TaskName, TenantId,
    Token, UnixMs, WorkerId, WorkflowId,
};

use umbel_broker::*;

pub use blobs::*;
pub use celery::*;
pub use controls::*;
pub use dead::*;
pub use histories::{Histories, random_histories};
pub use kv::*;
pub use labels::*;
pub use leases::*;
pub use limits::*;
pub use lists::*;
pub use lost::*;
pub use memory::MemoryBroker;
pub use queues::*;
pub use random_canvases::{Canvases, random_canvases};
pub use registry::*;
pub use schedules::*;
pub use storage::*;
pub use sub_queues::*;
pub use submission::*;
pub use unique::*;
pub use usage::*;
pub use workflows::*;

/// The time at which every scenario starts.
pub const START_MS: UnixMs = 1_800_000_000_000;

/// The limits that every subject is made with: small, so that they are reached. The backlog has room for a group that is
/// readied in more than two steps.
pub fn limits() -> Limits {
    Limits {
        max_backlog: 3_000,
        max_queues: 4,
        max_documents: 5,
        max_log_lines: 10,
        max_workflows: 8,
        max_nodes: 20_000,
        max_dead: 50,
        max_job_bytes: 1 << 30,
        max_document_bytes: 1 << 30,
        max_kv_bytes: 1 << 30,
        max_value_bytes: 2_000,
        max_buckets: 3,
        max_usage_tasks: 2,
        usage_retention_ms: 2 * HOUR_MS,
        max_blob_bytes: 1 << 30,
        max_blobs: 6,
        max_schedules: 3,
    }
}

/// An empty broker under test.
#[derive(Debug)]
pub struct Subject {
    pub broker: Arc<dyn Broker>,
    /// Its clock, milliseconds.
    pub now: Arc<AtomicU64>,
    /// Whatever must live as long as the broker: a server process, a temporary folder; a `Reopen` of these where the
    /// broker can be closed and opened again.
    pub keep: Box<dyn Any + Send>,
}

/// How a broker is opened again on what it had stored.
pub struct Reopen {
    /// What must live as long as the broker.
    pub keep: Box<dyn Any + Send>,
    /// What ran counts as lost from then on: the workers were part of the process that ended.
    pub ends_leases: bool,
    /// Opens it; the one before was dropped.
    pub open: Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Broker>> + Send>,
}

impl fmt::Debug for Reopen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reopen").finish_non_exhaustive()
    }
}

/// Runs a scenario, after which nothing may be left in the store that should not be.
pub async fn audited<F: Future<Output = ()>>(mut subject: Subject, scenario: impl FnOnce(Subject) -> F) {
    let broker = subject.broker.clone();
    let _keep = std::mem::replace(&mut subject.keep, Box::new(()));
    scenario(subject).await;
    assert_eq!(broker.audit(false).await.unwrap(), [], "what the audit finds");
}

impl Subject {
    /// Closes the broker and opens it again, if that can be done; whether that ended all leases.
    async fn reopen(&mut self) -> bool {
        if !self.keep.is::<Reopen>() {
            return false;
        }
        self.broker = Arc::new(MemoryBroker::default());
        let opened = self.keep.downcast_ref::<Reopen>().map(|reopen| ((reopen.open)(), reopen.ends_leases));
        let (open, ends_leases) = opened.expect("just looked at");
        self.broker = open.await;
        ends_leases
    }

    fn pass(&self, ms: u64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    /// Lets time pass in which the store serves: it is asked to reap, and takes nothing back.
    pub async fn pass_served(&self, ms: u64) {
        let mut left = ms;
        while left > 0 {
            self.broker.reap(0).await.unwrap();
            let step = left.min(rules::lease::OUTAGE_MS);
            self.pass(step);
            left -= step;
        }
    }

    async fn add(&self, job: NewJob) -> JobId {
        let answers = self.broker.submit(std::slice::from_ref(&job)).await.unwrap();
        assert_eq!(answers, [Submitted::Created]);
        job.id
    }

    async fn claim(&self, max: u32) -> Vec<Delivery> {
        self.broker.claim(&claim_of("w1", &["default"], max)).await.unwrap()
    }

    async fn claim_one(&self) -> Delivery {
        self.claim(1).await.pop().expect("a job is ready")
    }

    /// The numbers of the jobs that are claimed, of any tenant.
    async fn claim_numbers(&self, max: u32) -> Vec<u64> {
        numbers(&self.claim(max).await)
    }

    async fn promote(&self) -> Promoted {
        self.broker.promote(1_000).await.unwrap()
    }

    async fn settle(&self, delivery: &Delivery, resolution: Resolution) -> Settled {
        self.broker.settle(&[settle_of(delivery, resolution)], None).await.unwrap().0[0]
    }

    async fn renew(&self, delivery: &Delivery) -> LeaseState {
        self.broker.renew(DEFAULT_LEASE_MS, &[renewal_of(delivery)]).await.unwrap()[0]
    }

    async fn read(&self, id: JobId) -> JobRecord {
        self.broker.job(&tenant("t1"), id).await.unwrap().expect("the job exists")
    }

    async fn state(&self, id: JobId) -> JobState {
        self.read(id).await.state
    }

    async fn queue(&self) -> QueueStats {
        let mut queues = self.broker.queues(&tenant("t1")).await.unwrap();
        queues.retain(|q| q.name.as_str() == "default");
        queues.pop().expect("the queue is known")
    }
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn queue_name(name: &str) -> QueueName {
    QueueName::new(name).unwrap()
}

fn job_id(n: u64) -> JobId {
    JobId::from_parts(START_MS, n.into())
}

/// Job `n` of tenant `t1` in the queue `default`, ready now.
fn new_job(n: u64) -> NewJob {
    NewJob {
        id: job_id(n),
        tenant: tenant("t1"),
        task: TaskName::new("add").unwrap(),
        queue: queue_name("default"),
        priority: 5,
        spec: format!(r#"{{"n":{n}}}"#),
        start: Start::Now,
        expires_ms: 0,
        max_deliveries: 3,
        result_ttl_ms: 60_000,
        dead_ttl_ms: 120_000,
        expires_at: None,
        broker_options: None,
        idempotency: None,
        redrive_of: None,
        labels: Vec::new(),
        blobs: Vec::new(),
    }
}

/// A job with tags and headers.
pub fn labelled(job: NewJob, tags: &[&str], headers: &[(&str, &str)]) -> NewJob {
    let mut spec: serde_json::Value = serde_json::from_str(&job.spec).unwrap();
    let headers: serde_json::Map<_, _> = headers.iter().map(|(name, value)| (name.to_string(), json!(value))).collect();
    if !tags.is_empty() {
        spec["tags"] = json!(tags);
    }
    if !headers.is_empty() {
        spec["headers"] = json!(headers);
    }
    let spec = spec.to_string();
    NewJob { labels: Label::all_in(&spec), spec, ..job }
}

/// The numbers of jobs made by `new_job`.
fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    let number = |delivery: &Delivery| {
        let spec: serde_json::Value = serde_json::from_str(&delivery.spec).unwrap();
        spec["n"].as_u64().expect("of a job made by `new_job`")
    };
    deliveries.iter().map(number).collect()
}

/// All jobs of a tenant, or all in its dead set.
fn all_jobs(tenant: &TenantId, dead: bool) -> JobQuery {
    JobQuery {
        tenant: tenant.clone(),
        dead,
        state: None,
        task: None,
        queue: None,
        worker: None,
        labels: Vec::new(),
        before: None,
        max: 1_000,
    }
}

fn claim_of(worker: &str, queues: &[&str], max: u32) -> Claim {
    static SEED: AtomicU64 = AtomicU64::new(0);
    Claim {
        worker: WorkerId::new(worker).unwrap(),
        queues: queues.iter().map(|q| queue_name(q)).collect::<Vec<_>>().into(),
        max,
        lease_ms: DEFAULT_LEASE_MS,
        token_seed: Token::new(format!("s{}", SEED.fetch_add(1, Ordering::SeqCst))).unwrap(),
        limited: LimitedTenants::default(),
        in_row: 1,
    }
}

/// At most `max` jobs of these tenants.
fn limited_to(max: u32, tenants: &[&str]) -> LimitedTenants {
    LimitedTenants { tenants: tenants.iter().map(|name| tenant(name)).collect(), max }
}

/// A claim that asks all queues but these.
fn claim_of_all_but(queues: &[&str], max: u32) -> Claim {
    let queues = ClaimQueues::AllBut(queues.iter().map(|q| queue_name(q)).collect());
    Claim { queues, ..claim_of("w1", &[], max) }
}

fn settle_of(delivery: &Delivery, resolution: Resolution) -> Settle {
    Settle {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        resolution,
        record: None,
        progress: None,
        logs: Vec::new(),
        growth: None,
        blobs: None,
    }
}

fn renewal_of(delivery: &Delivery) -> Renewal {
    Renewal {
        tenant: delivery.tenant.clone(),
        id: delivery.id,
        token: delivery.token.clone(),
        progress: None,
        logs: Vec::new(),
    }
}

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn succeed(json: &str) -> Resolution {
    Resolution::Succeed { result: Some(raw(json)) }
}

fn fail() -> Resolution {
    Resolution::Fail { failure: Failure::new("Void", "no \"such\" order\n\u{1b}[31m é") }
}

fn retry(delay_ms: u64) -> Resolution {
    Resolution::Retry { delay_ms, failure: Failure::new("Timeout", "slow") }
}

fn line(n: u64) -> LogLine {
    LogLine { at: START_MS, attempt: 1, level: "info".into(), context: String::new(), message: format!("line \"{n}\"") }
}
