//! Tasks: list, show, deploy, roll back, set policy, delete.

use std::collections::BTreeMap;

use axum::{
    http::{HeaderMap, StatusCode},
    response::IntoResponse as _,
};
use serde::{Deserialize, Serialize};
use umbel_broker::{Document, DocumentKind, Expect, Scope};
use umbel_compose::{Deploy, JsonError, RouteTable, TaskDocument};
use umbel_model::{DigestPrefix, JsonText, Policy, PolicyPatch, TaskName};
use utoipa::ToSchema;

use super::modules::TaskParameter;
use crate::{
    auth::Caller,
    body::ok,
    control_layers::{Layer, Layers, layers_of},
    controls::{self, ControlBody, ControlView},
    etag::{if_match, tagged},
    extract::{Context, Json, Query},
    paging::{self, PageQuery},
    problem::{Code, Problem, Result, cut},
    state::Api,
    task_cache, task_store,
    time::Timestamp,
    views::{PolicyFields, PolicyValue, policy_values, views},
};

views! {
    /// A task of the tenant.
    Task from (document: TaskDocument, current: u64, routes: &RouteTable, set: &Layers) {
        name: String = document.task.name.to_string(),
        /// Rises with each change; the entity tag.
        version: u64 = current,
        /// The module that it points at.
        digest: Option<String> = document.digest().map(|digest| digest.to_string()),
        description: String = document.task.description,
        /// In the order of positional arguments.
        parameters: Vec<TaskParameter> = document.task.parameters.into_iter().map(TaskParameter::new).collect(),
        /// JSON Schema of the result.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Value>)]
        returns: Option<JsonText> = document.task.returns,
        /// Each field of the policy and where it was decided.
        policy: BTreeMap<String, PolicyValue> =
            policy_values(&document.task.policy, &routes.patch(&document.task.name), &document.policy),
        /// The control of all its jobs, set at run time.
        control: ControlView = ControlView::of(set),
        /// Moves of the pointer, newest first; at most 50 are kept.
        deploys: Vec<TaskDeploy> = document.deploys.iter().rev().map(TaskDeploy::new).collect(),
    }

    TaskDeploy from (deploy: &Deploy) {
        digest: String = deploy.digest.to_string(),
        at: Timestamp = Timestamp(deploy.at),
        rolled_back: bool = deploy.rolled_back,
    }

    TaskSummary from (document: TaskDocument, current: u64, routes: &RouteTable) {
        name: String = document.task.name.to_string(),
        version: u64 = current,
        digest: Option<String> = document.digest().map(|digest| digest.to_string()),
        description: String = document.task.description.clone(),
        /// Names of the parameters.
        parameters: Vec<String> = document.task.parameters.iter().map(|parameter| parameter.name.clone()).collect(),
        /// Where its jobs wait unless a call says otherwise.
        queue: String = Policy::resolve(&document.layered(Some(routes))).queue.into(),
    }
}

async fn tagged_task(api: &Api, caller: &Caller, document: TaskDocument, version: u64) -> Result {
    let routes = task_cache::routes(api, &caller.tenant).await?;
    let layers = layers_of(api, &caller.tenant, &Scope::Task(document.task.name.clone())).await?;
    tagged(&Task::new(document, version, &routes, &layers), version)
}

/// A page of tasks by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tasks {
    items: Vec<TaskSummary>,
    next_cursor: Option<String>,
}

/// The tenant's tasks.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", params(PageQuery), responses((status = 200, body = Tasks)))]
pub(crate) async fn list(Context { api, caller, .. }: Context, Query(query): Query<PageQuery>) -> Result {
    let (documents, next_cursor) = paging::documents(&api, &caller.tenant, DocumentKind::Task, &query).await?;
    let routes = task_cache::routes(&api, &caller.tenant).await?;
    let summary = |d: &Document| Ok(TaskSummary::new(task_store::parsed(&d.body)?, d.version, &routes));
    let items = documents.iter().map(summary).collect::<Result<_>>()?;
    ok(&Tasks { items, next_cursor })
}

/// One task.
#[utoipa::path(get, path = "/v1/tasks/{name}", tag = "tasks", responses((status = 200, body = Task)))]
pub(crate) async fn show(Context { api, caller, id: name, .. }: Context<TaskName>) -> Result {
    let (document, version) = task_store::get(&api, &caller.tenant, &name).await?;
    tagged_task(&api, &caller, document, version).await
}

