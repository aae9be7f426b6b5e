//! The tenant's tasks as the composer of workflows asks for them.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use umbel_compose::{Error, TaskFacts, TaskSource};
use umbel_model::{TaskName, TenantId};

use crate::{
    problem::{Code, Problem},
    state::Api,
    task_cache,
};

/// Asks the API's cache of tasks, for one submission.
pub(crate) struct ApiTasks<'a> {
    api: &'a Api,
    /// The problem that `Error::Source` stands for.
    problem: Mutex<Option<Problem>>,
}

impl<'a> ApiTasks<'a> {
    pub(crate) fn new(api: &'a Api) -> Self {
        Self { api, problem: Mutex::default() }
    }

    /// An error of the composer as the caller sees it.
    pub(crate) fn problem(&self, error: Error) -> Problem {
        let own = self.problem.lock().unwrap_or_else(PoisonError::into_inner).take();
        match error {
            Error::Source(_) => own.unwrap_or_else(|| Problem::from(error)),
            other => other.into(),
        }
    }
}

#[async_trait]
impl TaskSource for ApiTasks<'_> {
    async fn task(&self, tenant: &TenantId, name: &TaskName) -> umbel_compose::Result<Option<Arc<TaskFacts>>> {
        match task_cache::task(self.api, tenant, name).await {
            Ok(found) => Ok(Some(found)),
            Err(problem) if problem.code() == Code::TaskNotFound.as_str() => Ok(None),
            Err(problem) => {
                let detail = problem.detail().to_owned();
                *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
                Err(Error::Source(detail))
            }
        }
    }
}
