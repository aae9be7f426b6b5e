//! Celery's own schedule cases (`data/celery.json`), compared with ours.
//!
//! The names are those of Celery's tests, the expected values are what Celery computes. Where we differ on purpose,
//! `DIFFERENCES` says how and why; a difference that is gone is a failure too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::Deserialize;
use serde_json::Value;
use umbel_schedule::{Next, Time, Timing};

const CASES: &str = include_str!("data/celery.json");

/// Solar events: how far apart the two may be, seconds, between latitudes 60 S and 60 N. Heights of the sun differ by
/// 0.02 degrees: ours has a mean orbit and a mean size of the sun. The sun needs 4 minutes for a degree at the equator
/// and 10 at latitude 60, where it does not just touch the height.
const SOLAR_SECONDS: u64 = 15;
/// Beyond: the path of the sun may be nearly level at the horizon, so the same difference of heights is more seconds.
const POLAR_SECONDS: u64 = 120;

#[derive(Deserialize)]
struct File {
    cases: Vec<Case>,
}

/// One of `refused`, `expands` and `next`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// `when` and `zone` of our JSON form.
    spec: Value,
    /// Celery refuses it.
    #[serde(default)]
    refused: bool,
    /// The numbers that a field stands for.
    expands: Option<Expands>,
    /// The last run.
    after: Option<Time>,
    /// The first time strictly after `after`.
    next: Option<Time>,
    /// A time at which Celery was asked whether it is due, its answer, and when it looks again: the first time after
    /// `now` when it is due, and `next` when it is not.
    now: Option<Time>,
    due: Option<bool>,
    next_check: Option<Time>,
    /// Name of Celery's test, or "beside" the one that it belongs to.
    source: String,
}

#[derive(Deserialize)]
struct Expands {
    field: String,
    values: BTreeSet<i8>,
}

/// Reasons why we answer otherwise than Celery, each with names of cases and our answers.
const DIFFERENCES: &[(&str, &[(&str, &str)])] = &[
    (
        "POSIX names Sunday 0, and every cron reads 7 as Sunday too; there is nothing else that 7 could mean",
        &[("test_crontab_is_due.test_crontab_spec_invalid_dow: * * * * 7", "accepted")],
    ),
    (
        "A fixed time in a gap of the clock fires at the end of the gap. Celery takes the offset from before the gap, so \
         the fire is late by as much as the time is in the gap",
        &[
            ("30 2 * * * after 2026-03-28T12:00:00 in Europe/Berlin", "2026-03-29T01:00:00Z"),
            ("30 2 29 3 * after 2026-01-01T00:00:00 in Europe/Berlin", "2026-03-29T01:00:00Z"),
            ("30 2 * * sun after 2026-03-28T12:00:00 in Europe/Berlin", "2026-03-29T01:00:00Z"),
            ("30 2 * * * after 2026-03-07T12:00:00 in America/New_York", "2026-03-08T07:00:00Z"),
            ("15 2 * * * after 2026-10-03T12:00:00 in Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
            ("30 1 * * * after 2026-03-28T12:00:00 in Antarctica/Troll", "2026-03-29T01:00:00Z"),
        ],
    ),
    (
        "30 December 2011 is missing in Samoa: it is a gap, and its noon fires at its end as any fixed time. Celery \
         leaves it out",
        &[("0 12 * * * after 2011-12-29T13:00:00 in Pacific/Apia", "2011-12-30T10:00:00Z")],
    ),
    (
        "What says every hour or every quarter fires in both passes of an hour that happens twice. Celery counts by the \
         clock on the wall and is silent for an hour and more",
        &[
            ("0 * * * * after 2026-10-25T02:00:00 (fold 0) in Europe/Berlin", "2026-10-25T01:00:00Z"),
            ("*/15 * * * * after 2026-10-25T02:45:00 (fold 0) in Europe/Berlin", "2026-10-25T01:00:00Z"),
            ("30 * * * * after 2026-10-25T02:30:00 (fold 0) in Europe/Berlin", "2026-10-25T01:30:00Z"),
        ],
    ),
    (
        "An interval of hours is elapsed time from its anchor and knows no clock: where the offset changes by half an \
         hour, it is no longer at the full hour. 0 * * * * is",
        &[
            (
                "test_schedule.test_relative_schedule_across_dst[hourly-half-hour-spring-forward]",
                "2026-10-03T15:00:00Z",
            ),
            ("test_schedule.test_relative_schedule_across_dst[hourly-half-hour-fall-back]", "2026-04-04T15:00:00Z"),
        ],
    ),
    (
        "A day whose midnight happens twice begins once, at the first; Celery's interval fires at both",
        &[
            ("test_schedule.test_relative_schedule_across_dst[daily-second-midnight]", "2000-10-30T04:00:00Z"),
            ("test_schedule.test_relative_schedule_across_dst[daily-three-hours-fall-back]", "2010-03-05T16:00:00Z"),
        ],
    ),
];

fn cases() -> Vec<Case> {
    serde_json::from_str::<File>(CASES).unwrap().cases
}

fn next(timing: &Timing, after: Time) -> String {
    match timing.next_after(after.0) {
        Next::At(at) => Time(at).to_string(),
        end => format!("{end:?}"),
    }
}

/// The numbers of a field at all times of two years.
fn expansion(timing: &Timing, field: &str) -> BTreeSet<i8> {
    let (mut at, end) =
        ("2027-12-31T23:59:59Z".parse::<Time>().unwrap(), "2030-01-01T00:00:00Z".parse::<Time>().unwrap());
    // A field of minutes or hours shows all of its numbers in a day.
    let end = if matches!(field, "minute" | "hour") { Time(at.0 + 86_400_000) } else { end };
    let mut numbers = BTreeSet::new();
    while let Next::At(next) = timing.next_after(at.0) {
        if next > end.0 {
            break;
        }
        at = Time(next);
        numbers.insert(number(field, utc(at)));
    }
    numbers
}

fn utc(at: Time) -> DateTime {
    TimeZone::UTC.to_datetime(Timestamp::from_millisecond(i64::try_from(at.0).unwrap()).unwrap())
}

fn number(field: &str, time: DateTime) -> i8 {
    match field {
        "minute" => time.minute(),
        "hour" => time.hour(),
        "day_of_month" => time.day(),
        "month" => time.month(),
        "weekday" => time.weekday().to_sunday_zero_offset(),
        other => panic!("there is no field {other}"),
    }
}

impl Case {
    fn solar_tolerance(&self) -> Option<u64> {
        let latitude = self.spec.pointer("/when/solar/latitude")?.as_f64()?;
        Some(if latitude.abs() < 60.0 { SOLAR_SECONDS } else { POLAR_SECONDS })
    }

    fn expected(&self) -> String {
        match (&self.expands, self.next) {
            _ if self.refused => "refused".to_owned(),
            (Some(expands), _) => format!("{:?}", expands.values),
            (None, Some(next)) => next.to_string(),
            (None, None) => panic!("{} expects nothing", self.name),
        }
    }

    fn found(&self) -> String {
        match (Timing::from_json(&self.spec.to_string()), &self.expands, self.after) {
            (Err(error), ..) if self.refused => {
                assert!(!error.detail.is_empty());
                "refused".to_owned()
            }
            (Err(error), ..) => format!("refused: {error}"),
            (Ok(_), ..) if self.refused => "accepted".to_owned(),
            (Ok(timing), Some(expands), _) => format!("{:?}", expansion(&timing, &expands.field)),
            (Ok(timing), None, Some(after)) => next(&timing, after),
            (Ok(_), None, None) => panic!("{} asks nothing", self.name),
        }
    }

    /// Whether what was found is what Celery says, within the tolerance of solar events.
    fn agrees(&self, found: &str) -> bool {
        let expected = self.expected();
        match (self.solar_tolerance(), found.parse::<Time>(), expected.parse::<Time>()) {
            (Some(within), Ok(found), Ok(expected)) => found.0.abs_diff(expected.0) <= within * 1_000,
            _ => found == expected,
        }
    }

    fn difference(&self) -> Option<&'static str> {
        let all = DIFFERENCES.iter().flat_map(|(_, names)| *names);
        all.filter(|(name, _)| *name == self.name).map(|(_, ours)| *ours).next()
    }
}

