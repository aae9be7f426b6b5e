//! The dead set: failed jobs kept for inspection, and redriving them.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use umbel_broker::JobPage;
use umbel_bulk::Filter;
use umbel_compose::Digests;
use umbel_model::{JobId, JobRecord, JobState, PolicyPatch};
use utoipa::ToSchema;

use super::jobs::{
    list::{Jobs, ListQuery, page},
    respond_with_job,
};
use crate::{
    auth::Caller,
    body::ok,
    extract::{Context, Json, OptionalJson, Query},
    outcome::Outcome,
    problem::{Code, Problem, Result},
    redrive,
    state::Api,
    views::{Job, PolicyFields},
};

/// Jobs redriven in one request, when the caller does not say and at most.
const DEFAULT_MAX: u32 = 1_000;
const MAX: u32 = 10_000;
/// Jobs redriven in one step.
const CHUNK: u32 = 100;

/// Dead jobs, newest first.
#[utoipa::path(get, path = "/v1/dead", tag = "dead", params(ListQuery), responses((status = 200, body = Jobs)))]
pub(crate) async fn list(Context { api, caller, .. }: Context, Query(query): Query<ListQuery>) -> Result {
    page(&api, &caller, &query, true).await
}

/// How to repeat a dead job.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RedriveHow {
    /// Which module runs: `pinned`, that of the job; `current`, the one that its task points at now.
    #[schema(value_type = crate::views::ResumeDigest)]
    digest: Digests,
    /// Laid over the job's policy.
    #[schema(value_type = Option<PolicyFields>)]
    policy: PolicyPatch,
}

/// Repeats one dead job as a new one, which names it.
///
/// It has the job's policy, without uniqueness.
#[utoipa::path(
    post, path = "/v1/dead/{id}/redrive", tag = "dead",
    request_body = Option<RedriveHow>, responses((status = 202, body = Job))
)]
pub(crate) async fn redrive_one(cx: Context<JobId>, OptionalJson(body): OptionalJson<RedriveHow>) -> Result {
    let Context { api, caller, id, request_id } = cx;
    let how = redrive::How { digests: body.digest, policy: body.policy, ..redrive::How::new(&request_id.0) };
    let record = api.job(&caller.tenant, id).await?;
    if record.state != JobState::Failed {
        let detail = format!("job {id} is {}; only a job that failed can be redriven", record.state.as_str());
        return Err(Problem::not_dead(detail));
    }
    let mut answers = redrive::redrive(&api, std::slice::from_ref(&record), &how).await?;
    let new = answers.pop().unwrap_or_else(|| Err(Problem::no_broker_answer()))?;
    respond_with_job(&api, &caller, Outcome::New(new), Duration::ZERO, None).await
}

/// Which dead jobs to repeat: `all` or `ids`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedriveBody {
    #[serde(default)]
    all: bool,
    /// At most 10,000.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    ids: Vec<JobId>,
    /// With `all`: at most so many, newest first; 1,000 when not given.
    max: Option<u32>,
}

/// The jobs that were repeated.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct Redriven {
    items: Vec<RedrivenJob>,
    /// Dead jobs that could not be repeated.
    refused: Vec<RefusedJob>,
    /// With `all`: whether `max` was reached, so that there may be more.
    more: bool,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RedrivenJob {
    id: String,
    redrive_of: String,
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RefusedJob {
    id: String,
    /// A code of docs/errors.md.
    code: String,
}

/// Repeats many dead jobs, each as a new one that names it.
#[utoipa::path(post, path = "/v1/dead/redrive", tag = "dead", responses((status = 200, body = Redriven)))]
pub(crate) async fn redrive_many(cx: Context, Json(body): Json<RedriveBody>) -> Result {
    let Context { api, caller, request_id, .. } = cx;
    let max = body.max.unwrap_or(DEFAULT_MAX);
    if body.all != body.ids.is_empty() || max == 0 || max > MAX || body.ids.len() > MAX as usize {
        let detail = format!("give `all: true` or some `ids`, not both; `max` and the number of ids are 1 to {MAX}");
        return Err(Problem::invalid_body(detail));
    }
    let mut redriven = Redriven::default();
    if body.all {
        all(&api, &caller, &request_id.0, max, &mut redriven).await?;
    } else {
        by_id(&api, &caller, &request_id.0, &body.ids, &mut redriven).await?;
    }
    ok(&redriven)
}

async fn all(api: &Api, caller: &Caller, request_id: &str, max: u32, out: &mut Redriven) -> Result<()> {
    let mut before = None;
    let mut left = max;
    loop {
        let query = Filter::default().query(&caller.tenant, true, before, CHUNK.min(left));
        let JobPage { jobs, next } = api.broker.jobs(&query).await?;
        left -= jobs.len() as u32;
        out.take(&jobs, redrive::redrive(api, &jobs, &redrive::How::new(request_id)).await?);
        before = next;
        if next.is_none() || left == 0 {
            out.more = next.is_some();
            return Ok(());
        }
    }
}

async fn by_id(api: &Api, caller: &Caller, request_id: &str, ids: &[JobId], out: &mut Redriven) -> Result<()> {
    for chunk in ids.chunks(CHUNK as usize) {
        let mut found = Vec::new();
        for id in chunk {
            match api.broker.job(&caller.tenant, *id).await? {
                Some(record) if record.state == JobState::Failed => found.push(record),
                Some(_) => out.refuse(*id, Code::NotDead.as_str()),
                None => out.refuse(*id, Code::JobNotFound.as_str()),
            }
        }
        out.take(&found, redrive::redrive(api, &found, &redrive::How::new(request_id)).await?);
    }
    Ok(())
}

impl Redriven {
    fn take(&mut self, old: &[JobRecord], answers: Vec<Result<JobId>>) {
        for (record, answer) in old.iter().zip(answers) {
            match answer {
                Ok(id) => {
                    self.items.push(RedrivenJob { id: id.to_string(), redrive_of: record.id.to_string() });
                }
                Err(problem) => self.refuse(record.id, problem.code()),
            }
        }
    }

    fn refuse(&mut self, id: JobId, code: &str) {
        self.refused.push(RefusedJob { id: id.to_string(), code: code.to_owned() });
    }
}
