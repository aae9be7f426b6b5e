//! `umbel tenant`.

use umbel_client::{ControlPatch, Request};

use super::{Context, control};
use crate::{
    Failure, Result,
    args::{GrantsVerb, StorageFlags, TenantCommand, TenantScope, TenantVerb},
};

const FIELDS: &str = "name, paused, rate = rate_limit, burst = rate_burst, at once = concurrency, \
                      paused by operator = operator/paused, operator's rate = operator/rate_limit, \
                      operator's at once = operator/concurrency";

pub async fn run(ctx: &Context, TenantCommand { verb, scope }: TenantCommand) -> Result {
    let path = match &scope.tenant {
        Some(tenant) => format!("/v1/tenants/{tenant}/control"),
        None => "/v1/tenant".to_owned(),
    };
    let patch = match verb {
        TenantVerb::Show => return ctx.show(of_scope(ctx.client.get(path), &scope), FIELDS).await,
        TenantVerb::Pause => ControlPatch::default().paused(true),
        TenantVerb::Resume => ControlPatch::default().paused(false),
        TenantVerb::Limit(limits) => control::asked(limits.patch())?,
        TenantVerb::Storage(flags) => return storage(ctx, &flags, &scope).await,
        TenantVerb::Grants { verb } => return grants(ctx, verb, &scope).await,
    };
    ctx.show(of_scope(ctx.client.patch(path).json(&patch).repeatable(), &scope), FIELDS).await
}

const STORAGE: &str = "jobs = job_bytes, of them logs = log_bytes, at most = max_job_bytes, documents = document_bytes, \
                       of them modules = module_bytes, documents at most = max_document_bytes, key-value = kv_bytes, \
                       key-value at most = max_kv_bytes, blobs = blob_bytes, blobs at most = max_blob_bytes";

async fn storage(ctx: &Context, flags: &StorageFlags, scope: &TenantScope) -> Result {
    if scope.queue.is_some() || scope.task.is_some() {
        return Err(Failure::usage("storage is counted for the tenant as a whole").help("leave out --queue and --task"));
    }
    let path = match &scope.tenant {
        Some(tenant) => format!("/v1/tenants/{tenant}/storage"),
        None => "/v1/tenant/storage".to_owned(),
    };
    let mut patch = serde_json::Map::new();
    let limits = [
        ("max_job_bytes", &flags.max_job_bytes),
        ("max_document_bytes", &flags.max_document_bytes),
        ("max_kv_bytes", &flags.max_kv_bytes),
        ("max_blob_bytes", &flags.max_blob_bytes),
    ];
    for (name, limit) in limits {
        patch.extend(limit.as_ref().map(|limit| (name.to_owned(), limit.0.into())));
    }
    if patch.is_empty() {
        return ctx.show(ctx.client.get(path), STORAGE).await;
    }
    if scope.tenant.is_none() {
        return Err(Failure::usage("only an operator sets what a tenant may store").help("give --tenant NAME"));
    }
    ctx.show(ctx.client.patch(path).json(&patch).repeatable(), STORAGE).await
}

const GRANTS: &str = "grants = permissions, operator's bounds = bounds, bounds of each tenant = default_bounds";

async fn grants(ctx: &Context, verb: Option<GrantsVerb>, scope: &TenantScope) -> Result {
    if scope.queue.is_some() || scope.task.is_some() {
        return Err(Failure::usage("grants are the tenant's as a whole").help("leave out --queue and --task"));
    }
    let path = match &scope.tenant {
        Some(tenant) => format!("/v1/tenants/{tenant}/grants"),
        None => "/v1/tenant/grants".to_owned(),
    };
    let permissions = match verb {
        None => return ctx.show(ctx.client.get(path), GRANTS).await,
        Some(GrantsVerb::Set { permissions, .. }) => Some(permissions),
        Some(GrantsVerb::Clear) => None,
    };
    let body = serde_json::json!({ "permissions": permissions });
    ctx.show(ctx.client.put(path).json(&body), GRANTS).await
}

fn of_scope(request: Request, scope: &TenantScope) -> Request {
    match (&scope.queue, &scope.task) {
        (Some(queue), _) => request.query("queue", queue.as_str()),
        (None, Some(task)) => request.query("task", task.as_str()),
        (None, None) => request,
    }
}
