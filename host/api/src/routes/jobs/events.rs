//! The events of one job.
//!
//! An event's id says how many log lines, attempts and which state a client has seen, so that one that comes back with it
//! gets each line once. The job is looked at sooner when it ends.

use std::sync::Arc;

use axum::{
    Extension,
    http::{HeaderMap, StatusCode},
    response::IntoResponse as _,
};
use bytes::Bytes;
use serde::Serialize;
use umbel_model::{Failure, JobId, JobRecord, JobState, Progress, TenantId};

use crate::{
    event_stream::{EventSource, Events, Looked, POLL, event_stream, last_event_id, stream_permit},
    extract::Context,
    job_detail::job_detail,
    problem::Result,
    serve::Stopping,
    state::Api,
    time::Timestamp,
    views::{self, JobError, Line},
};

/// Log lines read at once.
const LINES: u32 = 200;
/// Largest result that comes with the end, bytes: it is held in memory until its reader takes it.
const MAX_END_BYTES: usize = 64 << 10;

/// How far a client has read the events of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    lines: u64,
    attempts: u64,
    state: Option<JobState>,
    /// It was told the end.
    end: bool,
}

impl Seen {
    /// As an event's id: `<lines>.<attempts>.<state>`, `.end` behind the last one.
    fn id(self) -> String {
        let state = self.state.map_or("-", JobState::as_str);
        let end = if self.end { ".end" } else { "" };
        format!("{}.{}.{state}{end}", self.lines, self.attempts)
    }

    fn parse(text: &str) -> Option<Self> {
        let (text, end) = match text.strip_suffix(".end") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let mut parts = text.splitn(3, '.');
        let (lines, attempts) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let state = match parts.next()? {
            "-" => None,
            name => Some(JobState::from_name(name)?),
        };
        Some(Self { lines, attempts, state, end })
    }
}

/// A change of a job's state.
#[derive(Serialize)]
struct Change<'a> {
    id: String,
    state: &'static str,
    /// Number of the current or last attempt, from 1.
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<JobError>,
}

