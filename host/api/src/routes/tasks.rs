//! Tasks: list, show, deploy, roll back, set policy.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use umbel_broker::{Control, DocumentKind, Expect, Scope};
use umbel_compose::{JsonError, RouteTable, TaskDocument};
use umbel_model::{Digest, PolicyPatch, TaskName};
use utoipa::ToSchema;

use super::modules::TaskParameter;
use crate::{
    auth::Caller,
    body::ok,
    controls::{self, ControlBody, ControlView, control_of},
    etag::{if_match, tagged},
    extract::{Context, JsonBody, PathParam, QueryParams},
    paging::{self, PageQuery},
    problem::{Code, Problem, Result, cut},
    state::Api,
    task_cache, task_store,
    time::Timestamp,
    views::{PolicyFields, PolicyValue, policy_values},
};

/// A task of the tenant.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Task {
    name: String,
    /// Rises with each change; the entity tag.
    version: u64,
    /// The module that it points at.
    digest: Option<String>,
    description: String,
    /// In the order of positional arguments.
    parameters: Vec<TaskParameter>,
    /// JSON Schema of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    returns: Option<serde_json::Value>,
    /// Each field of the policy and where it was decided.
    policy: BTreeMap<String, PolicyValue>,
    /// The control of all its jobs, set at run time.
    control: ControlView,
    /// Moves of the pointer, newest first; at most 50 are kept.
    deploys: Vec<TaskDeploy>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskDeploy {
    digest: String,
    at: Timestamp,
    rolled_back: bool,
}

impl Task {
    fn new(document: TaskDocument, version: u64, routes: &RouteTable, control: &Control) -> Self {
        let deploys = document.deploys.iter().rev().map(|deploy| TaskDeploy {
            digest: deploy.digest.to_string(),
            at: Timestamp(deploy.at),
            rolled_back: deploy.rolled_back,
        });
        Self {
            version,
            digest: document.digest().map(|digest| digest.to_string()),
            deploys: deploys.collect(),
            policy: policy_values(&document.task.policy, &routes.patch(&document.task.name), &document.policy),
            control: control.into(),
            name: document.task.name.into(),
            description: document.task.description,
            parameters: document.task.parameters.into_iter().map(TaskParameter::from).collect(),
            returns: document.task.returns,
        }
    }
}

async fn tagged_task(api: &Api, caller: &Caller, document: TaskDocument, version: u64) -> Result {
    let routes = task_cache::routes(api, &caller.tenant).await?;
    let control = control_of(api, &caller.tenant, &Scope::Task(document.task.name.clone())).await?;
    tagged(&Task::new(document, version, &routes, &control), version)
}

/// A page of tasks by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tasks {
    items: Vec<TaskSummary>,
    next_cursor: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TaskSummary {
    name: String,
    version: u64,
    digest: Option<String>,
    description: String,
    /// Names of the parameters.
    parameters: Vec<String>,
    /// Where its jobs wait unless a call says otherwise.
    queue: String,
}

/// The tenant's tasks.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", params(PageQuery), responses((status = 200, body = Tasks)))]
pub(crate) async fn list(Context { api, caller, .. }: Context, QueryParams(query): QueryParams<PageQuery>) -> Result {
    let (documents, next_cursor) = paging::documents(&api, &caller.tenant, DocumentKind::Task, &query).await?;
    let routes = task_cache::routes(&api, &caller.tenant).await?;
    let summary = |version: u64, document: TaskDocument| TaskSummary {
        version,
        digest: document.digest().map(|digest| digest.to_string()),
        queue: umbel_model::Policy::resolve(&document.layered(Some(&routes))).queue.into(),
        name: document.task.name.into(),
        description: document.task.description,
        parameters: document.task.parameters.into_iter().map(|parameter| parameter.name).collect(),
    };
    let items = documents.iter().map(|d| task_store::parsed(&d.body).map(|task| summary(d.version, task)));
    ok(&Tasks { items: items.collect::<Result<_, _>>()?, next_cursor })
}

/// One task.
#[utoipa::path(get, path = "/v1/tasks/{name}", tag = "tasks", responses((status = 200, body = Task)))]
pub(crate) async fn show(Context { api, caller, .. }: Context, PathParam(name): PathParam<TaskName>) -> Result {
    let (document, version) = task_store::get(&api, &caller.tenant, &name).await?;
    tagged_task(&api, &caller, document, version).await
}

/// Changes the control of all jobs of a task, also of those that are queued.
#[utoipa::path(
    patch, path = "/v1/tasks/{name}/control", tag = "tasks",
    request_body = ControlBody, responses((status = 200, body = ControlView))
)]
pub(crate) async fn control(
    Context { api, caller, .. }: Context,
    PathParam(name): PathParam<TaskName>,
    JsonBody(body): JsonBody<ControlBody>,
) -> Result {
    task_store::get(&api, &caller.tenant, &name).await?;
    let control = controls::set(&api, &caller.tenant, &Scope::Task(name), &body).await?;
    ok(&ControlView::from(&control))
}

/// Where to point a task.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DeployBody {
    /// A module of the tenant that describes the task.
    #[schema(value_type = String)]
    digest: Digest,
}

/// Points the task at a module. Jobs that were submitted before keep theirs.
#[utoipa::path(
    post, path = "/v1/tasks/{name}/deploy", tag = "tasks",
    request_body = DeployBody, responses((status = 200, body = Task))
)]
pub(crate) async fn deploy(
    Context { api, caller, .. }: Context,
    PathParam(name): PathParam<TaskName>,
    JsonBody(body): JsonBody<DeployBody>,
) -> Result {
    let task = task_store::described(&api, &caller.tenant, body.digest, &name).await?;
    let (document, version, _) = task_store::deploy(&api, &caller.tenant, &task, body.digest).await?;
    tagged_task(&api, &caller, document, version).await
}

/// Points the task back at the deploy before.
#[utoipa::path(post, path = "/v1/tasks/{name}/rollback", tag = "tasks", responses((status = 200, body = Task)))]
pub(crate) async fn rollback(Context { api, caller, .. }: Context, PathParam(name): PathParam<TaskName>) -> Result {
    let tenant = &caller.tenant;
    let (mut document, version) = task_store::get(&api, tenant, &name).await?;
    let nothing = || Problem::nothing_to_roll_back(format!("`{name}` has no earlier deploy that still stands"));
    let previous = document.previous().ok_or_else(nothing)?;
    let task = task_store::described(&api, tenant, previous, &name).await?;
    document.roll_back(task);
    task_store::check_policy(&api, &document)?;
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
    request_body = PatchBody, responses((status = 200, body = Task))
)]
pub(crate) async fn patch(
    Context { api, caller, .. }: Context,
    PathParam(name): PathParam<TaskName>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<PatchBody>,
) -> Result {
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
