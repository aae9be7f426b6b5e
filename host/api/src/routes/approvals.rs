//! What a module asks to reach: show, approve, revoke.

use axum::{http::StatusCode, response::IntoResponse as _};
use umbel_compose::Approval;
use umbel_model::{DigestPrefix, ModuleInfo};

use crate::{
    approvals::{approve as approved, revoke as revoked},
    body::ok,
    deployment::TaskChange,
    extract::Context,
    problem::{Problem, Result},
    task_store,
    views::{ApprovalView, ManifestView, views},
};

views! {
    /// What a module can touch and asks to reach, and whether it may.
    ModuleManifest from (info: &ModuleInfo, stored: &Approval) {
        digest: String = info.digest.to_string(),
        manifest: ManifestView = ManifestView::new(info.manifest()),
        approval: ApprovalView = ApprovalView::of(info, stored),
    }

    /// What an approval did.
    ModuleApproval from (info: &ModuleInfo, stored: &Approval, deployed: Vec<TaskChange>) {
        digest: String = info.digest.to_string(),
        manifest: ManifestView = ManifestView::new(info.manifest()),
        approval: ApprovalView = ApprovalView::of(info, stored),
        /// What was done to the tasks that a push left for the approval.
        changes: Vec<TaskChange> = deployed,
    }
}

/// What a module can touch, what it asks to reach, and who approved it.
#[utoipa::path(
    get, path = "/v1/modules/{digest}/manifest", tag = "modules",
    responses((status = 200, body = ModuleManifest))
)]
pub(crate) async fn manifest(Context { api, caller, id, .. }: Context<DigestPrefix>) -> Result {
    let digest = task_store::resolve(&api, &caller.tenant, &id).await?;
    let info = task_store::module(&api, &caller.tenant, digest).await?.ok_or_else(|| Problem::no_module(digest))?;
    let (approval, _) = Approval::read(&*api.broker, &caller.tenant, digest).await?;
    ok(&ModuleManifest::new(&info, &approval))
}

/// Approves what a module asks to reach, and deploys the tasks that a push of it left for that. Needs the right `grant`.
///
/// The approval belongs to the digest: other bytes need one of their own, unless they ask for no more.
#[utoipa::path(
    post, path = "/v1/modules/{digest}/approve", tag = "modules",
    responses((status = 200, body = ModuleApproval))
)]
pub(crate) async fn approve(Context { api, caller, id, .. }: Context<DigestPrefix>) -> Result {
    caller.must_grant()?;
    let digest = task_store::resolve(&api, &caller.tenant, &id).await?;
    let (info, approval, changes) = approved(&api, &caller, digest).await?;
    ok(&ModuleApproval::new(&info, &approval, changes))
}

/// Takes the approval of a module back. Needs the right `grant`. Its tasks stay deployed, and their next calls are denied, at
/// most a second later.
#[utoipa::path(
    delete, path = "/v1/modules/{digest}/approval", tag = "modules",
    responses((status = 204, description = "It is not approved"))
)]
pub(crate) async fn revoke(Context { api, caller, id, .. }: Context<DigestPrefix>) -> Result {
    caller.must_grant()?;
    let digest = task_store::resolve(&api, &caller.tenant, &id).await?;
    revoked(&api, &caller.tenant, digest).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
