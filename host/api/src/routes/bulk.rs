//! Actions on many jobs: start one, look, list, abort. The control service carries them out.

use axum::{
    body::Body,
    http::{HeaderMap, StatusCode},
};
use serde::{Deserialize, Serialize};
use umbel_bulk::{Aborted, Action, Bulk, Filter, Started, abort as stop, list as all, load};
use umbel_compose::Digests;
use umbel_model::{Policy, PolicyPatch};
use utoipa::ToSchema;

use crate::{
    auth::Caller,
    body::{Checked, answer, object, object_of, ok},
    extract::{BulkParam, Context},
    problem::{Code, Problem, Result},
    state::Api,
    submission::{key_of, submission_key},
    time::Timestamp,
    views::{BulkAction, PolicyFields, views},
};

/// An action on many jobs.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = BulkSubmission)]
pub(crate) struct BulkBody {
    #[schema(value_type = BulkAction)]
    action: Action,
    #[schema(value_type = BulkFilter)]
    #[serde(deserialize_with = "object")]
    filter: Filter,
    /// Only count the jobs.
    #[serde(default)]
    dry_run: bool,
    /// Of a cancel: false lets what runs end. True when not given.
    terminate: Option<bool>,
    /// Of a redrive: which module runs; `pinned` when not given.
    #[schema(value_type = Option<crate::views::ResumeDigest>)]
    digest: Option<Digests>,
    /// Of a redrive: laid over each job's policy.
    #[schema(value_type = Option<PolicyFields>)]
    policy: Option<PolicyPatch>,
}

/// Which jobs: criteria joined by *and*. `{}`: all that the action can be done to.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes a field, is never built")]
pub(crate) struct BulkFilter {
    task: Option<String>,
    queue: Option<String>,
    /// One of these.
    state: Option<Vec<crate::views::JobState>>,
    tag: Option<String>,
    /// A header stamp, `name:value`.
    header: Option<String>,
    /// Only the nodes of this workflow; without it those of running workflows for `cancel` and `run_now`, and none for others.
    workflow_id: Option<String>,
    /// Only those in the dead set.
    dead: Option<bool>,
    worker: Option<String>,
    #[schema(format = DateTime)]
    created_after: Option<String>,
    #[schema(format = DateTime)]
    created_before: Option<String>,
    /// Only these, at most 1,000.
    ids: Option<Vec<String>>,
}

views! {
    /// An action on many jobs, and how far it is.
    #[schema(as = Bulk)]
    BulkView from (bulk: Bulk) {
        id: String = bulk.id.to_string(),
        #[schema(value_type = BulkAction)]
        action: Action = bulk.action,
        #[schema(value_type = BulkFilter)]
        filter: Filter = bulk.filter,
        /// `running`, `done`, `aborted`, `failed`.
        state: &'static str = bulk.state.as_str(),
        dry_run: bool = bulk.dry_run,
        /// Jobs found so far.
        matched: u64 = bulk.matched,
        done: u64 = bulk.done,
        /// Found, and then in no state in which it could be done; or nodes of workflows.
        skipped: u64 = bulk.skipped,
        /// It could not be done; `error` says why for the last of them.
        failed: u64 = bulk.failed,
        created_at: Timestamp = Timestamp(bulk.created_at),
        finished_at: Option<Timestamp> = bulk.finished_at.map(Timestamp),
        error: Option<String> = bulk.error,
    }
}

/// Actions, newest first; the last 100 are kept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Bulks {
    items: Vec<BulkView>,
    /// Always none: there is one page.
    next_cursor: Option<String>,
}

fn invalid(field: &str, detail: impl Into<String>) -> Problem {
    Problem::of_field(Code::InvalidBody, field, detail)
}

impl BulkBody {
    fn check(&self, api: &Api) -> Result<()> {
        self.filter.check().map_err(|(field, detail)| invalid(&format!("filter/{field}"), detail))?;
        if self.terminate.is_some() && self.action != Action::Cancel {
            return Err(invalid("terminate", "only a cancel has it"));
        }
        if self.action != Action::Redrive && (self.digest.is_some() || self.policy.is_some()) {
            return Err(invalid("policy", "only a redrive has a digest and a policy"));
        }
        let policy = self.policy.as_ref().map(Policy::resolve);
        let wrong = policy.and_then(|policy| api.config.bounds.check(&policy).err());
        // Whether fields fit each other is known only with each job's own: what does not is counted as failed.
        let joint = ["limit_key", "unique_for_ms", "debounce_ms", "debounce_max_wait_ms", "soft_time_limit_ms"];
        match wrong.filter(|error| !joint.contains(&error.field)) {
            Some(error) => Err(Problem::policy(&error)),
            None => Ok(()),
        }
    }
}

