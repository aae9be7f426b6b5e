//! A job as a whole: with the result of what replaced it, and with what failed before it.

use serde_json::value::RawValue;
use umbel_broker::{Broker, NodeAt, UPSTREAM_FAILED, ValueError, explain, workflow_value};
use umbel_model::{Failure, JobRecord, JobState, TenantId, WorkflowId};

use crate::{
    problem::{Code, Problem},
    state::Api,
    views::Job,
};

/// Everything about a job.
pub(crate) async fn whole(api: &Api, mut record: JobRecord) -> Result<Job, Problem> {
    let broker = &*api.broker;
    let mut omitted = None;
    if record.state == JobState::Succeeded
        && let Some(child) = record.child
    {
        match workflow_value(broker, &record.tenant, child, api.config.max_result_bytes).await {
            Ok(text) => record.result = Some(stored_json(text)?),
            Err(error) => omitted = Some(why_omitted(error)?),
        }
    }
    if record.state == JobState::Failed && record.failure.as_ref().is_some_and(|f| f.kind == UPSTREAM_FAILED) {
        let at = match (&record.node, record.child) {
            (Some(node), _) => Some((node.workflow, Some(node.number))),
            (None, child) => child.map(|child| (child, None)),
        };
        if let Some((workflow, node)) = at
            && let Some(failure) = upstream(broker, &record.tenant, workflow, node).await?
        {
            record.failure = Some(failure);
        }
    }
    Ok(Job::whole(record)?.without_result(omitted))
}

/// What made a node (or the end of a workflow) fail; none when that is gone.
pub(crate) async fn upstream(
    broker: &dyn Broker,
    tenant: &TenantId,
    workflow: WorkflowId,
    node: Option<u32>,
) -> Result<Option<Failure>, Problem> {
    let node = match node {
        Some(node) => node,
        None => match broker.workflow(tenant, workflow).await? {
            Some(record) => record.end,
            None => return Ok(None),
        },
    };
    match explain(NodeAt { broker, tenant, workflow, node }).await {
        Ok(why) if why.count == 0 => Ok(None),
        Ok(why) => Ok(Some(why.failure())),
        Err(ValueError::Broker(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// What a reader of results is told in place of one that there is.
pub(crate) fn why_omitted(error: ValueError) -> Result<&'static str, Problem> {
    match error {
        ValueError::Broker(error) => Err(error.into()),
        ValueError::TooLarge(_) => Ok("too_large"),
        _ => Ok("gone"),
    }
}

/// JSON that was stored by us.
pub(crate) fn stored_json(text: String) -> Result<Box<RawValue>, Problem> {
    RawValue::from_string(text).map_err(|error| {
        tracing::error!(%error, "a stored result is not JSON");
        Problem::new(Code::RecordUnreadable, "a result is damaged; the server's log says more")
    })
}
