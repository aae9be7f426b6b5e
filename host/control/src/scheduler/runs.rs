//! The runs of schedules: composed, followed, cancelled; and what is said of one that was refused.

use async_trait::async_trait;
use umbel_broker::{Broker, NewRun, Submitted, WorkflowSubmitted, stage_whole_workflow};
use umbel_compose::{LargeArguments, Rules, Scheduled, ScheduledRun, TaskSource};
use umbel_model::{JobId, JobState, LargeValue, ScheduleStamp, TenantId, WorkflowState};
use umbel_modules::ModuleStore;
use umbel_schedule::{
    Definition,
    firing::{Run, RunEnd, Start, job_id, workflow_id},
};

use crate::Error;

/// What runs are made of.
pub(super) struct Context<'a> {
    pub(super) broker: &'a dyn Broker,
    pub(super) tasks: &'a dyn TaskSource,
    pub(super) rules: &'a Rules,
    pub(super) store: Option<&'a ModuleStore>,
}

/// A start that was decided, with all that its run is made of.
pub(super) struct Fire<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) definition: &'a Definition,
    pub(super) start: &'a Start,
    pub(super) stamp: ScheduleStamp,
    pub(super) key: &'a str,
    pub(super) workflow_key: String,
}

/// A run that the next step can start.
pub(super) struct Ready(NewRun);

impl Ready {
    pub(super) fn id(&self) -> JobId {
        match &self.0 {
            NewRun::Job(job) => job.id,
            NewRun::Workflow(id) => *id,
        }
    }

    pub(super) fn is_workflow(&self) -> bool {
        matches!(self.0, NewRun::Workflow(_))
    }

    pub(super) fn into_run(self) -> NewRun {
        self.0
    }
}

impl Context<'_> {
    /// How a run ended; none while it has not.
    pub(super) async fn end_of(&self, tenant: &TenantId, run: &Run) -> Result<Option<RunEnd>, Error> {
        let found = if run.is_workflow {
            self.broker.workflow(tenant, run.id).await.map(|found| found.map_or(Some(RunEnd::Other), of_workflow))
        } else {
            self.broker.job(tenant, run.id).await.map(|found| found.map_or(Some(RunEnd::Other), of_job))
        };
        match found {
            Err(error) if !error.is_transient() => {
                tracing::warn!(%tenant, run = %run.id, error = ?error.to_string(), "a run of a schedule cannot be read, and counts as over");
                Ok(Some(RunEnd::Other))
            }
            found => Ok(found?),
        }
    }

    pub(super) async fn cancel(&self, tenant: &TenantId, runs: &[Run]) -> Result<(), Error> {
        for run in runs {
            let cancelled = match run.is_workflow {
                true => self.broker.cancel_workflow(tenant, run.id).await.map(drop),
                false => self.broker.cancel(tenant, run.id, true).await.map(drop),
            };
            match cancelled {
                Err(error) if !error.is_transient() => {
                    tracing::warn!(%tenant, run = %run.id, error = ?error.to_string(), "a run of a schedule cannot be cancelled");
                }
                cancelled => cancelled?,
            }
        }
        Ok(())
    }

    /// The run of a fire, with all that is stored before it is started; in words why there is none.
    pub(super) async fn run(&self, fire: Fire<'_>) -> Result<Result<Ready, String>, Error> {
        let Fire { tenant, definition, start, stamp, key, workflow_key } = fire;
        let name = stamp.name.as_str();
        let scheduled = Scheduled {
            tasks: self.tasks,
            rules: self.rules,
            tenant,
            definition,
            stamp: &stamp,
            request_id: None,
            traceparent: None,
            job: job_id(tenant, name, key, start),
            workflow: workflow_id(tenant, name, &workflow_key, start),
            key: None,
            large: &Large(self.store),
        };
        match scheduled.compose().await {
            Ok(ScheduledRun::Job(job)) => Ok(Ok(Ready(NewRun::Job(job)))),
            Ok(ScheduledRun::Workflow(new)) => {
                let id = new.head.id;
                let answer = match stage_whole_workflow(self.broker, &new.head, &new.nodes).await {
                    Err(error) if !error.is_transient() => {
                        return Ok(Err(for_operator(tenant, name, &error, "its workflow cannot be stored")));
                    }
                    answer => answer?,
                };
                Ok(match answer {
                    WorkflowSubmitted::Created => Ok(Ready(NewRun::Workflow(id))),
                    // It was started, and the answer was lost.
                    WorkflowSubmitted::Existing(found) if found == id => Ok(Ready(NewRun::Workflow(id))),
                    other => Err(refusal_of_workflow(other)),
                })
            }
            Err(umbel_compose::Error::Broker(error)) if error.is_transient() => Err(error.into()),
            Err(error @ (umbel_compose::Error::Broker(_) | umbel_compose::Error::Corrupt(_))) => {
                Ok(Err(for_operator(tenant, name, &error, "its task or routes cannot be read")))
            }
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}

/// What a user is told of an error whose own words are for the operator.
fn for_operator(tenant: &TenantId, schedule: &str, error: &dyn std::fmt::Display, what: &str) -> String {
    tracing::error!(%tenant, schedule, error = ?error.to_string(), "a fire of a schedule cannot be started: {what}");
    format!("{what}; the server's log says more")
}

struct Large<'a>(Option<&'a ModuleStore>);

