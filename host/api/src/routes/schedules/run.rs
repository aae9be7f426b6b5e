//! Starting a schedule's job or workflow now, beside its times.

use std::time::Duration;

use async_trait::async_trait;
use axum::http::HeaderMap;
use umbel_broker::{NewRun, ScheduleRecord, ScheduleStepped, Submitted, WorkflowSubmitted, stage_whole_workflow};
use umbel_compose::{LargeArguments, Scheduled, ScheduledRun, SubmissionKey};
use umbel_model::{JobId, LargeValue, ScheduleName, ScheduleStamp, TenantId, UnixMs, WorkflowId, canvas::node_job};
use umbel_schedule::{
    Definition,
    firing::{FireRecord, Verdict},
};

use crate::{
    auth::Caller,
    extract::{Context, Query, WaitQuery},
    outcome::{Outcome, submitted},
    problem::{Problem, Result},
    routes::{jobs::respond_with_job, workflows::respond_with_workflow},
    schedules::{busy, get, now, run_step, stepped},
    state::Api,
    storage_quota,
    submission::{Origin, key_of, known_job, submission_key},
    task_source::ApiTasks,
    task_store::MAX_TRIES,
    workflow_submission::workflow_submitted,
};

/// Starts its job or workflow now, beside its times: it does not count for `overlap`, `max_runs` and failures.
///
/// The answer is that of `POST /v1/jobs`, or of `POST /v1/workflows` where it starts a canvas.
#[utoipa::path(
    post, path = "/v1/schedules/{name}/run", tag = "schedules",
    params(
        WaitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "The same key answers with the first job or workflow"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, carried through the job"),
    ),
    responses(
        (status = 202, body = crate::views::Job, description = "It waits or runs; a workflow where it starts a canvas"),
        (status = 200, body = crate::views::Job, description = "It has ended, or the idempotency key was known"),
    )
)]
pub(crate) async fn run(cx: Context<ScheduleName>, Query(query): Query<WaitQuery>, headers: HeaderMap) -> Result {
    let Context { api, caller, request_id, id: name } = cx;
    let wait = query.wait(&api)?;
    let origin = Origin::of(&caller, &request_id, &headers);
    let key = key_of(&headers, None, "the body")?;
    let key = key.map(|key| submission_key(&key, format!(r#"{{"schedule":"{name}"}}"#).as_bytes()));
    let permit = api.workflows.acquire(&caller.tenant).await?;
    // A step that was done and whose answer was lost is done again with the same ids, which starts nothing more.
    let mut chosen: Option<Ids> = None;
    for _ in 0..MAX_TRIES {
        let found = get(&api, &caller.tenant, &name).await?;
        let (definition, _) = found.parts()?;
        let ids = match chosen.filter(|ids| ids.version == found.record.version) {
            Some(ids) => ids,
            None => Ids {
                version: found.record.version,
                job: api.ids.job_id()?,
                workflow: api.ids.workflow_id()?,
                now: now(&api).await?,
            },
        };
        chosen = Some(ids);
        let order = Order { api: &api, caller: &caller, origin: &origin, key: key.as_ref(), ids };
        if let Some(started) = order.start(&found.record, &definition).await? {
            drop(permit);
            tracing::info!(schedule = %name, id = %started.outcome().id(), "a schedule was started by hand");
            return started.respond(&api, &caller, wait).await;
        }
    }
    Err(busy(&name))
}

/// What was started.
enum Started {
    Job(Outcome),
    Workflow(Outcome),
}

impl Started {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Job(outcome) | Self::Workflow(outcome) => *outcome,
        }
    }

    async fn respond(self, api: &Api, caller: &Caller, wait: Duration) -> Result {
        match self {
            Self::Job(outcome) => respond_with_job(api, caller, outcome, wait, None).await,
            Self::Workflow(outcome) => respond_with_workflow(api, caller, outcome, wait).await,
        }
    }
}

struct Order<'a> {
    api: &'a Api,
    caller: &'a Caller,
    origin: &'a Origin,
    key: Option<&'a SubmissionKey>,
    ids: Ids,
}

/// Of what is started, as long as the definition has this version.
#[derive(Debug, Clone, Copy)]
struct Ids {
    version: u64,
    job: JobId,
    workflow: WorkflowId,
    now: UnixMs,
}

impl Order<'_> {
    /// None when the schedule was changed meanwhile.
    async fn start(&self, record: &ScheduleRecord, definition: &Definition) -> Result<Option<Started>> {
        let Self { api, caller, origin, key, ids: Ids { job, workflow, now, .. } } = *self;
        let tasks = ApiTasks::new(api);
        let stamp = ScheduleStamp { name: record.name.clone(), nominal_at: now, fired_at: now };
        let scheduled = Scheduled {
            tasks: &tasks,
            rules: &api.rules,
            tenant: &caller.tenant,
            definition,
            stamp: &stamp,
            request_id: Some(&origin.request_id),
            traceparent: origin.traceparent.as_deref(),
            job,
            workflow,
            key,
            large: &Large(api),
        };
        let run = scheduled.compose().await.map_err(|error| tasks.problem(error))?;
        let is_canvas = definition.written.start.canvas.is_some();
        let fire = FireRecord { by_hand: true, ..FireRecord::new(Verdict::Started, now) };
        match run {
            ScheduledRun::Job(job) => {
                let id = job.id;
                let fire = FireRecord { job: Some(id), ..fire };
                let body = key.map(|key| &*key.canonical_body);
                let answer = match stepped(api, run_step(record, &fire, NewRun::Job(job))).await? {
                    None => return Ok(None),
                    Some(ScheduleStepped::NotStarted(answer)) => answer,
                    Some(_) => Submitted::Created,
                };
                let full = storage_quota::of_any(api, &caller.tenant, &[answer]).await;
                let outcome = match answer {
                    Submitted::Conflict(first) => known_job(api, &caller.tenant, first, body).await?,
                    answer => submitted(answer, id, full.as_ref())?,
                };
                Ok(Some(Started::Job(outcome)))
            }
            ScheduledRun::Workflow(new) => {
                let fire = FireRecord { workflow: Some(new.head.id), ..fire };
                let mut answer = stage_whole_workflow(&*api.broker, &new.head, &new.nodes).await?;
                if answer == WorkflowSubmitted::Created {
                    answer = match stepped(api, run_step(record, &fire, NewRun::Workflow(new.head.id))).await? {
                        None => return Ok(None),
                        Some(ScheduleStepped::NotStartedWorkflow(answer)) => answer,
                        Some(_) => WorkflowSubmitted::Created,
                    };
                }
                let outcome = workflow_submitted(api, &new.head, answer).await?;
                if is_canvas {
                    return Ok(Some(Started::Workflow(outcome)));
                }
                // A task with callbacks: its job is the first node.
                let first = new.head.starts.first().map_or(0, |range| range.first);
                Ok(Some(Started::Job(match outcome {
                    Outcome::New(workflow) => Outcome::New(node_job(workflow, first)),
                    other => Outcome::Replayed(node_job(other.id(), first)),
                })))
            }
        }
    }
}

struct Large<'a>(&'a Api);

#[async_trait]
impl LargeArguments for Large<'_> {
    async fn put(&self, tenant: &TenantId, job: JobId, text: &str) -> Result<LargeValue, String> {
        self.0.store.put_value(tenant, job, text).await.map_err(|error| Problem::from(error).detail().to_owned())
    }
}
