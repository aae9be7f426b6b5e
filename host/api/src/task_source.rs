//! The tasks of a tenant as the composer of workflows asks for them: with their schemas, for one submission.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use async_trait::async_trait;
use serde_json::value::RawValue;
use umbel_compose::{Complaints, Error, TaskFacts, TaskSource};
use umbel_model::{TaskName, TenantId};

use crate::{
    problem::{Code, Problem},
    schemas,
    state::Api,
    task_cache::{Deployed, deployed},
};

/// Values checked before other requests get a turn: some milliseconds.
const CHECKS_IN_A_ROW: u32 = 1_000;

/// Asks the API's own snapshots of tasks.
pub(crate) struct ApiTasks<'a> {
    api: &'a Api,
    known: Mutex<HashMap<TaskName, Arc<Deployed>>>,
    checked: AtomicU32,
    /// The problem that `Error::Source` stands for.
    problem: Mutex<Option<Problem>>,
}

impl<'a> ApiTasks<'a> {
    pub(crate) fn new(api: &'a Api) -> Self {
        Self { api, known: Mutex::default(), checked: AtomicU32::new(0), problem: Mutex::default() }
    }

    /// What an error of the composer means to the caller.
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
        let found = match deployed(self.api, tenant, name).await {
            Ok(found) => found,
            Err(problem) if problem.code() == Code::TaskNotFound.as_str() => return Ok(None),
            Err(problem) => {
                let detail = problem.detail().to_owned();
                *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
                return Err(Error::Source(detail));
            }
        };
        let facts = TaskFacts {
            name: found.name.clone(),
            digest: found.digest,
            policy: found.policy.clone(),
            parameters: found.parameters.clone(),
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), found);
        Ok(Some(Arc::new(facts)))
    }

    fn checks_values(&self) -> bool {
        true
    }

    async fn check(&self, task: &TaskFacts, at: usize, value: &RawValue) -> Result<(), Complaints> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&task.name).cloned();
        let Some(known) = known else { return Ok(()) };
        if self.checked.fetch_add(1, Ordering::Relaxed) % CHECKS_IN_A_ROW == CHECKS_IN_A_ROW - 1 {
            tokio::task::yield_now().await;
        }
        known.schemas.check(at, value, &self.api.checks).await.map_err(|complaints| match complaints {
            schemas::Complaints::Wrong(list) => Complaints::Wrong(list),
            schemas::Complaints::TooComplex => Complaints::TooComplex,
        })
    }
}
