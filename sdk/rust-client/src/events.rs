//! Events of jobs: server-sent events, which continue after a connection broke.
//!
//! Invariant: every event that the server sent with an id is told once; after a break the server is told the last id.

use std::{collections::VecDeque, time::Duration};

use bytes::BytesMut;
use futures::{Stream, stream};
use serde::Deserialize;
use umbel_model::{JobId, JobState};

use crate::{
    client::{Client, Pieces, typed},
    error::Error,
    job::{Job, JobError, Line, Progress},
};

/// Longest event that is read: a result of the largest size and what is around it, bytes.
const MAX_EVENT_BYTES: usize = 64 << 20;
/// The server says something every 15 s.
const SILENCE: Duration = Duration::from_secs(45);

/// Something that happened to a job.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum JobEvent {
    /// It is in this state now. The first event says where it stands.
    State(JobChange),
    Progress(Progress),
    /// It wrote a line.
    Log(Line),
    /// It has ended; nothing follows.
    End(Box<Job>),
}

/// Something that happened to a job of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TenantEvent {
    /// A job is in another state than before.
    Job(ChangedJob),
    /// Changes before what follows were not kept: look again at what is shown.
    Missed,
}

/// A job, and the state that it is in now.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ChangedJob {
    pub job_id: JobId,
    #[serde(default)]
    pub task: String,
    pub state: JobState,
    /// RFC 3339, by the broker's clock.
    #[serde(default)]
    pub at: String,
}

/// Which events of a tenant are told. What is not set does not matter; what is set is joined by *and*.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    tasks: Vec<String>,
    states: Vec<String>,
    after: Option<String>,
}

impl EventFilter {
    /// Of jobs of this task; may be said of several, at most 50.
    #[must_use]
    pub fn task(mut self, task: impl Into<String>) -> Self {
        self.tasks.push(task.into());
        self
    }

    /// Changes to one of these states.
    #[must_use]
    pub fn states(mut self, states: &[JobState]) -> Self {
        self.states.extend(states.iter().map(|state| state.as_str().to_owned()));
        self
    }

    /// From behind the event with this id on, as far as it was kept.
    #[must_use]
    pub fn after(self, id: impl Into<String>) -> Self {
        Self { after: Some(id.into()), ..self }
    }
}

/// The typed events of a feed, up to the last event or an error.
fn told<T: Send + 'static>(
    feed: Feed,
    typed: fn(&Event) -> Result<Option<T>, Error>,
    is_last: fn(&T) -> bool,
) -> impl Stream<Item = Result<T, Error>> + Send + 'static {
    stream::unfold(Some(feed), move |feed| async move {
        let mut feed = feed?;
        loop {
            let event = feed.next().await.and_then(|event| typed(&event));
            match event {
                Ok(Some(event)) if is_last(&event) => return Some((Ok(event), None)),
                Ok(Some(event)) => return Some((Ok(event), Some(feed))),
                Ok(None) => {}
                Err(error) => return Some((Err(error), None)),
            }
        }
    })
}

/// The state of a job that changed.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct JobChange {
    pub state: JobState,
    /// Number of the current or last attempt, from 1.
    #[serde(default)]
    pub attempt: u32,
    /// When it is tried again, or starts.
    #[serde(default, alias = "retry_at")]
    pub due_at: Option<String>,
    /// Why the last attempt failed.
    #[serde(default)]
    pub error: Option<JobError>,
}

impl Client {
    /// The events of a job from now until it has ended. After a broken connection the stream continues, and no event is lost
    /// or repeated. If the connection cannot be made again, the last item is an error.
    pub fn events(&self, id: JobId) -> impl Stream<Item = Result<JobEvent, Error>> + Send + 'static {
        self.events_after(id, None)
    }

    /// The same from behind the event with this id.
    pub fn events_after(
        &self,
        id: JobId,
        last: Option<String>,
    ) -> impl Stream<Item = Result<JobEvent, Error>> + Send + 'static {
        let feed = self.feed(format!("/v1/jobs/{id}/events"), last);
        told(feed, Event::of_job, |event| matches!(event, JobEvent::End(_)))
    }

    /// The events of all jobs of the tenant, from now on and without end. After a broken connection the stream continues behind
    /// the last event. If the connection cannot be made again, the last item is an error.
    pub fn tenant_events(
        &self,
        filter: &EventFilter,
    ) -> impl Stream<Item = Result<TenantEvent, Error>> + Send + 'static {
        told(self.tenant_feed(filter), Event::of_tenant, |_| false)
    }

    /// The same as it was sent, with the ids that `EventFilter::after` takes.
    pub fn tenant_feed(&self, filter: &EventFilter) -> Feed {
        let feed = self.feed("/v1/events", filter.after.clone());
        [("task", &filter.tasks), ("state", &filter.states)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .fold(feed, |feed, (name, names)| feed.query(name, names.join(",")))
    }

    /// Events of any kind at `path`, as they were sent, from behind the one with the id `last`.
    pub fn feed(&self, path: impl Into<String>, last: Option<String>) -> Feed {
        let client = self.clone();
        Feed {
            client,
            path: path.into(),
            query: Vec::new(),
            last,
            pieces: None,
            parser: Parser::default(),
            failures: 0,
        }
    }
}

