//! Queues: how much is where, pause, resume.

use std::sync::Arc;

use axum::{Extension, extract::State, http::StatusCode, response::Response};
use serde::Serialize;
use umbel_broker::QueueStats;
use umbel_model::QueueName;
use utoipa::ToSchema;

use crate::{
    auth::Caller,
    body::{Of, answer},
    problem::{Code, Problem},
    state::Api,
};

/// A queue of the tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queue {
    name: String,
    /// Jobs that wait for a worker.
    queued: u64,
    running: u64,
    /// Jobs that wait for their time: scheduled or retrying.
    delayed: u64,
    paused: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Queues {
    items: Vec<Queue>,
}

impl From<QueueStats> for Queue {
    fn from(stats: QueueStats) -> Self {
        let QueueStats { name, queued, running, delayed, paused } = stats;
        Self { name: name.into(), queued, running, delayed, paused }
    }
}

/// The tenant's queues by name.
#[utoipa::path(get, path = "/v1/queues", tag = "queues", responses((status = 200, body = Queues)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Response, Problem> {
    let items = api.broker.queues(&caller.tenant).await?.into_iter().map(Queue::from).collect();
    answer(StatusCode::OK, &Queues { items })
}

/// Stops handing out the queue's jobs, durably. Running jobs go on.
#[utoipa::path(
    post, path = "/v1/queues/{name}/pause", tag = "queues", params(("name" = String, Path)),
    responses((status = 200, body = Queue))
)]
pub(crate) async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Of(name): Of<QueueName>,
) -> Result<Response, Problem> {
    set_paused(&api, &caller, &name, true).await
}

/// Hands out the queue's jobs again.
#[utoipa::path(
    post, path = "/v1/queues/{name}/resume", tag = "queues", params(("name" = String, Path)),
    responses((status = 200, body = Queue))
)]
pub(crate) async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Of(name): Of<QueueName>,
) -> Result<Response, Problem> {
    set_paused(&api, &caller, &name, false).await
}

async fn set_paused(api: &Api, caller: &Caller, name: &QueueName, paused: bool) -> Result<Response, Problem> {
    let unknown = || Problem::new(Code::QueueNotFound, format!("no job was ever sent to a queue `{name}`"));
    if !api.broker.set_paused(&caller.tenant, name, paused).await? {
        return Err(unknown());
    }
    tracing::info!(queue = %name, paused, "queue set");
    let queues = api.broker.queues(&caller.tenant).await?;
    let queue = queues.into_iter().find(|queue| queue.name == *name).ok_or_else(unknown)?;
    answer(StatusCode::OK, &Queue::from(queue))
}
