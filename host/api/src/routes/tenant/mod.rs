//! The tenant: its control, and the routes from its tasks to queues.

use axum::http::HeaderMap;
use serde::Deserialize;
use umbel_broker::{DocumentKind, DocumentPut, Expect, Scope};
use umbel_compose::{ROUTES_NAME, RouteKind, Routes};
use umbel_model::{QueueName, TaskName, TenantId};
use utoipa::{IntoParams, ToSchema};

pub(crate) mod events;
pub(crate) mod grants;
pub(crate) mod storage;

use crate::{
    body::ok,
    control_layers::{Layer, layers_of},
    controls::{self, ControlBody, ControlView},
    etag::{if_match, tagged},
    extract::{Context, Json, Operator, Query},
    problem::{Problem, Result},
    records, task_cache,
};

/// Regular expressions among a tenant's routes: each takes a moment to compile, and is tried for each task. More of them
/// that an earlier release stored go on to work.
const MAX_REGEXES: usize = 32;

/// The control of all jobs of the tenant.
#[utoipa::path(get, path = "/v1/tenant", tag = "tenant", responses((status = 200, body = ControlView)))]
pub(crate) async fn show(Context { api, caller, .. }: Context) -> Result {
    ok(&ControlView::of(&layers_of(&api, &caller.tenant, &Scope::Tenant).await?))
}

/// Changes the control of all jobs of the tenant.
#[utoipa::path(patch, path = "/v1/tenant", tag = "tenant", responses((status = 200, body = ControlView)))]
pub(crate) async fn patch(Context { api, caller, .. }: Context, Json(body): Json<ControlBody>) -> Result {
    ok(&ControlView::of(&controls::set(&api, &caller.tenant, &Scope::Tenant, Layer::Tenant, &body).await?))
}

/// Which control of a tenant: of all its jobs, or of one queue or task.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ScopeQuery {
    /// Of this queue.
    #[param(value_type = Option<String>)]
    queue: Option<QueueName>,
    /// Of this task.
    #[param(value_type = Option<String>)]
    task: Option<TaskName>,
}

impl ScopeQuery {
    fn scope(self) -> Result<Scope> {
        match (self.queue, self.task) {
            (None, None) => Ok(Scope::Tenant),
            (Some(queue), None) => Ok(Scope::Queue(queue)),
            (None, Some(task)) => Ok(Scope::Task(task)),
            (Some(_), Some(_)) => Err(Problem::invalid_query("name a queue or a task, not both")),
        }
    }
}

/// The control of a tenant, its queue or its task. For operators.
#[utoipa::path(
    get, path = "/v1/tenants/{tenant}/control", tag = "tenant", params(ScopeQuery),
    responses((status = 200, body = ControlView))
)]
pub(crate) async fn show_any(Operator(cx): Operator<TenantId>, Query(query): Query<ScopeQuery>) -> Result {
    ok(&ControlView::of(&layers_of(&cx.api, &cx.id, &query.scope()?).await?))
}

/// Changes the operator's control of a tenant, its queue or its task, which the tenant cannot lift. For operators.
///
/// The stricter of the operator's and the tenant's own control holds, field by field.
#[utoipa::path(
    patch, path = "/v1/tenants/{tenant}/control", tag = "tenant", params(ScopeQuery),
    responses((status = 200, body = ControlView))
)]
pub(crate) async fn patch_any(
    Operator(cx): Operator<TenantId>,
    Query(query): Query<ScopeQuery>,
    Json(body): Json<ControlBody>,
) -> Result {
    ok(&ControlView::of(&controls::set(&cx.api, &cx.id, &query.scope()?, Layer::Operator, &body).await?))
}

/// The tenant's routes: the first that matches a task's name says which queue its jobs go to, unless the task's policy
/// on the server or the call does.
#[derive(ToSchema)]
#[schema(as = Routes)]
#[expect(dead_code, reason = "describes a body, is never built")]
pub(crate) struct RoutesView {
    /// At most 256.
    routes: Vec<RouteView>,
}

#[derive(ToSchema)]
#[schema(as = Route)]
#[expect(dead_code, reason = "describes a body, is never built")]
pub(crate) struct RouteView {
    /// 1 to 256 bytes.
    #[serde(rename = "match")]
    pattern: String,
    kind: Option<crate::views::RouteKind>,
    queue: String,
}

/// The tenant's routes.
#[utoipa::path(get, path = "/v1/routes", tag = "tenant", responses((status = 200, body = RoutesView)))]
pub(crate) async fn routes(Context { api, caller, .. }: Context) -> Result {
    let (routes, version) = Routes::read(&*api.broker, &caller.tenant).await?;
    tagged(&routes, version)
}

/// Replaces the tenant's routes. Jobs that were submitted before stay where they are.
#[utoipa::path(
    put, path = "/v1/routes", tag = "tenant",
    params(("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed")),
    request_body = RoutesView, responses((status = 200, body = RoutesView))
)]
pub(crate) async fn put_routes(cx: Context, headers: HeaderMap, Json(routes): Json<Routes>) -> Result {
    let Context { api, caller, .. } = cx;
    let expect = match if_match(&headers)? {
        None => Expect::Any,
        Some(0) => Expect::Absent,
        Some(version) => Expect::Version(version),
    };
    let invalid = |at: usize, detail: String| {
        Problem::invalid_route(format!("route {at}: {detail}")).with_place(format!("/routes/{at}/match"), detail)
    };
    let mut regexes = routes.routes.iter().enumerate().filter(|(_, route)| route.kind == RouteKind::Regex);
    if let Some((at, _)) = regexes.nth(MAX_REGEXES) {
        return Err(invalid(at, format!("at most {MAX_REGEXES} routes are regular expressions; globs may be more")));
    }
    drop(regexes);
    let (routes, compiled) = task_cache::compiled(routes).await?;
    compiled.map_err(|(at, detail)| invalid(at, detail))?;
    let put = records::write_of(&caller.tenant, DocumentKind::Routes, ROUTES_NAME, expect, &routes);
    let version = match api.broker.put_document(&put).await? {
        DocumentPut::Stored(version) => version,
        DocumentPut::Conflict(version) => {
            let detail = format!("the routes are at version {version}; read them again");
            return Err(Problem::version_conflict(detail));
        }
        DocumentPut::Full | DocumentPut::StorageFull => {
            return Err(Problem::too_many_documents("no document of this kind fits"));
        }
    };
    api.routes.invalidate(&caller.tenant).await;
    // Tasks are remembered with what the routes said of them.
    let tenant = caller.tenant.clone();
    if let Err(error) = api.tasks.invalidate_entries_if(move |(of, _), _| *of == tenant) {
        tracing::warn!(%error, "tasks are remembered with the old routes for a moment");
    }
    tracing::info!(routes = routes.routes.len(), version, "routes set");
    tagged(&routes, version)
}
