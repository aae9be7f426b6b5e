//! Workflows: submit a canvas, look, list, wait, cancel, resume.

mod graph;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use umbel_broker::{
    WorkflowCancelled, WorkflowQuery, WorkflowRecord, WorkflowState, WorkflowSubmitted, submit_workflow, workflow_value,
};
use umbel_compose::{Composed, Composer, Composing, Digests, FailedWorkflow, Head, Stamps, check_key};
use umbel_model::{Canvas, WorkflowId, WorkflowSpec};
use utoipa::{IntoParams, ToSchema};

use super::jobs::{WaitQuery, key_of};
use crate::{
    admission::Permit,
    auth::Caller,
    body::{
        Of, WorkflowOf, answer, checked_text, cut, drain, json_or_nothing, misread, object_of, query_of,
        read_json_up_to, wait_of,
    },
    canvas_schema::{Step, step_fault},
    id_generator,
    job_detail::{stored_json, upstream, why_omitted},
    json_limits::marks,
    middleware::RequestId,
    paging,
    problem::{Code, FieldError, Problem},
    state::Api,
    submission::{Origin, idempotency},
    task_source::ApiTasks,
    views::JobError,
    views::{Workflow, Workflows},
};

pub(crate) use graph::*;

/// Commas and brackets of a body: each may be a value of its own, many times as large as its text.
const MAX_MARKS: usize = 2_000_000;
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A canvas, and what is said of the workflow as a whole.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WorkflowSubmission)]
pub(crate) struct WorkflowBody {
    #[schema(value_type = Step)]
    canvas: Canvas,
    /// For people: 1 to 128 bytes.
    name: Option<String>,
    /// At most 32, of 1 to 128 bytes each. Its jobs inherit them.
    #[serde(default)]
    tags: Vec<String>,
    /// Stamps that its jobs inherit: at most 32, with values of at most 1,024 bytes.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Given up, as `expired`, so long after its start, milliseconds. 0 or not given: never.
    deadline_ms: Option<u64>,
    /// Kept so long after it is over, milliseconds; a day when not given.
    keep_ms: Option<u64>,
    /// As the header `Idempotency-Key`: the same key and body answer with the first workflow for a day.
    idempotency_key: Option<String>,
}

/// Submits a workflow.
///
/// Its calls are checked against the parameters of their tasks, and what is known of their arguments against the JSON
/// Schemas: a call that cannot work is refused here, with its place. All of the workflow is stored, or nothing.
#[utoipa::path(
    post, path = "/v1/workflows", tag = "workflows",
    params(
        WaitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and body answer with the first workflow"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, carried through its jobs"),
    ),
    request_body = WorkflowBody,
    responses(
        (status = 202, body = Workflow, description = "It runs"),
        (status = 200, body = Workflow, description = "It is over, or the idempotency key was known"),
    )
)]
pub(crate) async fn submit(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(request_id): Extension<RequestId>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let wait = wait_of(&api, query_of::<WaitQuery>(&uri)?.wait())?;
    let origin = Origin::of(&caller, &request_id, &headers);
    let turn = match api.workflows.take(&caller.tenant).await {
        Ok(turn) => turn,
        Err(problem) => {
            drain(body).await;
            return Err(problem);
        }
    };
    let bytes = read_json_up_to(&api, &headers, body, api.config.max_workflow_bytes).await?;
    let body = parsed(bytes.clone()).await?;
    if let Some(key) = &body.idempotency_key {
        check_key(key).map_err(|detail| {
            let errors = vec![FieldError { pointer: "/idempotency_key".into(), detail: detail.clone() }];
            Problem::new(Code::InvalidOption, detail).errors(errors)
        })?;
    }
    let key = key_of(&headers, body.idempotency_key.as_deref(), "idempotency_key")?;
    let head = Head {
        name: body.name,
        deadline_ms: body.deadline_ms.unwrap_or(0),
        idempotency: key.map(|key| idempotency(&key, &bytes)),
        ..Head::new(api.ids.workflow_id()?)
    };
    let head = Head { keep_ms: body.keep_ms.unwrap_or(head.keep_ms), ..head };
    let stamps = Stamps {
        tags: body.tags,
        headers: body.headers,
        traceparent: origin.traceparent,
        request_id: Some(origin.request_id),
    };
    let canvas = body.canvas;
    let work = Work { api: api.clone(), caller: caller.clone(), stamps, turn };
    let (composed, turn) = composed(work, "/canvas", |composer| composer.workflow(canvas, head)).await?;
    let (id, replayed) = stored(&api, composed).await?;
    drop(turn);
    respond(&api, &caller, id, wait, replayed).await
}

