//! Lists of jobs: all, the dead, a workflow's, a worker's.

use serde::{Deserialize, Serialize};
use umbel_broker::{NodeWork, PAGE_SCAN, Results};
use umbel_bulk::Filter;
use umbel_compose::parse_time;
use umbel_model::{JobId, JobState, QueueName, TaskName, WorkerId, WorkflowId};
use utoipa::{IntoParams, ToSchema};

use crate::{
    auth::Caller,
    body::ok,
    extract::{Context, Query},
    paging,
    problem::{Problem, Result},
    state::Api,
    views::Job,
};

/// Questions to the broker that one page may take: filters that brokers do not know are applied here.
const MAX_QUESTIONS: usize = 20;
/// Nodes that one question looks at, at least.
const NODES_A_QUESTION: u32 = 100;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only jobs in this state, or in one of these: `failed,revoked`.
    state: Option<String>,
    task: Option<String>,
    queue: Option<String>,
    /// Only those whose last delivery went to this worker.
    worker: Option<String>,
    /// Only those with this tag.
    tag: Option<String>,
    /// Only those with this header stamp, `name:value`.
    header: Option<String>,
    /// RFC 3339.
    created_after: Option<String>,
    /// RFC 3339.
    created_before: Option<String>,
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
    pub(crate) fn filter(&self) -> Result<Filter> {
        let bad = |e: String| Problem::invalid_query(e);
        let time = |name: &str, text: &Option<String>| {
            text.as_deref().map(parse_time).transpose().map_err(|e| bad(format!("{name}: {e}")))
        };
        let filter = Filter {
            task: self.task.as_deref().map(TaskName::new).transpose().map_err(|e| bad(e.to_string()))?,
            queue: self.queue.as_deref().map(QueueName::new).transpose().map_err(|e| bad(e.to_string()))?,
            state: states_of(self.state.as_deref())?,
            tag: self.tag.clone(),
            header: self.header.clone(),
            worker: self.worker.as_deref().map(WorkerId::new).transpose().map_err(|e| bad(e.to_string()))?,
            created_after: time("created_after", &self.created_after)?,
            created_before: time("created_before", &self.created_before)?,
            ..Filter::default()
        };
        filter.check().map_err(|(field, detail)| bad(format!("{field}: {detail}")))?;
        Ok(filter)
    }
}

/// `?state=failed,revoked`.
pub(crate) fn states_of(list: Option<&str>) -> Result<Vec<JobState>> {
    let state = |name: &str| {
        let known = || JobState::ALL.map(JobState::as_str).join(", ");
        JobState::from_name(name).ok_or_else(|| Problem::invalid_query(format!("state: one of {}", known())))
    };
    list.into_iter().flat_map(|list| list.split(',')).map(state).collect()
}

/// A page of jobs, of all or of the dead.
pub(crate) async fn page(api: &Api, caller: &Caller, query: &ListQuery, dead: bool) -> Result {
    if let Some(workflow) = &query.workflow {
        if dead {
            return Err(Problem::invalid_query("workflow: the dead set is not listed by workflow"));
        }
        return nodes_page(api, caller, query, workflow).await;
    }
    filtered(api, caller, query, &query.filter()?, dead).await
}

/// A page of the jobs that a filter finds. It looks at `PAGE_SCAN` jobs or a little more.
pub(crate) async fn filtered(api: &Api, caller: &Caller, query: &ListQuery, filter: &Filter, dead: bool) -> Result {
    let limit = paging::limit_of(query.limit)?;
    let mut before: Option<JobId> = paging::parse_cursor(query.cursor.as_deref(), |text| text.parse().ok())?;
    let (mut items, mut looked_at) = (Vec::new(), 0);
    'pages: for _ in 0..MAX_QUESTIONS {
        let page = api.broker.jobs(&filter.query(&caller.tenant, dead, before, limit)).await?;
        looked_at += page.jobs.len();
        for record in page.jobs {
            if items.len() as u32 == limit {
                break 'pages;
            }
            let id = record.id;
            if filter.is_simple() || filter.matches(&record) {
                items.push(Job::summary(record)?);
            }
            before = Some(id);
        }
        before = page.next.filter(|next| !filter.is_past(*next));
        if before.is_none() || items.len() as u32 >= limit || filter.is_simple() || looked_at >= PAGE_SCAN as usize {
            break;
        }
    }
    ok(&Jobs { items, next_cursor: before.map(|id| paging::cursor(&id.to_string())) })
}

/// A page of a workflow's jobs. It looks at `PAGE_SCAN` nodes at most, as a page of all jobs does, and at fewer if
/// their texts are large.
async fn nodes_page(api: &Api, caller: &Caller, query: &ListQuery, workflow: &str) -> Result {
    let id: WorkflowId = workflow.parse().map_err(|e| Problem::workflow_not_found(format!("{e}")))?;
    let from = paging::parse_cursor(query.cursor.as_deref(), |text| text.parse().ok())?.unwrap_or(0);
    let (wanted, limit) = (query.filter()?, paging::limit_of(query.limit)?);
    let record = api.workflow(&caller.tenant, id).await?;
    let end = PAGE_SCAN.saturating_add(from).min(record.nodes);
    let (mut items, mut next) = (Vec::new(), from);
    'pages: for _ in 0..MAX_QUESTIONS {
        if next >= end {
            break;
        }
        let count = limit.max(NODES_A_QUESTION).min(end - next);
        let page = api.broker.nodes(&caller.tenant, id, next, count, Results::Omitted).await?;
        for node in page.nodes {
            let NodeWork::Job { record, .. } = node.work else { continue };
            if !wanted.matches(&record) {
                continue;
            }
            if items.len() as u32 == limit {
                next = node.number;
                break 'pages;
            }
            items.push(Job::summary(*record)?);
        }
        next = page.next;
    }
    let next = (next < record.nodes).then_some(next);
    ok(&Jobs { items, next_cursor: next.map(|number| paging::cursor(&number.to_string())) })
}

/// Jobs, newest first.
///
/// Those of workflows are left out, because a workflow may have 250,000: `workflow` lists those of one, `GET /v1/workflows` the
/// workflows, and `GET /v1/dead` has them when they failed.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(ListQuery), responses((status = 200, body = Jobs)))]
pub(crate) async fn list(Context { api, caller, .. }: Context, Query(query): Query<ListQuery>) -> Result {
    page(&api, &caller, &query, false).await
}
