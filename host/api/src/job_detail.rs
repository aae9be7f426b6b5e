//! A job in full: with the result of what replaced it, and with what failed before it.

use axum::body::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use umbel_broker::{LargeValues as _, NodeAt, UPSTREAM_FAILED, ValueError, explain, workflow_value};
use umbel_model::{Failure, JobRecord, JobState, LargeValue, PolicyPatch, TenantId, WorkflowId};
use umbel_modules::VALUE_PIECE_BYTES;

use crate::{
    footprint,
    problem::{Problem, Result},
    state::Api,
    views::Job,
};

/// Largest result that `GET …/result` sends, bytes: as large as workers pass on within a workflow.
const MAX_WHOLE_RESULT_BYTES: usize = 64 << 20;

/// Everything about a job.
pub(crate) async fn job_detail(api: &Api, mut record: JobRecord) -> Result<Job> {
    let mut omitted = None;
    let max = api.config.max_result_bytes;
    let reserved = footprint::reserve(api, &record.tenant, bytes_elsewhere(&record, max)).await?;
    match elsewhere(api, &record, max).await {
        _ if is_for_nodes_only(&record) => record.result = None,
        Ok(None) => {}
        Ok(Some(text)) => {
            reserved.keep(text.len());
            record.result = Some(stored_json(text)?);
        }
        Err(error) => {
            record.result = None;
            omitted = Some(why_omitted(error)?);
        }
    }
    if record.state == JobState::Failed && record.failure.as_ref().is_some_and(|f| f.kind == UPSTREAM_FAILED) {
        let at = match (&record.node, record.child) {
            (Some(node), _) => Some((node.workflow, Some(node.number))),
            (None, child) => child.map(|child| (child, None)),
        };
        if let Some((workflow, node)) = at
            && let Some(failure) = upstream(api, &record.tenant, workflow, node).await?
        {
            record.failure = Some(failure);
        }
    }
    let tenant = record.tenant.clone();
    let mut job = Job::whole(record)?;
    job.result_omitted = omitted;
    if let Some(stored) = &job.stored_arguments {
        let reserved = footprint::reserve(api, &tenant, usize::try_from(stored.bytes).unwrap_or(max).min(max)).await?;
        match read(api, &tenant, stored, max).await {
            Ok(text) => {
                reserved.keep(text.len());
                job.arguments = Some(stored_json(text)?);
            }
            Err(error) => job.arguments_omitted = Some(why_omitted(error)?),
        }
    }
    Ok(job)
}

/// The result of a job that ended, whatever its size; none when there is none.
pub(crate) async fn result_body(api: &Api, record: JobRecord) -> Result<Option<Body>> {
    if is_for_nodes_only(&record) {
        return Ok(None);
    }
    let is_large = |stored: &LargeValue| {
        record.state == JobState::Succeeded
            && record.child.is_none()
            && (VALUE_PIECE_BYTES as u64..=MAX_WHOLE_RESULT_BYTES as u64).contains(&stored.bytes)
    };
    if let Some(stored) = stored_result(&record).filter(is_large) {
        return result_in_pieces(api, &record.tenant, &stored).await.map(Some);
    }
    let reserved = footprint::reserve(api, &record.tenant, bytes_elsewhere(&record, MAX_WHOLE_RESULT_BYTES)).await?;
    match elsewhere(api, &record, MAX_WHOLE_RESULT_BYTES).await {
        Ok(Some(text)) => {
            reserved.keep(text.len());
            Ok(Some(text.into()))
        }
        Ok(None) => Ok(record.result.map(|result| result.get().to_owned().into())),
        Err(error) => Err(why_not_sent(error)),
    }
}

/// A result that lies in the module store, which is read as it is sent: a reader that is slow holds a piece of it.
async fn result_in_pieces(api: &Api, tenant: &TenantId, stored: &LargeValue) -> Result<Body> {
    let reserved = footprint::reserve(api, tenant, VALUE_PIECE_BYTES).await?;
    let pieces = api.large.pieces(tenant, stored).await.map_err(why_not_sent)?;
    reserved.keep(VALUE_PIECE_BYTES);
    Ok(Body::from_stream(pieces))
}

