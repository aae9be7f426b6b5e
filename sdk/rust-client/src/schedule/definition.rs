//! A schedule as it is written.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::{
    json,
    value::{RawValue, to_raw_value},
};

use crate::{
    canvas::{self, Signature, Step},
    error::Error,
    time::{ms, rfc3339},
    workflow::WorkflowOptions,
};

/// When a schedule fires.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct ScheduleWhen(serde_json::Map<String, serde_json::Value>);

impl ScheduleWhen {
    /// A cron expression of 5, 6 (with a second before them) or 7 fields (and a year behind them).
    pub fn cron(expression: impl Into<String>) -> Self {
        Self::one("cron", expression.into().into())
    }

    /// All times of several expressions, each once.
    pub fn crons(expressions: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self::one("cron", expressions.into_iter().map(Into::into).collect::<Vec<String>>().into())
    }

    /// An interval: `90s`, `2h`, `1 day`, `1 month`.
    pub fn every(interval: impl Into<String>) -> Self {
        Self::one("every", interval.into().into())
    }

    /// One-off times.
    pub fn at(times: impl IntoIterator<Item = SystemTime>) -> Self {
        Self::one("at", times.into_iter().map(rfc3339).collect::<Vec<_>>().into())
    }

    /// An event of the sun at a place, such as `sunset`; degrees, north and east are positive.
    pub fn solar(event: impl Into<String>, latitude: f64, longitude: f64) -> Self {
        Self::one("solar", json!({"event": event.into(), "latitude": latitude, "longitude": longitude}))
    }

    /// Of cron: a day must match the day of the month and the day of the week, as in Celery. Otherwise one of them is enough.
    #[must_use]
    pub fn both_days(self) -> Self {
        self.with("days", "and".into())
    }

    /// Of an interval: a time from which intervals are counted.
    #[must_use]
    pub fn anchor(self, at: SystemTime) -> Self {
        self.with("anchor", rfc3339(at).into())
    }

    /// Leaves out times that these cron expressions match.
    #[must_use]
    pub fn exclude(self, expressions: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.with("exclude", expressions.into_iter().map(Into::into).collect::<Vec<String>>().into())
    }

    fn one(name: &str, value: serde_json::Value) -> Self {
        Self(serde_json::Map::new()).with(name, value)
    }

    fn with(mut self, name: &str, value: serde_json::Value) -> Self {
        self.0.insert(name.to_owned(), value);
        self
    }
}

/// What happens to a time that comes while a run is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleOverlap {
    /// It is left out.
    Skip,
    /// It waits, and one more is left out.
    BufferOne,
    /// It waits behind others, at most 100.
    BufferAll,
    /// The run is cancelled, and it starts when that has ended.
    Cancel,
    /// It starts beside the run.
    Allow,
}

/// Which times start that passed while nobody could start them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleCatchUp {
    None,
    /// The last one.
    Latest,
    /// Each, in order.
    All,
}

type Fields = BTreeMap<String, Box<RawValue>>;

/// A schedule to make, or what one becomes. What is not set has the server's default.
#[derive(Debug, Clone)]
pub struct NewSchedule(Result<Fields, Error>);

impl NewSchedule {
    /// Starts a job at each of its times.
    pub fn job(call: Signature, when: &ScheduleWhen) -> Self {
        Self::starting(canvas::single(call).map_err(Error::from).and_then(|single| raw(&single.call)), when)
    }

    /// Starts a workflow at each of its times.
    pub fn workflow(canvas: impl Into<Step>, options: &WorkflowOptions, when: &ScheduleWhen) -> Self {
        let start = || {
            let options = serde_json::to_value(options).map_err(unwritten)?;
            let mut start: Fields = BTreeMap::new();
            for (name, value) in options.as_object().into_iter().flatten() {
                start.insert(name.clone(), raw(value)?);
            }
            start.insert("canvas".to_owned(), raw(&canvas.into().build()?)?);
            raw(&start)
        };
        Self::starting(start(), when)
    }

    /// The JSON form, as `PUT /v1/schedules/{name}` takes it. Numbers keep all their digits.
    pub fn from_json(text: &str) -> Self {
        Self(serde_json::from_str(text).map_err(unwritten))
    }

    /// A name of the IANA zone database.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        self.with("zone", zone)
    }

    /// Nothing fires before it.
    #[must_use]
    pub fn starts_at(self, at: SystemTime) -> Self {
        self.with("starts_at", rfc3339(at))
    }

    /// Nothing fires at it or after it.
    #[must_use]
    pub fn ends_at(self, at: SystemTime) -> Self {
        self.with("ends_at", rfc3339(at))
    }

    #[must_use]
    pub fn overlap(self, overlap: ScheduleOverlap) -> Self {
        self.with("overlap", overlap)
    }

    #[must_use]
    pub fn catch_up(self, catch_up: ScheduleCatchUp) -> Self {
        self.with("catch_up", catch_up)
    }

    /// Older times are missed in any case.
    #[must_use]
    pub fn catch_up_window(self, window: Duration) -> Self {
        self.with("catch_up_window_ms", ms(window))
    }

    /// Each fire comes later by a part of this, which differs from fire to fire.
    #[must_use]
    pub fn jitter(self, jitter: Duration) -> Self {
        self.with("jitter_ms", ms(jitter))
    }

    /// Each fire comes later by a part of this, which is always the same for the schedule.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        self.with("window_ms", ms(window))
    }

    /// Runs that are started by time, at most.
    #[must_use]
    pub fn max_runs(self, runs: u64) -> Self {
        self.with("max_runs", runs)
    }

    /// It pauses by itself when so many runs in a row have failed.
    #[must_use]
    pub fn pause_after_failures(self, runs: u32) -> Self {
        self.with("pause_after_failures", runs)
    }

    /// Times that pass while it is paused are due when it goes on.
    #[must_use]
    pub fn keep_missed(self) -> Self {
        self.with("keep_missed", true)
    }

    /// Pins the module of a single task; otherwise the one runs that is deployed when it fires.
    #[must_use]
    pub fn digest(self, digest: &str) -> Self {
        self.with("digest", digest)
    }

    /// For people, at most 1 KiB.
    #[must_use]
    pub fn description(self, description: &str) -> Self {
        self.with("description", description)
    }

    /// Where it comes from, such as `file:crm`: who applies a file finds its own by it.
    #[must_use]
    pub fn source(self, source: &str) -> Self {
        self.with("source", source)
    }

    /// It is made paused. Without effect on one that is there.
    #[must_use]
    pub fn paused(self) -> Self {
        self.with("paused", true)
    }

    /// The fields as they are sent.
    ///
    /// # Errors
    /// A call or a canvas cannot be built, or the text is no JSON object.
    pub fn fields(&self) -> Result<&BTreeMap<String, Box<RawValue>>, Error> {
        self.0.as_ref().map_err(Clone::clone)
    }

    fn starting(start: Result<Box<RawValue>, Error>, when: &ScheduleWhen) -> Self {
        let start = start.map(|start| BTreeMap::from([("start".to_owned(), start)]));
        Self(start).with("when", when)
    }

    fn with(self, name: &str, value: impl Serialize) -> Self {
        Self(self.0.and_then(|mut fields| {
            fields.insert(name.to_owned(), raw(&value)?);
            Ok(fields)
        }))
    }
}

fn raw(value: &impl Serialize) -> Result<Box<RawValue>, Error> {
    to_raw_value(value).map_err(unwritten)
}

fn unwritten(error: serde_json::Error) -> Error {
    Error::Request(error.to_string())
}
