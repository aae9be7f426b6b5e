//! Making a new job of a dead one.

use umbel_broker::{NewJob, Start};
use umbel_model::{JobId, JobRecord, Policy, TenantId, WorkflowId};

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
    let alone = records.iter().filter(|record| record.node.is_none());
    let jobs: Vec<NewJob> = alone.map(|record| repetition(api, record, request_id)).collect::<Result<_, _>>()?;
    let answers = if jobs.is_empty() { Vec::new() } else { api.broker.submit(&jobs).await? };
    tracing::info!(jobs = jobs.len(), "dead jobs redriven");
    let mut answered = answers.iter().zip(&jobs).map(|(answer, job)| submitted(*answer, job.id).map(|(id, _)| id));
    let missing = || Err(Problem::new(Code::Internal, "the broker did not answer"));
    Ok(records
        .iter()
        .map(|record| match &record.node {
            Some(node) => Err(part_of(node.workflow)),
            None => answered.next().unwrap_or_else(missing),
        })
        .collect())
}

fn part_of(workflow: WorkflowId) -> Problem {
    let detail = format!("it is a node of workflow {workflow}; POST /v1/workflows/{workflow}/resume does it again");
    Problem::new(Code::WorkflowNode, detail)
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
