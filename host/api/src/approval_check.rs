//! Whether a module may be deployed, and what is said of one that waits for approval.

use umbel_compose::Approval;
use umbel_model::{Digest, ModuleInfo, Permission, TenantId};

use crate::{
    problem::{Problem, Result},
    state::Api,
};

/// Permissions that an error names.
const NAMED: usize = 10;

/// Refuses to deploy a module that asks for what nobody approved.
pub(crate) async fn must_be_approved(api: &Api, tenant: &TenantId, info: &ModuleInfo) -> Result<()> {
    if !info.needs_approval() {
        return Ok(());
    }
    let (approval, _) = Approval::read(&*api.broker, tenant, info.digest).await?;
    match approval.missing(info) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(Problem::approval_needed(waits_for(info.digest, &missing))),
    }
}

/// What a module waits for, and the line to type.
pub(crate) fn waits_for(digest: Digest, missing: &[Permission]) -> String {
    let named: Vec<String> = missing.iter().take(NAMED).map(|permission| format!("`{permission}`")).collect();
    let more = match missing.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "nobody approved that it may reach {}{more}; somebody with the right to grant approves it: `{}`",
        named.join(", "),
        line_to_type(digest)
    )
}

/// The command that approves a module.
pub(crate) fn line_to_type(digest: Digest) -> String {
    format!("umbel module approve {digest}")
}
