//! A task as it is deployed, and who knows the tasks.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use serde_json::value::RawValue;
use umbel_model::{Digest, ParameterText, PolicyPatch, TaskName, TenantId};

use crate::error::{Error, FaultKind, Faults, Result};

/// A task as submissions need to know it.
#[derive(Debug, Clone)]
pub struct TaskFacts {
    pub name: TaskName,
    pub digest: Digest,
    /// Code, over it the routes, over them the server's policy.
    pub policy: PolicyPatch,
    pub parameters: Vec<ParameterText>,
    /// Checks values against the parameters' schemas; without one any value is taken.
    pub checker: Option<Arc<dyn ValueChecker>>,
}

impl TaskFacts {
    pub(crate) fn parameter_names(&self) -> Vec<&str> {
        self.parameters.iter().map(|parameter| parameter.name.as_str()).collect()
    }

    /// Notes what is wrong with the value that is given for parameter number `at`. `pointer` says where it is.
    pub(crate) async fn check_value(
        &self,
        at: usize,
        value: &RawValue,
        pointer: impl Fn() -> String + Send + Sync,
        faults: &mut Faults,
    ) {
        let Some(checker) = &self.checker else { return };
        match checker.check(at, value).await {
            Ok(()) => {}
            Err(Complaints::Wrong(list)) => list.into_iter().for_each(|(within, detail)| {
                faults.add(FaultKind::Arguments, format!("{}{within}", pointer()), detail);
            }),
            Err(Complaints::TooComplex) => {
                let detail = "the schema needs too many steps for it; send less, or flatten the schema";
                faults.add(FaultKind::ArgumentsTooComplex, pointer(), detail);
            }
        }
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

/// Checks values against the schemas of one task's parameters.
#[async_trait]
pub trait ValueChecker: Debug + Send + Sync {
    /// Whether the value may be given for parameter number `at`.
    async fn check(&self, at: usize, value: &RawValue) -> Result<(), Complaints>;
}

/// Who knows the tasks.
#[async_trait]
pub trait TaskSource: Send + Sync {
    /// The task as it is deployed now; none when the tenant has no such task.
    async fn task(&self, tenant: &TenantId, name: &TaskName) -> Result<Option<Arc<TaskFacts>>>;

    /// The task as a module of the tenant describes it, whatever is deployed; none when there is no such module, it was deleted, or it
    /// does not describe the task.
    async fn pinned(&self, tenant: &TenantId, name: &TaskName, digest: Digest) -> Result<Option<Arc<TaskFacts>>> {
        let _ = (tenant, name, digest);
        Err(Error::Source("modules cannot be looked up here".to_owned()))
    }
}