/// What composing needs, of its own.
pub(super) struct Work {
    pub(super) api: Arc<Api>,
    pub(super) caller: Caller,
    pub(super) stamps: Stamps,
    pub(super) turn: Permit,
}

/// Composes off the async threads: a large canvas takes a while. Keeps its turn even if the client goes away.
pub(super) async fn composed<F>(work: Work, pointer: &'static str, compose: F) -> Result<(Composed, Permit), Problem>
where
    F: for<'a> FnOnce(Composer<'a>) -> Composing<'a, Composed> + Send + 'static,
{
    let runtime = tokio::runtime::Handle::current();
    let composing = tokio::task::spawn_blocking(move || {
        let Work { api, caller, stamps, turn } = work;
        let tasks = ApiTasks::new(&api);
        let (rules, tenant, now_ms) = (&api.rules, &caller.tenant, id_generator::now_ms());
        let composer = Composer { tasks: &tasks, rules, tenant, stamps: &stamps, now_ms, pointer };
        let composed = runtime.block_on(compose(composer)).map_err(|error| tasks.problem(error))?;
        Ok((composed, turn))
    });
    composing.await.map_err(|_| Problem::new(Code::Internal, "the server's log says more"))?
}

async fn parsed(bytes: Bytes) -> Result<WorkflowBody, Problem> {
    let parse = move || {
        let text = checked_text(&bytes)?;
        let marks = marks(&bytes);
        if marks > MAX_MARKS {
            let detail = format!("it has {marks} commas and brackets; at most {MAX_MARKS}: send several workflows");
            return Err(Problem::new(Code::InvalidCanvas, detail));
        }
        if !text.trim_ascii_start().starts_with('{') {
            return object_of(text);
        }
        serde_json::from_str(text).map_err(|error| match step_fault(text) {
            Some((pointer, detail)) => {
                let detail = cut(&detail);
                let errors = vec![FieldError { pointer: cut(&pointer), detail: detail.clone() }];
                Problem::new(Code::InvalidCanvas, format!("{}: {detail}", cut(&pointer))).errors(errors)
            }
            None => misread::<WorkflowBody>(text, &error),
        })
    };
    let parsed = tokio::task::spawn_blocking(parse).await;
    parsed.map_err(|_| Problem::new(Code::Internal, "the server's log says more"))?
}

/// Stores a workflow; answers its id, and whether it was there before.
pub(super) async fn stored(api: &Api, composed: Composed) -> Result<(WorkflowId, bool), Problem> {
    use WorkflowSubmitted as S;
    let broker = api.broker.clone();
    // A task of its own: a client that goes away does not leave half of a workflow behind.
    let storing = tokio::spawn(async move {
        let Composed { head, nodes } = composed;
        let answer = submit_workflow(&*broker, &head, &nodes).await;
        (head, answer)
    });
    let (head, answer) =
        storing.await.map_err(|_| Problem::new(Code::Internal, "storing it failed; the server's log says more"))?;
    let answer = answer?;
    tracing::debug!(workflow = %head.id, nodes = head.nodes, templates = head.templates.len(), ?answer, "workflow submitted");
    match answer {
        S::Created => Ok((head.id, false)),
        // The answer to its start was lost, and it was started again: it is this one.
        S::Existing(id) => Ok((id, id != head.id)),
        S::Conflict(id) => Err(Problem::new(
            Code::IdempotencyConflict,
            format!("the key was used for {id} with another body; use a new key for a new request"),
        )),
        S::QueueFull => Err(Problem::new(Code::QueueFull, "try again when the queues are shorter")),
        S::TooManyQueues => Err(Problem::new(Code::TooManyQueues, "use some of the queues that exist")),
        S::TooManyWorkflows => Err(Problem::new(Code::TooManyWorkflows, "wait until some are over and forgotten")),
        S::Unknown => Err(Problem::new(Code::RequestTimeout, "storing it took too long, and it was given up")),
    }
}

