//! What happens to a job, as server-sent events.
//!
//! An event's id says how many log lines, attempts and which state a client has seen, so that one that comes back with it
//! gets each line once. The store is polled, and looked at sooner when the job ends; a stream has a longest life, after which
//! its client comes back by itself.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use umbel_model::{JobId, JobRecord, JobState, Progress, TenantId};

use crate::{
    auth::Caller,
    body::Of,
    job_detail::whole,
    problem::{Code, Problem},
    redrive,
    serve::Stopping,
    state::Api,
    time::Time,
    views::{self, JobError, Line},
};

pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Between two looks at a job.
pub(crate) const POLL: Duration = Duration::from_millis(500);
/// Something is sent at least so often.
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(15);
/// A stream ends after this long: tokens may have been revoked meanwhile.
pub(crate) const MAX_LIFE: Duration = Duration::from_secs(3_600);
/// A stream ends when the broker cannot be read for this long.
pub(crate) const MAX_SILENCE: Duration = Duration::from_secs(60);
/// Log lines read at once.
const LINES: u32 = 200;
/// Largest result that comes with the end, bytes: it is held in memory until its reader takes it.
const MAX_END_BYTES: usize = 64 << 10;

/// What a client has seen of a job.
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
    due_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<JobError>,
}

/// What happens to a job until it has ended, as server-sent events.
///
/// `state` {id, state, attempt, due_at?, worker?, error?}; `progress` as the job's; `log` as an item of its log; `end`, the
/// job as a whole, after which the stream closes. The first events say where the job stands. A client that comes back with
/// `Last-Event-ID` gets what it has not seen; 204 when it has seen the end.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(
        ("id" = String, Path),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen"),
    ),
    responses(
        (status = 200, content_type = "text/event-stream", body = String),
        (status = 204, description = "Its end was seen already"),
    )
)]
pub(crate) async fn follow(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    stopping: Option<Extension<Stopping>>,
    Of(id): Of<JobId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let seen = match headers.get(LAST_EVENT_ID) {
        None => Seen::default(),
        Some(value) => value.to_str().ok().and_then(Seen::parse).ok_or_else(|| {
            Problem::new(Code::InvalidHeader, "Last-Event-ID: pass on the id of an event of this stream")
        })?,
    };
    if seen.end {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let permits = permits(&api, &caller)?;
    let record = redrive::find(&api, &caller.tenant, id).await?;
    let now = Instant::now();
    let follower = Follower {
        api,
        tenant: caller.tenant,
        id,
        seen,
        progress: None,
        ready: VecDeque::new(),
        next: Some(record),
        begun: now,
        said: now,
        heard: now,
        over: false,
        stopping: stopping.map(|Extension(stopping)| stopping),
        _permits: permits,
    };
    let events = stream::unfold(follower, |mut follower| async move {
        let bytes = follower.event().await?;
        Some((Ok::<Bytes, Infallible>(bytes), follower))
    });
    Ok(answer(Body::from_stream(events)))
}

/// Two places: among all streams, and among the tenant's.
pub(crate) fn permits(api: &Api, caller: &Caller) -> Result<[OwnedSemaphorePermit; 2], Problem> {
    let all = api.streams.clone().try_acquire_owned();
    let all =
        all.map_err(|_| Problem::new(Code::Overloaded, "too many streams of events; poll, or try again later"))?;
    let own = api.tenants_streams.try_take(&caller.tenant).ok_or_else(|| {
        let detail = format!("a tenant has at most {} streams of events", api.config.max_tenant_streams);
        Problem::new(Code::TooManyRequests, detail)
    })?;
    Ok([all, own])
}

pub(crate) fn answer(body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // Proxies that collect answers would keep the events back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (StatusCode::OK, headers, body).into_response()
}

/// One client's view of one job.
struct Follower {
    api: Arc<Api>,
    tenant: TenantId,
    id: JobId,
    seen: Seen,
    progress: Option<Progress>,
    /// Events that wait to be sent.
    ready: VecDeque<Bytes>,
    /// The job as it was read last, not yet told.
    next: Option<JobRecord>,
    begun: Instant,
    /// When something was sent last.
    said: Instant,
    /// When the broker answered last.
    heard: Instant,
    over: bool,
    stopping: Option<Stopping>,
    _permits: [OwnedSemaphorePermit; 2],
}

impl Follower {
    /// The next event, or a sign of life; none at the end.
    async fn event(&mut self) -> Option<Bytes> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.said = Instant::now();
                return Some(event);
            }
            if self.over || self.begun.elapsed() > MAX_LIFE || self.heard.elapsed() > MAX_SILENCE {
                return None;
            }
            if self.said.elapsed() >= HEARTBEAT {
                self.said = Instant::now();
                return Some(Bytes::from_static(b": alive\n\n"));
            }
            match self.next.take() {
                Some(record) => self.tell(record).await,
                None => self.look().await?,
            }
        }
    }

    /// Waits for the job's end, but not for long, and reads it. None when it is gone, or the server ends.
    async fn look(&mut self) -> Option<()> {
        let read = self.api.watch.job(&self.tenant, self.id, POLL);
        let read = match &mut self.stopping {
            None => read.await,
            Some(Stopping(stopping)) => tokio::select! {
                read = read => read,
                _ = stopping.wait_for(|stop| *stop) => return None,
            },
        };
        match read {
            Ok(record) => {
                self.heard = Instant::now();
                self.next = Some(record?);
            }
            Err(error) => {
                tracing::debug!(job = %self.id, %error, "a followed job cannot be read");
                tokio::time::sleep(POLL).await;
            }
        }
        Some(())
    }

    /// Makes events of what is new. Lines were stored before the state that follows them.
    async fn tell(&mut self, record: JobRecord) {
        let ended = record.state.is_terminal();
        if !ended {
            self.tell_state(&record);
        }
        if !self.tell_lines().await {
            // Read again later: nothing may be told that comes behind them.
            return;
        }
        if record.progress.is_some() && record.progress != self.progress {
            self.progress.clone_from(&record.progress);
            if let Some(progress) = record.progress.clone() {
                self.push("progress", &views::Progress::from(progress));
            }
        }
        if !ended {
            return;
        }
        self.tell_state(&record);
        match whole(&self.api, record).await {
            Ok(job) => {
                self.seen.end = true;
                self.push("end", &job.without_large_result(MAX_END_BYTES));
                self.over = true;
            }
            Err(problem) => {
                tracing::debug!(job = %self.id, code = problem.code(), "a followed job cannot be shown");
                tokio::time::sleep(POLL).await;
            }
        }
    }

    fn tell_state(&mut self, record: &JobRecord) {
        let now = Seen { attempts: record.history.len() as u64, state: Some(record.state), ..self.seen };
        if now == self.seen {
            return;
        }
        self.seen = now;
        let change = Change {
            id: self.id.to_string(),
            state: record.state.as_str(),
            attempt: record.retries + 1,
            due_at: record.due_at.map(Time),
            worker: record.worker.as_ref().map(umbel_model::WorkerId::as_str),
            error: record.failure.clone().map(JobError::from),
        };
        self.push("state", &change);
    }

    /// Tells lines that were written since, a page of them; false when they cannot be read, or there are more.
    async fn tell_lines(&mut self) -> bool {
        let lines = match self.api.broker.logs(&self.tenant, self.id, self.seen.lines, LINES).await {
            Ok(lines) => lines,
            Err(error) => {
                tracing::debug!(job = %self.id, %error, "the log of a followed job cannot be read");
                tokio::time::sleep(POLL).await;
                return false;
            }
        };
        let count = lines.len() as u32;
        for line in lines {
            let number = self.seen.lines;
            self.seen.lines += 1;
            self.push("log", &Line::new(number, line));
        }
        // Those first: what a slow reader has not taken is held in memory.
        count < LINES
    }

    fn push<T: Serialize>(&mut self, name: &str, data: &T) {
        // Texts and numbers into memory; JSON has no line breaks of its own.
        let Ok(data) = serde_json::to_string(data) else { return };
        self.ready.push_back(format!("id: {}\nevent: {name}\ndata: {data}\n\n", self.seen.id()).into());
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
