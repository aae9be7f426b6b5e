//! Workflows: submit a canvas, look at it as a whole and node by node, wait, cancel, resume.

use std::{collections::BTreeMap, time::Duration};

use futures::Stream;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use umbel_model::{Canvas, JobId, JobState, OnFailure, WorkflowId, WorkflowState};

use crate::{
    canvas::Step,
    client::{Client, fresh_key},
    error::Error,
    job::{JobError, not_succeeded, output},
    time::ms,
    watch,
};

/// Options of a workflow.
#[derive(Debug, Clone, Default, Serialize)]
pub struct WorkflowOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Stamps that its jobs inherit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Cancelled, as `expired`, if it is not over so long after its start, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Kept so long after it is over, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
    /// The same key and canvas are the same workflow for a day. `submit_workflow` makes one if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

impl WorkflowOptions {
    #[must_use]
    pub fn name(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    #[must_use]
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.push(tag.to_owned());
        self
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    #[must_use]
    pub fn deadline(self, after: Duration) -> Self {
        Self { deadline_ms: Some(ms(after)), ..self }
    }

    #[must_use]
    pub fn keep(self, after: Duration) -> Self {
        Self { keep_ms: Some(ms(after)), ..self }
    }

    #[must_use]
    pub fn idempotency_key(self, key: &str) -> Self {
        Self { idempotency_key: Some(key.to_owned()), ..self }
    }
}

/// How many of a workflow's jobs are where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct WorkflowProgress {
    pub total: u64,
    /// Ended, however.
    pub done: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub running: u64,
    pub queued: u64,
    pub waiting: u64,
    pub scheduled: u64,
    pub retrying: u64,
    pub skipped: u64,
    pub revoked: u64,
    pub expired: u64,
}

/// A workflow as the server shows it. Fields that this version does not know are left out.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Workflow {
    pub id: WorkflowId,
    /// `running` in an answer that knows the id alone.
    #[serde(default)]
    pub state: WorkflowState,
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    #[serde(default)]
    pub progress: WorkflowProgress,
    /// RFC 3339, as all times here.
    #[serde(default)]
    pub created_at: String,
    #[serde(default)]
    pub finished_at: Option<String>,
    #[serde(default)]
    pub deadline_at: Option<String>,
    /// JSON, once it has succeeded.
    #[serde(default)]
    pub result: Option<Box<RawValue>>,
    /// Why a result that there is is not in the answer: `too_large`, `gone`.
    #[serde(default)]
    pub result_omitted: Option<String>,
    #[serde(default)]
    pub error: Option<JobError>,
    /// The job that it replaces.
    #[serde(default)]
    pub parent: Option<JobId>,
    /// The workflow whose failed nodes it does again.
    #[serde(default)]
    pub resume_of: Option<WorkflowId>,
}

impl Workflow {
    /// The result of a workflow that succeeded, or why there is none.
    pub fn output<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if self.state == WorkflowState::Succeeded {
            return output(self.id, self.result.as_deref(), self.result_omitted.as_deref());
        }
        Err(not_succeeded(self.id, self.state.as_str(), self.error.as_ref()))
    }
}

/// A page of workflows, newest first.
#[derive(Debug, Clone, Deserialize)]
pub struct WorkflowPage {
    pub items: Vec<Workflow>,
    /// Where to go on; none at the end.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// A step of a workflow and what is within it, with states and timings. `kind` says which of the fields it has.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Tree {
    /// `task`, `chain`, `group`, `chord`.
    pub kind: String,
    /// As a job's state; of a group that of its end; of a chain none.
    pub state: Option<String>,
    pub task: Option<String>,
    /// As it was given: escape it before a terminal sees it.
    pub label: Option<String>,
    /// The node of a task, or the join at the end of a group.
    pub node: Option<u32>,
    /// Of a map or starmap: how often its task is called.
    pub items: Option<u32>,
    pub job: Option<JobId>,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub retries: Option<u32>,
    /// Kind of the failure.
    pub error: Option<String>,
    /// The workflow that replaced the job.
    pub replaced_by: Option<WorkflowId>,
    /// Of a chain, in order.
    pub steps: Vec<Tree>,
    /// Of a group or a chord, in order; those that failed first, when some are left out.
    pub members: Vec<Tree>,
    /// Members of the group, shown or not.
    pub count: Option<u32>,
    /// Members that the group still waits for.
    pub pending: Option<u32>,
    /// Members that failed, where that is minded.
    pub failed: Option<u32>,
    /// Members of a group, or the first steps of a chain (0: not counted), that are not shown.
    pub left_out: Option<u32>,
    /// Of a chord.
    pub body: Option<Box<Tree>>,
    /// Callbacks for success.
    pub link: Vec<Tree>,
    /// Callbacks for failure.
    pub link_error: Vec<Tree>,
}

