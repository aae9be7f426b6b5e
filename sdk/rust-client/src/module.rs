//! Modules: pushing them, and what a push does to the tasks.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    client::{Client, PushOptions, typed},
    error::Error,
};

/// A module that was pushed.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Module {
    /// `sha256:` and 64 hexadecimal digits.
    pub digest: String,
    pub size_bytes: u64,
    #[serde(default)]
    pub imports: Vec<String>,
    /// True: nothing was stored.
    #[serde(default)]
    pub dry_run: bool,
    /// What the push did to each task, or would do.
    #[serde(default)]
    pub changes: Vec<TaskChange>,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What it asks for otherwise than the version that was deployed.
    #[serde(default)]
    pub permission_changes: Vec<PermissionChange>,
    /// Whether it may reach what it asks for. None from servers of older releases.
    #[serde(default)]
    pub approval: Option<Approval>,
}

/// A permission that a module asks for and the version before it did not, or the other way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PermissionChange {
    /// False: it is not asked for any more.
    pub added: bool,
    /// Such as `kv cursors`.
    pub permission: String,
    /// The task that asks for it; none: all tasks of the module.
    #[serde(default)]
    pub task: Option<String>,
}

/// Whether a module may reach what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct Approval {
    /// `not_needed`, `approved`, or `waits`: its tasks cannot be deployed before it is approved.
    pub state: String,
    /// The name of the token with which it was approved.
    #[serde(default)]
    pub by: Option<String>,
    /// The version whose approval covers it.
    #[serde(default)]
    pub inherited_from: Option<String>,
    /// What nobody approved.
    #[serde(default)]
    pub missing: Vec<String>,
    /// The command that approves it.
    #[serde(default)]
    pub command: Option<String>,
}

/// What an approval did.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct ModuleApproval {
    pub digest: String,
    pub approval: Approval,
    /// What was done to the tasks that a push left for it.
    #[serde(default)]
    pub changes: Vec<TaskChange>,
}

/// What a push does to a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TaskChange {
    pub task: String,
    /// `new`, `updated`, `unchanged`, `taken_over`, `not_deployed`, `not_in_module`; newer servers may have others.
    pub change: String,
    /// The module that it pointed at before.
    #[serde(default)]
    pub from: Option<String>,
    /// What its description says otherwise.
    #[serde(default)]
    pub fields: Vec<FieldChange>,
    #[serde(default)]
    pub detail: Option<String>,
}

/// A part of a task's description that a push changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct FieldChange {
    /// Such as `parameters.order_id` or `policy.max_retries`.
    pub field: String,
    /// `added`, `removed`, `changed`.
    pub change: String,
    /// Of a field of the policy.
    #[serde(default)]
    pub from: Option<Value>,
    #[serde(default)]
    pub to: Option<Value>,
}

/// What the rollback of a module did.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct ModuleRollback {
    /// The module that the tasks pointed at.
    pub digest: String,
    pub tasks: Vec<TaskMove>,
}

/// What a rollback did to a task.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct TaskMove {
    pub task: String,
    pub moved: bool,
    /// The module that it points at now.
    pub digest: String,
    /// Why it was not moved.
    #[serde(default)]
    pub detail: Option<String>,
}

impl Client {
    /// Points all tasks that point at the module back, each at its deploy before. `digest` may be its first hex digits.
    pub async fn rollback_module(&self, digest: &str) -> Result<ModuleRollback, Error> {
        self.post(format!("/v1/modules/{digest}/rollback")).answer().await
    }

    /// Approves what a module asks to reach, and deploys the tasks that a push left for that. Needs a token with the right
    /// to grant.
    pub async fn approve_module(&self, digest: &str) -> Result<ModuleApproval, Error> {
        self.post(format!("/v1/modules/{digest}/approve")).repeatable().answer().await
    }

    /// Takes the approval of a module back. Needs a token with the right to grant.
    pub async fn revoke_approval(&self, digest: &str) -> Result<(), Error> {
        self.delete(format!("/v1/modules/{digest}/approval")).text().await.map(drop)
    }

    /// Deletes a module to which no task points. Jobs that were submitted with it run to their end.
    pub async fn delete_module(&self, digest: &str) -> Result<(), Error> {
        self.delete(format!("/v1/modules/{digest}")).text().await.map(drop)
    }

    /// Deletes a task. Its jobs run to their end; new ones are refused.
    pub async fn delete_task(&self, name: &str) -> Result<(), Error> {
        self.delete(format!("/v1/tasks/{name}")).text().await.map(drop)
    }

    /// Uploads a module and points its tasks at it.
    pub async fn push_module(&self, module: impl Into<Bytes>) -> Result<Module, Error> {
        self.push_module_with(module, PushOptions::default()).await
    }

    /// Uploads a module as the options say.
    pub async fn push_module_with(&self, module: impl Into<Bytes>, how: PushOptions) -> Result<Module, Error> {
        typed(&self.push(module.into(), how, |_| {}).await?)
    }
}
