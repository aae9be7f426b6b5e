//! Real crontabs: each parses as its system documents it, or is refused with a reason.

use std::collections::BTreeSet;

use serde_json::json;
use umbel_schedule::{Next, Time, Timing};

const CRONTABS: &str = include_str!("data/crontabs.tsv");

/// A line: an expression, its dialect (`unix`, `quartz`, `celery`) and what is expected.
fn check(line: &str) -> Result<(), String> {
    let columns: Vec<&str> = line.split('\t').collect();
    let [expression, dialect, expected] = columns.as_slice() else {
        return Err("it has not three columns".to_owned());
    };
    let days = match *dialect {
        "unix" | "quartz" => "or",
        "celery" => "and",
        other => return Err(format!("the dialect {other} is not known")),
    };
    let timing = Timing::from_json(&json!({"when": {"cron": expression, "days": days}}).to_string());
    match (timing, expected.split_once(':')) {
        (Ok(_), None) if *expected == "ok" => Ok(()),
        (Err(_), _) if expected.starts_with("refused") => Ok(()),
        (Ok(timing), Some(("next", times))) => check_times(&timing, times),
        (Ok(timing), _) => Err(format!("it is accepted: {}", timing.describe())),
        (Err(error), _) => Err(error.to_string()),
    }
}

/// `<from>=<time>[,…]`
fn check_times(timing: &Timing, text: &str) -> Result<(), String> {
    let (from, expected) = text.split_once('=').ok_or("there is no =")?;
    let mut at = from.parse::<Time>()?.0;
    for expected in expected.split(',') {
        let expected = expected.parse::<Time>()?.0;
        match timing.next_after(at) {
            Next::At(found) if found == expected => at = found,
            Next::At(found) => return Err(format!("it fires at {}, and not at {}", Time(found), Time(expected))),
            end => return Err(format!("it does not fire again: {end:?}")),
        }
    }
    Ok(())
}

#[test]
fn real_crontabs_are_read_as_documented() {
    let lines: Vec<&str> = CRONTABS.lines().filter(|line| !line.starts_with("# ") && !line.is_empty()).collect();
    let wrong: Vec<String> = lines.iter().filter_map(|line| Some(format!("{line}: {}", check(line).err()?))).collect();
    assert!(wrong.is_empty(), "{} of {} lines:\n{}", wrong.len(), lines.len(), wrong.join("\n"));
    let expressions: BTreeSet<&str> = lines.iter().filter_map(|line| line.split('\t').next()).collect();
    assert!(expressions.len() >= 2_000, "{} expressions", expressions.len());
    let with_times = lines.iter().filter(|line| line.contains("\tnext:")).count();
    assert!(with_times >= 500, "{with_times} lines with times");
}
