//! What happens to all jobs of a tenant, as server-sent events.
//!
//! An event's id is the number that the broker gave it, so that a client that comes back is told what came behind it. Numbers
//! of events that a filter leaves out are told with the signs of life: a client that comes back late does not read them again.
//! Nothing is recorded while nobody follows; what was not kept is told as `missed`, never passed over in silence.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, Uri},
    response::Response,
};
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use umbel_broker::{Event, FOLLOW_MS};
use umbel_model::{JobState, TaskName, TenantId};
use utoipa::IntoParams;

use super::super::jobs::{
    events::{HEARTBEAT, LAST_EVENT_ID, MAX_LIFE, MAX_SILENCE, POLL, answer, permits},
    list::states_of,
};
use crate::{
    auth::Caller,
    body::query_of,
    problem::{Code, Problem},
    serve::Stopping,
    state::Api,
    time::Time,
};

/// Well before a following ends, also when the broker is away for as long as a stream lives without it.
const RENEW: Duration = Duration::from_millis(FOLLOW_MS / 4);
const _: () = assert!(RENEW.as_millis() + MAX_SILENCE.as_millis() < FOLLOW_MS as u128);
/// Events read at once.
const EVENTS: u32 = 500;
/// Tasks that a filter may name.
const MAX_TASKS: usize = 50;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventsQuery {
    /// Only jobs of this task, or of one of these: `add,mul`; at most 50.
    task: Option<String>,
    /// Only changes to this state, or to one of these: `failed,revoked`.
    state: Option<String>,
}

/// Which events are told. An empty set is all.
#[derive(Debug, Default)]
struct Wanted {
    tasks: BTreeSet<TaskName>,
    states: Vec<JobState>,
}

impl Wanted {
    fn of(query: &EventsQuery) -> Result<Self, Problem> {
        let bad = |detail: String| Problem::new(Code::InvalidQuery, detail);
        let names = query.task.iter().flat_map(|list| list.split(','));
        let tasks: BTreeSet<_> =
            names.take(MAX_TASKS + 1).map(TaskName::new).collect::<Result<_, _>>().map_err(|e| bad(e.to_string()))?;
        if tasks.len() > MAX_TASKS {
            return Err(bad(format!("task: at most {MAX_TASKS}")));
        }
        Ok(Self { tasks, states: states_of(query.state.as_deref())? })
    }

    fn takes(&self, event: &Event) -> bool {
        (self.tasks.is_empty() || self.tasks.contains(&event.task))
            && (self.states.is_empty() || self.states.contains(&event.state))
    }
}

/// A change of a job's state.
#[derive(Serialize)]
struct Change<'a> {
    job_id: String,
    task: &'a str,
    state: &'static str,
    at: Time,
}

/// What happens to all jobs of the tenant from now on, as server-sent events.
///
/// `job` {job_id, task, state, at} for each change of a job's state, nodes of workflows too; `missed` when changes were not
/// kept: look again at what is shown. A client that comes back with `Last-Event-ID` gets what came behind it, as far as it
/// was kept: the newest 10,000, for two minutes after the last stream ended. The stream has no end of its own; after an hour
/// its client must come back.
#[utoipa::path(
    get, path = "/v1/events", tag = "jobs",
    params(
        EventsQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen"),
    ),
    responses((status = 200, content_type = "text/event-stream", body = String))
)]
pub(crate) async fn follow_all(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    stopping: Option<Extension<Stopping>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let wanted = Wanted::of(&query_of(&uri)?)?;
    let seen = headers.get(LAST_EVENT_ID).map(|value| {
        let number = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
        number.ok_or_else(|| {
            Problem::new(Code::InvalidHeader, "Last-Event-ID: pass on the id of an event of this stream")
        })
    });
    let seen = seen.transpose()?;
    let permits = permits(&api, &caller)?;
    let last = api.broker.follow(&caller.tenant).await?;
    let now = Instant::now();
    let mut follower = Follower {
        api,
        tenant: caller.tenant,
        wanted,
        after: seen.unwrap_or(last),
        ready: VecDeque::new(),
        begun: now,
        said: now,
        heard: now,
        followed: now,
        stopping: stopping.map(|Extension(stopping)| stopping),
        _permits: permits,
    };
    // A client whose connection breaks before the first event must know where it stood.
    follower.ready.push_back(follower.alive());
    let events = stream::unfold(follower, |mut follower| async move {
        let bytes = follower.event().await?;
        Some((Ok::<Bytes, Infallible>(bytes), follower))
    });
    Ok(answer(Body::from_stream(events)))
}