/// The changes of a job until it has ended, as server-sent events.
///
/// `state` {id, state, attempt, due_at?, worker?, error?}; `progress` as the job's; `log` as an item of its log; `end`, the
/// job as a whole, after which the stream closes. The first events say where the job stands. A client that comes back with
/// `Last-Event-ID` gets what it has not seen; 204 when it has seen the end.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 204, description = "Its end was seen already"),
    )
)]
pub(crate) async fn follow(cx: Context<JobId>, stopping: Option<Extension<Stopping>>, headers: HeaderMap) -> Result {
    let Context { api, caller, id, .. } = cx;
    let seen = last_event_id(&headers, Seen::parse)?.unwrap_or_default();
    if seen.end {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let permit = stream_permit(&api, &caller)?;
    let next = Some(api.job(&caller.tenant, id).await?);
    let of = (api.clone(), caller.clone());
    let source = JobEvents { api, tenant: caller.tenant, id, seen, progress: None, next };
    Ok(event_stream(of, source, permit, stopping, None))
}

/// One client's view of one job.
struct JobEvents {
    api: Arc<Api>,
    tenant: TenantId,
    id: JobId,
    seen: Seen,
    progress: Option<Progress>,
    /// The job as it was read when the stream began.
    next: Option<JobRecord>,
}

impl EventSource for JobEvents {
    /// Waits for the job's end, but not for long, and makes events of what is new.
    async fn look(&mut self, events: &mut Events) -> Looked {
        if let Some(record) = self.next.take() {
            return self.tell(record, events).await;
        }
        match self.api.watch.job(&self.tenant, self.id, POLL).await {
            Ok(Some(record)) => self.tell(record, events).await,
            // It is gone.
            Ok(None) => Looked::Over,
            Err(error) => {
                tracing::debug!(job = %self.id, %error, "a followed job cannot be read");
                Looked::Failed
            }
        }
    }

    fn heartbeat(&self) -> Bytes {
        Bytes::from_static(b": alive\n\n")
    }
}

impl JobEvents {
    /// Lines were stored before the state that follows them, and are told before it.
    async fn tell(&mut self, record: JobRecord, events: &mut Events) -> Looked {
        let ended = record.state.is_terminal();
        self.tell_attempts(&record, events);
        if !ended {
            self.tell_state(&record, events);
        }
        match self.tell_lines(events).await {
            Ok(true) => {}
            // The job is read again later: nothing may be told that comes behind the lines.
            Ok(false) => return Looked::More,
            Err(error) => {
                tracing::debug!(job = %self.id, %error, "the log of a followed job cannot be read");
                return Looked::Failed;
            }
        }
        if let Some(progress) = record.progress.clone()
            && self.progress.as_ref() != Some(&progress)
        {
            self.progress = Some(progress.clone());
            events.push(self.seen.id(), "progress", &views::Progress::new(progress));
        }
        if !ended {
            return Looked::More;
        }
        self.tell_state(&record, events);
        match job_detail(&self.api, record).await {
            Ok(job) => {
                self.seen.end = true;
                events.push(self.seen.id(), "end", &job.without_large_result(MAX_END_BYTES));
                Looked::Over
            }
            Err(problem) => {
                tracing::debug!(job = %self.id, code = problem.code(), "a followed job cannot be shown");
                Looked::Failed
            }
        }
    }

    fn tell_state(&mut self, record: &JobRecord, events: &mut Events) {
        let now = Seen { attempts: record.history.len() as u64, state: Some(record.state), ..self.seen };
        if now == self.seen {
            return;
        }
        self.seen = now;
        let change = Change {
            id: self.id.to_string(),
            state: record.state.as_str(),
            attempt: record.retries + 1,
            due_at: record.due_at.map(Timestamp),
            worker: record.worker.as_ref().map(umbel_model::WorkerId::as_str),
            error: record.failure.clone().map(JobError::new),
        };
        events.push(self.seen.id(), "state", &change);
    }

    /// Tells the attempts that ended since: that each ran, also when nobody looked meanwhile, and as what the job waited after
    /// it. Who has seen nothing is told where the job stands, and not how it came there.
    fn tell_attempts(&mut self, record: &JobRecord, events: &mut Events) {
        if self.seen.state.is_none() {
            return;
        }
        let seen = usize::try_from(self.seen.attempts).unwrap_or(usize::MAX);
        let ended = record.history.iter().enumerate().skip(seen);
        for (before, attempt) in ended {
            let mut tell = |state: JobState, attempts: usize, error: Option<&Failure>| {
                let now = Seen { attempts: attempts as u64, state: Some(state), ..self.seen };
                if now == self.seen {
                    return;
                }
                self.seen = now;
                let change = Change {
                    id: self.id.to_string(),
                    state: state.as_str(),
                    attempt: attempt.attempt,
                    due_at: None,
                    worker: Some(attempt.worker.as_str()),
                    error: error.cloned().map(JobError::new),
                };
                events.push(self.seen.id(), "state", &change);
            };
            tell(JobState::Running, before, None);
            let waited = match &*attempt.outcome {
                "error" | "trap" => JobState::Retrying,
                "snoozed" => JobState::Scheduled,
                "lost" => JobState::Queued,
                // It ended with this attempt, or goes on as a workflow.
                _ => continue,
            };
            if before + 1 < record.history.len() || matches!(record.state, JobState::Queued | JobState::Running) {
                tell(waited, before + 1, attempt.failure.as_ref());
            }
        }
    }

    /// Tells lines that were written since, a page of them; false when there are more. Those are told first: what a slow
    /// reader has not taken is held in memory.
    async fn tell_lines(&mut self, events: &mut Events) -> umbel_broker::Result<bool> {
        let lines = self.api.broker.logs(&self.tenant, self.id, self.seen.lines, LINES).await?;
        let count = lines.len() as u32;
        for line in lines {
            let number = self.seen.lines;
            self.seen.lines += 1;
            events.push(self.seen.id(), "log", &Line::new(number, line));
        }
        Ok(count < LINES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_anything_else_is_refused() {
        for seen in [
            Seen::default(),
            Seen { lines: 7, attempts: 2, state: Some(JobState::Running), end: false },
            Seen { lines: 7, attempts: 2, state: Some(JobState::Failed), end: true },
        ] {
            assert_eq!(Seen::parse(&seen.id()), Some(seen));
        }
        for bad in ["", "1", "1.2", "1.2.pending", "-1.0.failed", "x.0.-"] {
            assert_eq!(Seen::parse(bad), None, "{bad}");
        }
    }
}