/// The events at one address, over as many connections as it takes. See `Client::feed`.
pub struct Feed {
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    last: Option<String>,
    pieces: Option<Pieces>,
    parser: Parser,
    /// Connections in a row that brought nothing.
    failures: u32,
}

impl Feed {
    /// Asks with this parameter, too.
    #[must_use]
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    /// The id to go on behind, later or elsewhere: of the last event, or the server's word on where it stands.
    pub fn last_id(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// The next event. An answer that ends is asked for again; whoever reads must know which event is the last one.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            if let Some(event) = self.parser.ready.pop_front() {
                self.failures = 0;
                if event.id.is_some() {
                    self.last.clone_from(&event.id);
                }
                if event.data.is_empty() {
                    // Only an id: where the feed stands.
                    continue;
                }
                return Ok(event);
            }
            let read = match &mut self.pieces {
                Some(pieces) => pieces.next().await,
                None => match self.connect().await {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            match read {
                Ok(Some(bytes)) => self.parser.take(&bytes)?,
                Ok(None) => self.again(Error::Unreachable { url: self.path.clone(), cause: "it ended".into() }).await?,
                Err(error) => self.again(error).await?,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        let mut request = self.client.get(self.path.clone()).header("accept", "text/event-stream");
        for (name, value) in &self.query {
            request = request.query(name, value);
        }
        if let Some(last) = &self.last {
            request = request.header("last-event-id", last);
        }
        self.parser = Parser::default();
        self.pieces = Some(request.pieces(SILENCE).await?);
        Ok(())
    }

    /// Waits before the next connection, or gives up.
    async fn again(&mut self, error: Error) -> Result<(), Error> {
        let retry = self.client.retry();
        self.pieces = None;
        if !error.is_transient() || self.failures >= retry.times {
            return Err(error);
        }
        tokio::time::sleep(retry.pause(self.failures)).await;
        self.failures += 1;
        Ok(())
    }
}

/// One event as it was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Event {
    pub id: Option<String>,
    pub name: String,
    /// JSON.
    pub data: String,
}

impl Event {
    /// Of a tenant's jobs; none for one that this version does not know.
    pub fn of_tenant(&self) -> Result<Option<TenantEvent>, Error> {
        Ok(Some(match self.name.as_str() {
            "job" => TenantEvent::Job(typed(&self.data)?),
            "missed" => TenantEvent::Missed,
            _ => return Ok(None),
        }))
    }

    /// Of a job; none for one that this version does not know.
    pub fn of_job(&self) -> Result<Option<JobEvent>, Error> {
        Ok(Some(match self.name.as_str() {
            "state" => JobEvent::State(typed(&self.data)?),
            "progress" => JobEvent::Progress(typed(&self.data)?),
            "log" => JobEvent::Log(typed(&self.data)?),
            "end" => JobEvent::End(typed(&self.data)?),
            _ => return Ok(None),
        }))
    }
}

/// Bytes into events, by the rules of `text/event-stream`.
#[derive(Default)]
struct Parser {
    line: BytesMut,
    event: Event,
    ready: VecDeque<Event>,
}

impl Parser {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + piece.len() + self.event.data.len() > MAX_EVENT_BYTES {
                return Err(Error::AnswerTooLarge(MAX_EVENT_BYTES));
            }
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                let line = self.line.split();
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                self.line_of(std::str::from_utf8(line).map_err(|_| Error::BadAnswer)?);
            }
        }
        Ok(())
    }

    fn line_of(&mut self, line: &str) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            // What has no data is no event, but its id counts.
            if !event.data.is_empty() || event.id.is_some() {
                self.ready.push_back(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.name = value.to_owned(),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // A comment, which keeps the connection alive, or what a later server says.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_from_pieces_of_any_size() {
        let text = ": hello\n\n: alive\nid: 0\n\nid: 1.0\nevent: log\ndata: {\"a\":\ndata: 1}\r\n\r\nevent:state\nretry: 5\ndata:x\n\nid: 9\ndata: ä";
        for size in 1..text.len() {
            let mut parser = Parser::default();
            text.as_bytes().chunks(size).for_each(|piece| parser.take(piece).unwrap());
            let expected = [
                Event { id: Some("0".into()), ..Event::default() },
                Event { id: Some("1.0".into()), name: "log".into(), data: "{\"a\":\n1}".into() },
                Event { id: None, name: "state".into(), data: "x".into() },
            ];
            // The last one is not complete: it never was.
            assert_eq!(parser.ready, expected, "{size}");
        }
    }
}
