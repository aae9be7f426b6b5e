//! The tenant's tasks as the composer of workflows asks for them.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use umbel_compose::{Error, TaskFacts, TaskSource};
use umbel_model::{Digest, TaskName, TenantId};

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

    fn source_error(&self, problem: Problem) -> Error {
        let detail = problem.detail().to_owned();
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
        Error::Source(detail)
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
            Err(problem) => Err(self.source_error(problem)),
        }
    }

    async fn pinned(
        &self,
        tenant: &TenantId,
        name: &TaskName,
        digest: Digest,
    ) -> umbel_compose::Result<Option<Arc<TaskFacts>>> {
        let found = task_cache::pinned(self.api, tenant, name, digest).await;
        found.map_err(|problem| self.source_error(problem))
    }
}

/// Who knows the tasks of all tenants, for services beside the API: at most a second old, and checked against their schemas as in a
/// submission over HTTP.
pub fn task_source(api: &Arc<Api>) -> Arc<dyn TaskSource> {
    Arc::new(SharedTasks(api.clone()))
}

struct SharedTasks(Arc<Api>);

impl SharedTasks {
    fn error(problem: &Problem) -> Error {
        match problem.is_retryable() {
            true => umbel_broker::Error::Unavailable(problem.detail().to_owned()).into(),
            false => Error::Source(problem.detail().to_owned()),
        }
    }
}

#[async_trait]
impl TaskSource for SharedTasks {
    async fn task(&self, tenant: &TenantId, name: &TaskName) -> umbel_compose::Result<Option<Arc<TaskFacts>>> {
        match task_cache::task(&self.0, tenant, name).await {
            Ok(found) => Ok(Some(found)),
            Err(problem) if problem.code() == Code::TaskNotFound.as_str() => Ok(None),
            Err(problem) => Err(Self::error(&problem)),
        }
    }

    async fn pinned(
        &self,
        tenant: &TenantId,
        name: &TaskName,
        digest: Digest,
    ) -> umbel_compose::Result<Option<Arc<TaskFacts>>> {
        task_cache::pinned(&self.0, tenant, name, digest).await.map_err(|problem| Self::error(&problem))
    }
}
