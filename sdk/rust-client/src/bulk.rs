//! Actions on many jobs, which the service carries out by itself: start one, look at it, stop it.

use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use umbel_model::{JobId, JobState, PolicyPatch, WorkflowId};

use crate::{
    client::{Client, fresh_key},
    error::Error,
    time::rfc3339,
    workflow::Digests,
};

/// The action on each job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    Cancel,
    Redrive,
    Forget,
    RunNow,
}

/// Which jobs. What is not set does not matter; what is set is joined by *and*.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BulkFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// One of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<JobState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// `name:value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow_id: Option<WorkflowId>,
    /// Only those in the dead set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// RFC 3339, as `created_before`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_after: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_before: Option<String>,
    /// At most 1,000.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<JobId>,
}

impl BulkFilter {
    #[must_use]
    pub fn task(self, task: &str) -> Self {
        Self { task: Some(task.to_owned()), ..self }
    }

    #[must_use]
    pub fn queue(self, queue: &str) -> Self {
        Self { queue: Some(queue.to_owned()), ..self }
    }

    #[must_use]
    pub fn state(mut self, state: JobState) -> Self {
        self.state.push(state);
        self
    }

    #[must_use]
    pub fn tag(self, tag: &str) -> Self {
        Self { tag: Some(tag.to_owned()), ..self }
    }

    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        Self { header: Some(format!("{name}:{value}")), ..self }
    }

    #[must_use]
    pub fn workflow(self, workflow: WorkflowId) -> Self {
        Self { workflow_id: Some(workflow), ..self }
    }

    #[must_use]
    pub fn dead(self) -> Self {
        Self { dead: Some(true), ..self }
    }

    #[must_use]
    pub fn worker(self, worker: &str) -> Self {
        Self { worker: Some(worker.to_owned()), ..self }
    }

    #[must_use]
    pub fn created_after(self, at: SystemTime) -> Self {
        Self { created_after: Some(rfc3339(at)), ..self }
    }

    #[must_use]
    pub fn created_before(self, at: SystemTime) -> Self {
        Self { created_before: Some(rfc3339(at)), ..self }
    }

    #[must_use]
    pub fn ids(self, ids: impl IntoIterator<Item = JobId>) -> Self {
        Self { ids: ids.into_iter().collect(), ..self }
    }
}

/// An action to start.
#[derive(Debug, Clone, Serialize)]
pub struct NewBulk {
    pub action: BulkAction,
    pub filter: BulkFilter,
    /// Only counts what it would be done with.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Of a cancel: false lets what runs end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminate: Option<bool>,
    /// Of a redrive: which modules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digests>,
    /// Of a redrive: laid over the policy of each dead job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyPatch>,
}

impl NewBulk {
    pub fn new(action: BulkAction, filter: BulkFilter) -> Self {
        Self { action, filter, dry_run: false, terminate: None, digest: None, policy: None }
    }

    #[must_use]
    pub fn dry_run(self) -> Self {
        Self { dry_run: true, ..self }
    }

    /// Of a cancel: what runs is left to end.
    #[must_use]
    pub fn let_end(self) -> Self {
        Self { terminate: Some(false), ..self }
    }

    /// Of a redrive: the modules that the tasks point at now.
    #[must_use]
    pub fn current(self) -> Self {
        Self { digest: Some(Digests::Current), ..self }
    }

    #[must_use]
    pub fn policy(self, policy: PolicyPatch) -> Self {
        Self { policy: Some(policy), ..self }
    }
}

/// Where an action stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BulkState {
    #[default]
    Running,
    Done,
    Aborted,
    Failed,
}

impl BulkState {
    pub fn is_over(self) -> bool {
        self != Self::Running
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Aborted => "aborted",
            Self::Failed => "failed",
        }
    }
}

/// An action on many jobs.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Bulk {
    pub id: JobId,
    #[serde(default = "cancel")]
    pub action: BulkAction,
    /// JSON, as it was given.
    #[serde(default)]
    pub filter: Option<Box<RawValue>>,
    #[serde(default)]
    pub state: BulkState,
    #[serde(default)]
    pub dry_run: bool,
    /// Jobs found so far.
    #[serde(default)]
    pub matched: u64,
    #[serde(default)]
    pub done: u64,
    /// Found, and in no state in which it could be done: ended meanwhile, a node of a workflow.
    #[serde(default)]
    pub skipped: u64,
    #[serde(default)]
    pub failed: u64,
    #[serde(default)]
    pub created_at: String,
    #[serde(default)]
    pub finished_at: Option<String>,
    /// Why it failed, or the last job that it could not be done with.
    #[serde(default)]
    pub error: Option<String>,
}

fn cancel() -> BulkAction {
    BulkAction::Cancel
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Bulk>,
}

/// How often an action is looked at.
const GLANCE: Duration = Duration::from_millis(500);

impl Client {
    /// Starts an action on many jobs, once: it gets an idempotency key.
    pub async fn start_bulk(&self, bulk: &NewBulk) -> Result<Bulk, Error> {
        self.post("/v1/bulk").json(bulk).idempotency_key(fresh_key()?).answer().await
    }

    /// An action as it is now.
    pub async fn bulk(&self, id: JobId) -> Result<Bulk, Error> {
        self.get(format!("/v1/bulk/{id}")).answer().await
    }

    /// The last actions, newest first.
    pub async fn bulks(&self) -> Result<Vec<Bulk>, Error> {
        let page: Page = self.get("/v1/bulk").answer().await?;
        Ok(page.items)
    }

    /// Stops an action; what it did stays done.
    pub async fn abort_bulk(&self, id: JobId) -> Result<Bulk, Error> {
        self.post(format!("/v1/bulk/{id}/abort")).repeatable().answer().await
    }

    /// The action once it is over; after `timeout` as it is then. `told` sees it each time that it was looked at.
    pub async fn wait_bulk(&self, id: JobId, timeout: Duration, mut told: impl FnMut(&Bulk)) -> Result<Bulk, Error> {
        let until = Instant::now() + timeout;
        // Most are over at once: the first looks come soon.
        let mut pause = GLANCE / 10;
        loop {
            let bulk = self.bulk(id).await?;
            told(&bulk);
            let left = until.saturating_duration_since(Instant::now());
            if bulk.state.is_over() || left.is_zero() {
                return Ok(bulk);
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(GLANCE);
        }
    }
}
