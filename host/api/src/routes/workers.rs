//! Workers that are alive, what they run, and orders to them.

use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use umbel_broker::{MAX_READY_QUEUES, Ordered, Shutdown, WorkerInfo, WorkerOrder};
use umbel_model::{JobState, QueueName, WorkerId};
use utoipa::ToSchema;

use super::jobs::list::{Jobs, ListQuery, filtered};
use crate::{
    auth::Caller,
    body::{answer, ok},
    extract::{Context, Json, Operator, OptionalJson, Query},
    problem::{Code, Problem, Result},
    state::Api,
    views::{ShutdownMode, Worker, WorkerSummary},
};

/// Attempts at once that a worker may be told to make.
pub(crate) const MAX_SLOTS: u32 = 4_096;

/// All of a worker to an operator, a summary to others.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = WorkerItem)]
pub(crate) enum Item {
    Whole(Box<Worker>),
    Summary(WorkerSummary),
}

impl Item {
    fn of(info: WorkerInfo, caller: &Caller) -> Self {
        if caller.operator { Self::Whole(Box::new(Worker::new(info))) } else { Self::Summary(WorkerSummary::new(info)) }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Workers {
    items: Vec<Item>,
}

/// Workers that said within 30 s that they are alive, by id. All of them is shown to operators only.
#[utoipa::path(get, path = "/v1/workers", tag = "workers", responses((status = 200, body = Workers)))]
pub(crate) async fn list(Context { api, caller, .. }: Context) -> Result {
    let items = api.broker.workers().await?.into_iter().map(|info| Item::of(info, &caller)).collect();
    ok(&Workers { items })
}

/// One worker.
#[utoipa::path(get, path = "/v1/workers/{id}", tag = "workers", responses((status = 200, body = Item)))]
pub(crate) async fn show(Context { api, caller, id, .. }: Context<WorkerId>) -> Result {
    let found = api.broker.workers().await?.into_iter().find(|info| info.id == id);
    ok(&Item::of(found.ok_or_else(|| unknown(&id))?, &caller))
}

/// The caller's jobs that a worker runs. Nodes of workflows are not listed.
#[utoipa::path(
    get, path = "/v1/workers/{id}/jobs", tag = "workers", params(ListQuery),
    responses((status = 200, body = Jobs))
)]
pub(crate) async fn jobs(Context { api, caller, id, .. }: Context<WorkerId>, Query(query): Query<ListQuery>) -> Result {
    let mut filter = query.filter()?;
    filter.worker = Some(id);
    if filter.state.is_empty() {
        filter.state = vec![JobState::Running];
    }
    filtered(&api, &caller, &query, &filter, false).await
}

/// An order was stored. The worker hears of it with its next heartbeat.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OrderGiven {
    /// The worker's `order` is this number, or a later one, when it has followed it.
    order: u64,
}

async fn order(api: &Api, id: &WorkerId, order: WorkerOrder) -> Result {
    match api.broker.order_worker(id, &order).await? {
        Ordered::Told(number) => {
            tracing::info!(worker = %id, ?order, number, "worker ordered");
            answer(StatusCode::ACCEPTED, &OrderGiven { order: number })
        }
        Ordered::Unknown => Err(unknown(id)),
    }
}

/// Claims nothing more, until it is resumed; what runs goes on. For operators.
#[utoipa::path(post, path = "/v1/workers/{id}/drain", tag = "workers", responses((status = 202, body = OrderGiven)))]
pub(crate) async fn drain(Operator(Context { api, id, .. }): Operator<WorkerId>) -> Result {
    order(&api, &id, WorkerOrder { drain: Some(true), ..WorkerOrder::default() }).await
}

/// Claims again. For operators.
#[utoipa::path(post, path = "/v1/workers/{id}/resume", tag = "workers", responses((status = 202, body = OrderGiven)))]
pub(crate) async fn resume(Operator(Context { api, id, .. }): Operator<WorkerId>) -> Result {
    order(&api, &id, WorkerOrder { drain: Some(false), ..WorkerOrder::default() }).await
}

/// How a worker ends.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShutdownBody {
    #[schema(value_type = ShutdownMode)]
    mode: Option<Shutdown>,
}

impl Default for ShutdownBody {
    fn default() -> Self {
        Self { mode: Some(Shutdown::Warm) }
    }
}

/// Ends a worker's process. For operators.
#[utoipa::path(
    post, path = "/v1/workers/{id}/shutdown", tag = "workers",
    request_body = Option<ShutdownBody>, responses((status = 202, body = OrderGiven))
)]
pub(crate) async fn shutdown(
    Operator(Context { api, id, .. }): Operator<WorkerId>,
    OptionalJson(body): OptionalJson<ShutdownBody>,
) -> Result {
    let shutdown = body.mode.or(Some(Shutdown::Warm));
    order(&api, &id, WorkerOrder { shutdown, ..WorkerOrder::default() }).await
}

/// A change of a worker while it runs. What is not named stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct WorkerPatch {
    /// So many attempts at once; or `min_slots` and `max_slots`.
    slots: Option<u32>,
    /// As many as there is work for, between these.
    min_slots: Option<u32>,
    max_slots: Option<u32>,
    /// Serve these from now on, in this order.
    #[schema(value_type = Option<Vec<String>>)]
    queues: Option<Vec<QueueName>>,
}

fn invalid(field: &str, detail: impl Into<String>) -> Problem {
    Problem::of_field(Code::InvalidBody, field, detail)
}

impl WorkerPatch {
    fn order(self) -> Result<WorkerOrder> {
        let slots = match (self.slots, self.min_slots, self.max_slots) {
            (None, None, None) => None,
            (Some(slots), None, None) => Some((slots, slots)),
            (None, Some(min), Some(max)) => Some((min, max)),
            _ => return Err(invalid("slots", "give slots, or min_slots and max_slots")),
        };
        if slots.is_some_and(|(min, max)| min == 0 || min > max || max > MAX_SLOTS) {
            return Err(invalid("slots", format!("from 1 to {MAX_SLOTS}, the least first")));
        }
        if self.queues.as_ref().is_some_and(|queues| queues.len() > MAX_READY_QUEUES as usize) {
            return Err(invalid("queues", format!("name at most {MAX_READY_QUEUES}, or none for all of them")));
        }
        if slots.is_none() && self.queues.is_none() {
            return Err(invalid("slots", "say what to change: slots, min_slots and max_slots, or queues"));
        }
        Ok(WorkerOrder { slots, queues: self.queues, ..WorkerOrder::default() })
    }
}

/// Changes the slots or the queues of a worker. For operators.
#[utoipa::path(patch, path = "/v1/workers/{id}", tag = "workers", responses((status = 202, body = OrderGiven)))]
pub(crate) async fn patch(Operator(cx): Operator<WorkerId>, Json(body): Json<WorkerPatch>) -> Result {
    let Context { api, id, .. } = cx;
    order(&api, &id, body.order()?).await
}

fn unknown(id: &WorkerId) -> Problem {
    Problem::worker_not_found(format!("no worker `{id}` is alive; one that ended is forgotten after 30 s"))
}
