//! The changes of all jobs of a tenant, as server-sent events.
//!
//! An event's id is the number that the broker gave it, so that a client that comes back gets the events behind it. Numbers
//! of events that a filter leaves out come with the heartbeats: a client that comes back late does not read them again.
//! Nothing is recorded while nobody follows; events that were not kept are told as `missed`.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{Extension, http::HeaderMap};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use umbel_broker::{Event, FOLLOW_MS};
use umbel_model::{JobState, TaskName, TenantId};
use utoipa::IntoParams;

use super::super::jobs::list::states_of;
use crate::{
    event_stream::{EventSource, Events, Looked, MAX_SILENCE, event_stream, last_event_id, stream_permit},
    extract::{Context, Query},
    problem::{Problem, Result},
    serve::Stopping,
    state::Api,
    time::Timestamp,
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
    fn of(query: &EventsQuery) -> Result<Self> {
        let bad = |detail: String| Problem::invalid_query(detail);
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
    at: Timestamp,
}

/// The changes of all jobs of the tenant from now on, as server-sent events.
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
    Context { api, caller, .. }: Context,
    stopping: Option<Extension<Stopping>>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result {
    let wanted = Wanted::of(&query)?;
    let seen = last_event_id(&headers, |text| text.parse::<u64>().ok())?;
    let permit = stream_permit(&api, &caller)?;
    let last = api.broker.follow(&caller.tenant).await?;
    let after = seen.unwrap_or(last);
    let of = (api.clone(), caller.clone());
    let source = TenantEvents { api, tenant: caller.tenant, wanted, after, followed: Instant::now() };
    // A client whose connection breaks before the first event must know where it stood.
    let greeting = source.heartbeat();
    Ok(event_stream(of, source, permit, stopping, Some(greeting)))
}

/// One client's view of a tenant's jobs.
struct TenantEvents {
    api: Arc<Api>,
    tenant: TenantId,
    wanted: Wanted,
    /// The number of the last event that was read.
    after: u64,
    /// When the broker was told last that somebody follows.
    followed: Instant,
}

impl EventSource for TenantEvents {
    async fn look(&mut self, events: &mut Events) -> Looked {
        match self.read(events).await {
            Ok(true) => Looked::More,
            Ok(false) => Looked::Idle,
            Err(error) => {
                tracing::debug!(tenant = %self.tenant, %error, "the events of a tenant cannot be read");
                Looked::Failed
            }
        }
    }

    /// A comment, and where the client stands now: an id without data is no event, but is kept.
    fn heartbeat(&self) -> Bytes {
        format!(": alive\nid: {}\n\n", self.after).into()
    }
}

impl TenantEvents {
    /// Makes events of what is new; true when there may be more at once.
    async fn read(&mut self, events: &mut Events) -> umbel_broker::Result<bool> {
        if self.followed.elapsed() >= RENEW {
            self.api.broker.follow(&self.tenant).await?;
            self.followed = Instant::now();
        }
        let page = self.api.broker.events(&self.tenant, self.after, EVENTS).await?;
        if page.last == 0 {
            // The following had ended, or the broker lost it.
            self.after = self.api.broker.follow(&self.tenant).await?;
            self.followed = Instant::now();
            events.push(self.after, "missed", &serde_json::json!({}));
            return Ok(false);
        }
        if page.missed {
            // Of the number before what is kept: a client that comes back with it has missed nothing more.
            self.after = page.events.first().map_or(page.last, |event| event.number.saturating_sub(1));
            events.push(self.after, "missed", &serde_json::json!({}));
        }
        for event in &page.events {
            self.after = event.number;
            if self.wanted.takes(event) {
                let change = Change {
                    job_id: event.job.to_string(),
                    task: event.task.as_str(),
                    state: event.state.as_str(),
                    at: Timestamp(event.at),
                };
                events.push(self.after, "job", &change);
            }
        }
        Ok(page.events.len() >= EVENTS as usize)
    }
}
