//! Random timings around the transitions of every zone, against a slow reference; and any text at all.
//!
//! `UMBEL_SCHEDULE_CASES` is the number of transitions that are looked at, `UMBEL_SCHEDULE_SEED` chooses them.
#![allow(clippy::unwrap_used)]

mod reference;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use proptest::prelude::*;
use reference::{Expression, Random, Source, Table};
use serde_json::json;
use umbel_schedule::{Next, Timing};

const DAY: i64 = 86_400;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap())
}

/// Every zone with its transitions from 1990 to 2040; one without any has the middle of 2026 for one.
fn zones() -> Vec<(&'static str, Vec<i64>)> {
    let (from, to): (Timestamp, Timestamp) =
        ("1990-01-01T00:00:00Z".parse().unwrap(), "2040-01-01T00:00:00Z".parse().unwrap());
    let transitions = |name: &'static str| {
        let zone = zone(name);
        let transitions = zone.following(from).map(|transition| transition.timestamp()).take_while(|at| *at < to);
        let transitions: Vec<i64> = transitions.map(Timestamp::as_second).collect();
        (name, if transitions.is_empty() { vec![1_782_000_000] } else { transitions })
    };
    let all: Vec<_> = umbel_schedule::zone_names().map(transitions).collect();
    assert!(all.len() > 500);
    all
}

fn zone(name: &str) -> TimeZone {
    jiff::tz::TimeZoneDatabase::bundled().get(name).unwrap()
}

/// A random source around a local time, with its JSON form.
fn random_source(random: &mut Random, near: DateTime, seconds: bool) -> (Source, serde_json::Value, Vec<Expression>) {
    let both = random.one_in(3);
    let mut expressions = |count: i64| {
        let list: Vec<_> = (0..count).map(|_| Expression::random(random, near, seconds, both)).collect();
        let texts: Vec<_> = list.iter().map(Expression::text).collect();
        (list, texts)
    };
    let (list, texts) = expressions(1);
    let (more, more_texts) = expressions(2);
    let kind = random.below(8);
    let exclude = if random.one_in(4) { more.clone() } else { Vec::new() };
    let (source, mut when) = match kind {
        0 => {
            let minute = random.between(-90, 90);
            let anchor =
                near.checked_add(jiff::SignedDuration::from_mins(minute + DAY / 60 * random.between(-900, 900)));
            let anchor = anchor.unwrap();
            let count = random.between(1, 5);
            let (days, months) = if random.one_in(2) { (Some(count), None) } else { (None, Some(count)) };
            let text = format!("{count} {}", if days.is_some() { "days" } else { "months" });
            (Source::Every { days, months, anchor }, json!({"every": text}))
        }
        1 => (Source::Union([list, more].concat()), json!({"cron": ([texts, more_texts.clone()].concat())})),
        _ => (Source::Union(list), json!({"cron": texts[0]})),
    };
    if both && (kind != 0 || !exclude.is_empty()) {
        when["days"] = json!("and");
    }
    if !exclude.is_empty() {
        when["exclude"] = json!(more_texts);
    }
    (source, when, exclude)
}

/// Compares `per_case` random timings around a transition with the reference.
fn compare(random: &mut Random, (name, transition): (&str, i64), window: i64, step: i64, per_case: usize) -> usize {
    let zone = zone(name);
    let table = Table::new(&zone, transition - window - DAY, transition + window + DAY, step);
    let near = zone.to_datetime(Timestamp::from_second(transition - random.below(2) * 1_800).unwrap());
    let (from, to) = (transition - window, transition + window);
    let mut fires = 0;
    for _ in 0..per_case {
        let (source, mut when, exclude) = random_source(random, near, step == 1);
        if let Source::Every { anchor, .. } = &source {
            // An anchor is an instant: one that the clock shows once says its local time.
            let Ok(anchor) = zone.to_ambiguous_timestamp(*anchor).unambiguous() else { continue };
            if zone.to_offset(anchor).seconds() % 60 != 0 {
                continue;
            }
            when["anchor"] = json!(anchor.to_string());
        }
        let json = json!({"when": when, "zone": name}).to_string();
        let expected: Vec<i64> =
            table.fires(&source, &exclude).into_iter().filter(|at| (from..to).contains(at)).collect();
        match Timing::from_json(&json) {
            Ok(timing) => {
                let mut found = Vec::new();
                let mut rest = Some((from * 1_000) as u64);
                while let Some(from) = rest {
                    let times = timing.times(from, (to * 1_000) as u64, 100_000);
                    found.extend(times.times.iter().map(|at| (at / 1_000) as i64));
                    rest = times.rest;
                }
                let differs = (0..found.len().max(expected.len())).find(|at| found.get(*at) != expected.get(*at));
                if let Some(at) = differs {
                    let shown = |at: Option<&i64>| at.map(|at| Timestamp::from_second(*at).unwrap().to_string());
                    panic!("{json}: found {:?}, expected {:?}", shown(found.get(at)), shown(expected.get(at)));
                }
                fires += found.len();
            }
            Err(error) => {
                // A rule that a zone had before 2000 is no reason to accept what never fires since.
                let old = error.to_string().contains("in a gap") && transition < 946_684_800;
                let own = fires_of_named(&error.pointer, &source, &exclude, &table);
                assert!(
                    old || own.map_or(expected.is_empty(), |own| own == 0),
                    "{json} is refused ({error}) and fires"
                );
                let reasons = ["can never fire", "excluded", "in a gap"];
                assert!(reasons.iter().any(|reason| error.to_string().contains(reason)), "{json}: {error}");
            }
        }
    }
    fires
}

