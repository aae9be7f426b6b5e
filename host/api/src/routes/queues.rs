//! Queues: counts, controls, pause, resume, purge.

use std::collections::HashMap;

use axum::{http::StatusCode, response::IntoResponse as _};
use serde::Serialize;
use umbel_broker::{Control, ControlPatch, QueueDeleted, QueueStats, Scope};
use umbel_bulk::{Action, Filter};
use umbel_model::{JobState, QueueName};
use utoipa::ToSchema;

use super::bulk;
use crate::{
    auth::Caller,
    body::ok,
    control_layers::{Layer, Operators, change},
    controls::{self, ControlBody, ControlView},
    extract::{Context, Json},
    problem::{Problem, Result},
    state::Api,
    views::views,
};

views! {
    /// A queue of the tenant.
    Queue from (stats: QueueStats, oldest_ready_age_ms: Option<u64>, set: &Control, operator: Option<&Control>) {
        name: String = stats.name.into(),
        /// Jobs that wait for a worker.
        queued: u64 = stats.queued,
        running: u64 = stats.running,
        /// Jobs that wait for their time: scheduled or retrying.
        delayed: u64 = stats.delayed,
        /// In the dead set.
        dead: u64 = stats.dead,
        paused: bool = stats.paused,
        /// How long the job that is ready longest has been ready, of those that are first of their priority. Of a queue with
        /// limits, only jobs that may start now, in 100 sub-queues, may be looked at. None when no job is ready.
        oldest_ready_age_ms: Option<u64> = oldest_ready_age_ms,
        control: ControlView = ControlView::new(set, operator),
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queues {
    items: Vec<Queue>,
}

async fn all(api: &Api, caller: &Caller) -> Result<Vec<Queue>> {
    let controls = api.broker.controls(&caller.tenant).await?;
    let control = |name: &QueueName| {
        let found = controls.iter().find(|(scope, _)| matches!(scope, Scope::Queue(queue) if queue == name));
        found.map(|(_, control)| control.clone()).unwrap_or_default()
    };
    let operators = Operators::read(api, &caller.tenant).await?;
    let queues = api.broker.queues(&caller.tenant).await?.into_iter();
    let ages: HashMap<QueueName, u64> = api.broker.oldest_ready(&caller.tenant).await?.into_iter().collect();
    let queue = |stats: QueueStats| {
        let (control, scope) = (control(&stats.name), Scope::Queue(stats.name.clone()));
        let age = ages.get(&stats.name).copied();
        Queue::new(stats, age, &control, operators.of(&scope))
    };
    Ok(queues.map(queue).collect())
}

async fn one(api: &Api, caller: &Caller, name: &QueueName) -> Result<Queue> {
    let found = all(api, caller).await?.into_iter().find(|queue| queue.name == name.as_str());
    found.ok_or_else(|| Problem::no_queue(name.as_str()))
}

/// The tenant's queues by name.
#[utoipa::path(get, path = "/v1/queues", tag = "queues", responses((status = 200, body = Queues)))]
pub(crate) async fn list(Context { api, caller, .. }: Context) -> Result {
    ok(&Queues { items: all(&api, &caller).await? })
}

/// Changes the control of a queue.
#[utoipa::path(patch, path = "/v1/queues/{name}", tag = "queues", responses((status = 200, body = Queue)))]
pub(crate) async fn patch(cx: Context<QueueName>, Json(body): Json<ControlBody>) -> Result {
    let Context { api, caller, id: name, .. } = cx;
    controls::set(&api, &caller.tenant, &Scope::Queue(name.clone()), Layer::Tenant, &body).await?;
    ok(&one(&api, &caller, &name).await?)
}

/// Deletes an empty queue. One that is empty and unused for a day is deleted by itself.
///
/// Jobs that have ended stay. The queue is there again when a job comes into it.
#[utoipa::path(
    delete, path = "/v1/queues/{name}", tag = "queues",
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(Context { api, caller, id: name, .. }: Context<QueueName>) -> Result {
    match api.broker.delete_queue(&caller.tenant, &name).await? {
        QueueDeleted::Deleted => {
            tracing::info!(queue = %name, "queue deleted");
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        QueueDeleted::NotEmpty => {
            let detail = format!("queue `{name}` has jobs that have not ended, dead jobs or a control");
            Err(Problem::queue_not_empty(detail))
        }
        QueueDeleted::NotFound => Err(Problem::no_queue(name.as_str())),
    }
}

/// Stops handing out the queue's jobs, durably. Running jobs go on.
#[utoipa::path(post, path = "/v1/queues/{name}/pause", tag = "queues", responses((status = 200, body = Queue)))]
pub(crate) async fn pause(Context { api, caller, id: name, .. }: Context<QueueName>) -> Result {
    set_paused(&api, &caller, &name, true).await
}

/// Hands out the queue's jobs again.
#[utoipa::path(post, path = "/v1/queues/{name}/resume", tag = "queues", responses((status = 200, body = Queue)))]
pub(crate) async fn resume(Context { api, caller, id: name, .. }: Context<QueueName>) -> Result {
    set_paused(&api, &caller, &name, false).await
}

async fn set_paused(api: &Api, caller: &Caller, name: &QueueName, paused: bool) -> Result {
    let patch = ControlPatch { paused: Some(paused), ..ControlPatch::default() };
    change(api, &caller.tenant, &Scope::Queue(name.clone()), Layer::Tenant, |_| Ok(patch.clone())).await?;
    tracing::info!(queue = %name, paused, "queue set");
    ok(&one(api, caller, name).await?)
}

/// Cancels every job that waits in the queue, nodes of workflows among them: queued, scheduled, retrying. What runs goes on.
#[utoipa::path(
    post, path = "/v1/queues/{name}/purge", tag = "queues",
    responses((status = 202, body = bulk::BulkView, description = "It is being done"))
)]
pub(crate) async fn purge(Context { api, caller, id: name, .. }: Context<QueueName>) -> Result {
    one(&api, &caller, &name).await?;
    let state = vec![JobState::Queued, JobState::Scheduled, JobState::Retrying];
    let filter = Filter { queue: Some(name), state, ..Filter::default() };
    bulk::start(&api, &caller, bulk::new(&api, Action::Cancel, filter)?).await
}
