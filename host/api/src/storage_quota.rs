//! What is said of a submission or a document for which the tenant has no room: how much is stored, and may be.

use umbel_broker::{StorageLimits, StoredBytes, Submitted, rules::storage};
use umbel_model::TenantId;

use crate::{
    problem::{Problem, Result},
    state::Api,
};

/// Of a job or workflow that was refused.
pub(crate) async fn of_jobs(api: &Api, tenant: &TenantId) -> Problem {
    match read(api, tenant).await {
        Ok((stored, limits)) => Problem::jobs_quota(&storage::used(stored.jobs, limits.jobs)),
        Err(problem) => problem,
    }
}

/// The same of some of many jobs; none when none of them was refused for it.
pub(crate) async fn of_any(api: &Api, tenant: &TenantId, answers: &[Submitted]) -> Option<Problem> {
    if answers.contains(&Submitted::StorageFull) { Some(of_jobs(api, tenant).await) } else { None }
}

/// Of a module, task or secret that was refused.
pub(crate) async fn of_documents(api: &Api, tenant: &TenantId) -> Problem {
    match read(api, tenant).await {
        Ok((stored, limits)) => Problem::documents_quota(&storage::used(stored.documents, limits.documents)),
        Err(problem) => problem,
    }
}

/// Of a key-value entry that was refused.
pub(crate) async fn of_entries(api: &Api, tenant: &TenantId) -> Problem {
    match read(api, tenant).await {
        Ok((stored, limits)) => Problem::entries_quota(&storage::used(stored.kv, limits.kv)),
        Err(problem) => problem,
    }
}

/// Of a blob that was refused.
pub(crate) async fn of_blobs(api: &Api, tenant: &TenantId) -> Problem {
    match read(api, tenant).await {
        Ok((stored, limits)) => Problem::blobs_quota(&storage::used(stored.blobs, limits.blobs)),
        Err(problem) => problem,
    }
}

async fn read(api: &Api, tenant: &TenantId) -> Result<(StoredBytes, StorageLimits)> {
    let limits = api.broker.storage_limits(tenant).await?.or(api.broker.default_storage_limits());
    Ok((api.broker.stored_bytes(tenant).await?, limits))
}
