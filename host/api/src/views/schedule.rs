//! Schedules as JSON.

use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use umbel_broker::{Fire, ScheduleRecord};
use umbel_model::UnixMs;
use umbel_schedule::{
    Definition, Next, Preview, PreviewTime, Written,
    firing::{self, FireRecord, FiringState, Pause, Run as StateRun, Times as _},
    zone_database_version,
};
use utoipa::ToSchema;

use crate::{
    canvas_schema::Step,
    time::Timestamp,
    views::{CatchUp, Overlap},
};

/// What a schedule starts: the body of `POST /v1/jobs`, or that of `POST /v1/workflows`, without an idempotency key.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes a field, is never built")]
pub(crate) struct ScheduleStart {
    /// Of a job.
    task: Option<String>,
    #[schema(value_type = Option<Vec<Value>>)]
    args: Option<Vec<Box<RawValue>>>,
    #[schema(value_type = Option<Object>)]
    kwargs: Option<Box<RawValue>>,
    /// As of a submission, without `eta`, `expires_at` and `idempotency_key`; at most 15 headers.
    #[schema(value_type = Option<Object>)]
    options: Option<Box<RawValue>>,
    /// Of a workflow.
    canvas: Option<Step>,
    name: Option<String>,
    tags: Option<Vec<String>>,
    headers: Option<BTreeMap<String, String>>,
    deadline_ms: Option<u64>,
    keep_ms: Option<u64>,
}

/// When it fires: exactly one of `cron`, `every`, `solar` and `at`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes a field, is never built")]
pub(crate) struct ScheduleWhen {
    /// A cron expression of 5, 6 or 7 fields, or a list of at most 32: all their times, each once.
    #[schema(value_type = Option<Value>)]
    cron: Option<String>,
    /// How day of month and day of week go together: `or` (the default) or `and`.
    days: Option<String>,
    /// An interval: `90s`, `2h`, `1 day`, `1 month`.
    every: Option<String>,
    /// From where intervals are counted, RFC 3339.
    #[schema(format = DateTime)]
    anchor: Option<String>,
    /// `event`, `latitude` and `longitude`.
    #[schema(value_type = Option<Object>)]
    solar: Option<()>,
    /// A one-off time, RFC 3339, or a list of at most 100.
    #[schema(value_type = Option<Value>)]
    at: Option<String>,
    /// A cron expression of times that are left out, or a list of at most 32.
    #[schema(value_type = Option<Value>)]
    exclude: Option<String>,
}

/// The fields of a schedule. Those that are left out have their defaults.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, is never built")]
pub(crate) struct ScheduleFields {
    start: ScheduleStart,
    when: ScheduleWhen,
    /// A name of the IANA zone database; `UTC` when not given.
    zone: Option<String>,
    #[schema(format = DateTime)]
    starts_at: Option<String>,
    #[schema(format = DateTime)]
    ends_at: Option<String>,
    /// What happens to a time that comes while a run is not over; `skip` when not given.
    overlap: Option<Overlap>,
    /// Which times start that passed while nobody could start them; `latest` when not given.
    catch_up: Option<CatchUp>,
    /// Older ones are missed in any case; a day when not given.
    catch_up_window_ms: Option<u64>,
    /// Each fire comes later by a part of this, which differs from fire to fire.
    jitter_ms: Option<u64>,
    /// Each fire comes later by a part of this, which is always the same for the schedule.
    window_ms: Option<u64>,
    /// Runs that are started by time, at most; 0: any number.
    max_runs: Option<u64>,
    /// It pauses by itself when so many runs in a row have failed, or could not be started; 0: never.
    pause_after_failures: Option<u32>,
    /// Times that pass while it is paused are due when it goes on.
    keep_missed: Option<bool>,
    /// Pins the module of a single task.
    digest: Option<String>,
    /// For people, at most 1 KiB.
    description: Option<String>,
    /// Where it comes from, such as `file:crm`: 1 to 200 bytes.
    source: Option<String>,
}

/// A schedule as it is written.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body, is never built")]
pub(crate) struct ScheduleDefinition {
    #[schema(inline)]
    #[serde(flatten)]
    fields: ScheduleFields,
    /// It is made paused. Without effect on a schedule that is there.
    paused: Option<bool>,
}

