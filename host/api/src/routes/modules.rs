//! Modules: push, list, show, roll back, delete.
//!
//! A module is looked into before it is stored, so a refused one is never there, and nothing has to be deleted that
//! another tenant may be storing at the same moment. Its document comes before its bytes: a tenant that has as many
//! modules as it may have cannot fill the disk with blobs that nobody uses.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use umbel_broker::{Document, DocumentKind};
use umbel_compose::WaitingPush;
use umbel_model::{
    Declared, Digest, DigestPrefix, JsonText, ModuleInfo, Parameter, PolicyPatch, TaskDescription, TenantId,
};
use umbel_modules::InspectError;
use utoipa::{IntoParams, ToSchema};

use crate::{
    approval_check::waits_for,
    approvals::{self, Decision},
    auth::Caller,
    body::{Chunks, answer, is_declared_longer, ok, or_drain, read_all},
    deployment::{ChangeKind, Plan, TaskChange},
    extract::{Context, Query},
    module_records,
    module_rollback::{TaskMove, rolled_back},
    paging::{self, PageQuery},
    problem::{Problem, Result, cut},
    state::Api,
    task_store,
    time::Timestamp,
    views::{ApprovalView, ManifestView, PermissionChange, PolicyFields, views},
};

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
/// The media type of a module.
const WASM: &str = "application/wasm";

views! {
    /// A module of the tenant.
    Module from (info: ModuleInfo, of_push: Option<Pushed>) {
        /// `sha256:` and 64 hex digits: of the bytes that were sent.
        digest: String = info.digest.to_string(),
        size_bytes: u64 = info.size_bytes,
        /// True when a core module was sent, which the host wraps.
        core_module: bool = info.core_module,
        /// When it was pushed last, about.
        #[serde(skip_serializing_if = "Option::is_none")]
        pushed_at: Option<Timestamp> = info.pushed_at.map(Timestamp),
        /// When it was deleted. Jobs that were submitted with it before run; nothing new may use it until it is pushed again.
        #[serde(skip_serializing_if = "Option::is_none")]
        deleted_at: Option<Timestamp> = info.deleted_at.map(Timestamp),
        /// What it can touch, and what it asks to reach.
        manifest: ManifestView = ManifestView::new(info.manifest()),
        /// Interfaces that it imports.
        imports: Vec<String> = info.imports,
        tasks: Vec<ModuleTask> = info.tasks.into_iter().map(ModuleTask::new).collect(),
        /// True: nothing was stored. Only in the answer to a push, as are the next four.
        #[serde(skip_serializing_if = "Option::is_none")]
        dry_run: Option<bool> = of_push.as_ref().map(|push| push.dry_run),
        /// What the push did to each task, or would do: those of the module in its order, then those that it does not
        /// describe any more.
        #[serde(skip_serializing_if = "Option::is_none")]
        changes: Option<Vec<TaskChange>> = of_push.as_ref().map(|push| push.changes.clone()),
        /// What it asks for otherwise than the version that is deployed now. All that it asks for, when there is none.
        #[serde(skip_serializing_if = "Option::is_none")]
        permission_changes: Option<Vec<PermissionChange>> = of_push.as_ref().map(|push| push.permissions.clone()),
        /// Whether it may reach what it asks for. While it waits, its tasks are not deployed.
        #[serde(skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalView> =
            of_push.as_ref().map(|push| ApprovalView::decided(info.digest, &push.decision)),
        /// Warnings for the author.
        #[serde(skip_serializing_if = "Option::is_none")]
        warnings: Option<Vec<String>> = of_push.map(|push| push.changes.iter().filter_map(warning).collect()),
    }

    ModuleSummary from (info: ModuleInfo) {
        digest: String = info.digest.to_string(),
        size_bytes: u64 = info.size_bytes,
        core_module: bool = info.core_module,
        #[serde(skip_serializing_if = "Option::is_none")]
        pushed_at: Option<Timestamp> = info.pushed_at.map(Timestamp),
        #[serde(skip_serializing_if = "Option::is_none")]
        deleted_at: Option<Timestamp> = info.deleted_at.map(Timestamp),
        imports: Vec<String> = info.imports,
        /// Names of the tasks that it describes.
        tasks: Vec<String> = info.tasks.into_iter().map(|task| task.name.into()).collect(),
    }

    /// A task as its module describes it.
    ModuleTask from (task: TaskDescription) {
        name: String = task.name.into(),
        description: String = task.description,
        parameters: Vec<TaskParameter> = task.parameters.into_iter().map(TaskParameter::new).collect(),
        /// JSON Schema of the result.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Value>)]
        returns: Option<JsonText> = task.returns,
        /// The fields that the author set.
        #[schema(value_type = PolicyFields)]
        policy: PolicyPatch = task.policy,
    }

    /// A parameter, in the order of positional arguments.
    TaskParameter from (parameter: Parameter) {
        name: String = parameter.name,
        /// JSON Schema, draft 2020-12.
        #[schema(value_type = Value)]
        schema: JsonText = parameter.schema,
        /// Without one the parameter is required.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schema(value_type = Option<Value>)]
        default: Option<JsonText> = parameter.default,
    }
}

