//! A submission as it comes in: its signature, its options, its key, and where it came from; and how its jobs are stored.

use std::borrow::Cow;

use axum::http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::value::RawValue;
use umbel_broker::{Broker, NewJob, Submitted};
use umbel_compose::{JobTemplate, Options, SubmissionKey, check_key};
use umbel_model::{JobId, RawList, RawObject, Stamps, TaskName, TenantId};
use umbel_modules::ModuleStore;

use crate::{
    auth::Caller,
    middleware::RequestId,
    outcome::Outcome,
    problem::{Problem, Result},
    state::Api,
    task_cache,
    time::now_ms,
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A signature, borrowed from the body.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signature<'a> {
    #[serde(borrow)]
    pub(crate) task: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) args: Option<RawList<'a>>,
    #[serde(borrow, default)]
    pub(crate) kwargs: Option<RawObject<'a>>,
    #[serde(borrow, default)]
    pub(crate) options: Option<&'a RawValue>,
}

/// Reads the options of a job.
pub(crate) fn options_of(json: &str) -> Result<Options> {
    Ok(Options::parse(json, now_ms())?)
}

/// The name of a task as a body gives it.
pub(crate) fn task_name(text: &str) -> Result<TaskName> {
    TaskName::new(text).map_err(|e| Problem::task_not_found(e.to_string()))
}

/// The idempotency key of a submission: of the header, or of the body, where it is the field `field`.
pub(crate) fn key_of(headers: &HeaderMap, in_body: Option<&str>, field: &str) -> Result<Option<String>> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(in_body.map(str::to_owned)) };
    let refused = |detail: String| Problem::invalid_header(format!("Idempotency-Key: {detail}"));
    let key = value.to_str().map_err(|_| refused("use visible ASCII characters".into()))?;
    check_key(key).map_err(refused)?;
    match in_body {
        Some(other) if other != key => Err(refused(format!("{field} says something else"))),
        _ => Ok(Some(key.to_owned())),
    }
}

/// The key and body of an idempotent submission as they are stored: hashes only.
pub(crate) fn submission_key(key: &str, body: &[u8]) -> SubmissionKey {
    SubmissionKey::new(key, &crate::json_limits::compact(body))
}

/// The job that a submission answers with whose key belongs to job `first`: that one, if their bodies are one in canonical form.
///
/// # Errors
/// The bodies differ, or `first` is not there any more.
pub(crate) async fn known_job(api: &Api, tenant: &TenantId, first: JobId, key: Option<&str>) -> Result<Outcome> {
    let record = api.broker.job(tenant, first).await?;
    let body = record.and_then(|record| record.parsed_spec().ok()?.body);
    match body {
        Some(body) if key == Some(&*body) => Ok(Outcome::Replayed(first)),
        _ => Err(Problem::key_conflict(format_args!("job {first}"))),
    }
}

/// Where a submission came from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) tenant: TenantId,
    pub(crate) request_id: String,
    pub(crate) traceparent: Option<String>,
}

impl Origin {
    pub(crate) fn of(caller: &Caller, request_id: &RequestId, headers: &HeaderMap) -> Self {
        let traceparent = headers.get(TRACEPARENT).and_then(|v| v.to_str().ok()).filter(|text| is_traceparent(text));
        Self {
            tenant: caller.tenant.clone(),
            request_id: request_id.0.to_string(),
            traceparent: traceparent.map(str::to_owned),
        }
    }

    /// The stamps of jobs that are submitted here. Takes the tags and headers out of `options`.
    pub(crate) fn stamps(&self, options: &mut Options) -> Stamps {
        Stamps {
            tags: std::mem::take(&mut options.tags),
            headers: std::mem::take(&mut options.headers),
            traceparent: self.traceparent.clone(),
            request_id: Some(self.request_id.clone()),
            schedule: None,
        }
    }

    /// The template of jobs of a task with these options.
    pub(crate) async fn template(&self, api: &Api, task: &str, mut options: Options) -> Result<JobTemplate> {
        let task = task_cache::task(api, &self.tenant, &task_name(task)?).await?;
        let stamps = self.stamps(&mut options);
        Ok(JobTemplate::new(task, &options, self.tenant.clone(), stamps, &api.rules)?)
    }
}

