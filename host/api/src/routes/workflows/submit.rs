//! Submitting a workflow.

use std::collections::BTreeMap;

use axum::{body::Body, http::HeaderMap};
use bytes::Bytes;
use serde::Deserialize;
use umbel_compose::{Head, check_key};
use umbel_model::{Canvas, Stamps};
use utoipa::ToSchema;

use super::respond_with_workflow;
use crate::{
    body::{checked_text, object_of, or_drain, read_json, shape_problem},
    canvas_schema::{Step, step_fault},
    extract::{Context, Query, WaitQuery},
    json_limits::marks,
    problem::{Code, Problem, Result},
    submission::{Origin, key_of, submission_key},
    views::Workflow,
    workflow_submission::Submission,
};

/// Commas and brackets of a body: each may be a value of its own, many times as large as its text.
const MAX_MARKS: usize = 2_000_000;

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
pub(crate) async fn submit(cx: Context, Query(query): Query<WaitQuery>, headers: HeaderMap, body: Body) -> Result {
    let Context { api, caller, request_id, .. } = cx;
    let wait = query.wait(&api)?;
    let origin = Origin::of(&caller, &request_id, &headers);
    let (permit, body) = or_drain(api.workflows.acquire(&caller.tenant).await, body).await?;
    let bytes = read_json(&api, &headers, body, api.config.max_workflow_bytes).await?;
    let body = parsed(bytes.clone()).await?;
    if let Some(key) = &body.idempotency_key {
        let refused = |detail: String| Problem::invalid_option(&*detail).with_place("/idempotency_key", &*detail);
        check_key(key).map_err(refused)?;
    }
    if body.deadline_ms == Some(0) {
        let detail = "write 1 or more milliseconds; leave it out for no deadline";
        return Err(Problem::invalid_option(detail).with_place("/deadline_ms", detail));
    }
    let key = key_of(&headers, body.idempotency_key.as_deref(), "idempotency_key")?;
    // A large body takes a while.
    let key = tokio::task::spawn_blocking(move || key.map(|key| submission_key(&key, &bytes)));
    let key = key.await.map_err(|_| Problem::see_log())?;
    let head = Head::new(api.ids.workflow_id()?);
    let head = Head {
        name: body.name,
        deadline_ms: body.deadline_ms.unwrap_or(0),
        keep_ms: body.keep_ms.unwrap_or(head.keep_ms),
        key,
        ..head
    };
    let stamps = Stamps {
        tags: body.tags,
        headers: body.headers,
        traceparent: origin.traceparent,
        request_id: Some(origin.request_id),
        schedule: None,
    };
    let canvas = body.canvas;
    let tenant = caller.tenant.clone();
    let submission = Submission { api: api.clone(), tenant, stamps, permit, pointer: "/canvas" };
    let (outcome, _) = submission.submit(|composer| composer.workflow(canvas, head)).await?;
    respond_with_workflow(&api, &caller, outcome, wait).await
}

async fn parsed(bytes: Bytes) -> Result<WorkflowBody> {
    let parse = move || {
        let text = checked_text(&bytes)?;
        let marks = marks(&bytes);
        if marks > MAX_MARKS {
            let detail = format!("it has {marks} commas and brackets; at most {MAX_MARKS}: send several workflows");
            return Err(Problem::invalid_canvas(detail));
        }
        if !text.trim_ascii_start().starts_with('{') {
            return object_of(text);
        }
        serde_json::from_str(text).map_err(|error| match step_fault(text) {
            Some((pointer, detail)) => Problem::at(Code::InvalidCanvas, &pointer, &detail),
            None => shape_problem::<WorkflowBody>(text, &error),
        })
    };
    let parsed = tokio::task::spawn_blocking(parse).await;
    parsed.map_err(|_| Problem::see_log())?
}