/// Deletes a task. Its jobs stay and run with the module that they were submitted with; a new one is refused, on other servers
/// within a second.
///
/// A control of the task stays, because it holds for the jobs that are there. A push that describes the task makes it anew.
#[utoipa::path(
    delete, path = "/v1/tasks/{name}", tag = "tasks",
    params(
        ("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed"),
    ),
    responses((status = 204, description = "It is gone"))
)]
pub(crate) async fn delete(cx: Context<TaskName>, headers: HeaderMap) -> Result {
    let Context { api, caller, id: name, .. } = cx;
    let wanted = if_match(&headers)?;
    for _ in 0..task_store::MAX_TRIES {
        let (_, version) = task_store::get(&api, &caller.tenant, &name).await?;
        if wanted.is_some_and(|wanted| wanted != version) {
            return Err(Problem::version_conflict(format!("`{name}` is at version {version}; read it again")));
        }
        if task_store::delete(&api, &caller.tenant, &name, version).await? {
            tracing::info!(task = %name, version, "task deleted");
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
    }
    Err(task_store::busy(&name))
}

/// Changes the control of all jobs of a task, also of those that are queued.
#[utoipa::path(patch, path = "/v1/tasks/{name}/control", tag = "tasks", responses((status = 200, body = ControlView)))]
pub(crate) async fn control(cx: Context<TaskName>, Json(body): Json<ControlBody>) -> Result {
    let Context { api, caller, id: name, .. } = cx;
    let scope = Scope::Task(name.clone());
    // That of a deleted task may be changed as long as it holds: jobs of it may be there.
    if !api.broker.controls(&caller.tenant).await?.iter().any(|(of, _)| *of == scope) {
        task_store::get(&api, &caller.tenant, &name).await?;
    }
    ok(&ControlView::of(&controls::set(&api, &caller.tenant, &Scope::Task(name), Layer::Tenant, &body).await?))
}

/// Where to point a task.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeployBody {
    /// A module of the tenant that describes the task: its digest, or at least 8 hex digits of it.
    #[schema(value_type = String)]
    digest: DigestPrefix,
}

/// Points the task at a module. Jobs that were submitted before keep theirs.
#[utoipa::path(post, path = "/v1/tasks/{name}/deploy", tag = "tasks", responses((status = 200, body = Task)))]
pub(crate) async fn deploy(cx: Context<TaskName>, Json(body): Json<DeployBody>) -> Result {
    let Context { api, caller, id: name, .. } = cx;
    let digest = task_store::resolve(&api, &caller.tenant, &body.digest).await?;
    let task = task_store::deployable(&api, &caller.tenant, digest, &name).await?;
    let (document, version) = task_store::deploy(&api, &caller.tenant, &task, digest).await?;
    tagged_task(&api, &caller, document, version).await
}

/// Points this one task back at the deploy before; the rollback of a module moves all tasks that a push moved.
#[utoipa::path(post, path = "/v1/tasks/{name}/rollback", tag = "tasks", responses((status = 200, body = Task)))]
pub(crate) async fn rollback(Context { api, caller, id: name, .. }: Context<TaskName>) -> Result {
    let tenant = &caller.tenant;
    let (document, version) = task_store::get(&api, tenant, &name).await?;
    let (document, previous) = task_store::rolled_back(&api, tenant, document).await?;
    // Not tried again: whoever was faster may have rolled back as well, and twice is too far.
    match task_store::store(&api, tenant, &document, Expect::Version(version)).await? {
        Some(version) => {
            tracing::info!(task = %name, digest = %previous, version, "task rolled back");
            tagged_task(&api, &caller, document, version).await
        }
        None => Err(task_store::busy(&name)),
    }
}

/// The fields of the policy that the server sets over those of the code.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PatchBody {
    /// A field sets it, `null` gives it back to the code, a field that is not there stays.
    #[schema(value_type = PolicyFields)]
    policy: serde_json::Map<String, serde_json::Value>,
}

/// Sets fields of the policy over what the code says. Jobs that were submitted before keep theirs.
#[utoipa::path(
    patch, path = "/v1/tasks/{name}", tag = "tasks",
    params(
        ("If-Match" = Option<String>, Header, description = "The entity tag that was read: refuse when it has changed"),
    ),
    responses((status = 200, body = Task))
)]
pub(crate) async fn patch(cx: Context<TaskName>, headers: HeaderMap, Json(body): Json<PatchBody>) -> Result {
    let Context { api, caller, id: name, .. } = cx;
    let wanted = if_match(&headers)?;
    for _ in 0..task_store::MAX_TRIES {
        let (mut document, version) = task_store::get(&api, &caller.tenant, &name).await?;
        if wanted.is_some_and(|wanted| wanted != version) {
            return Err(Problem::version_conflict(format!("`{name}` is at version {version}; read it again")));
        }
        document.policy = patched(&document.policy, &body.policy)?;
        task_store::check_policy(&api, &document)?;
        let stored = task_store::store(&api, &caller.tenant, &document, Expect::Version(version)).await?;
        if let Some(version) = stored {
            tracing::info!(task = %name, version, "policy of the task set");
            return tagged_task(&api, &caller, document, version).await;
        }
    }
    Err(task_store::busy(&name))
}

fn patched(old: &PolicyPatch, change: &serde_json::Map<String, serde_json::Value>) -> Result<PolicyPatch> {
    let mut fields = match serde_json::to_value(old) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    for (name, value) in change {
        // Null stays: an unknown field is an error whatever its value.
        fields.insert(name.clone(), value.clone());
    }
    let fields = serde_json::Value::Object(fields);
    if let Some(JsonError { pointer, detail }) = JsonError::of_value::<PolicyPatch>(&fields) {
        return Err(Problem::of_field(Code::InvalidPolicy, &cut(&format!("policy{pointer}")), cut(&detail)));
    }
    serde_json::from_value(fields).map_err(|e| Problem::invalid_policy(cut(&format!("policy: {e}"))))
}