/// What a push did, or would do.
pub(crate) struct Pushed {
    dry_run: bool,
    changes: Vec<TaskChange>,
    permissions: Vec<PermissionChange>,
    decision: Decision,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(crate) struct PushQuery {
    /// Point the tasks that the module describes at it. True when not given.
    deploy: Option<bool>,
    /// Also those that another module describes, which has few tasks in common with this one. Without it they refuse the push.
    take_over: bool,
    /// Check everything, store nothing, and tell what would change. Whether there is room for the module is not looked at.
    dry_run: bool,
}

/// A WebAssembly component, or a core module that carries its component type.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "describes the body, is never built")]
pub(crate) struct ModuleBytes(Vec<u8>);

/// Pushes a module.
#[utoipa::path(
    post, path = "/v1/modules", tag = "modules",
    params(
        PushQuery,
        ("If-None-Match" = Option<String>, Header, description = "`*`: refuse when the module is known"),
        ("Repr-Digest" = Option<String>, Header, description = "`sha-256=:…:`: refuse other bytes (RFC 9530)"),
    ),
    request_body(content = ModuleBytes, content_type = "application/wasm"),
    responses(
        (status = 201, body = Module),
        (status = 200, body = Module, description = "The same bytes were known, or it was a dry run"),
    )
)]
pub(crate) async fn push(cx: Context, Query(query): Query<PushQuery>, headers: HeaderMap, body: Body) -> Result {
    let Context { api, caller, .. } = cx;
    let ((), body) = or_drain(check_headers(&api, &headers), body).await?;
    let uploads = if is_small(&headers) { &api.small_uploads } else { &api.uploads };
    let (_permit, body) = or_drain(uploads.acquire(&caller.tenant).await, body).await?;
    let limit = api.config.max_module_bytes as usize;
    let bytes = read_all(Chunks::new(&api, body), limit, || too_large(&api)).await?;
    let digest = Digest::of(&bytes);
    check_digest(&headers, &bytes)?;
    let known = task_store::module(&api, &caller.tenant, digest).await?;
    let is_known = known.as_ref().is_some_and(|info| info.deleted_at.is_none());
    if is_known && headers.get(header::IF_NONE_MATCH).is_some_and(|v| v == "*") {
        return Err(Problem::module_exists(format!("{digest} was pushed before")));
    }
    let status = if is_known || query.dry_run { StatusCode::OK } else { StatusCode::CREATED };
    let info = match known {
        // A deleted one is there again. Older releases did not ask it for its permissions.
        Some(info) if info.permissions.is_some() => ModuleInfo { deleted_at: None, ..info },
        _ => inspected(&api, &caller.tenant, bytes.clone(), digest).await?,
    };
    let pushed = carried_out(&api, &caller, &info, bytes, &query).await?;
    let mut response = answer(status, &Module::new(info, Some(pushed)))?;
    tag(&mut response, &digest);
    if !query.dry_run
        && let Ok(location) = HeaderValue::from_str(&format!("/v1/modules/{digest}"))
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// Stores an inspected module and deploys its tasks, unless it must be approved first. A push that may not do what it would is
/// refused, and nothing is stored.
async fn carried_out(api: &Api, caller: &Caller, info: &ModuleInfo, bytes: Bytes, query: &PushQuery) -> Result<Pushed> {
    let &PushQuery { take_over, dry_run, .. } = query;
    let is_deployed = query.deploy != Some(false);
    let mut plan = Plan::read(api, &caller.tenant, info).await?;
    if is_deployed {
        plan.check(take_over)?;
        plan.check_policies(api);
    }
    let nothing = Declared::default();
    let (before, after) = (plan.deployed(), info.permissions.as_ref());
    let permissions = PermissionChange::between(before.unwrap_or(&nothing), after.unwrap_or(&nothing));
    let decision = approvals::at_push(api, caller, info, &plan, take_over).await?;
    if !dry_run {
        stored(api, caller, info, bytes).await?;
        let waiting = is_deployed.then_some(WaitingPush { take_over });
        approvals::remember(api, &caller.tenant, info, &decision, waiting).await?;
        let digest = info.digest;
        tracing::info!(%digest, size_bytes = info.size_bytes, tasks = info.tasks.len(), "module pushed");
    }
    let changes = match &decision {
        _ if !is_deployed => Vec::new(),
        Decision::Waits(missing) => plan.withheld(&waits_for(info.digest, missing)),
        _ if dry_run => plan.changes(),
        _ => plan.carry_out(api, &caller.tenant, info, take_over).await?,
    };
    if !dry_run {
        // It may have been deleted since it was read: then it is stored once more, and its bytes are there.
        module_records::remember(api, &caller.tenant, info).await?;
    }
    Ok(Pushed { dry_run, changes, permissions, decision })
}

/// Stores the document and the bytes of a module.
async fn stored(api: &Api, caller: &Caller, info: &ModuleInfo, bytes: Bytes) -> Result<()> {
    let version = module_records::remember(api, &caller.tenant, info).await?;
    // Also when it is known: storing again repairs a damaged blob.
    if let Err(error) = api.store.put_bytes(bytes, api.config.max_module_bytes).await {
        if let Some(version) = version {
            module_records::forget(api, &caller.tenant, info, version).await;
        }
        return Err(error.into());
    }
    Ok(())
}

fn warning(change: &TaskChange) -> Option<String> {
    let detail = change.detail.as_deref().filter(|_| change.change == ChangeKind::NotDeployed)?;
    Some(format!("task `{}` was not deployed: {detail}", change.task))
}

/// The largest small module, bytes: 64 of them at once are as much as one large module.
const SMALL_MODULE_BYTES: u64 = 1 << 20;

/// Whether the body is declared to be small; the connection takes no more of it than that.
fn is_small(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_LENGTH) && !is_declared_longer(headers, SMALL_MODULE_BYTES)
}