/// One client's view of a tenant's jobs.
struct Follower {
    api: Arc<Api>,
    tenant: TenantId,
    wanted: Wanted,
    /// The number of the last event that was read.
    after: u64,
    /// Events that wait to be sent.
    ready: VecDeque<Bytes>,
    begun: Instant,
    /// When something was sent last.
    said: Instant,
    /// When the broker answered last.
    heard: Instant,
    /// When the broker was told last that somebody follows.
    followed: Instant,
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
            if self.begun.elapsed() > MAX_LIFE || self.heard.elapsed() > MAX_SILENCE {
                return None;
            }
            if self.said.elapsed() >= HEARTBEAT {
                self.said = Instant::now();
                return Some(self.alive());
            }
            let more = match self.look().await {
                Ok(more) => {
                    self.heard = Instant::now();
                    more
                }
                Err(error) => {
                    tracing::debug!(tenant = %self.tenant, %error, "the events of a tenant cannot be read");
                    false
                }
            };
            if self.ready.is_empty() && !more {
                self.pause().await?;
            }
        }
    }

    /// None when the server ends.
    async fn pause(&mut self) -> Option<()> {
        let pause = tokio::time::sleep(POLL);
        match &mut self.stopping {
            None => pause.await,
            Some(Stopping(stopping)) => tokio::select! {
                () = pause => {}
                _ = stopping.wait_for(|stop| *stop) => return None,
            },
        }
        Some(())
    }

    /// Makes events of what is new; true when there may be more at once.
    async fn look(&mut self) -> umbel_broker::Result<bool> {
        if self.followed.elapsed() >= RENEW {
            self.api.broker.follow(&self.tenant).await?;
            self.followed = Instant::now();
        }
        let page = self.api.broker.events(&self.tenant, self.after, EVENTS).await?;
        if page.last == 0 {
            // The following had ended, or the broker lost it.
            self.after = self.api.broker.follow(&self.tenant).await?;
            self.followed = Instant::now();
            self.push("missed", &serde_json::json!({}));
            return Ok(false);
        }
        if page.missed {
            // Of the number before what is kept: a client that comes back with it has missed nothing more.
            self.after = page.events.first().map_or(page.last, |event| event.number.saturating_sub(1));
            self.push("missed", &serde_json::json!({}));
        }
        for event in &page.events {
            self.after = event.number;
            if self.wanted.takes(event) {
                let change = Change {
                    job_id: event.job.to_string(),
                    task: event.task.as_str(),
                    state: event.state.as_str(),
                    at: Time(event.at),
                };
                self.push("job", &change);
            }
        }
        Ok(page.events.len() >= EVENTS as usize)
    }

    /// A comment, and where the client stands now: an id without data is no event, but is kept.
    fn alive(&self) -> Bytes {
        format!(": alive\nid: {}\n\n", self.after).into()
    }

    fn push<T: Serialize>(&mut self, name: &str, data: &T) {
        // Texts and numbers into memory; JSON has no line breaks of its own.
        let Ok(data) = serde_json::to_string(data) else { return };
        self.ready.push_back(format!("id: {}\nevent: {name}\ndata: {data}\n\n", self.after).into());
    }
}
