//! Schedules: jobs and workflows that the service starts at their times.

mod definition;
mod view;

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    client::{Client, Request, fresh_key, typed},
    error::Error,
    job::Job,
    kv::KvExpect,
    time::{ms, rfc3339},
    workflow::Workflow,
};

pub use definition::{NewSchedule, ScheduleCatchUp, ScheduleOverlap, ScheduleWhen};
pub use view::{
    BackfillPlan, NextTime, NextTimes, Schedule, ScheduleBackfill, ScheduleFire, ScheduleFires, SchedulePage,
    SchedulePause, ScheduleRetry, ScheduleRun, ScheduleState, SkippedSchedule, StoredSchedule,
};

/// Which schedules to list. What is not set does not matter; what is set is joined by *and*.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScheduleFilter {
    /// Only names that begin with it.
    pub prefix: Option<String>,
    pub state: Option<ScheduleState>,
    /// Only those that start this task.
    pub task: Option<String>,
    /// Only those with this source.
    pub source: Option<String>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Items of a page, 1 to 200; 50 when not given. A page with a filter may be empty and have more behind it.
    pub limit: Option<u32>,
}

/// Times of the past to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewBackfill {
    /// Not before it.
    pub from: SystemTime,
    /// Up to it; not after now.
    pub to: SystemTime,
    /// Between two of them, at most a day.
    pub pace: Duration,
}

/// What a schedule was told to start at once.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ScheduleStarted {
    Job(Box<Job>),
    Workflow(Box<Workflow>),
}

#[derive(Serialize)]
struct BackfillBody {
    from: String,
    to: String,
    pace_ms: u64,
    dry_run: bool,
}

fn path(name: &str) -> String {
    format!("/v1/schedules/{}", crate::kv::part(name))
}

impl Client {
    /// Makes or changes a schedule. A change that leaves its times as they are keeps what is pending.
    pub async fn set_schedule(
        &self,
        name: &str,
        schedule: &NewSchedule,
        expect: KvExpect,
    ) -> Result<StoredSchedule, Error> {
        self.put_schedule(name, schedule, expect)?.answer().await
    }

    /// Checks a schedule, and answers what would be stored and when it would fire. Nothing is changed.
    pub async fn try_schedule(
        &self,
        name: &str,
        schedule: &NewSchedule,
        expect: KvExpect,
    ) -> Result<StoredSchedule, Error> {
        self.put_schedule(name, schedule, expect)?.query("dry_run", "true").repeatable().answer().await
    }

    fn put_schedule(&self, name: &str, schedule: &NewSchedule, expect: KvExpect) -> Result<Request, Error> {
        let request = match expect {
            // Twice is the same as once.
            KvExpect::Any => self.put(path(name)),
            _ => self.change(reqwest::Method::PUT, path(name)),
        };
        Ok(expect.on(request.json(schedule.fields()?)))
    }

    /// A schedule as it is now.
    pub async fn schedule(&self, name: &str) -> Result<Schedule, Error> {
        self.get(path(name)).answer().await
    }

    /// A page of schedules by name.
    pub async fn schedules(&self, filter: &ScheduleFilter) -> Result<SchedulePage, Error> {
        let ScheduleFilter { prefix, state, task, source, cursor, limit } = filter;
        let parameters = [
            ("prefix", prefix.clone()),
            ("state", state.map(|state| state.as_str().to_owned())),
            ("task", task.clone()),
            ("source", source.clone()),
            ("cursor", cursor.clone()),
            ("limit", limit.map(|limit| limit.to_string())),
        ];
        let given = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.fold(self.get("/v1/schedules"), |request, (name, value)| request.query(name, value)).answer().await
    }

    /// Deletes a schedule with its history; what it has started goes on.
    pub async fn delete_schedule(&self, name: &str, expect: KvExpect) -> Result<(), Error> {
        expect.on(self.delete(path(name))).text().await.map(drop)
    }

    /// Pauses a schedule: nothing fires until it goes on. The reason is for people.
    pub async fn pause_schedule(&self, name: &str, reason: Option<&str>) -> Result<Schedule, Error> {
        self.post(format!("{}/pause", path(name))).json(&json!({ "reason": reason })).repeatable().answer().await
    }

    /// Goes on after a pause.
    pub async fn resume_schedule(&self, name: &str) -> Result<Schedule, Error> {
        self.post(format!("{}/resume", path(name))).repeatable().answer().await
    }

    /// Starts its job or workflow now, beside its times; once, also when the connection breaks.
    pub async fn run_schedule(&self, name: &str) -> Result<ScheduleStarted, Error> {
        #[derive(Deserialize)]
        struct Kind {
            task: Option<String>,
        }
        let text = self.post(format!("{}/run", path(name))).idempotency_key(fresh_key()?).text().await?;
        match typed::<Kind>(&text)?.task {
            Some(_) => Ok(ScheduleStarted::Job(typed(&text)?)),
            None => Ok(ScheduleStarted::Workflow(typed(&text)?)),
        }
    }

    /// Leaves its next time out. Sent once: twice would leave two out.
    pub async fn skip_schedule(&self, name: &str) -> Result<SkippedSchedule, Error> {
        self.post(format!("{}/skip", path(name))).answer().await
    }

    /// Starts the times of a range of the past, at most 10,000, one after the other. Sent once: twice would start them twice.
    pub async fn backfill_schedule(&self, name: &str, backfill: &NewBackfill) -> Result<BackfillPlan, Error> {
        self.backfill(name, backfill, false).answer().await
    }

    /// Which times a backfill would start.
    pub async fn try_backfill(&self, name: &str, backfill: &NewBackfill) -> Result<BackfillPlan, Error> {
        self.backfill(name, backfill, true).repeatable().answer().await
    }

    fn backfill(&self, name: &str, backfill: &NewBackfill, dry_run: bool) -> Request {
        let NewBackfill { from, to, pace } = *backfill;
        let body = BackfillBody { from: rfc3339(from), to: rfc3339(to), pace_ms: ms(pace), dry_run };
        self.post(format!("{}/backfill", path(name))).json(&body)
    }

    /// Ends a backfill; what it has started goes on.
    pub async fn abort_backfill(&self, name: &str, id: &str) -> Result<Schedule, Error> {
        self.delete(format!("{}/backfills/{}", path(name), crate::kv::part(id))).answer().await
    }

    /// The next times of a schedule, 1 to 1,000, as its zone's clock shows them.
    pub async fn next_times(&self, name: &str, count: u32, after: Option<SystemTime>) -> Result<NextTimes, Error> {
        let request = self.get(format!("{}/next", path(name))).query("count", count.to_string());
        let after = after.map(rfc3339);
        after.into_iter().fold(request, |request, after| request.query("from", after)).answer().await
    }

    /// The next times of a timing that is nobody's. Nothing is stored.
    pub async fn preview_times(&self, when: &ScheduleWhen, zone: Option<&str>, count: u32) -> Result<NextTimes, Error> {
        let body = json!({ "when": when, "zone": zone, "count": count });
        self.post("/v1/schedules/preview").json(&body).repeatable().answer().await
    }

    /// A page of what became of a schedule's times, newest first. The last 100 entries are kept.
    pub async fn fires(&self, name: &str, limit: u32, cursor: Option<&str>) -> Result<ScheduleFires, Error> {
        let request = self.get(format!("{}/fires", path(name))).query("limit", limit.to_string());
        cursor.into_iter().fold(request, |request, cursor| request.query("cursor", cursor)).answer().await
    }
}
