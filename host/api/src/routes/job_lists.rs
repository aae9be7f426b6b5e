//! Lists of jobs: all, the dead, a workflow's.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};
use serde::{Deserialize, Serialize};
use umbel_broker::{JobQuery, NodeWork, PAGE_SCAN};
use umbel_canvas::PageSize;
use umbel_model::{JobState, QueueName, TaskName, WorkflowId};
use utoipa::{IntoParams, ToSchema};

use super::workflows;
use crate::{
    auth::Caller,
    body::{answer, query_of},
    pages,
    problem::{Code, Problem},
    state::Api,
    views::Job,
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only jobs in this state.
    state: Option<String>,
    task: Option<String>,
    queue: Option<String>,
    /// Only the jobs of this workflow, in the order of its nodes. Without it, nodes of workflows are not listed.
    workflow: Option<String>,
    /// From 1 to 200; 50 when not given.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A page of jobs, newest first. A page may be short, even empty, and have more behind it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Jobs {
    items: Vec<Job>,
    /// Where to go on; none at the end.
    next_cursor: Option<String>,
}

impl ListQuery {
    fn to_query(&self, caller: &Caller, dead: bool) -> Result<JobQuery, Problem> {
        let before = pages::place_of(self.cursor.as_deref(), |text| text.parse().ok())?;
        Ok(JobQuery { dead, before, ..self.to_filter(caller)? })
    }

    /// The query without a place to go on from.
    fn to_filter(&self, caller: &Caller) -> Result<JobQuery, Problem> {
        let bad = |e: String| Problem::new(Code::InvalidQuery, e);
        let state = self.state.as_deref().map(|name| {
            let known = || JobState::ALL.map(JobState::as_str).join(", ");
            JobState::from_name(name).ok_or_else(|| bad(format!("state: one of {}", known())))
        });
        Ok(JobQuery {
            tenant: caller.tenant.clone(),
            dead: false,
            state: state.transpose()?,
            task: self.task.as_deref().map(TaskName::new).transpose().map_err(|e| bad(e.to_string()))?,
            queue: self.queue.as_deref().map(QueueName::new).transpose().map_err(|e| bad(e.to_string()))?,
            before: None,
            max: pages::limit_of(self.limit)?,
        })
    }
}

/// A page of jobs, of all or of the dead.
pub(crate) async fn page(api: &Api, caller: &Caller, uri: &Uri, dead: bool) -> Result<Response, Problem> {
    let query: ListQuery = query_of(uri)?;
    if let Some(workflow) = &query.workflow {
        if dead {
            return Err(Problem::new(Code::InvalidQuery, "workflow: the dead set is not listed by workflow"));
        }
        return nodes_page(api, caller, &query, workflow).await;
    }
    let page = api.broker.jobs(&query.to_query(caller, dead)?).await?;
    let items = page.jobs.into_iter().map(Job::summary).collect::<Result<_, _>>()?;
    answer(StatusCode::OK, &Jobs { items, next_cursor: page.next.map(|id| pages::cursor(&id.to_string())) })
}

/// A page of a workflow's jobs. It looks at `PAGE_SCAN` nodes at most, as a page of all jobs does, and at fewer if
/// they are large.
async fn nodes_page(api: &Api, caller: &Caller, query: &ListQuery, workflow: &str) -> Result<Response, Problem> {
    let id: WorkflowId = workflow.parse().map_err(|e| Problem::new(Code::WorkflowNotFound, format!("{e}")))?;
    let from = pages::place_of(query.cursor.as_deref(), |text| text.parse().ok())?.unwrap_or(0);
    let wanted = query.to_filter(caller)?;
    let record = api.broker.workflow(&caller.tenant, id).await?.ok_or_else(|| workflows::unknown(id))?;
    let end = PAGE_SCAN.saturating_add(from).min(record.nodes);
    let (mut items, mut next, mut size) = (Vec::new(), from, PageSize::default());
    'pages: while next < end && size.bytes() < workflows::MAX_READ_BYTES {
        let count = size.nodes().min(end - next);
        let page = api.broker.nodes(&caller.tenant, id, next, count).await?;
        size.read(&page);
        for node in page {
            let NodeWork::Job { record, .. } = node.work else { continue };
            let fits = wanted.state.is_none_or(|state| record.state == state)
                && wanted.task.as_ref().is_none_or(|task| record.task == *task)
                && wanted.queue.as_ref().is_none_or(|queue| record.queue == *queue);
            if !fits {
                continue;
            }
            if items.len() as u32 == wanted.max {
                next = node.number;
                break 'pages;
            }
            items.push(Job::summary(*record)?);
        }
        next += count;
    }
    let next = (next < record.nodes).then_some(next);
    answer(StatusCode::OK, &Jobs { items, next_cursor: next.map(|number| pages::cursor(&number.to_string())) })
}

/// Jobs, newest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(ListQuery), responses((status = 200, body = Jobs)))]
pub(crate) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Response, Problem> {
    page(&api, &caller, &uri, false).await
}
