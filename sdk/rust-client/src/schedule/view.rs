//! Schedules as the server shows them. Times are RFC 3339 in UTC.

use serde::Deserialize;
use serde_json::value::RawValue;
use umbel_model::{JobId, WorkflowId};

/// Whether a schedule fires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    #[default]
    Active,
    Paused,
    /// It never fires again.
    Finished,
}

impl ScheduleState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Finished => "finished",
        }
    }
}

/// A schedule: its definition, as it was written, and where it is.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct Schedule {
    pub name: String,
    /// Of the definition: each change adds one.
    pub version: u64,
    #[serde(default)]
    pub state: ScheduleState,
    /// What it starts, JSON. None: the server cannot read it, as `problem` says.
    #[serde(default)]
    pub start: Option<Box<RawValue>>,
    /// When, JSON.
    #[serde(default)]
    pub when: Option<Box<RawValue>>,
    #[serde(default)]
    pub zone: Option<String>,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub source: Option<String>,
    /// When it fires, in English.
    #[serde(default)]
    pub describe: String,
    /// The next nominal time.
    #[serde(default)]
    pub next_at: Option<String>,
    /// When its fire is due: it, its place in the window, and its jitter.
    #[serde(default)]
    pub due_at: Option<String>,
    #[serde(default)]
    pub paused: Option<SchedulePause>,
    /// Runs that were started by time.
    #[serde(default)]
    pub started: u64,
    /// Runs in a row that failed, or could not be started.
    #[serde(default)]
    pub failures: u32,
    /// Nominal times that wait for a run to end, oldest first.
    #[serde(default)]
    pub waiting: Vec<String>,
    #[serde(default)]
    pub retry: Option<ScheduleRetry>,
    /// Runs of which it is not known that they are over.
    #[serde(default)]
    pub runs: Vec<ScheduleRun>,
    #[serde(default)]
    pub backfills: Vec<ScheduleBackfill>,
    #[serde(default)]
    pub created_at: String,
    /// When the definition was set last.
    #[serde(default)]
    pub changed_at: String,
    /// The version of the server's zone database.
    #[serde(default)]
    pub zone_database: String,
    /// Why it cannot be used.
    #[serde(default)]
    pub problem: Option<String>,
}

/// Why and since when a schedule is paused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct SchedulePause {
    pub since: String,
    #[serde(default)]
    pub reason: Option<String>,
}

/// A fire that could not be started and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ScheduleRetry {
    pub nominal_at: String,
    /// When.
    pub at: String,
    /// How often it was tried.
    pub tries: u32,
    pub error: String,
}

/// A job or a workflow that a schedule started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ScheduleRun {
    #[serde(default)]
    pub job: Option<JobId>,
    #[serde(default)]
    pub workflow: Option<WorkflowId>,
}

/// Times of the past that are started.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ScheduleBackfill {
    pub id: String,
    /// The next of its times.
    pub next: String,
    /// The last of its times.
    pub to: String,
    pub pace_ms: u64,
    pub started: u64,
}

/// A schedule that was set, and its next five times.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct StoredSchedule {
    pub name: String,
    /// Of what is stored; of a trial, of what was stored before, 0 for nothing.
    pub version: u64,
    #[serde(default)]
    pub state: ScheduleState,
    /// When it fires, in English.
    #[serde(default)]
    pub describe: String,
    #[serde(default)]
    pub next: Vec<NextTime>,
}

/// A schedule whose next time was left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct SkippedSchedule {
    pub name: String,
    /// The nominal time that is left out.
    pub skipped_at: String,
    /// The next nominal time then.
    #[serde(default)]
    pub next_at: Option<String>,
}

/// A page of schedules by name.
#[derive(Debug, Clone, Deserialize)]
#[non_exhaustive]
pub struct SchedulePage {
    pub items: Vec<Schedule>,
    /// Pass it on for the next page; none at the end.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// A time at which a schedule fires.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct NextTime {
    pub at: String,
    /// With its place in the window and its jitter.
    #[serde(default)]
    pub due_at: String,
    /// The clock of the zone, `2026-03-29T03:00:00`.
    pub local: String,
    /// `+02:00`.
    pub offset: String,
    /// `CEST`.
    #[serde(default)]
    pub abbreviation: String,
    #[serde(default)]
    pub weekday: String,
    /// `offset_changed`, `moved_out_of_gap`, `first_of_two`, `second_of_two`.
    #[serde(default)]
    pub marks: Vec<String>,
}

/// The next times of a schedule or a timing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct NextTimes {
    /// In English.
    #[serde(default)]
    pub describe: String,
    pub items: Vec<NextTime>,
    /// Why there are fewer than were asked for.
    #[serde(default)]
    pub note: Option<String>,
    #[serde(default)]
    pub zone_database: String,
}

/// What a backfill starts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct BackfillPlan {
    /// None of a trial.
    #[serde(default)]
    pub id: Option<String>,
    pub count: u64,
    /// The first ten.
    #[serde(default)]
    pub first: Vec<String>,
    /// The last ten.
    #[serde(default)]
    pub last: Vec<String>,
}

/// What became of a time, or of the schedule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ScheduleFire {
    #[serde(default)]
    pub number: u64,
    /// `started`, `skipped`, `missed`, `failed`, `retrying`, `paused`, `resumed`.
    pub verdict: String,
    /// When that was decided.
    pub at: String,
    #[serde(default)]
    pub nominal_at: Option<String>,
    /// The last of several nominal times that it stands for.
    #[serde(default)]
    pub through: Option<String>,
    /// How many nominal times it stands for; 1,000 means that many or more.
    #[serde(default)]
    pub count: Option<u32>,
    #[serde(default)]
    pub job: Option<JobId>,
    #[serde(default)]
    pub workflow: Option<WorkflowId>,
    #[serde(default)]
    pub backfill: Option<String>,
    /// Somebody started it beside its times.
    #[serde(default)]
    pub by_hand: bool,
    #[serde(default)]
    pub reason: Option<String>,
}

/// A page of a schedule's history, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[non_exhaustive]
pub struct ScheduleFires {
    pub items: Vec<ScheduleFire>,
    #[serde(default)]
    pub next_cursor: Option<String>,
}