/// The answer to a submission that was stored: whatever happens now, it never reads as a failure to submit.
async fn respond(
    api: &Api,
    caller: &Caller,
    id: WorkflowId,
    wait: Duration,
    replayed: bool,
) -> Result<Response, Problem> {
    let mut response = match api.watch.workflow(&caller.tenant, id, wait).await {
        Ok(Some(record)) => {
            let done = record.state.is_terminal() || replayed;
            let status = if done { StatusCode::OK } else { StatusCode::ACCEPTED };
            answer(status, &whole(api, &record).await?)?
        }
        // It is over, and its retention is, too: the id is all that there is to say.
        Ok(None) => answer(StatusCode::OK, &StoredId { id: id.to_string() })?,
        Err(error) => {
            tracing::warn!(workflow = %id, %error, "a stored workflow cannot be read back; its id is answered");
            answer(StatusCode::ACCEPTED, &StoredId { id: id.to_string() })?
        }
    };
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/workflows/{id}")) {
        headers.insert(header::LOCATION, location);
    }
    if replayed {
        headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// What is known of a stored workflow that cannot be read, or not any more.
#[derive(Debug, Serialize)]
struct StoredId {
    id: String,
}

/// A workflow with its result or why it failed.
async fn whole(api: &Api, record: &WorkflowRecord) -> Result<Workflow, Problem> {
    let mut workflow = Workflow::new(record)?;
    match record.state {
        WorkflowState::Succeeded => {
            match workflow_value(&*api.broker, &api.large, &record.tenant, record.id, api.config.max_result_bytes).await
            {
                Ok(text) => workflow.result = Some(stored_json(text)?),
                Err(error) => workflow.result_omitted = Some(why_omitted(error)?),
            }
        }
        WorkflowState::Running => {}
        _ => {
            let why = upstream(api, &record.tenant, record.id, Some(record.end)).await?;
            workflow.error = why.map(JobError::from);
        }
    }
    Ok(workflow)
}

/// One workflow; with `wait`, once it is over or the time is.
#[utoipa::path(
    get, path = "/v1/workflows/{id}", tag = "workflows", params(("id" = String, Path), WaitQuery),
    responses((status = 200, body = Workflow))
)]
pub(crate) async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Of(WorkflowOf(id)): Of<WorkflowOf>,
    uri: Uri,
) -> Result<Response, Problem> {
    let wait = wait_of(&api, query_of::<WaitQuery>(&uri)?.wait())?;
    let record = api.watch.workflow(&caller.tenant, id, wait).await?.ok_or_else(|| unknown(id))?;
    answer(StatusCode::OK, &whole(&api, &record).await?)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WorkflowsQuery {
    /// Only workflows in this state.
    state: Option<String>,
    /// From 1 to 200; 50 when not given.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Workflows, newest first. Those that replace a job are not listed.
#[utoipa::path(
    get, path = "/v1/workflows", tag = "workflows", params(WorkflowsQuery),
    responses((status = 200, body = Workflows))
)]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, Problem> {
    let query: WorkflowsQuery = query_of(&uri)?;
    let state = query.state.as_deref().map(|name| {
        let known = || WorkflowState::ALL.map(WorkflowState::as_str).join(", ");
        WorkflowState::from_name(name)
            .ok_or_else(|| Problem::new(Code::InvalidQuery, format!("state: one of {}", known())))
    });
    let query = WorkflowQuery {
        tenant: caller.tenant.clone(),
        state: state.transpose()?,
        before: paging::place_of(query.cursor.as_deref(), |text| text.parse().ok())?,
        max: paging::limit_of(query.limit)?,
    };
    let page = api.broker.workflows(&query).await?;
    let items = page.workflows.iter().map(Workflow::new).collect::<Result<_, _>>()?;
    answer(StatusCode::OK, &Workflows { items, next_cursor: page.next.map(|id| paging::cursor(&id.to_string())) })
}