/// A new action, with an id of its own.
pub(crate) fn new(api: &Api, action: Action, filter: Filter) -> Result<Bulk> {
    Ok(Bulk::new(api.ids.job_id()?, action, filter, crate::time::now_ms()))
}

/// Stores an action to be carried out, and answers it.
pub(crate) async fn start(api: &Api, caller: &Caller, bulk: Bulk) -> Result {
    match umbel_bulk::start(&*api.broker, &caller.tenant, bulk).await? {
        Started::Created(bulk) => {
            tracing::info!(bulk = %bulk.id, action = bulk.action.as_str(), dry_run = bulk.dry_run, "bulk action started");
            answer(StatusCode::ACCEPTED, &BulkView::new(*bulk))
        }
        Started::Existing(bulk) => ok(&BulkView::new(*bulk)),
        Started::Conflict(id) => Err(Problem::key_conflict(id)),
        Started::TooMany => {
            let detail = format!("at most {} run at once; wait for one or abort it", umbel_bulk::MAX_RUNNING);
            Err(Problem::too_many_bulks(detail))
        }
    }
}

/// Starts an action on all jobs that a filter finds.
///
/// It is carried out in the background: look at it until its `state` is not `running`. Jobs submitted after its start are not
/// part of it.
#[utoipa::path(
    post, path = "/v1/bulk", tag = "bulk",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and body answer with the first action")),
    request_body = BulkBody,
    responses(
        (status = 202, body = BulkView, description = "It is being done"),
        (status = 200, body = BulkView, description = "The idempotency key was known"),
    )
)]
pub(crate) async fn submit(Context { api, caller, .. }: Context, headers: HeaderMap, body: Body) -> Result {
    let checked = Checked::read(&api, &headers, body, api.config.max_body_bytes).await?;
    let body: BulkBody = object_of(checked.text())?;
    body.check(&api)?;
    let key = key_of(&headers, None, "")?.map(|key| submission_key(&key, &checked.0));
    let mut bulk = new(&api, body.action, body.filter)?;
    bulk.dry_run = body.dry_run;
    bulk.terminate = body.terminate.unwrap_or(true);
    bulk.digest = body.digest.unwrap_or_default();
    bulk.policy = body.policy.unwrap_or_default();
    bulk.key = key.map(|key| (key.idempotency.key, key.idempotency.body));
    start(&api, &caller, bulk).await
}

/// The tenant's actions on many jobs.
#[utoipa::path(get, path = "/v1/bulk", tag = "bulk", responses((status = 200, body = Bulks)))]
pub(crate) async fn list(Context { api, caller, .. }: Context) -> Result {
    let items = all(&*api.broker, &caller.tenant).await?.into_iter().map(BulkView::new).collect();
    ok(&Bulks { items, next_cursor: None })
}

/// One action.
#[utoipa::path(get, path = "/v1/bulk/{id}", tag = "bulk", responses((status = 200, body = BulkView)))]
pub(crate) async fn show(Context { api, caller, id, .. }: Context<BulkParam>) -> Result {
    let bulk = load(&*api.broker, &caller.tenant, id).await?.ok_or_else(|| unknown(id))?;
    ok(&BulkView::new(bulk))
}

/// Stops an action. What it did stays done.
#[utoipa::path(post, path = "/v1/bulk/{id}/abort", tag = "bulk", responses((status = 200, body = BulkView)))]
pub(crate) async fn abort(Context { api, caller, id, .. }: Context<BulkParam>) -> Result {
    match stop(&*api.broker, &caller.tenant, id, crate::time::now_ms()).await? {
        Aborted::Aborted(bulk) => {
            tracing::info!(bulk = %id, "bulk action aborted");
            ok(&BulkView::new(*bulk))
        }
        Aborted::Over(bulk) if bulk.state == umbel_bulk::State::Aborted => ok(&BulkView::new(*bulk)),
        Aborted::Over(bulk) => Err(Problem::bulk_ended(format!("bulk action {id} is {}", bulk.state.as_str()))),
        Aborted::NotFound => Err(unknown(id)),
    }
}

fn unknown(id: umbel_model::JobId) -> Problem {
    let kept = umbel_bulk::MAX_KEPT;
    Problem::bulk_not_found(format!("no bulk action {id}; check the id: the last {kept} are kept"))
}
