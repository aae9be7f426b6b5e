//! The answer to a submission.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use umbel_broker::Submitted;
use umbel_model::JobId;

use crate::{
    body::{answer, ok},
    problem::{Problem, Result},
};

const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// Says `duplicate` when a unique job was there already.
const UMBEL_UNIQUE: HeaderName = HeaderName::from_static("umbel-unique");

/// Which job or workflow answers a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    New(JobId),
    /// That of an earlier submission with the same idempotency key.
    Replayed(JobId),
    /// One like it, which holds their unique key.
    Duplicate(JobId),
}

impl Outcome {
    pub(crate) fn id(self) -> JobId {
        match self {
            Self::New(id) | Self::Replayed(id) | Self::Duplicate(id) => id,
        }
    }
}

/// The broker's answer as the submitter sees it: the new job, or an earlier one. `full` is what to say of one for which there is no
/// room, see `storage_quota`.
pub(crate) fn submitted(answer: Submitted, new: JobId, full: Option<&Problem>) -> Result<Outcome> {
    use Submitted as S;
    match answer {
        S::Created => Ok(Outcome::New(new)),
        S::Existing(id) => Ok(Outcome::Replayed(id)),
        S::Duplicate(id) => Ok(Outcome::Duplicate(id)),
        S::Conflict(id) => Err(Problem::key_conflict(format_args!("job {id}"))),
        S::QueueFull => Err(Problem::queue_full("try again when the queue is shorter")),
        S::TooManyQueues => Err(Problem::too_many_queues("use one of the queues that exist")),
        S::StorageFull => Err(full.cloned().unwrap_or_else(Problem::no_broker_answer)),
        S::MissingBlob(digest) => Err(Problem::no_such_blob(digest)),
        S::NotDead => {
            let detail = "it failed and is not in the dead set: it was redriven before, or its time there is over";
            Err(Problem::not_dead(detail))
        }
    }
}

/// The answer to a submission that was stored under `path`: whatever happens now, it never reads as a failure to submit,
/// which a client would answer with a second submission. `found` is what was read back, and whether it has ended.
pub(crate) fn respond<T: Serialize>(
    path: &str,
    outcome: Outcome,
    found: umbel_broker::Result<Option<(bool, T)>>,
) -> Result {
    let (id, is_new) = (outcome.id(), matches!(outcome, Outcome::New(_)));
    // It is stored, but is gone already or cannot be read now.
    let id_only = || serde_json::json!({ "id": id.to_string() });
    let mut response = match found {
        Ok(Some((ended, view))) => answer(if ended || !is_new { StatusCode::OK } else { StatusCode::ACCEPTED }, &view)?,
        // It is kept for as long as its key is, so somebody forgot it. The key still keeps a second one away.
        Ok(None) if matches!(outcome, Outcome::Replayed(_)) => return Err(Problem::forgotten(id)),
        // It ended, and was forgotten or its retention is over.
        Ok(None) => ok(&id_only())?,
        Err(error) => {
            tracing::warn!(%id, %error, "what was stored cannot be read back; its id is answered");
            answer(StatusCode::ACCEPTED, &id_only())?
        }
    };
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("{path}/{id}")) {
        headers.insert(header::LOCATION, location);
    }
    match outcome {
        Outcome::New(_) => None,
        Outcome::Replayed(_) => headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true")),
        Outcome::Duplicate(_) => headers.insert(UMBEL_UNIQUE, HeaderValue::from_static("duplicate")),
    };
    Ok(response)
}
