//! What a tenant has stored, and how much it may.

use serde::{Deserialize, Deserializer};
use umbel_broker::{StorageLimits, StoredBytes};
use umbel_model::TenantId;
use utoipa::ToSchema;

use crate::{
    body::ok,
    extract::{Context, Json, Operator},
    problem::{Code, Problem, Result},
    state::Api,
    views::views,
};

views! {
    /// What is stored of a tenant, bytes.
    Storage from (stored: StoredBytes, limits: StorageLimits) {
        /// Of jobs and workflows: specs, arguments, results, failures, progress, histories and logs.
        job_bytes: u64 = stored.jobs,
        /// The part of `job_bytes` that is log lines.
        log_bytes: u64 = stored.logs,
        /// Of documents (tasks, routes, tokens and others) and of modules.
        document_bytes: u64 = stored.documents,
        /// The part of `document_bytes` that is modules.
        module_bytes: u64 = stored.modules,
        /// Of key-value entries, those included that have expired and are not deleted yet.
        kv_bytes: u64 = stored.kv,
        /// Of blobs, and 256 bytes for each.
        blob_bytes: u64 = stored.blobs,
        /// Most of `job_bytes`; null: any number. Beyond it submissions are refused, log lines are dropped, and a job whose result
        /// is larger than 4 KiB fails with the kind `storage_quota`.
        max_job_bytes: Option<u64> = Some(limits.jobs).filter(|bytes| *bytes > 0),
        /// Most of `document_bytes`; null: any number. Beyond it pushes and deploys are refused.
        max_document_bytes: Option<u64> = Some(limits.documents).filter(|bytes| *bytes > 0),
        /// Most of `kv_bytes`; null: any number. Beyond it entries are refused.
        max_kv_bytes: Option<u64> = Some(limits.kv).filter(|bytes| *bytes > 0),
        /// Most of `blob_bytes`; null: any number. Beyond it blobs are refused, and a job that wrote some fails with the kind
        /// `storage_quota`.
        max_blob_bytes: Option<u64> = Some(limits.blobs).filter(|bytes| *bytes > 0),
    }
}

async fn storage(api: &Api, tenant: &TenantId) -> Result {
    let limits = api.broker.storage_limits(tenant).await?.or(api.broker.default_storage_limits());
    ok(&Storage::new(api.broker.stored_bytes(tenant).await?, limits))
}

/// What is stored of the tenant, and how much may be.
#[utoipa::path(get, path = "/v1/tenant/storage", tag = "tenant", responses((status = 200, body = Storage)))]
pub(crate) async fn storage_show(Context { api, caller, .. }: Context) -> Result {
    storage(&api, &caller.tenant).await
}

/// What is stored of a tenant, and how much may be. For operators.
#[utoipa::path(get, path = "/v1/tenants/{tenant}/storage", tag = "tenant", responses((status = 200, body = Storage)))]
pub(crate) async fn storage_show_any(Operator(cx): Operator<TenantId>) -> Result {
    storage(&cx.api, &cx.id).await
}

/// A change of what a tenant may store. A field that is left out stays as it is; `null` sets what the server lets each tenant.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
#[schema(as = StoragePatch)]
pub(crate) struct StorageBody {
    /// From 1 to 2^52.
    #[serde(deserialize_with = "given")]
    max_job_bytes: Option<Option<u64>>,
    /// From 1 to 2^52.
    #[serde(deserialize_with = "given")]
    max_document_bytes: Option<Option<u64>>,
    /// From 1 to 2^52.
    #[serde(deserialize_with = "given")]
    max_kv_bytes: Option<Option<u64>>,
    /// From 1 to 2^52.
    #[serde(deserialize_with = "given")]
    max_blob_bytes: Option<Option<u64>>,
}

/// A field that is given, `null` too.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(deserializer).map(Some)
}

/// The limit after a change; 0 is the server's.
fn changed(field: &str, old: u64, new: Option<Option<u64>>) -> Result<u64> {
    match new {
        None => Ok(old),
        Some(None) => Ok(0),
        Some(Some(bytes)) if (1..=StorageLimits::MOST).contains(&bytes) => Ok(bytes),
        Some(Some(_)) => {
            let detail =
                format!("from 1 to {} bytes, or null for what the server lets each tenant", StorageLimits::MOST);
            Err(Problem::of_field(Code::InvalidControl, field, detail))
        }
    }
}

/// Changes what a tenant may store. For operators. Nothing is deleted when it is less than what is stored.
#[utoipa::path(patch, path = "/v1/tenants/{tenant}/storage", tag = "tenant", responses((status = 200, body = Storage)))]
pub(crate) async fn storage_patch_any(Operator(cx): Operator<TenantId>, Json(body): Json<StorageBody>) -> Result {
    let old = cx.api.broker.storage_limits(&cx.id).await?;
    let limits = StorageLimits {
        jobs: changed("max_job_bytes", old.jobs, body.max_job_bytes)?,
        documents: changed("max_document_bytes", old.documents, body.max_document_bytes)?,
        kv: changed("max_kv_bytes", old.kv, body.max_kv_bytes)?,
        blobs: changed("max_blob_bytes", old.blobs, body.max_blob_bytes)?,
    };
    cx.api.broker.set_storage_limits(&cx.id, limits).await?;
    tracing::info!(tenant = %cx.id, ?limits, "what a tenant may store was set");
    storage(&cx.api, &cx.id).await
}
