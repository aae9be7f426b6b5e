//! What composing a workflow needs to know of tasks, and who knows it.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::value::RawValue;
use umbel_model::{Digest, Parameter, ParameterText, PolicyPatch, TaskName, TenantId};

use crate::Result;

/// A task as it is deployed.
#[derive(Debug, Clone)]
pub struct TaskFacts {
    pub name: TaskName,
    pub digest: Digest,
    /// Code, over it the routes, over them the server's policy.
    pub policy: PolicyPatch,
    pub parameters: Vec<Parameter>,
}

impl TaskFacts {
    /// The parameters as nodes carry them: their schemas stay here.
    pub(crate) fn texts(&self) -> Vec<ParameterText> {
        let text = |p: &Parameter| ParameterText {
            name: p.name.clone(),
            default: p.default.as_ref().and_then(|value| RawValue::from_string(value.to_string()).ok()),
        };
        self.parameters.iter().map(text).collect()
    }
}

/// Why a value does not fit its parameter.
#[derive(Debug, Clone)]
pub enum Complaints {
    /// JSON pointers within the value, each with what is wrong there.
    Wrong(Vec<(String, String)>),
    /// Checking it would take too many steps.
    TooComplex,
}

/// Who knows the tasks.
#[async_trait]
pub trait TaskSource: Send + Sync {
    /// The task as it is deployed now; none when the tenant has no such task.
    async fn task(&self, tenant: &TenantId, name: &TaskName) -> Result<Option<Arc<TaskFacts>>>;

    /// Whether `check` does anything.
    fn checks_values(&self) -> bool {
        false
    }

    /// Whether the value may be given for parameter number `at`.
    async fn check(&self, _task: &TaskFacts, _at: usize, _value: &RawValue) -> Result<(), Complaints> {
        Ok(())
    }
}