/// Fires of the one expression that an error is about, if it is about one.
fn fires_of_named(pointer: &str, source: &Source, exclude: &[Expression], table: &Table) -> Option<usize> {
    let of = |expression: &Expression| table.fires(&Source::Union(vec![expression.clone()]), &[]).len();
    let index = |rest: &str| rest.parse::<usize>().ok();
    match (source, pointer.strip_prefix("/when/cron/"), pointer.strip_prefix("/when/exclude/")) {
        (Source::Union(expressions), Some(rest), _) => Some(of(&expressions[index(rest)?])),
        (_, None, Some(rest)) => Some(of(&exclude[index(rest)?])),
        _ => None,
    }
}

fn campaign(cases: u64, window: i64, step: i64, per_case: usize) {
    let mut random = Random(setting("UMBEL_SCHEDULE_SEED", 13));
    let all = zones();
    let first = random.below(all.len() as i64) as usize;
    let mut fires = 0;
    for case in 0..cases as usize {
        // Zone after zone, so that each has its turn.
        let (name, transitions) = &all[(first + case * 211) % all.len()];
        let transition = transitions[random.below(transitions.len() as i64) as usize];
        fires += compare(&mut random, (name, transition), window, step, per_case);
    }
    // Cases that never fire would prove nothing.
    assert!(fires as u64 > cases, "{fires} fires");
    println!("{cases} transitions, {} timings, {fires} fires compared", cases as usize * per_case);
}

#[test]
fn expressions_fire_as_a_reference_that_looks_at_each_minute() {
    campaign(setting("UMBEL_SCHEDULE_CASES", 60), 3 * DAY, 60, 6);
}

#[test]
fn expressions_with_seconds_fire_as_a_reference_that_looks_at_each_second() {
    campaign(setting("UMBEL_SCHEDULE_CASES", 24) / 4, 3 * 3_600, 1, 3);
}

/// Text that looks like an expression, and text that does not.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9*/,?LWlw#@ a-z-]{0,40}",
        ".{0,300}",
        proptest::collection::vec("[0-9*/,LW#?-]{1,6}|[a-z]{3}(-[a-z]{3})?|\\*|[0-9]{1,2}", 5..8)
            .prop_map(|fields| fields.join(" ")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(setting("UMBEL_SCHEDULE_TEXTS", 400) as u32))]

    #[test]
    fn any_text_is_answered(texts in proptest::collection::vec(any_text(), 1..4), after: u64, zone in "Europe/Berlin|Pacific/Apia|.{0,9}") {
        let list = json!({"when": {"cron": texts, "exclude": &texts[..1]}, "zone": zone});
        let one = json!({"when": {"cron": texts[0]}, "zone": "Australia/Lord_Howe", "starts_at": texts[0]});
        let every = json!({"when": {"every": texts[0], "anchor": texts.last()}});
        let cron = json!({"when": {"cron": texts[0]}});
        for json in [list, one, every, cron] {
            if let Ok(timing) = Timing::from_json(&json.to_string()) {
                for at in [0, after, after % 4_102_444_800_000, u64::MAX - 1, u64::MAX] {
                    let next = timing.next_after(at);
                    if let Next::At(next) = next {
                        prop_assert!(next > at);
                        let times = timing.times(at.saturating_add(1), next.saturating_add(1), 2).times;
                        prop_assert_eq!(times, vec![next]);
                    }
                }
                let _ = (timing.preview(after, 2), timing.describe());
            }
        }
    }
}
