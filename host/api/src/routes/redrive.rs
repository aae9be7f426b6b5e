//! Making a new job of a dead one.

use umbel_broker::{NewJob, Start, Submitted};
use umbel_model::{JobId, JobRecord, Policy, TenantId};

use crate::{
    problem::{Code, Problem},
    state::Api,
    submission::submitted,
};

/// Submits a repetition of each dead job: same task, module, arguments and policy. One answer per job, in order.
pub(crate) async fn redrive(
    api: &Api,
    records: &[JobRecord],
    request_id: &str,
) -> Result<Vec<Result<JobId, Problem>>, Problem> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let jobs: Vec<NewJob> =
        records.iter().map(|record| repetition(api, record, request_id)).collect::<Result<_, _>>()?;
    let answers = api.broker.submit(&jobs).await?;
    tracing::info!(jobs = jobs.len(), "dead jobs redriven");
    let outcome = |(answer, job): (&Submitted, &NewJob)| submitted(*answer, job.id).map(|(id, _)| id);
    Ok(answers.iter().zip(&jobs).map(outcome).collect())
}

fn repetition(api: &Api, record: &JobRecord, request_id: &str) -> Result<NewJob, Problem> {
    let mut spec = record.parsed_spec().map_err(|error| {
        tracing::error!(job = %record.id, %error, "a stored job cannot be read");
        Problem::new(Code::RecordUnreadable, format!("job {}", record.id))
    })?;
    spec.redrive_of = Some(record.id);
    spec.request_id = Some(request_id.to_owned());
    let policy = Policy::resolve(&spec.policy);
    Ok(NewJob {
        id: api.mint.job_id()?,
        tenant: record.tenant.clone(),
        task: record.task.clone(),
        queue: record.queue.clone(),
        priority: record.priority,
        spec: serde_json::to_string(&spec).expect("a spec has text keys only"),
        start: Start::Now,
        expires_ms: policy.expires_ms,
        max_deliveries: policy.max_deliveries,
        result_ttl_ms: policy.result_ttl_ms,
        dead_ttl_ms: policy.dead_ttl_ms,
        idempotency: None,
        redrive_of: Some(record.id),
    })
}

/// One job of the tenant.
pub(crate) async fn find(api: &Api, tenant: &TenantId, id: JobId) -> Result<JobRecord, Problem> {
    api.broker.job(tenant, id).await?.ok_or_else(|| unknown(id))
}

pub(crate) fn unknown(id: JobId) -> Problem {
    Problem::new(Code::JobNotFound, format!("no job {id}; check the id, or its retention has passed"))
}
