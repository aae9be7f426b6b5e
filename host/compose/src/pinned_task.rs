//! A task at a module that somebody names, whatever is deployed.

use umbel_broker::Broker;
use umbel_model::{Digest, TaskName, TenantId};

use crate::{ModuleDocument, Result, TaskDocument};

/// The task as module `digest` of the tenant describes it, under the server's policy of the task that is deployed, if one is; none
/// when there is no such module, it was deleted, or it does not describe the task.
pub async fn pinned_task(
    broker: &dyn Broker,
    tenant: &TenantId,
    name: &TaskName,
    digest: Digest,
) -> Result<Option<TaskDocument>> {
    let module = ModuleDocument::read(broker, tenant, digest).await?;
    let info = module.map(|module| module.info).filter(|info| info.deleted_at.is_none());
    let Some(task) = info.and_then(|info| info.tasks.into_iter().find(|task| task.name == *name)) else {
        return Ok(None);
    };
    let deployed = TaskDocument::read(broker, tenant, name).await?;
    let policy = deployed.map(|(document, _)| document.policy).unwrap_or_default();
    Ok(Some(TaskDocument { policy, ..TaskDocument::first(task, digest, 0) }))
}