/// A schedule: its definition, and where it is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Schedule {
    pub(crate) name: String,
    #[schema(inline, value_type = ScheduleFields)]
    #[serde(flatten)]
    definition: Option<Written>,
    /// Of the definition: each change adds one.
    pub(crate) version: u64,
    /// `active`, `paused`, `finished`: it never fires again.
    pub(crate) state: &'static str,
    /// The next nominal time.
    next_at: Option<Timestamp>,
    /// When its fire is due: it, and its place in the window and its jitter.
    due_at: Option<Timestamp>,
    /// When it fires, in English.
    describe: String,
    paused: Option<SchedulePause>,
    /// Runs that were started by time.
    started: u64,
    /// Runs in a row that failed, or could not be started.
    failures: u32,
    /// Nominal times that wait for a run to end, oldest first.
    waiting: Vec<Timestamp>,
    /// One that could not be started and is tried again.
    retry: Option<ScheduleRetry>,
    /// Runs of which it is not known that they are over, oldest first.
    runs: Vec<ScheduleRun>,
    backfills: Vec<ScheduleBackfill>,
    created_at: Timestamp,
    /// When the definition was set last.
    changed_at: Timestamp,
    /// Of the server that answers.
    zone_database: &'static str,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

views! {
    SchedulePause from (pause: Pause) {
        since: Timestamp = Timestamp(pause.since),
        reason: Option<String> = pause.reason,
    }

    ScheduleRetry from (retry: firing::Retry) {
        nominal_at: Timestamp = Timestamp(retry.nominal_at),
        /// When.
        at: Timestamp = Timestamp(retry.at),
        /// How often it was tried.
        tries: u32 = retry.tries,
        error: String = retry.error,
    }

    /// A job or a workflow.
    ScheduleRun from (run: StateRun) {
        #[serde(skip_serializing_if = "Option::is_none")]
        job: Option<String> = (!run.is_workflow).then(|| run.id.to_string()),
        #[serde(skip_serializing_if = "Option::is_none")]
        workflow: Option<String> = run.is_workflow.then(|| run.id.to_string()),
    }

    ScheduleBackfill from (backfill: firing::Backfill) {
        id: String = backfill.id,
        /// The next of its times.
        next: Timestamp = Timestamp(backfill.next),
        /// The last of its times.
        to: Timestamp = Timestamp(backfill.to),
        pace_ms: u64 = backfill.pace_ms,
        /// When the next one is started.
        at: Timestamp = Timestamp(backfill.at),
        started: u64 = backfill.started,
        /// How often the next one could not be started.
        tries: u32 = backfill.tries,
    }

    /// What a backfill starts.
    BackfillPlan from (id: Option<String>, times: Vec<UnixMs>) {
        /// None of a dry run.
        id: Option<String> = id,
        count: usize = times.len(),
        /// The first ten.
        first: Vec<Timestamp> = times.iter().take(10).copied().map(Timestamp).collect(),
        /// The last ten.
        last: Vec<Timestamp> = times[times.len().saturating_sub(10)..].iter().copied().map(Timestamp).collect(),
    }

    /// A time at which a schedule fires.
    NextTime from (time: PreviewTime, due_at: UnixMs) {
        at: Timestamp = Timestamp(time.at),
        /// With its place in the window and its jitter.
        due_at: Timestamp = Timestamp(due_at),
        /// The clock of the zone, `2026-03-29T03:00:00`.
        local: String = time.local,
        /// `+02:00`.
        offset: String = time.offset,
        /// `CEST`.
        abbreviation: String = time.abbreviation,
        weekday: &'static str = time.weekday,
        /// `offset_changed`: the zone's offset is another one than at the time before. `moved_out_of_gap`: the clock jumps over the
        /// time that is written, and this is the first one after it. `first_of_two`, `second_of_two`: the clock shows this time twice.
        marks: Vec<&'static str> = time.marks.into_iter().map(umbel_schedule::PreviewMark::as_str).collect(),
    }

    /// An entry of a schedule's history.
    ScheduleFire from (number: u64, record: FireRecord) {
        number: u64 = number,
        /// `started`, `skipped`, `missed`, `failed`, `retrying`, `paused`, `resumed`.
        verdict: &'static str = record.verdict.as_str(),
        /// When that was decided.
        at: Timestamp = Timestamp(record.at),
        nominal_at: Option<Timestamp> = record.nominal_at.map(Timestamp),
        /// The last of several nominal times that it stands for.
        #[serde(skip_serializing_if = "Option::is_none")]
        through: Option<Timestamp> = record.through.map(Timestamp),
        /// How many nominal times it stands for; 1,000 means that many or more.
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<u32> = record.count,
        #[serde(skip_serializing_if = "Option::is_none")]
        job: Option<String> = record.job.map(|id| id.to_string()),
        #[serde(skip_serializing_if = "Option::is_none")]
        workflow: Option<String> = record.workflow.map(|id| id.to_string()),
        #[serde(skip_serializing_if = "Option::is_none")]
        backfill: Option<String> = record.backfill,
        /// Somebody started it beside its times.
        by_hand: bool = record.by_hand,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String> = record.reason,
    }
}

/// A page of schedules by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Schedules {
    pub(crate) items: Vec<Schedule>,
    /// An empty page may have one.
    pub(crate) next_cursor: Option<String>,
}

