//! Undoing a push as a whole: all tasks that point at a module go back to their deploys before it.
//!
//! Each task is moved in a step of its own, at the version that was read, and only while it points at the module: done
//! again after an interruption it goes on with the rest, and none goes back twice.

use serde::Serialize;
use umbel_broker::Expect;
use umbel_compose::TaskDocument;
use umbel_model::{Digest, TaskName, TenantId};
use utoipa::ToSchema;

use crate::{
    problem::{Problem, Result},
    state::Api,
    task_store,
};

/// What a rollback did to a task.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct TaskMove {
    task: String,
    moved: bool,
    /// The module that it points at now.
    digest: String,
    /// Why it was not moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Moves the tasks that point at the module, in its order.
pub(crate) async fn rolled_back(api: &Api, tenant: &TenantId, digest: Digest) -> Result<Vec<TaskMove>> {
    let info = task_store::module(api, tenant, digest).await?.ok_or_else(|| Problem::no_module(digest))?;
    let mut moves = Vec::new();
    for task in &info.tasks {
        let (moved, detail) = match moved_back(api, tenant, &task.name, digest).await {
            Ok(None) => continue,
            Ok(Some(previous)) => (Some(previous), None),
            Err(problem) if problem.is_retryable() || problem.status().is_server_error() => return Err(problem),
            Err(problem) => (None, Some(problem.detail().to_owned())),
        };
        let (task, points_at) = (task.name.to_string(), moved.unwrap_or(digest).to_string());
        moves.push(TaskMove { task, moved: moved.is_some(), digest: points_at, detail });
    }
    if moves.iter().any(|task| task.moved) {
        return Ok(moves);
    }
    let detail = match moves.iter().find_map(|task| task.detail.as_deref()) {
        None => format!("no task points at {digest}"),
        Some(detail) => detail.to_owned(),
    };
    Err(Problem::nothing_to_roll_back(detail))
}

/// Points the task back if it points at the module; answers the module that it points at then.
async fn moved_back(api: &Api, tenant: &TenantId, name: &TaskName, digest: Digest) -> Result<Option<Digest>> {
    for _ in 0..task_store::MAX_TRIES {
        let Some((document, version)) = TaskDocument::read(&*api.broker, tenant, name).await? else { return Ok(None) };
        if document.digest() != Some(digest) {
            return Ok(None);
        }
        let (document, previous) = task_store::rolled_back(api, tenant, document).await?;
        if let Some(version) = task_store::store(api, tenant, &document, Expect::Version(version)).await? {
            tracing::info!(task = %name, digest = %previous, version, "task rolled back with its module");
            return Ok(Some(previous));
        }
    }
    Err(task_store::busy(name))
}
