//! Controls of a queue, a task or a tenant (pauses, rates, caps), and the routes of tasks to queues.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    bulk::Bulk,
    client::{Client, typed},
    error::Error,
};

/// Settings of a queue, a task or a tenant at run time. A field that is not set limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Control {
    /// Nothing of it is handed out; what runs goes on.
    pub paused: bool,
    /// Such as `100/m`, across all workers.
    pub rate_limit: Option<String>,
    /// So many may start at once before the rate holds.
    pub rate_burst: Option<u32>,
    /// Jobs at once, across all workers.
    pub concurrency: Option<u32>,
    /// Of a queue: its jobs run on one worker at a time.
    pub exclusive: bool,
}

/// A change of a control: what is not named stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ControlPatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// `Some(None)` takes the limit away; so in all the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_burst: Option<Option<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Option<u32>>,
    /// Of a queue only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<bool>,
}

impl ControlPatch {
    #[must_use]
    pub fn paused(self, paused: bool) -> Self {
        Self { paused: Some(paused), ..self }
    }

    /// So many in a period, such as `100/m`.
    #[must_use]
    pub fn rate(self, rate: &str) -> Self {
        Self { rate_limit: Some(Some(rate.to_owned())), ..self }
    }

    #[must_use]
    pub fn burst(self, burst: u32) -> Self {
        Self { rate_burst: Some(Some(burst)), ..self }
    }

    #[must_use]
    pub fn concurrency(self, jobs: u32) -> Self {
        Self { concurrency: Some(Some(jobs)), ..self }
    }

    /// Of a queue: its jobs run on one worker at a time.
    #[must_use]
    pub fn exclusive(self, exclusive: bool) -> Self {
        Self { exclusive: Some(exclusive), ..self }
    }

    /// Takes the rate and the cap away. A pause stays.
    #[must_use]
    pub fn unlimited(self) -> Self {
        Self { rate_limit: Some(None), rate_burst: Some(None), concurrency: Some(None), ..self }
    }
}

/// A queue of the tenant.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Queue {
    pub name: String,
    #[serde(default)]
    pub queued: u64,
    #[serde(default)]
    pub running: u64,
    /// Scheduled or retrying.
    #[serde(default)]
    pub delayed: u64,
    /// In the dead set.
    #[serde(default)]
    pub dead: u64,
    #[serde(default)]
    pub paused: bool,
    /// How long the job that is ready longest has been ready, milliseconds; none when none is.
    #[serde(default)]
    pub oldest_ready_age_ms: Option<u64>,
    #[serde(default)]
    pub control: Control,
}

/// How a route names tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteKind {
    /// The task of this name.
    #[default]
    Name,
    /// With `*` for any text.
    Glob,
    Regex,
}

/// Jobs of these tasks go to this queue, where neither the call nor the task's policy on the server says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    #[serde(rename = "match")]
    pub pattern: String,
    pub kind: RouteKind,
    pub queue: String,
}

/// The tenant's routes; the first that matches wins. At most 256.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    pub routes: Vec<Route>,
}

#[derive(Deserialize)]
struct Queues {
    items: Vec<Queue>,
}

impl Client {
    /// The tenant's queues by name.
    pub async fn queues(&self) -> Result<Vec<Queue>, Error> {
        let queues: Queues = self.get("/v1/queues").answer().await?;
        Ok(queues.items)
    }

    /// Changes what holds for a queue.
    pub async fn set_queue(&self, name: &str, patch: &ControlPatch) -> Result<Queue, Error> {
        self.patch(format!("/v1/queues/{name}")).json(patch).repeatable().answer().await
    }

    /// Deletes an empty queue. One that is empty and unused for a day goes by itself.
    pub async fn delete_queue(&self, name: &str) -> Result<(), Error> {
        self.delete(format!("/v1/queues/{name}")).text().await.map(drop)
    }

    /// Cancels everything that waits in a queue.
    pub async fn purge_queue(&self, name: &str) -> Result<Bulk, Error> {
        self.post(format!("/v1/queues/{name}/purge")).answer().await
    }

    /// Changes what holds for all jobs of a task, also for those that are queued.
    pub async fn set_task_control(&self, task: &str, patch: &ControlPatch) -> Result<Control, Error> {
        let request = self.patch(format!("/v1/tasks/{task}/control")).json(patch).repeatable();
        control_of(&request.text().await?)
    }

    /// The controls of the tenant.
    pub async fn tenant(&self) -> Result<Control, Error> {
        control_of(&self.get("/v1/tenant").text().await?)
    }

    /// Changes what holds for all jobs of the tenant.
    pub async fn set_tenant(&self, patch: &ControlPatch) -> Result<Control, Error> {
        control_of(&self.patch("/v1/tenant").json(patch).repeatable().text().await?)
    }

    /// The tenant's routes.
    pub async fn routes(&self) -> Result<Routes, Error> {
        self.get("/v1/routes").answer().await
    }

    /// Replaces the tenant's routes.
    pub async fn set_routes(&self, routes: &Routes) -> Result<Routes, Error> {
        self.put("/v1/routes").json(routes).answer().await
    }
}

/// A control by itself, or that of the thing in the answer.
fn control_of(text: &str) -> Result<Control, Error> {
    let mut answer: Value = typed(text)?;
    let control = answer.get_mut("control").map(Value::take).unwrap_or(answer);
    serde_json::from_value(control).map_err(|_| Error::BadAnswer)
}