fn check_headers(api: &Api, headers: &HeaderMap) -> Result<()> {
    let media_type = headers.get(header::CONTENT_TYPE);
    if !media_type.is_some_and(|value| value == WASM || value == "application/octet-stream") {
        return Err(Problem::unsupported_media_type(format!("send `Content-Type: {WASM}`")));
    }
    if is_declared_longer(headers, api.config.max_module_bytes) {
        return Err(too_large(api));
    }
    Ok(())
}

fn too_large(api: &Api) -> Problem {
    Problem::module_too_large(format!("a module has at most {} bytes", api.config.max_module_bytes))
}

/// Compares with `Repr-Digest` when it names SHA-256; other algorithms are left alone, as RFC 9530 asks.
fn check_digest(headers: &HeaderMap, bytes: &[u8]) -> Result<()> {
    use sha2::Digest as _;
    let text = headers.get(REPR_DIGEST).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let given = text.split(',').find_map(|member| member.trim().strip_prefix("sha-256=:")?.strip_suffix(':'));
    match given {
        Some(given) if STANDARD.decode(given).ok().as_deref() != Some(&sha2::Sha256::digest(bytes)[..]) => {
            Err(Problem::digest_mismatch("the bytes that arrived are not those of `Repr-Digest`"))
        }
        _ => Ok(()),
    }
}

/// Bytes of a parameter's default as JSON: calls of workflows carry it.
const MAX_DEFAULT_BYTES: usize = 64 << 10;