/// Revokes what waits; asks the workers of what runs to stop it.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/cancel", tag = "workflows", params(("id" = String, Path)),
    responses(
        (status = 200, body = Workflow, description = "It is revoked"),
        (status = 202, body = Workflow, description = "It ends when what runs has stopped"),
    )
)]
pub(crate) async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Of(WorkflowOf(id)): Of<WorkflowOf>,
) -> Result<Response, Problem> {
    match api.broker.cancel_workflow(&caller.tenant, id).await? {
        WorkflowCancelled::Requested | WorkflowCancelled::AlreadyEnded(WorkflowState::Revoked) => {}
        WorkflowCancelled::AlreadyEnded(state) => {
            return Err(Problem::new(Code::WorkflowEnded, format!("workflow {id} is {}", state.as_str())));
        }
        WorkflowCancelled::NotFound => return Err(unknown(id)),
    }
    let record = find(&api, &caller, id).await?;
    let status = if record.state.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    answer(status, &whole(&api, &record).await?)
}

/// How to resume a workflow.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ResumeBody {
    /// Which modules run: `pinned`, those of the first submission; `current`, those that the tasks point at now.
    digest: ResumeDigest,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResumeDigest {
    #[default]
    Pinned,
    Current,
}

/// Does again what failed of a workflow, and what comes after it, as a new workflow that keeps what succeeded.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/resume", tag = "workflows",
    params(
        ("id" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and digest answer with the first workflow"),
    ),
    request_body = Option<ResumeBody>,
    responses(
        (status = 202, body = Workflow, description = "The new workflow runs"),
        (status = 200, body = Workflow, description = "It is over, or the idempotency key was known"),
    )
)]
pub(crate) async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Extension(request_id): Extension<RequestId>,
    Of(WorkflowOf(id)): Of<WorkflowOf>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body: ResumeBody = json_or_nothing(&api, &headers, body).await?;
    let key = key_of(&headers, None, "")?;
    let turn = api.workflows.take(&caller.tenant).await?;
    let old = FailedWorkflow::read(&*api.broker, &api.large, &caller.tenant, id, api.rules.limits.max_bytes).await?;
    let old = old.ok_or_else(|| unknown(id))?;
    let spec: WorkflowSpec = serde_json::from_str(&old.record.spec).map_err(|error| {
        tracing::error!(workflow = %id, %error, "a stored workflow cannot be read");
        Problem::new(Code::RecordUnreadable, format!("workflow {id}"))
    })?;
    let origin = Origin::of(&caller, &request_id, &headers);
    let (digests, request) = match body.digest {
        ResumeDigest::Pinned => (Digests::Pinned, format!("resume {id} pinned")),
        ResumeDigest::Current => (Digests::Current, format!("resume {id} current")),
    };
    let head = Head {
        name: spec.name.clone(),
        idempotency: key.map(|key| idempotency(&key, request.as_bytes())),
        deadline_ms: old.record.deadline_at.map_or(0, |at| at.saturating_sub(old.record.created_at)),
        keep_ms: old.record.keep_ms,
        depth: old.record.depth,
        ..Head::new(api.ids.workflow_id()?)
    };
    let stamps = Stamps {
        traceparent: origin.traceparent.or(spec.traceparent.clone()),
        request_id: Some(origin.request_id),
        ..Stamps::from(spec)
    };
    let work = Work { api: api.clone(), caller: caller.clone(), stamps, turn };
    let (composed, turn) = composed(work, "", move |composer| composer.resumed(old, digests, head)).await?;
    let (new, replayed) = stored(&api, composed).await?;
    drop(turn);
    tracing::info!(workflow = %new, resume_of = %id, "workflow resumed");
    respond(&api, &caller, new, Duration::ZERO, replayed).await
}

/// One workflow of the tenant.
pub(crate) async fn find(api: &Api, caller: &Caller, id: WorkflowId) -> Result<WorkflowRecord, Problem> {
    api.broker.workflow(&caller.tenant, id).await?.ok_or_else(|| unknown(id))
}

pub(crate) fn unknown(id: WorkflowId) -> Problem {
    Problem::new(Code::WorkflowNotFound, format!("no workflow {id}; check the id, or its retention has passed"))
}