/// W3C trace context, version 00. Anything else is ignored, as the standard asks.
fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str, len| part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = text.split('-').take(5).collect();
    let [version, trace, parent, flags] = parts[..] else { return false };
    let zero = |part: &str| part.bytes().all(|b| b == b'0');
    version == "00" && hex(trace, 32) && hex(parent, 16) && hex(flags, 2) && !zero(trace) && !zero(parent)
}

/// Jobs that are stored in one step.
#[derive(Debug, Default)]
pub(crate) struct NewJobs {
    pub(crate) jobs: Vec<NewJob>,
    /// Those of them whose arguments are in the module store.
    large: Vec<JobId>,
}

impl NewJobs {
    /// Adds the job of one signature; answers its id. Large arguments are stored now: if the job never is, they are swept
    /// away.
    pub(crate) async fn add(
        &mut self,
        api: &Api,
        template: &JobTemplate,
        signature: &Signature<'_>,
        key: Option<SubmissionKey>,
    ) -> Result<JobId> {
        let id = api.ids.job_id()?;
        let args = signature.args.as_ref().map(RawList::as_slice).unwrap_or_default();
        let none = RawObject::default();
        let draft = template.job(id, args, signature.kwargs.as_ref().unwrap_or(&none), key).await?;
        let stored = match draft.large_arguments() {
            Some(text) => Some(api.store.put_value(template.tenant(), id, text).await?),
            None => None,
        };
        self.large.extend(stored.iter().map(|_| id));
        self.jobs.push(draft.finish(stored));
        Ok(id)
    }

    /// Stores them; one answer each, in order. Deletes the large arguments of those that were not stored after all: what
    /// cannot be deleted now, the sweeper finds.
    pub(crate) async fn submit(
        &self,
        broker: &dyn Broker,
        store: &ModuleStore,
    ) -> umbel_broker::Result<Vec<Submitted>> {
        if self.jobs.is_empty() {
            return Ok(Vec::new());
        }
        let answers = broker.submit(&self.jobs).await?;
        for (job, answer) in self.jobs.iter().zip(&answers) {
            // One that is there already is this very job, submitted again.
            let is_stored = *answer == Submitted::Created || *answer == Submitted::Existing(job.id);
            if is_stored || !self.large.contains(&job.id) {
                continue;
            }
            if let Err(error) = store.delete_values(&job.tenant, job.id).await {
                tracing::debug!(job = %job.id, %error, "arguments of a job that was not stored are left to the sweeper");
            }
        }
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use umbel_broker::Start;

    use super::*;

    #[test]
    fn a_traceparent_is_taken_only_in_its_one_form() {
        assert!(is_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    #[test]
    fn options_take_policy_fields_and_name_what_they_do_not_know() {
        let options =
            options_of(r#"{"priority": 9, "countdown_ms": 5, "idempotency_key": "k", "queue": null}"#).unwrap();
        assert_eq!((options.policy.priority, options.start), (Some(9), Some(Start::After(5))));
        for (json, code) in [
            (r#"{"prioritty": 9}"#, "invalid_body"),
            (r#"{"priority": "high"}"#, "invalid_body"),
            (r#"{"countdown_ms": -1}"#, "invalid_option"),
            (r#"{"countdown_ms": 1e300}"#, "invalid_option"),
            (r#"{"eta": "tomorrow"}"#, "invalid_option"),
            (r#"{"eta": "2999-01-01T00:00:00Z"}"#, "invalid_option"),
            (r#"{"eta": "2026-01-01T00:00:00Z", "countdown_ms": 1}"#, "invalid_option"),
            (r#"{"idempotency_key": ""}"#, "invalid_option"),
            (r#"{"queue": "a/b"}"#, "invalid_body"),
            (r#"[]"#, "invalid_body"),
        ] {
            assert_eq!(options_of(json).unwrap_err().code(), code, "{json}");
        }
    }
}
