//! What each kind of timing does: cases that a reader can check with a calendar.
#![allow(clippy::unwrap_used)]

use umbel_schedule::{Next, Time, Timing};

fn timing(json: &str) -> Timing {
    Timing::from_json(json).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn refusal(json: &str) -> String {
    match Timing::from_json(json) {
        Ok(_) => panic!("{json} is accepted"),
        Err(error) => error.to_string(),
    }
}

fn ms(text: &str) -> u64 {
    text.parse::<Time>().unwrap().0
}

/// The times after one, as texts.
fn after(timing: &Timing, from: &str, count: usize) -> Vec<String> {
    let mut at = ms(from);
    let mut times = Vec::new();
    while times.len() < count {
        match timing.next_after(at) {
            Next::At(next) => {
                assert!(next > at);
                at = next;
                times.push(Time(at).to_string());
            }
            end => {
                times.push(format!("{end:?}"));
                break;
            }
        }
    }
    times
}

fn fires(json: &str, from: &str, expected: &[&str]) {
    assert_eq!(after(&timing(json), from, expected.len()), expected, "{json} after {from}");
}

fn cron(expression: &str, zone: &str, from: &str, expected: &[&str]) {
    fires(&format!(r#"{{"when": {{"cron": "{expression}"}}, "zone": "{zone}"}}"#), from, expected);
}

#[test]
fn a_plain_expression_fires_in_its_zone() {
    cron("0 3 * * *", "UTC", "2026-11-30T12:00:00Z", &["2026-12-01T03:00:00Z", "2026-12-02T03:00:00Z"]);
    cron("0 3 * * *", "Europe/Berlin", "2026-11-30T12:00:00Z", &["2026-12-01T02:00:00Z"]);
    cron("*/15 9-10 * * mon-fri", "UTC", "2026-11-28T00:00:00Z", &["2026-11-30T09:00:00Z", "2026-11-30T09:15:00Z"]);
    cron("*/20 * * * * *", "UTC", "2026-11-30T12:00:00Z", &["2026-11-30T12:00:20Z", "2026-11-30T12:00:40Z"]);
    cron("0 0 12 1 1 ? 2030", "UTC", "2026-11-30T12:00:00Z", &["2030-01-01T12:00:00Z", "Never"]);
    cron("@daily", "UTC", "2026-11-30T12:00:00Z", &["2026-12-01T00:00:00Z"]);
}

#[test]
fn a_fixed_time_in_a_gap_fires_once_after_it() {
    let from = "2026-03-28T12:00:00Z";
    cron("30 2 * * *", "Europe/Berlin", from, &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    cron(
        "0,30 2,3 * * *",
        "Europe/Berlin",
        from,
        &["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:00:00Z"],
    );
    fires(
        r#"{"when": {"every": "1 day", "anchor": "2026-01-01T02:30:00+01:00"}, "zone": "Europe/Berlin"}"#,
        from,
        &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
    );
}

#[test]
fn a_fixed_time_in_an_overlap_fires_once_at_the_earlier() {
    let from = "2026-10-24T12:00:00Z";
    cron("30 2 * * *", "Europe/Berlin", from, &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    cron("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", &["2026-10-26T01:30:00Z"]);
}

#[test]
fn what_follows_elapsed_time_skips_gaps_and_fires_twice_in_overlaps() {
    cron("*/30 1-3 * * *", "Europe/Berlin", "2026-03-29T00:10:00Z", &["2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z"]);
    cron("30 2-2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", &["2026-03-30T00:30:00Z"]);
    let both = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"];
    cron("30 2-2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &both);
    fires(
        r#"{"when": {"every": "1h"}, "zone": "Europe/Berlin"}"#,
        "2026-10-25T00:10:00Z",
        &["2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"],
    );
}

#[test]
fn odd_zones_keep_the_rule() {
    // Lord Howe goes forward by half an hour at 02:00, and back at 02:00 to 01:30.
    cron(
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-03T00:00:00Z",
        &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
    );
    cron(
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-04T00:00:00Z",
        &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
    );
    cron(
        "45 * * * *",
        "Australia/Lord_Howe",
        "2026-04-04T14:00:00Z",
        &["2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z"],
    );
    // Troll goes forward by two hours, from 01:00 to 03:00.
    cron("30 1 * * *", "Antarctica/Troll", "2026-03-28T12:00:00Z", &["2026-03-29T01:00:00Z", "2026-03-29T23:30:00Z"]);
    cron(
        "0 1,2,3 * * *",
        "Antarctica/Troll",
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-29T23:00:00Z"],
    );
    cron("30 2-2 * * *", "Antarctica/Troll", "2026-10-24T12:00:00Z", &["2026-10-25T00:30:00Z", "2026-10-25T02:30:00Z"]);
}

#[test]
fn the_day_that_samoa_left_out_is_a_gap() {
    let from = "2011-12-29T12:00:00Z";
    cron("0 3 * * *", "Pacific/Apia", from, &["2011-12-29T13:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T13:00:00Z"]);
    cron("0 3 30 12 *", "Pacific/Apia", from, &["2011-12-30T10:00:00Z", "2012-12-29T13:00:00Z"]);
    cron("0 3-3 30 12 *", "Pacific/Apia", from, &["2012-12-29T13:00:00Z"]);
    cron(
        "0 */12 * * *",
        "Pacific/Apia",
        from,
        &["2011-12-29T22:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"],
    );
}

#[test]
fn the_calendar_is_right_in_far_years() {
    cron("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"]);
    cron("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", &["2104-02-29T00:00:00Z"]);
    cron("14 3 19 1 *", "UTC", "2038-01-19T03:14:07Z", &["2039-01-19T03:14:00Z"]);
    cron("*/1 * * * * *", "UTC", "2038-01-19T03:14:07Z", &["2038-01-19T03:14:08Z"]);
    cron("30 2 * * *", "Europe/Berlin", "2100-03-27T12:00:00Z", &["2100-03-28T01:00:00Z", "2100-03-29T00:30:00Z"]);
    let leap_monday = r#"{"when": {"cron": "0 0 29 2 1", "days": "and"}}"#;
    fires(leap_monday, "2072-03-01T00:00:00Z", &["2112-02-29T00:00:00Z"]);
}

#[test]
fn day_fields_know_last_nearest_and_nth() {
    let from = "2026-01-31T12:00:00Z";
    cron("0 0 L * *", "UTC", from, &["2026-02-28T00:00:00Z", "2026-03-31T00:00:00Z", "2026-04-30T00:00:00Z"]);
    cron("0 0 L-2 * *", "UTC", from, &["2026-02-26T00:00:00Z", "2026-03-29T00:00:00Z"]);
    cron(
        "0 0 LW * *",
        "UTC",
        from,
        &["2026-02-27T00:00:00Z", "2026-03-31T00:00:00Z", "2026-04-30T00:00:00Z", "2026-05-29T00:00:00Z"],
    );
    // 1 February 2026 and 1 March 2026 are Sundays, 1 August is a Saturday.
    cron("0 0 1W 2,8 *", "UTC", from, &["2026-02-02T00:00:00Z", "2026-08-03T00:00:00Z"]);
    cron("0 0 15W 2,8 *", "UTC", from, &["2026-02-16T00:00:00Z", "2026-08-14T00:00:00Z"]);
    cron("0 0 31W 5 *", "UTC", from, &["2026-05-29T00:00:00Z"]);
    cron("0 0 * * 5#3", "UTC", from, &["2026-02-20T00:00:00Z", "2026-03-20T00:00:00Z"]);
    cron("0 0 * * mon#5", "UTC", from, &["2026-03-30T00:00:00Z", "2026-06-29T00:00:00Z"]);
    cron("0 0 * * friL", "UTC", from, &["2026-02-27T00:00:00Z", "2026-03-27T00:00:00Z"]);
    cron("0 0 * * 7", "UTC", from, &["2026-02-01T00:00:00Z", "2026-02-08T00:00:00Z"]);
    cron("0 0 * * sat-sun", "UTC", from, &["2026-02-01T00:00:00Z", "2026-02-07T00:00:00Z"]);
}

#[test]
fn both_day_fields_go_by_or_and_by_and() {
    let from = "2026-11-01T00:00:00Z";
    cron("0 0 13 * 5", "UTC", from, &["2026-11-06T00:00:00Z", "2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"]);
    cron("0 0 */10 * 5", "UTC", from, &["2026-11-06T00:00:00Z", "2026-11-11T00:00:00Z"]);
    fires(
        r#"{"when": {"cron": "0 0 13 * 5", "days": "and"}}"#,
        from,
        &["2026-11-13T00:00:00Z", "2027-08-13T00:00:00Z"],
    );
}

#[test]
fn intervals_of_the_calendar_keep_the_day_of_their_anchor() {
    fires(
        r#"{"when": {"every": "1 month", "anchor": "2026-01-31T09:00:00Z"}}"#,
        "2026-01-31T09:00:00Z",
        &["2026-02-28T09:00:00Z", "2026-03-31T09:00:00Z", "2026-04-30T09:00:00Z"],
    );
    fires(
        r#"{"when": {"every": "1 quarter"}}"#,
        "2026-01-31T09:00:00Z",
        &["2026-04-01T00:00:00Z", "2026-07-01T00:00:00Z"],
    );
    fires(
        r#"{"when": {"every": "1 week"}}"#,
        "2026-11-25T00:00:00Z",
        &["2026-11-30T00:00:00Z", "2026-12-07T00:00:00Z"],
    );
    fires(
        r#"{"when": {"every": "1 year", "anchor": "2028-02-29T00:00:00Z"}}"#,
        "2025-01-01T00:00:00Z",
        &["2025-02-28T00:00:00Z", "2026-02-28T00:00:00Z", "2027-02-28T00:00:00Z", "2028-02-29T00:00:00Z"],
    );
    fires(
        r#"{"when": {"every": "90s", "anchor": "2026-01-01T00:00:01.500Z"}}"#,
        "2026-01-01T00:00:00Z",
        &["2026-01-01T00:00:01.5Z", "2026-01-01T00:01:31.5Z"],
    );
}

#[test]
fn one_off_times_end() {
    fires(
        r#"{"when": {"at": ["2026-12-24T18:00:00+01:00", "2026-12-24T17:00:00Z", "2026-01-01T00:00:00Z"]}}"#,
        "2025-01-01T00:00:00Z",
        &["2026-01-01T00:00:00Z", "2026-12-24T17:00:00Z", "Never"],
    );
}

#[test]
fn excluded_times_are_left_out_by_the_local_clock() {
    fires(
        r#"{"when": {"cron": "0 0,12 * * *", "exclude": ["* * 24-26 12 *", "0 12 * * sat,sun"]}, "zone": "Europe/Berlin"}"#,
        "2026-12-23T12:00:00Z",
        &["2026-12-26T23:00:00Z", "2026-12-27T23:00:00Z"],
    );
    fires(
        r#"{"when": {"every": "1s", "exclude": "* * 25 12 *"}, "zone": "Europe/Berlin"}"#,
        "2026-12-24T22:59:59Z",
        &["2026-12-25T23:00:00Z"],
    );
    let overlap = r#"{"when": {"cron": "*/30 * * * *", "exclude": "0 2 * * *"}, "zone": "Europe/Berlin"}"#;
    fires(overlap, "2026-10-24T23:30:00Z", &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:00:00Z"]);
}

#[test]
fn a_union_fires_each_time_once() {
    fires(
        r#"{"when": {"cron": ["0 */2 * * *", "0 */3 * * *"]}}"#,
        "2026-11-30T00:00:00Z",
        &["2026-11-30T02:00:00Z", "2026-11-30T03:00:00Z", "2026-11-30T04:00:00Z", "2026-11-30T06:00:00Z"],
    );
}

#[test]
fn start_and_end_bound_the_times() {
    let bounded =
        r#"{"when": {"cron": "0 * * * *"}, "starts_at": "2026-11-30T10:00:00Z", "ends_at": "2026-11-30T12:00:00Z"}"#;
    fires(bounded, "2020-01-01T00:00:00Z", &["2026-11-30T10:00:00Z", "2026-11-30T11:00:00Z", "Never"]);
    let timing = timing(bounded);
    let (ten, eleven) = (ms("2026-11-30T10:00:00Z"), ms("2026-11-30T11:00:00Z"));
    let times = |from, to, max| {
        let times = timing.times(from, to, max);
        (times.times, times.rest)
    };
    assert_eq!(times(0, u64::MAX, 10), (vec![ten, eleven], None));
    assert_eq!(times(eleven, u64::MAX, 10), (vec![eleven], None));
    assert_eq!(times(0, eleven, 10), (vec![ten], None));
    assert_eq!(times(0, u64::MAX, 1), (vec![ten], Some(ten + 1)));
    assert!(timing.check_not_over(ms("2026-11-30T10:59:59Z")).is_ok());
    assert!(timing.check_not_over(ms("2026-11-30T11:00:00Z")).is_err());
}

#[test]
fn refusals_say_where_and_what_to_write() {
    let cron = |expression: &str| refusal(&format!(r#"{{"when": {{"cron": "{expression}"}}}}"#));
    for (expression, says) in [
        ("0 0 31 2 *", "can never fire"),
        ("0 0 30 2 *", "write L"),
        ("0 0 0 29 2 * 2027", "can never fire"),
        ("@reboot", "names no time"),
        ("@dailly", "did you mean @daily?"),
        ("@every 5m", r#""every": "5m""#),
        ("H 3 * * *", "Jenkins"),
        ("CRON_TZ=Europe/Berlin 0 3 * * *", r#"the field "zone""#),
        ("0 3 * *", "has 4 fields"),
        ("0 3 * * * * * *", "has 8 fields"),
        ("", "has 0 fields"),
        ("60 3 * * *", "the minute 60 is not from 0 to 59"),
        ("0 24 * * *", "Midnight is 0"),
        ("*/90 * * * *", r#"use "every""#),
        ("*/0 * * * *", "step of 0"),
        ("/5 * * * *", "write */5"),
        ("0 0 * * mom", "did you mean mon?"),
        ("0 0 * jnauary *", "did you mean january?"),
        ("0 0 * * L", "does not say which"),
        ("0 0 0 ? * 8", "0 and 7 are Sunday"),
        ("0 0 L-31 * *", "L-1 to L-30"),
        ("0 0 * * 5#6", "#1 to #5"),
        ("0,,5 * * * *", "empty item"),
        ("x * * * *", "the minute"),
        ("1-2-3 * * * *", "the minute"),
        ("99999999999999999999 * * * *", "the minute"),
        ("0 0 0 1 1 * 1969", "the year 1969"),
    ] {
        let error = cron(expression);
        assert!(error.starts_with("/when/cron: ") && error.contains(says), "{expression}: {error}");
    }
    for (json, says) in [
        (r#"{"when": {}}"#, "/when: write exactly one of cron, every, solar and at: it has none"),
        (r#"{"when": {"cron": "* * * * *", "every": "1h"}}"#, "it has cron, every"),
        (r#"{"when": {"cron": "* * * * *"}, "zone": "Europe/Berlim"}"#, "/zone: "),
        (r#"{"when": {"cron": ["* * * * *", "x"]}}"#, "/when/cron/1: "),
        (r#"{"when": {"cron": []}}"#, "write 1 to 32"),
        (r#"{"when": {"cron": 5}}"#, "/when/cron: write a text or a list of texts; this is 5"),
        (r#"{"when": {"cronn": "* * * * *"}}"#, "did you mean `cron`?"),
        (r#"{"when": {"every": "0.5s"}}"#, "/when/every: "),
        (r#"{"when": {"at": "2026-12-24"}}"#, "/when/at: "),
        (r#"{"when": {"at": ["2026-12-24T00:00:00Z", "2026-12-24T00:00:00.5Z"]}}"#, "less than a second apart"),
        (r#"{"when": {"solar": {"event": "sunsett", "latitude": 1, "longitude": 2}}}"#, "Did you mean `sunset`?"),
        (r#"{"when": {"solar": {"event": "sunset", "latitude": 91, "longitude": 2}}}"#, "/when/solar/latitude: "),
        (r#"{"when": {"solar": {"event": "sunset", "latitude": 90, "longitude": 2}}}"#, "at a pole"),
        (r#"{"when": {"cron": "0 3 * * *", "exclude": "* 3 * * *"}}"#, "/when/exclude: "),
        (r#"{"when": {"cron": "* * * * *", "anchor": "2026-01-01T00:00:00Z"}}"#, "/when/anchor: "),
        (r#"{"when": {"every": "1h", "days": "and"}}"#, "/when/days: "),
        (
            r#"{"when": {"cron": "* * * * *"}, "starts_at": "2026-01-02T00:00:00Z", "ends_at": "2026-01-01T00:00:00Z"}"#,
            "/ends_at: ",
        ),
        (r#"{"when": {"cron": "30 2-2 * 3 0L", "days": "and"}, "zone": "Europe/Berlin"}"#, "in a gap"),
    ] {
        let error = refusal(json);
        assert!(error.contains(says), "{json}: {error}");
    }
}

#[test]
fn timings_are_equal_by_what_they_mean() {
    let same = [
        (
            r#"{"when": {"cron": "0 3 * * 1-5"}}"#,
            r#"{"when": {"cron": ["0  3 * * MON-FRI", "0 3 ? * 1,2,3,4,5"]}, "zone": "utc"}"#,
        ),
        (r#"{"when": {"every": "60s"}}"#, r#"{"when": {"every": "1m"}, "zone": "Europe/Berlin"}"#),
        (r#"{"when": {"every": "1 year"}}"#, r#"{"when": {"every": "12 months", "anchor": "1970-01-01T00:00:00Z"}}"#),
        (r#"{"when": {"at": "2026-12-24T18:00:00Z"}}"#, r#"{"when": {"at": ["2026-12-24T19:00:00+01:00"]}}"#),
        (r#"{"when": {"cron": "@daily"}}"#, r#"{"when": {"cron": "0 0 * * *", "days": "and"}}"#),
    ];
    for (one, other) in same {
        assert_eq!(timing(one), timing(other));
    }
    let different = [
        (r#"{"when": {"cron": "0 3 * * *"}}"#, r#"{"when": {"cron": "0 3 * * *"}, "zone": "Europe/Berlin"}"#),
        (r#"{"when": {"cron": "0 3 1 * 5"}}"#, r#"{"when": {"cron": "0 3 1 * 5", "days": "and"}}"#),
        (r#"{"when": {"cron": "0 3 * * *"}}"#, r#"{"when": {"cron": "0 3-3 * * *"}}"#),
        (r#"{"when": {"every": "24h"}}"#, r#"{"when": {"every": "1 day"}}"#),
    ];
    for (one, other) in different {
        assert_ne!(timing(one), timing(other));
    }
}

#[test]
fn a_timing_is_written_as_it_was_read() {
    let json = r#"{"when":{"cron":["0 3 * * *"],"exclude":"* * 25 12 *"},"zone":"Europe/Berlin","starts_at":"2026-01-01T00:00:00Z"}"#;
    let written = serde_json::to_string(&timing(&json.replace("Berlin", "BERLIN"))).unwrap();
    assert_eq!(written, json);
    assert_eq!(serde_json::from_str::<Timing>(&written).unwrap(), timing(json));
}

#[test]
fn a_preview_shows_what_the_zone_did() {
    use umbel_schedule::PreviewMark::{FirstOfTwo, MovedOutOfGap, OffsetChanged, SecondOfTwo};
    let shown = |json: &str, from: &str, count| {
        let preview = timing(json).preview(ms(from), count);
        preview
            .times
            .into_iter()
            .map(|time| (time.local, time.offset, time.abbreviation, time.marks))
            .collect::<Vec<_>>()
    };
    let row = |local: &str, offset: &str, letters: &str, marks: &[_]| {
        (local.to_owned(), offset.to_owned(), letters.to_owned(), marks.to_vec())
    };
    assert_eq!(
        shown(r#"{"when": {"cron": "30 2 * * *"}, "zone": "Europe/Berlin"}"#, "2026-03-27T12:00:00Z", 3),
        [
            row("2026-03-28T02:30:00", "+01:00", "CET", &[]),
            row("2026-03-29T03:00:00", "+02:00", "CEST", &[OffsetChanged, MovedOutOfGap]),
            row("2026-03-30T02:30:00", "+02:00", "CEST", &[]),
        ]
    );
    assert_eq!(
        shown(r#"{"when": {"cron": "30 * * * *"}, "zone": "Europe/Berlin"}"#, "2026-10-25T00:00:00Z", 3),
        [
            row("2026-10-25T02:30:00", "+02:00", "CEST", &[FirstOfTwo]),
            row("2026-10-25T02:30:00", "+01:00", "CET", &[OffsetChanged, SecondOfTwo]),
            row("2026-10-25T03:30:00", "+01:00", "CET", &[]),
        ]
    );
    let ends = timing(r#"{"when": {"at": "2026-12-24T18:00:00Z"}}"#).preview(0, 5);
    assert_eq!((ends.times.len(), ends.times[0].weekday, ends.end), (1, "Thursday", Some(Next::Never)));
}

#[test]
fn a_timing_is_described_in_english() {
    for (json, text) in [
        (
            r#"{"when": {"cron": "0 3 * * 1-5"}, "zone": "Europe/Berlin"}"#,
            "At 03:00 on Monday to Friday, Europe/Berlin",
        ),
        (r#"{"when": {"cron": "*/15 9-17 * * *"}}"#, "Every 15 minutes in the hours 9 to 17, UTC"),
        (r#"{"when": {"cron": "* * * * *"}}"#, "Every minute, UTC"),
        (r#"{"when": {"cron": "5 * * * *"}}"#, "At minute 5 of every hour, UTC"),
        (r#"{"when": {"cron": "*/10 * * * * *"}}"#, "Every 10 seconds, UTC"),
        (r#"{"when": {"cron": "0 0 13 * 5"}}"#, "At 00:00 on day 13 of the month, or on Friday, UTC"),
        (
            r#"{"when": {"cron": "0 0 13 * 5", "days": "and"}}"#,
            "At 00:00 on day 13 of the month if it is also Friday, UTC",
        ),
        (
            r#"{"when": {"cron": "0 0 LW 1,6-8 *"}}"#,
            "At 00:00 on the last weekday of the month in January, June to August, UTC",
        ),
        (r#"{"when": {"cron": "30 8 * * sat,sun"}}"#, "At 08:30 on Saturday, Sunday, UTC"),
        (r#"{"when": {"cron": "0 0 * * 5#2"}}"#, "At 00:00 on the second Friday of the month, UTC"),
        (r#"{"when": {"cron": "15 0 12 1 1 ? 2030"}}"#, "At 12:00:15 on day 1 of the month in January in 2030, UTC"),
        (r#"{"when": {"cron": ["@daily", "@hourly"]}}"#, "At 00:00; at minute 0 of every hour, UTC"),
        (r#"{"when": {"every": "90s"}}"#, "Every 90 seconds"),
        (r#"{"when": {"every": "1 week"}}"#, "Every week on Monday at 00:00, UTC"),
        (
            r#"{"when": {"every": "1 month", "anchor": "2026-01-31T09:00:00Z"}}"#,
            "Every month on day 31 at 09:00, or the last day of a shorter month, UTC",
        ),
        (
            r#"{"when": {"solar": {"event": "dusk_civil", "latitude": 52.5, "longitude": -13.4}}}"#,
            "At dusk civil at latitude 52.5, longitude -13.4",
        ),
        (
            r#"{"when": {"at": "2026-12-24T18:00:00Z"}, "zone": "Europe/Berlin"}"#,
            "At 2026-12-24 19:00:00 Europe/Berlin",
        ),
        (
            r#"{"when": {"cron": "0 3 * * *", "exclude": "* * 25 12 *"}}"#,
            "At 03:00, UTC, except when the clock of UTC matches * * 25 12 *",
        ),
    ] {
        assert_eq!(timing(json).describe(), text, "{json}");
    }
}

#[test]
fn a_new_timing_whose_times_are_over_is_refused() {
    let now = ms("2026-11-30T12:00:00Z");
    for (json, says) in [
        (r#"{"when": {"cron": "0 0 0 1 1 ? 2020-2026"}}"#, "/when/cron: its years are over"),
        (r#"{"when": {"at": "2026-11-30T12:00:00Z"}}"#, "/when/at: all of these times are over"),
        (r#"{"when": {"every": "1h"}, "ends_at": "2026-11-30T12:00:00Z"}"#, "/ends_at: it is over"),
        (r#"{"when": {"every": "1 day"}, "ends_at": "2026-11-30T13:00:00Z"}"#, "/ends_at: nothing fires before it"),
    ] {
        let error = timing(json).check_not_over(now).unwrap_err().to_string();
        assert!(error.starts_with(says) && error.contains("now is 2026-11-30T12:00:00Z"), "{json}: {error}");
    }
    assert!(timing(r#"{"when": {"cron": "0 0 0 1 1 ? 2027"}}"#).check_not_over(now).is_ok());
}

#[test]
fn a_search_through_excluded_times_ends_and_goes_on() {
    // No expression covers a whole minute of the first two days: the search goes second by second.
    let parts = r#"["0-30/2 0-30 * 1-2 * *", "*/4 * * 1-2 * *", "2-58/4 29-59 * 1-2 * *", "32-58/2 0-28 * 1-2 * *"]"#;
    let json = format!(r#"{{"when": {{"cron": "*/2 * * * * *", "exclude": {parts}}}}}"#);
    let timing = timing(&json);
    let (mut at, mut gave_up) = (ms("2027-01-01T00:00:00Z"), 0);
    let found = loop {
        match timing.next_after(at) {
            Next::NoneUntil(until) => {
                assert!(until > at);
                (at, gave_up) = (until, gave_up + 1);
            }
            end => break end,
        }
    };
    // Between second 30 and minute 30 some even seconds are in no part.
    let begin = ms("2027-01-01T00:00:00Z") / 1_000;
    let naive = (begin + 1..).find(|at| {
        let (second, minute, day) = (at % 60, at / 60 % 60, 1 + (at - begin) / 86_400);
        let excluded = (second <= 30 && minute <= 30)
            || second % 4 == 0
            || (second % 4 == 2 && minute >= 29)
            || (second >= 32 && minute <= 28);
        second % 2 == 0 && !(excluded && day <= 2)
    });
    assert_eq!((found, gave_up > 1), (Next::At(naive.unwrap() * 1_000), true));
}
