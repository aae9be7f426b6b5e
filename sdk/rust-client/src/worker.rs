//! Workers: what they say of themselves, and orders to them. Orders need a token of an operator.

use serde::{Deserialize, Serialize};

use crate::{
    client::{Client, Request},
    error::Error,
    jobs::{JobFilter, JobPage},
};

/// A worker that is alive. Others than operators see its id, state and version only.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Worker {
    pub id: String,
    pub host: String,
    pub pid: u32,
    pub version: String,
    /// `running`, `draining`.
    pub state: String,
    pub queues: Vec<String>,
    /// Queues that it does not serve.
    pub exclude: Vec<String>,
    /// Attempts at once.
    pub slots: u32,
    /// Between which numbers of slots it scales by itself; the same when it does not.
    pub min_slots: u32,
    pub max_slots: u32,
    pub running: u32,
    /// Deliveries that it holds: those that run and those claimed ahead.
    pub leases: u32,
    /// Jobs settled since it started.
    pub settled: u64,
    /// Resident memory.
    pub rss_bytes: u64,
    pub started_at: String,
    /// The last order that it followed.
    pub order: u64,
}

/// How a worker ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shutdown {
    /// When what runs has ended, however long that takes.
    #[default]
    Warm,
    /// After its grace time at the latest; what runs then is handed back.
    Soft,
    /// Now; what runs is handed back.
    Cold,
}

/// A change of a worker while it runs: what is not set stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct WorkerPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    min_slots: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_slots: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<Vec<String>>,
}

impl WorkerPatch {
    /// So many attempts at once.
    #[must_use]
    pub fn slots(self, slots: u32) -> Self {
        Self { slots: Some(slots), min_slots: None, max_slots: None, ..self }
    }

    /// As many as there is work for, within these.
    #[must_use]
    pub fn autoscale(self, min: u32, max: u32) -> Self {
        Self { slots: None, min_slots: Some(min), max_slots: Some(max), ..self }
    }

    /// Serves these queues from now on, in this order.
    #[must_use]
    pub fn queues<T: AsRef<str>>(self, queues: impl IntoIterator<Item = T>) -> Self {
        Self { queues: Some(queues.into_iter().map(|name| name.as_ref().to_owned()).collect()), ..self }
    }
}

#[derive(Deserialize)]
struct Workers {
    items: Vec<Worker>,
}

impl Client {
    /// Workers that are alive.
    pub async fn workers(&self) -> Result<Vec<Worker>, Error> {
        let workers: Workers = self.get("/v1/workers").answer().await?;
        Ok(workers.items)
    }

    pub async fn worker(&self, id: &str) -> Result<Worker, Error> {
        self.get(format!("/v1/workers/{id}")).answer().await
    }

    /// The jobs that a worker runs.
    pub async fn worker_jobs(&self, id: &str, filter: &JobFilter) -> Result<JobPage, Error> {
        filter.on(self.get(format!("/v1/workers/{id}/jobs"))).answer().await
    }

    /// Claims nothing more until it is resumed; what runs goes on.
    pub async fn drain_worker(&self, id: &str) -> Result<(), Error> {
        self.order(id, "drain").await
    }

    pub async fn resume_worker(&self, id: &str) -> Result<(), Error> {
        self.order(id, "resume").await
    }

    /// Ends a worker. It hears of it with its next heartbeat.
    pub async fn shut_down_worker(&self, id: &str, how: Shutdown) -> Result<(), Error> {
        let request = self.post(format!("/v1/workers/{id}/shutdown")).json(&serde_json::json!({ "mode": how }));
        sent(request).await
    }

    /// Changes its slots or its queues.
    pub async fn set_worker(&self, id: &str, patch: &WorkerPatch) -> Result<(), Error> {
        sent(self.patch(format!("/v1/workers/{id}")).json(patch)).await
    }

    async fn order(&self, id: &str, what: &str) -> Result<(), Error> {
        sent(self.post(format!("/v1/workers/{id}/{what}"))).await
    }
}

/// An order twice is the same as once.
async fn sent(request: Request) -> Result<(), Error> {
    request.repeatable().text().await.map(drop)
}