#[test]
fn we_answer_as_celery_does_but_for_the_differences_that_are_listed() {
    let mut wrong = Vec::new();
    for case in cases() {
        let found = case.found();
        let right = case.difference().map_or_else(|| case.agrees(&found), |ours| found == ours);
        if !right {
            let expected = case.difference().unwrap_or("as Celery");
            let (name, spec, celery) = (&case.name, &case.spec, case.expected());
            wrong.push(format!("{name}: {spec} is {found}, Celery says {celery}, expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn each_listed_difference_is_of_a_case_and_differs() {
    let cases: BTreeMap<String, Case> = cases().into_iter().map(|case| (case.name.clone(), case)).collect();
    let mut named = BTreeSet::new();
    for (reason, names) in DIFFERENCES {
        for (name, ours) in *names {
            let case = cases.get(*name).unwrap_or_else(|| panic!("there is no case {name}"));
            assert!(!case.agrees(ours), "{name} no longer differs ({reason}): take it out");
            assert!(named.insert(*name), "{name} is listed twice");
        }
    }
}

#[test]
fn a_schedule_is_due_when_celery_says_so() {
    let asked: Vec<Case> = cases().into_iter().filter(|case| case.due.is_some()).collect();
    assert!(!asked.is_empty());
    for case in asked {
        let timing = Timing::from_json(&case.spec.to_string()).unwrap();
        let (after, now) = (case.after.unwrap(), case.now.unwrap());
        let first: Time = next(&timing, after).parse().unwrap();
        let due = first <= now;
        assert_eq!(Some(due), case.due, "{}", case.name);
        let check = if due { next(&timing, now).parse().unwrap() } else { first };
        assert_eq!(Some(check), case.next_check, "{}", case.name);
    }
}

#[test]
fn there_are_at_least_150_cases_each_with_a_name_of_its_own_and_a_test_of_celery() {
    let cases = cases();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert!(names.len() == cases.len() && names.len() >= 150, "{} of {}", names.len(), cases.len());
    for case in &cases {
        assert!(case.source.contains("test_"), "{}", case.name);
    }
}