/// The inspector's answer. The schemas are compiled once, so that no submission meets a bad one.
async fn inspected(api: &Api, tenant: &TenantId, bytes: Bytes, digest: Digest) -> Result<ModuleInfo> {
    let info = api.inspector.inspect(tenant, bytes).await.map_err(refused)?;
    if info.digest != digest {
        tracing::error!(%digest, inspected = %info.digest, "the inspector answered for another module");
        return Err(Problem::internal("the module could not be inspected"));
    }
    for task in &info.tasks {
        let large = |p: &&Parameter| p.default.as_ref().is_some_and(|value| value.as_str().len() > MAX_DEFAULT_BYTES);
        if let Some(parameter) = task.parameters.iter().find(large) {
            let (task, name) = (&task.name, cut(&parameter.name));
            let detail = format!("task `{task}`: the default of `{name}` is larger than {MAX_DEFAULT_BYTES} bytes");
            return Err(Problem::schema_invalid(detail));
        }
    }
    api.schemas.check_module(tenant, &info).await?;
    Ok(info)
}

fn refused(error: InspectError) -> Problem {
    let InspectError { code, message, transient } = error;
    let status = match &*code {
        _ if transient => StatusCode::SERVICE_UNAVAILABLE,
        "module_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    let message = umbel_model::outcome::truncated(message, 4 << 10);
    Problem::with_code(code.into(), status, transient, "The module was refused", message)
}

/// A module is its digest: a strong entity tag.
fn tag(response: &mut Response, digest: &Digest) {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{digest}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
}

/// One module. As everywhere, at least 8 hex digits of its digest name it.
#[utoipa::path(get, path = "/v1/modules/{digest}", tag = "modules", responses((status = 200, body = Module)))]
pub(crate) async fn show(Context { api, caller, id, .. }: Context<DigestPrefix>, headers: HeaderMap) -> Result {
    let digest = task_store::resolve(&api, &caller.tenant, &id).await?;
    let info = task_store::module(&api, &caller.tenant, digest).await?;
    let info = info.ok_or_else(|| Problem::no_module(digest))?;
    let fresh = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok());
    let mut response = match fresh {
        Some(text) if text == "*" || text.contains(&format!("\"{digest}\"")) => {
            StatusCode::NOT_MODIFIED.into_response()
        }
        _ => ok(&Module::new(info, None))?,
    };
    tag(&mut response, &digest);
    Ok(response)
}

views! {
    /// What the rollback of a module did.
    ModuleRollback from (digest: Digest, moves: Vec<TaskMove>) {
        /// The module that the tasks pointed at.
        digest: String = digest.to_string(),
        tasks: Vec<TaskMove> = moves,
    }
}

/// Points all tasks that point at the module back, each at its deploy before: undoes a push as a whole.
///
/// A task without an earlier deploy stays, and `detail` says so. Doing it again goes on where it was interrupted.
#[utoipa::path(
    post, path = "/v1/modules/{digest}/rollback", tag = "modules",
    responses((status = 200, body = ModuleRollback))
)]
pub(crate) async fn rollback(Context { api, caller, id, .. }: Context<DigestPrefix>) -> Result {
    let digest = task_store::resolve(&api, &caller.tenant, &id).await?;
    let moves = rolled_back(&api, &caller.tenant, digest).await?;
    ok(&ModuleRollback::new(digest, moves))
}

/// Deletes a module to which no task points. Jobs that were submitted with it run to their end; nothing new may use it.
///
/// It is listed with `deleted_at` until no unfinished job uses it. Pushing the same bytes again brings it back.
#[utoipa::path(
    delete, path = "/v1/modules/{digest}", tag = "modules",
    responses((status = 204, description = "It is marked as deleted"))
)]
pub(crate) async fn delete(Context { api, caller, id, .. }: Context<DigestPrefix>) -> Result {
    let digest = task_store::resolve(&api, &caller.tenant, &id).await?;
    module_records::delete(&api, &caller.tenant, digest).await?;
    tracing::info!(%digest, "module deleted");
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A page of modules, by digest.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Modules {
    items: Vec<ModuleSummary>,
    next_cursor: Option<String>,
}

/// The tenant's modules.
#[utoipa::path(
    get, path = "/v1/modules", tag = "modules", params(PageQuery),
    responses((status = 200, body = Modules))
)]
pub(crate) async fn list(Context { api, caller, .. }: Context, Query(query): Query<PageQuery>) -> Result {
    let (documents, next_cursor) = paging::documents(&api, &caller.tenant, DocumentKind::Module, &query).await?;
    let summary = |d: &Document| task_store::parsed(&d.body).map(ModuleSummary::new);
    let items = documents.iter().map(summary).collect::<Result<_>>()?;
    ok(&Modules { items, next_cursor })
}