/// A node of a workflow with its edges.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Node {
    pub number: u32,
    /// `job`; or the wire name of a join, the end of a group, which runs nothing.
    pub kind: String,
    #[serde(default)]
    pub task: Option<String>,
    #[serde(default)]
    pub label: Option<String>,
    /// Of a join: `waiting`, `succeeded`, `failed`, `skipped`.
    pub state: JobState,
    /// Its source: the node that ends before.
    #[serde(default)]
    pub after: Option<u32>,
    /// `success`, or `failure` of an error callback.
    #[serde(default)]
    pub when: String,
    /// The nodes that wait for it.
    #[serde(default)]
    pub next: Vec<NodeRange>,
    /// Of a join: the last node of each member, in the order of the results.
    #[serde(default)]
    pub members: Vec<NodeRange>,
    #[serde(default)]
    pub on_failure: OnFailure,
    /// The join of the innermost group that it is in.
    #[serde(default)]
    pub group: Option<u32>,
    /// Its job.
    #[serde(default)]
    pub job: Option<JobId>,
    #[serde(default)]
    pub started_at: Option<String>,
    #[serde(default)]
    pub finished_at: Option<String>,
    #[serde(default)]
    pub retries: u32,
    #[serde(default)]
    pub error: Option<JobError>,
    /// The workflow that replaced its job.
    #[serde(default)]
    pub replaced_by: Option<WorkflowId>,
}

/// Consecutive nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct NodeRange {
    pub first: u32,
    pub count: u32,
}

/// Some nodes of a workflow.
#[derive(Debug, Clone, Deserialize)]
pub struct NodePage {
    pub items: Vec<Node>,
    /// The `from` to go on with; none at the end.
    #[serde(default)]
    pub next_from: Option<u32>,
}

/// Which modules a resumed workflow runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Digests {
    /// Those of the workflow that is resumed.
    #[default]
    Pinned,
    /// Those that its tasks point at now.
    Current,
}

#[derive(Serialize)]
struct Submission<'a> {
    canvas: &'a Canvas,
    #[serde(flatten)]
    options: &'a WorkflowOptions,
}

impl watch::Watched for Workflow {
    type Seen = (WorkflowState, WorkflowProgress);

    fn seen(&self) -> Self::Seen {
        (self.state, self.progress.clone())
    }

    fn is_over(&self) -> bool {
        self.state.is_terminal()
    }

    fn state_name(&self) -> &'static str {
        self.state.as_str()
    }
}

impl Client {
    /// Submits a canvas. It gets an idempotency key if it has none, so that it is submitted once when connections break.
    pub async fn submit_workflow(&self, canvas: impl Into<Step>, options: &WorkflowOptions) -> Result<Workflow, Error> {
        let canvas = canvas.into().build()?;
        let mut options = options.clone();
        let key = options.idempotency_key.take().map_or_else(fresh_key, Ok)?;
        let body = Submission { canvas: &canvas, options: &options };
        self.post("/v1/workflows").json(&body).idempotency_key(key).answer().await
    }

    /// A workflow as it is now.
    pub async fn workflow(&self, id: WorkflowId) -> Result<Workflow, Error> {
        self.get(format!("/v1/workflows/{id}")).answer().await
    }

    /// The workflow once it is over, however it ended; after `timeout` it is an `Error::WaitTimeout`.
    pub async fn wait_workflow(&self, id: WorkflowId, timeout: Duration) -> Result<Workflow, Error> {
        watch::wait(self, &format!("/v1/workflows/{id}"), id, timeout).await
    }

    /// The workflow now, and again whenever its state or progress differs, as `watch` does for a job.
    pub fn watch_workflow(
        &self,
        id: WorkflowId,
        every: Duration,
    ) -> impl Stream<Item = Result<Workflow, Error>> + Send + 'static {
        watch::watch(self.clone(), format!("/v1/workflows/{id}"), every)
    }

    /// A page of workflows, newest first. `limit` is from 1 to 200; `cursor` is that of the page before.
    pub async fn workflows(
        &self,
        state: Option<WorkflowState>,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<WorkflowPage, Error> {
        let mut request = self.get("/v1/workflows").query("limit", limit.to_string());
        if let Some(state) = state {
            request = request.query("state", state.as_str());
        }
        if let Some(cursor) = cursor {
            request = request.query("cursor", cursor);
        }
        request.answer().await
    }

    /// The workflow's steps, nested. Large ones are cut, and say how much was left out.
    pub async fn workflow_tree(&self, id: WorkflowId) -> Result<Tree, Error> {
        self.get(format!("/v1/workflows/{id}/tree")).answer().await
    }

    /// Up to `max` nodes with their edges, from node `from`.
    pub async fn workflow_nodes(&self, id: WorkflowId, from: u32, max: u32) -> Result<NodePage, Error> {
        let request = self.get(format!("/v1/workflows/{id}/nodes"));
        request.query("from", from.to_string()).query("max", max.to_string()).answer().await
    }

    /// The workflow as a picture, SVG text.
    pub async fn workflow_graph(&self, id: WorkflowId) -> Result<String, Error> {
        self.get(format!("/v1/workflows/{id}/graph.svg")).text().await
    }

    /// Revokes what waits and asks the workers of what runs to stop it.
    pub async fn cancel_workflow(&self, id: WorkflowId) -> Result<Workflow, Error> {
        self.post(format!("/v1/workflows/{id}/cancel")).repeatable().answer().await
    }

    /// Deletes a workflow that is over, with its jobs.
    pub async fn forget_workflow(&self, id: WorkflowId) -> Result<(), Error> {
        self.delete(format!("/v1/workflows/{id}")).text().await.map(drop)
    }

    /// A new workflow that does the failed nodes of this one again, and what comes after them, and keeps what succeeded.
    pub async fn resume_workflow(&self, id: WorkflowId, digests: Digests) -> Result<Workflow, Error> {
        let body = serde_json::json!({ "digest": digests });
        self.post(format!("/v1/workflows/{id}/resume")).json(&body).answer().await
    }
}
