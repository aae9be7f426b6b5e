//! Existing jobs: list, cancel, forget, run again, read a result of any size.

use std::{collections::BTreeMap, future::IntoFuture, pin::Pin, time::SystemTime};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use umbel_model::{JobId, JobState, PolicyPatch, WorkflowId};

use crate::{
    client::{Client, Request, typed},
    error::Error,
    job::Job,
    time::rfc3339,
    workflow::Digests,
};

/// A request to stop a job; nothing is sent before it is awaited.
#[must_use = "a cancel does nothing until it is awaited"]
pub struct Cancel {
    client: Client,
    id: JobId,
    terminate: bool,
}

impl Cancel {
    /// A running attempt may end, and is not retried.
    pub fn let_end(self) -> Self {
        Self { terminate: false, ..self }
    }
}

impl IntoFuture for Cancel {
    type Output = Result<Job, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let request = self.client.post(format!("/v1/jobs/{}/cancel", self.id));
        let request = if self.terminate { request } else { request.json(&json!({ "terminate": false })) };
        Box::pin(request.answer())
    }
}

/// Which jobs to list. What is not set does not matter; what is set is joined by *and*.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    query: BTreeMap<&'static str, String>,
}

impl JobFilter {
    /// In one of these states.
    #[must_use]
    pub fn states(self, states: &[JobState]) -> Self {
        self.with("state", states.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(","))
    }

    #[must_use]
    pub fn task(self, task: &str) -> Self {
        self.with("task", task)
    }

    #[must_use]
    pub fn queue(self, queue: &str) -> Self {
        self.with("queue", queue)
    }

    #[must_use]
    pub fn workflow(self, workflow: WorkflowId) -> Self {
        self.with("workflow", workflow.to_string())
    }

    /// Whose last delivery went to this worker.
    #[must_use]
    pub fn worker(self, worker: &str) -> Self {
        self.with("worker", worker)
    }

    #[must_use]
    pub fn tag(self, tag: &str) -> Self {
        self.with("tag", tag)
    }

    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        self.with("header", format!("{name}:{value}"))
    }

    #[must_use]
    pub fn created_after(self, at: SystemTime) -> Self {
        self.with("created_after", rfc3339(at))
    }

    #[must_use]
    pub fn created_before(self, at: SystemTime) -> Self {
        self.with("created_before", rfc3339(at))
    }

    /// Items of a page, 1 to 200.
    #[must_use]
    pub fn limit(self, limit: u32) -> Self {
        self.with("limit", limit.to_string())
    }

    /// Goes on behind the page with this `next_cursor`.
    #[must_use]
    pub fn cursor(self, cursor: &str) -> Self {
        self.with("cursor", cursor)
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.insert(name, value.into());
        self
    }

    pub(crate) fn on(&self, request: Request) -> Request {
        self.query.iter().fold(request, |request, (name, value)| request.query(name, value))
    }
}

/// A page of jobs, newest first.
#[derive(Debug, Clone, Deserialize)]
pub struct JobPage {
    pub items: Vec<Job>,
    /// Where to go on; none at the end. A page may be short, even empty, and have more behind it.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// How a dead job is run again.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Redrive {
    /// Which module: that of the dead job, or the one that its task points at now.
    pub digest: Digests,
    /// Laid over the policy of the dead job.
    #[serde(skip_serializing_if = "PolicyPatch::is_empty")]
    pub policy: PolicyPatch,
}

impl Client {
    /// A page of jobs.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        filter.on(self.get("/v1/jobs")).answer().await
    }

    /// A page of the dead set.
    pub async fn dead(&self, filter: &JobFilter) -> Result<JobPage, Error> {
        filter.on(self.get("/v1/dead")).answer().await
    }

    /// Revokes a job that waits; asks the worker of a running one to stop it or, with `let_end`, only not to retry it. One
    /// that has ended is a problem with the code `job_ended`.
    pub fn cancel(&self, id: JobId) -> Cancel {
        Cancel { client: self.clone(), id, terminate: true }
    }

    /// Deletes a job that has ended, with its result, its log and its history.
    pub async fn forget(&self, id: JobId) -> Result<(), Error> {
        self.delete(format!("/v1/jobs/{id}")).text().await.map(drop)
    }

    /// The result of a job that succeeded, of any size.
    pub async fn result<T: DeserializeOwned>(&self, id: JobId) -> Result<T, Error> {
        typed(&self.get(format!("/v1/jobs/{id}/result")).text().await?)
    }

    /// Runs a waiting job now, or a failed one again as a new job.
    pub async fn retry_job(&self, id: JobId) -> Result<Job, Error> {
        self.post(format!("/v1/jobs/{id}/retry")).answer().await
    }

    /// Runs a dead job again, as a new job that names it.
    pub async fn redrive(&self, id: JobId, how: &Redrive) -> Result<Job, Error> {
        self.post(format!("/v1/dead/{id}/redrive")).json(how).answer().await
    }
}
