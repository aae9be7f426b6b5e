//! Measures what a search costs: `cargo run --release -p umbel-schedule --example search_cost`.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use umbel_schedule::{Next, Timing};

/// As many searches that follow one another, from 2026 on.
const SEARCHES: usize = 500;
const ROUNDS: usize = 5;

/// The mean and the longest search. Of each search the fastest round counts, so that another process is not measured.
fn measure(name: &str, json: &Value) {
    let begin = Instant::now();
    let timing = Timing::from_json(&json.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let parsed = begin.elapsed();
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        let mut at = 1_767_225_600_000;
        for index in 0..SEARCHES {
            let begin = Instant::now();
            let next = timing.next_after(at);
            let now = begin.elapsed();
            match took.get_mut(index) {
                Some(fastest) => *fastest = now.min(*fastest),
                None => took.push(now),
            }
            at = match next {
                Next::At(next) | Next::NoneUntil(next) => next,
                Next::Never => break,
            };
        }
    }
    let mean = took.iter().sum::<Duration>() / took.len() as u32;
    let longest = took.iter().max().copied().unwrap_or_default();
    println!(
        "{name:40} mean {mean:>9.2?}  longest {longest:>9.2?}  parsed in {parsed:>9.2?}  ({} searches)",
        took.len()
    );
}

fn main() {
    let berlin = |when: Value| json!({"when": when, "zone": "Europe/Berlin"});
    let nearest: Vec<String> = (0..32).map(|at| format!("{at} 0 31W,L-30W * 6#5")).collect();
    let nearly_all: Vec<String> = (0..31).map(|at| format!("{at}-{} {at}-59 * * * *", at + 28)).collect();
    let each_second: Vec<String> = (0..31).map(|at| format!("{} * * * * *", at * 60 / 31)).collect();
    let leap: Vec<String> = (0..32).map(|at| format!("{at} 0-0 29 2 {}", at % 7)).collect();
    let gappy: Vec<String> = (0..32).map(|at| format!("{at} 2-2 24-31 3 0")).collect();
    for (name, when) in [
        ("daily", json!({"cron": "0 3 * * *"})),
        ("each minute", json!({"cron": "* * * * *"})),
        ("each second", json!({"cron": "* * * * * *"})),
        ("weekdays, each quarter of an hour", json!({"cron": "*/15 9-17 * * mon-fri"})),
        ("third friday", json!({"cron": "0 9 * * fri#3"})),
        ("last weekday", json!({"cron": "0 9 LW * *"})),
        ("29 February on Mondays", json!({"cron": "0 0 29 2 1", "days": "and"})),
        ("29 February on Mondays, elapsed", json!({"cron": "0 0-0 29 2 1", "days": "and"})),
        ("32 of them", json!({"cron": leap, "days": "and"})),
        ("32 days that are mostly in gaps", json!({"cron": gappy, "days": "and"})),
        ("31W in each month, 32 times", json!({"cron": nearest})),
        ("every month", json!({"every": "1 month", "anchor": "2026-01-31T00:00:00Z"})),
        ("every second, a day excluded", json!({"every": "1s", "exclude": "* * 25 12 *"})),
        ("each second, 31 parts excluded", json!({"cron": "* * * * * *", "exclude": nearly_all})),
        ("each second, odd seconds excluded", json!({"cron": "* * * * * *", "exclude": each_second})),
        ("excluded for 11 months", json!({"cron": "* * * * * *", "exclude": "* * * 2-12 *"})),
        (
            "excluded second by second",
            json!({"cron": "*/2 * * * * *", "exclude": ["0-30/2 0-30 * 1-8 * *", "*/4 * * 1-8 * *", "2-58/4 29-59 * 1-8 * *", "32-58/2 0-28 * 1-8 * *"]}),
        ),
        ("sunset", json!({"solar": {"event": "sunset", "latitude": 52.5, "longitude": 13.4}})),
        ("sunset in the far north", json!({"solar": {"event": "sunset", "latitude": 89.0, "longitude": 13.4}})),
        (
            "astronomical dawn near 48 degrees",
            json!({"solar": {"event": "dawn_astronomical", "latitude": 48.8, "longitude": 13.4}}),
        ),
    ] {
        measure(name, &berlin(when));
    }
}
