//! Redriving: failed jobs of the dead set are repeated as new ones.

use umbel_broker::NewJob;
use umbel_bulk::Redriver;
use umbel_compose::{Digests, Refusal};
use umbel_model::{JobId, JobRecord, PolicyPatch};

use crate::{
    outcome::{Outcome, submitted},
    problem::{Problem, Result},
    state::Api,
    storage_quota,
};

/// How to repeat.
#[derive(Debug)]
pub(crate) struct How<'a> {
    pub(crate) digests: Digests,
    /// Laid over the policy of each job.
    pub(crate) policy: PolicyPatch,
    pub(crate) request_id: &'a str,
}

impl<'a> How<'a> {
    /// The same module and policy.
    pub(crate) fn new(request_id: &'a str) -> Self {
        Self { digests: Digests::Pinned, policy: PolicyPatch::default(), request_id }
    }
}

/// Submits a repetition of each failed job. One answer per job, in order.
pub(crate) async fn redrive(api: &Api, records: &[JobRecord], how: &How<'_>) -> Result<Vec<Result<JobId>>> {
    let mut redriver = Redriver::new(api.carrier(), how.digests, &how.policy, how.request_id);
    let mut jobs: Vec<NewJob> = Vec::with_capacity(records.len());
    let mut made = Vec::with_capacity(records.len());
    for record in records {
        made.push(redriver.redrive(record, api.ids.job_id()?).await?.map(|job| jobs.push(job)));
    }
    let answers = if jobs.is_empty() { Vec::new() } else { api.broker.submit(&jobs).await? };
    tracing::info!(jobs = jobs.len(), "dead jobs redriven");
    let full = match jobs.first() {
        Some(job) => storage_quota::of_any(api, &job.tenant, &answers).await,
        None => None,
    };
    let mut answered =
        answers.iter().zip(&jobs).map(|(answer, job)| submitted(*answer, job.id, full.as_ref()).map(Outcome::id));
    let answer = |made: Result<(), Refusal>| match made {
        Err(refusal) => Err(refusal.into()),
        Ok(()) => answered.next().unwrap_or_else(|| Err(Problem::no_broker_answer())),
    };
    Ok(made.into_iter().map(answer).collect())
}
