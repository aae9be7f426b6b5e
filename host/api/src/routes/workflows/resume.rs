//! Resuming a workflow that failed.

use std::time::Duration;

use axum::http::HeaderMap;
use serde::Deserialize;
use umbel_compose::{Digests, FailedWorkflow, Head, Refusal};
use umbel_model::{Stamps, WorkflowSpec};
use utoipa::ToSchema;

use super::respond_with_workflow;
use crate::{
    extract::{Context, OptionalJson, WorkflowParam},
    problem::{Problem, Result},
    submission::{Origin, key_of, submission_key},
    task_store,
    views::{ResumeDigest, Workflow},
    workflow_submission::Submission,
};

/// How to resume a workflow.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ResumeBody {
    /// Which modules run: `pinned`, those of the first submission; `current`, those that the tasks point at now.
    #[schema(value_type = ResumeDigest)]
    digest: Digests,
}

/// Does again what failed of a workflow, and what comes after it, as a new workflow that keeps what succeeded.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/resume", tag = "workflows",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and digest answer with the first workflow"),
    ),
    request_body = Option<ResumeBody>,
    responses(
        (status = 202, body = Workflow, description = "The new workflow runs"),
        (status = 200, body = Workflow, description = "It is over, or the idempotency key was known"),
    )
)]
pub(crate) async fn resume(
    Context { api, caller, id, request_id }: Context<WorkflowParam>,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<ResumeBody>,
) -> Result {
    let key = key_of(&headers, None, "")?;
    let permit = api.workflows.acquire(&caller.tenant).await?;
    let old = FailedWorkflow::read(&*api.broker, &api.large, &caller.tenant, id, api.rules.limits.max_bytes).await?;
    let old = old.ok_or_else(|| Problem::no_workflow(id))?;
    if body.digest == Digests::Pinned {
        for digest in old.pinned()? {
            let module = task_store::module(&api, &caller.tenant, digest).await?;
            if module.is_none_or(|info| info.deleted_at.is_some()) {
                return Err(Problem::from(Refusal::ModuleGone(digest)));
            }
        }
    }
    let spec: WorkflowSpec = serde_json::from_str(&old.record.spec)
        .map_err(|error| Problem::unreadable_record(format!("workflow {id}"), &error))?;
    let origin = Origin::of(&caller, &request_id, &headers);
    let digests = body.digest;
    let request = match digests {
        Digests::Pinned => format!("resume {id} pinned"),
        Digests::Current => format!("resume {id} current"),
    };
    let head = Head {
        name: spec.name.clone(),
        key: key.map(|key| submission_key(&key, request.as_bytes())),
        deadline_ms: old.record.deadline_at.map_or(0, |at| at.saturating_sub(old.record.created_at)),
        keep_ms: old.record.keep_ms,
        depth: old.record.depth,
        ..Head::new(api.ids.workflow_id()?)
    };
    let stamps = Stamps {
        traceparent: origin.traceparent.or(spec.stamps.traceparent.clone()),
        request_id: Some(origin.request_id),
        ..spec.stamps
    };
    let submission = Submission { api: api.clone(), tenant: caller.tenant.clone(), stamps, permit, pointer: "" };
    let (outcome, _) = submission.submit(move |composer| composer.resumed(old, digests, head)).await?;
    tracing::info!(workflow = %outcome.id(), resume_of = %id, "workflow resumed");
    respond_with_workflow(&api, &caller, outcome, Duration::ZERO).await
}
