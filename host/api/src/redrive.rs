//! Making a new job of a dead one.

use umbel_broker::NewJob;
use umbel_bulk::Repeater;
use umbel_compose::Digests;
use umbel_model::{JobId, JobRecord, PolicyPatch, TenantId};

use crate::{
    problem::{Code, Problem},
    state::Api,
    submission::{Outcome, submitted},
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

/// Submits a repetition of each dead job. One answer per job, in order.
pub(crate) async fn redrive(
    api: &Api,
    records: &[JobRecord],
    how: &How<'_>,
) -> Result<Vec<Result<JobId, Problem>>, Problem> {
    let mut repeater = Repeater::new(api.carrier(), how.digests, &how.policy, how.request_id);
    let mut jobs: Vec<NewJob> = Vec::with_capacity(records.len());
    let mut refused = Vec::with_capacity(records.len());
    for record in records {
        refused.push(match repeater.repetition(record, api.ids.job_id()?).await? {
            Ok(job) => {
                jobs.push(job);
                None
            }
            Err(refusal) => Some(Problem::from(refusal)),
        });
    }
    let answers = if jobs.is_empty() { Vec::new() } else { api.broker.submit(&jobs).await? };
    tracing::info!(jobs = jobs.len(), "dead jobs redriven");
    let mut answered = answers.iter().zip(&jobs).map(|(answer, job)| submitted(*answer, job.id).map(Outcome::id));
    let missing = || Err(Problem::new(Code::Internal, "the broker did not answer"));
    Ok(refused
        .into_iter()
        .map(|refused| match refused {
            Some(problem) => Err(problem),
            None => answered.next().unwrap_or_else(missing),
        })
        .collect())
}

/// One job of the tenant.
pub(crate) async fn find(api: &Api, tenant: &TenantId, id: JobId) -> Result<JobRecord, Problem> {
    api.broker.job(tenant, id).await?.ok_or_else(|| unknown(id))
}

pub(crate) fn unknown(id: JobId) -> Problem {
    Problem::new(Code::JobNotFound, format!("no job {id}; check the id, or its retention has passed"))
}