fn why_not_sent(error: ValueError) -> Problem {
    match error {
        ValueError::Broker(error) => error.into(),
        ValueError::Lost(why) => Problem::value_lost(why),
        ValueError::Unavailable(_) => Problem::storage_unavailable("try again; the server's log says more"),
        ValueError::TooLarge(max) => {
            let detail = format!("it has more than {max} bytes; read the results of its workflow's nodes one by one");
            Problem::no_result(detail)
        }
        error => Problem::no_result(error.to_string()),
    }
}

/// Bytes of the result that lies elsewhere, as far as it is known before: at most `max`.
fn bytes_elsewhere(record: &JobRecord, max: usize) -> usize {
    match (record.child, stored_result(record)) {
        _ if record.state != JobState::Succeeded => 0,
        (Some(_), _) => max,
        (None, Some(stored)) => usize::try_from(stored.bytes).unwrap_or(max).min(max),
        (None, None) => 0,
    }
}

fn stored_result(record: &JobRecord) -> Option<LargeValue> {
    record.result.as_ref().and_then(|result| LargeValue::from_reference(result.get()))
}

/// Whether a job is a node whose policy says that its result is ignored: it is stored for the nodes that take it, and no reader
/// gets it.
pub(crate) fn is_for_nodes_only(record: &JobRecord) -> bool {
    record.node.is_some() && ignores_result(&record.spec)
}

/// Whether the policy in a stored specification says that results are ignored.
pub(crate) fn ignores_result(spec: &str) -> bool {
    #[derive(Deserialize)]
    struct OfPolicy {
        #[serde(default)]
        policy: PolicyPatch,
    }
    // Most have no such word in them.
    spec.contains("\"ignore_result\":true")
        && serde_json::from_str::<OfPolicy>(spec).is_ok_and(|spec| spec.policy.ignore_result == Some(true))
}

/// The result of a job that lies elsewhere: in the workflow that replaced it, or in the module store.
async fn elsewhere(api: &Api, record: &JobRecord, max_bytes: usize) -> Result<Option<String>, ValueError> {
    if record.state != JobState::Succeeded {
        return Ok(None);
    }
    if let Some(child) = record.child {
        return workflow_value(&*api.broker, &api.large, &record.tenant, child, max_bytes).await.map(Some);
    }
    match stored_result(record) {
        Some(stored) => read(api, &record.tenant, &stored, max_bytes).await.map(Some),
        None => Ok(None),
    }
}

async fn read(api: &Api, tenant: &TenantId, stored: &LargeValue, max_bytes: usize) -> Result<String, ValueError> {
    if stored.bytes > max_bytes as u64 {
        return Err(ValueError::TooLarge(max_bytes));
    }
    api.large.read(tenant, stored).await.inspect_err(|error| {
        tracing::warn!(job = %stored.of, error = ?error.to_string(), "a large value cannot be read");
    })
}

/// The failure that made a node (or the end of a workflow) fail; none when it is gone.
pub(crate) async fn upstream(
    api: &Api,
    tenant: &TenantId,
    workflow: WorkflowId,
    node: Option<u32>,
) -> Result<Option<Failure>> {
    let node = match node {
        Some(node) => node,
        None => match api.broker.workflow(tenant, workflow).await? {
            Some(record) => record.end,
            None => return Ok(None),
        },
    };
    match explain(NodeAt { broker: &*api.broker, large: &api.large, tenant, workflow, node }).await {
        Ok(why) if why.failed.is_empty() => Ok(None),
        Ok(why) => Ok(Some(why.failure())),
        Err(ValueError::Broker(error)) => Err(error.into()),
        Err(_) => Ok(None),
    }
}

/// Why a result that there is is left out of an answer.
pub(crate) fn why_omitted(error: ValueError) -> Result<&'static str> {
    match error {
        ValueError::Broker(error) => Err(error.into()),
        ValueError::TooLarge(_) => Ok("too_large"),
        ValueError::Unavailable(_) => Ok("unavailable"),
        _ => Ok("gone"),
    }
}

/// JSON that was stored by us.
pub(crate) fn stored_json(text: String) -> Result<Box<RawValue>> {
    RawValue::from_string(text)
        .map_err(|error| Problem::unreadable_record("a result is damaged; the server's log says more", &error))
}