/// A page of a schedule's history, newest first; the last 100 entries are kept.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ScheduleFires {
    pub(crate) items: Vec<ScheduleFire>,
    pub(crate) next_cursor: Option<String>,
}

/// A schedule that was set, and its next five times.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StoredSchedule {
    #[serde(flatten)]
    #[schema(inline)]
    pub(crate) schedule: Schedule,
    pub(crate) next: Vec<NextTime>,
}

/// A schedule whose next time was left out.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SkippedSchedule {
    #[serde(flatten)]
    #[schema(inline)]
    pub(crate) schedule: Schedule,
    /// The nominal time that is left out.
    pub(crate) skipped_at: Timestamp,
}

/// The next times of a schedule or a timing.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct NextTimes {
    /// In English.
    pub(crate) describe: String,
    pub(crate) items: Vec<NextTime>,
    /// Why there are fewer than were asked for.
    pub(crate) note: Option<String>,
    pub(crate) zone_database: &'static str,
}

impl Schedule {
    pub(crate) fn new(record: &ScheduleRecord, definition: Result<&Definition, String>) -> Self {
        let state = serde_json::from_str::<FiringState>(&record.state);
        let problem = definition.as_ref().err().cloned();
        let problem = problem.or_else(|| state.as_ref().err().map(|_| "its state cannot be read".to_owned()));
        let state = state.unwrap_or_default();
        let definition = definition.ok();
        Self {
            name: record.name.to_string(),
            version: record.version,
            state: state_of(record, &state),
            next_at: state.next.map(Timestamp),
            due_at: definition.zip(state.next).map(|(definition, next)| Timestamp(due_at(definition, record, next))),
            describe: definition.map_or_else(String::new, |definition| definition.timing.describe()),
            paused: state.paused.map(SchedulePause::new),
            started: state.started,
            failures: state.failures,
            waiting: state.waiting.into_iter().map(Timestamp).collect(),
            retry: state.retry.map(ScheduleRetry::new),
            runs: state.runs.into_iter().map(ScheduleRun::new).collect(),
            backfills: state.backfills.into_iter().map(ScheduleBackfill::new).collect(),
            created_at: Timestamp(record.created_at),
            changed_at: Timestamp(record.changed_at),
            zone_database: zone_database_version(),
            problem,
            definition: definition.map(|definition| Written { v: None, paused: None, ..definition.written.clone() }),
        }
    }

    /// The task that it starts, if it is a single one.
    pub(crate) fn task(&self) -> Option<&str> {
        self.definition.as_ref()?.start.task.as_deref()
    }

    pub(crate) fn source(&self) -> Option<&str> {
        self.definition.as_ref()?.source.as_deref()
    }
}

fn state_of(record: &ScheduleRecord, state: &FiringState) -> &'static str {
    let has_more = state.next.is_some() || state.retry.is_some();
    match () {
        () if state.paused.is_some() => "paused",
        () if has_more || !state.waiting.is_empty() || !state.backfills.is_empty() || record.look_at.is_some() => {
            "active"
        }
        () => "finished",
    }
}

fn due_at(definition: &Definition, record: &ScheduleRecord, nominal: UnixMs) -> UnixMs {
    let times = definition.times(&record.tenant, &record.name);
    nominal.saturating_add(times.offset_ms(nominal, times.next_after(nominal)))
}

impl NextTimes {
    /// Of a schedule; `record` names it.
    pub(crate) fn of(definition: &Definition, record: &ScheduleRecord, preview: Preview) -> Self {
        let due = |time: PreviewTime| {
            let due_at = due_at(definition, record, time.at);
            NextTime::new(time, due_at)
        };
        let items = preview.times.into_iter().map(due).collect();
        Self { items, ..Self::without_items(definition.timing.describe(), preview.end) }
    }

    /// Of a timing that is nobody's.
    pub(crate) fn of_timing(timing: &umbel_schedule::Timing, preview: Preview) -> Self {
        let items = preview.times.into_iter().map(|time| {
            let at = time.at;
            NextTime::new(time, at)
        });
        Self { items: items.collect(), ..Self::without_items(timing.describe(), preview.end) }
    }

    fn without_items(describe: String, end: Option<Next>) -> Self {
        let note = end.map(|end| match end {
            Next::NoneUntil(until) => {
                format!("there is no other one until {}; ask on from there", umbel_schedule::Time(until))
            }
            _ => "there is no other one".to_owned(),
        });
        Self { describe, items: Vec::new(), note, zone_database: zone_database_version() }
    }
}

impl ScheduleFire {
    /// An entry as it is stored; none when it cannot be read.
    pub(crate) fn of(fire: &Fire) -> Option<Self> {
        serde_json::from_str(&fire.text).ok().map(|record| Self::new(fire.number, record))
    }
}
