//! Workflows: look, list, wait, cancel, forget.

pub(crate) mod graph;
pub(crate) mod resume;
pub(crate) mod submit;

use std::time::Duration;

use axum::{http::StatusCode, response::IntoResponse as _};
use serde::Deserialize;
use umbel_broker::{
    NodeWork, Results, WorkflowCancelled, WorkflowForgot, WorkflowQuery, WorkflowRecord, WorkflowState, workflow_value,
};
use utoipa::IntoParams;

use crate::{
    auth::Caller,
    body::{answer, ok},
    extract::{Context, Query, WaitQuery, WorkflowParam},
    footprint,
    job_detail::{ignores_result, stored_json, upstream, why_omitted},
    outcome::{Outcome, respond},
    paging,
    problem::{Problem, Result},
    state::Api,
    views::{JobError, Workflow, Workflows},
};

/// The answer to a submission that was stored.
pub(crate) async fn respond_with_workflow(api: &Api, caller: &Caller, outcome: Outcome, wait: Duration) -> Result {
    // What is stored is answered in any case.
    let wait = footprint::wait(api, &caller.tenant, wait).map_or(Duration::ZERO, |()| wait);
    let found = match api.watch.workflow(&caller.tenant, outcome.id(), wait).await {
        Ok(Some(record)) => Ok(Some((record.state.is_terminal(), detail(api, &record).await?))),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    respond("/v1/workflows", outcome, found)
}

/// A workflow with its result or why it failed.
async fn detail(api: &Api, record: &WorkflowRecord) -> Result<Workflow> {
    let mut workflow = Workflow::summary(record)?;
    match record.state {
        WorkflowState::Succeeded => {
            if !end_is_ignored(api, record).await? {
                let max = api.config.max_result_bytes;
                let reserved = footprint::reserve(api, &record.tenant, max).await?;
                match workflow_value(&*api.broker, &api.large, &record.tenant, record.id, max).await {
                    Ok(text) => {
                        reserved.keep(text.len());
                        workflow.result = Some(stored_json(text)?);
                    }
                    Err(error) => workflow.result_omitted = Some(why_omitted(error)?),
                }
            }
        }
        WorkflowState::Running => {}
        _ => {
            let why = upstream(api, &record.tenant, record.id, Some(record.end)).await?;
            workflow.error = why.map(JobError::new);
        }
    }
    Ok(workflow)
}

/// Whether the job that a workflow ends with has a result for nobody.
async fn end_is_ignored(api: &Api, record: &WorkflowRecord) -> Result<bool> {
    if !record.templates.iter().any(|template| ignores_result(&template.spec)) {
        return Ok(false);
    }
    let page = api.broker.nodes(&record.tenant, record.id, record.end, 1, Results::Omitted).await?;
    Ok(page.nodes.first().is_some_and(|node| match &node.work {
        NodeWork::Job { template, .. } => {
            record.templates.get(*template as usize).is_some_and(|template| ignores_result(&template.spec))
        }
        NodeWork::Join { .. } => false,
    }))
}

/// One workflow; with `wait`, once it is over or the time is.
#[utoipa::path(
    get, path = "/v1/workflows/{id}", tag = "workflows", params(WaitQuery),
    responses((status = 200, body = Workflow))
)]
pub(crate) async fn show(cx: Context<WorkflowParam>, Query(query): Query<WaitQuery>) -> Result {
    let Context { api, caller, id, .. } = cx;
    let wait = query.wait(&api)?;
    footprint::wait(&api, &caller.tenant, wait)?;
    let record = api.watch.workflow(&caller.tenant, id, wait).await?.ok_or_else(|| Problem::no_workflow(id))?;
    ok(&detail(&api, &record).await?)
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
pub(crate) async fn list(Context { api, caller, .. }: Context, Query(query): Query<WorkflowsQuery>) -> Result {
    let state = query.state.as_deref().map(|name| {
        let known = || WorkflowState::ALL.map(WorkflowState::as_str).join(", ");
        WorkflowState::from_name(name).ok_or_else(|| Problem::invalid_query(format!("state: one of {}", known())))
    });
    let query = WorkflowQuery {
        tenant: caller.tenant.clone(),
        state: state.transpose()?,
        before: paging::parse_cursor(query.cursor.as_deref(), |text| text.parse().ok())?,
        max: paging::limit_of(query.limit)?,
    };
    let page = api.broker.workflows(&query).await?;
    let items = page.workflows.iter().map(Workflow::summary).collect::<Result<_, _>>()?;
    ok(&Workflows { items, next_cursor: page.next.map(|id| paging::cursor(&id.to_string())) })
}

/// Revokes what waits; asks the workers of what runs to stop it.
#[utoipa::path(
    post, path = "/v1/workflows/{id}/cancel", tag = "workflows",
    responses(
        (status = 200, body = Workflow, description = "It is revoked"),
        (status = 202, body = Workflow, description = "It ends when what runs has stopped"),
    )
)]
pub(crate) async fn cancel(Context { api, caller, id, .. }: Context<WorkflowParam>) -> Result {
    match api.broker.cancel_workflow(&caller.tenant, id).await? {
        WorkflowCancelled::Requested | WorkflowCancelled::AlreadyEnded(WorkflowState::Revoked) => {}
        WorkflowCancelled::AlreadyEnded(state) => {
            return Err(Problem::workflow_ended(format!("workflow {id} is {}", state.as_str())));
        }
        WorkflowCancelled::NotFound => return Err(Problem::no_workflow(id)),
    }
    let record = api.workflow(&caller.tenant, id).await?;
    let status = if record.state.is_terminal() { StatusCode::OK } else { StatusCode::ACCEPTED };
    answer(status, &detail(&api, &record).await?)
}

/// Deletes a workflow that is over, with its jobs and what replaced them.
///
/// A workflow that replaced a job is deleted with that job's workflow.
#[utoipa::path(
    delete, path = "/v1/workflows/{id}", tag = "workflows", responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn forget(Context { api, caller, id, .. }: Context<WorkflowParam>) -> Result {
    match api.broker.forget_workflow(&caller.tenant, id).await? {
        WorkflowForgot::Forgotten => {}
        WorkflowForgot::NotEnded => {
            return Err(Problem::workflow_not_over(format!("workflow {id} runs; cancel it first")));
        }
        WorkflowForgot::Replaces => {
            let detail = format!("workflow {id} replaced a job (`parent`): it is deleted with that job");
            return Err(Problem::workflow_node(detail));
        }
        WorkflowForgot::NotFound => return Err(Problem::no_workflow(id)),
    }
    // The sweeper finds the large values of its jobs.
    tracing::info!(workflow = %id, "workflow forgotten");
    Ok(StatusCode::NO_CONTENT.into_response())
}