#[async_trait]
impl LargeArguments for Large<'_> {
    async fn put(&self, tenant: &TenantId, job: JobId, text: &str) -> Result<LargeValue, String> {
        let store = self.0.ok_or_else(|| "this server has no store for large arguments".to_owned())?;
        store.put_value(tenant, job, text).await.map_err(|error| {
            // The store's own words name folders: they are for the operator.
            tracing::warn!(%tenant, %job, error = ?error.to_string(), "large arguments of a schedule cannot be stored");
            "its arguments are large, and cannot be stored now; the server's log says more".to_owned()
        })
    }
}

fn of_job(record: umbel_model::JobRecord) -> Option<RunEnd> {
    match record.state {
        JobState::Succeeded => Some(RunEnd::Succeeded),
        JobState::Failed => Some(RunEnd::Failed),
        state if state.is_terminal() => Some(RunEnd::Other),
        _ => None,
    }
}

fn of_workflow(record: umbel_broker::WorkflowRecord) -> Option<RunEnd> {
    match record.state {
        WorkflowState::Running => None,
        WorkflowState::Succeeded => Some(RunEnd::Succeeded),
        WorkflowState::Failed => Some(RunEnd::Failed),
        _ => Some(RunEnd::Other),
    }
}

/// Why a job was not started, in words.
pub(super) fn refusal(answer: Submitted) -> String {
    use Submitted as S;
    match answer {
        S::QueueFull => "its queue is full".to_owned(),
        S::TooManyQueues => "the tenant has as many queues as it may".to_owned(),
        S::StorageFull => "the tenant has stored as many bytes of jobs as it may".to_owned(),
        S::MissingBlob(digest) => format!("it refers to blob {digest}, which is not stored"),
        S::Duplicate(id) => format!("job {id} holds its unique key"),
        S::Conflict(id) | S::Existing(id) => format!("job {id} has its idempotency key"),
        S::NotDead | S::Created => "the broker refused it".to_owned(),
    }
}

/// The same of a workflow.
pub(super) fn refusal_of_workflow(answer: WorkflowSubmitted) -> String {
    use WorkflowSubmitted as S;
    match answer {
        S::QueueFull => "one of its queues is full".to_owned(),
        S::TooManyQueues => "the tenant has as many queues as it may".to_owned(),
        S::TooManyWorkflows => "the tenant has as many workflows as it may".to_owned(),
        S::StorageFull => "the tenant has stored as many bytes of jobs as it may".to_owned(),
        S::MissingBlob(digest) => format!("it refers to blob {digest}, which is not stored"),
        S::Existing(id) | S::Conflict(id) => format!("workflow {id} has its id or key"),
        S::Unknown => "storing it took too long".to_owned(),
        S::Created => "the broker refused it".to_owned(),
    }
}
