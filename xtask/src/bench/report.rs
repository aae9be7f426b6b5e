//! The tables that `cargo xtask bench` makes of rows.

use serde_json::{Value, json};

use super::{CHAIN, CHORDS, PEER_RUNS, sizes_of};

/// Runs of the workload `limited`: a name for people, and the row's `limit`.
const LIMITS: [(&str, &str); 4] = [
    ("limited jobs: none, beside the others", "none"),
    ("limited jobs: a rate that never blocks", "rate"),
    ("limited jobs: a cap that is never reached", "cap"),
    ("limited jobs: a limit key, 100 keys", "key"),
];

/// The median over the repetitions of what the rows with these marks say of `field`.
fn median(rows: &[Value], marks: &Value, field: &str) -> Option<f64> {
    let marks = marks.as_object()?;
    let matching = rows.iter().filter(|row| marks.iter().all(|(key, value)| row.get(key) == Some(value)));
    let mut values: Vec<f64> = matching.filter_map(|row| row[field].as_f64()).collect();
    values.sort_by(f64::total_cmp);
    (!values.is_empty()).then(|| values[values.len() / 2])
}

/// The tables of one binary.
pub(super) fn own(ours: &[Value], sizes: &[u64]) -> String {
    let mut text = String::from("| Umbel | SQLite, synchronous FULL | Redis |\n|---|---|---|\n");
    let mut line = |name: &str, marks: Value, field: &str| {
        let on = |broker: &str| {
            let mut marks = marks.clone();
            marks["broker"] = broker.into();
            median(ours, &marks, field).map_or_else(|| "–".into(), short)
        };
        text += &format!("| {name} | {} | {} |\n", on("sqlite"), on("redis"));
    };
    for n in sizes {
        let (marks, size) = (json!({"what": "throughput", "n": n}), short(*n as f64));
        line(&format!("throughput, {size} jobs preloaded, jobs/s"), marks.clone(), "jobs_per_s");
        line(&format!("{size} jobs submitted over HTTP in batches, jobs/s"), marks, "submit_per_s");
    }
    for (name, limit) in LIMITS {
        for (field, unit) in [("jobs_per_s", "jobs/s"), ("submit_per_s", "submitted jobs/s")] {
            line(&format!("{name}, {unit}"), json!({"what": "limited", "limit": limit}), field);
        }
    }
    for (name, what, field) in [
        ("submit and wait over HTTP, p50 ms", "latency", "p50_ms"),
        ("p95 ms", "latency", "p95_ms"),
        ("p99 ms", "latency", "p99_ms"),
        ("idle worker, RSS MiB", "memory", "idle_rss_mib"),
        ("with 200 sleeping jobs, RSS MiB", "memory", "busy_rss_mib"),
    ] {
        line(name, json!({"what": what}), field);
    }
    for n in CHORDS {
        line(&format!("chord of {}, s", short(*n as f64)), json!({"what": "chord", "n": n}), "seconds");
    }
    for n in sizes {
        let (marks, size) = (json!({"what": "throughput", "n": n}), short(*n as f64));
        line(&format!("{size} jobs, CPU of Redis in all, µs a job"), marks, "redis_us_per_job");
    }
    for (name, what) in
        [("beside a tenant with 100,000 queued jobs", "noisy"), ("beside a key with 20,000, capped", "keys")]
    {
        for (field, shown) in [("p50_ms", "p50"), ("p99_ms", "p99"), ("alone_p50_ms", "p50 without the others")] {
            line(&format!("start of a quiet one's job {name}, {shown} ms"), json!({"what": what}), field);
        }
    }
    for (name, field) in [("purged", "purged_per_s"), ("forgotten", "forgotten_per_s")] {
        line(&format!("jobs {name} by a bulk action, jobs/s"), json!({"what": "bulk"}), field);
    }
    for (name, field) in [("idle", "idle"), ("200 jobs/s", "at_once"), ("200 delayed jobs/s", "delayed")] {
        line(&format!("16 workers and 2 servers, {name}: Redis, % of a core"), json!({"what": "fleet"}), field);
    }
    for (name, field) in [
        ("a job without a request, CPU of the worker, µs", "without_us"),
        ("one HTTP request more, CPU of the worker, µs", "request_us"),
        ("200 jobs that wait for answers, RSS more, MiB", "more_mib"),
        ("200 jobs that wait for answers, threads more", "more_threads"),
    ] {
        line(name, json!({"what": "requests"}), field);
    }
    for queues in [1, 1_000] {
        let name = format!("100,000 jobs over {queues} queues, jobs/s");
        line(&name, json!({"what": "queues", "queues": queues}), "jobs_per_s");
    }
    for (field, shown) in [("p50_ms", "p50"), ("p99_ms", "p99"), ("in_turn_p50_ms", "p50 of jobs one after the other")]
    {
        let name = format!("start of a quiet one's job beside 1,000 tenants with 20 queues each, {shown} ms");
        line(&name, json!({"what": "tenants"}), field);
    }
    line("chain of 200 steps, s", json!({"what": "chain", "n": CHAIN}), "seconds");
    for n in &CHORDS[1..] {
        let (marks, size) = (json!({"what": "chord", "n": n}), short(*n as f64));
        line(&format!("chord of {size}, bytes of memory a member"), marks.clone(), "bytes_per_member");
        line(&format!("chord of {size}, script calls a member"), marks, "scripts_per_member");
    }
    text += &limited(ours);
    text += &attacks(ours);
    let sandbox = |field: &str| median(ours, &json!({"what": "sandbox"}), field).map_or_else(|| "–".into(), short);
    text += &format!(
        "\nSandbox, instantiate + call + drop of `noop`, fuel and deadline on: {} µs mean, {} µs p50, {} µs p99.\n",
        sandbox("mean_us"),
        sandbox("p50_us"),
        sandbox("p99_us"),
    );
    text
}

/// One line of the table of ratios: what is compared, in which fields, and which way is better.
struct Compared {
    workload: &'static str,
    theirs: &'static str,
    ours: &'static str,
    unit: &'static str,
    more_is_better: bool,
}

const COMPARED: &[Compared] = &[
    Compared {
        workload: "throughput",
        theirs: "tasks_per_s",
        ours: "jobs_per_s",
        unit: "jobs/s",
        more_is_better: true,
    },
    Compared { workload: "chord", theirs: "seconds", ours: "seconds", unit: "chord, s", more_is_better: false },
    Compared { workload: "chain", theirs: "seconds", ours: "seconds", unit: "chain, s", more_is_better: false },
    Compared { workload: "latency", theirs: "p50_ms", ours: "p50_ms", unit: "p50 ms", more_is_better: false },
    Compared {
        workload: "memory",
        theirs: "idle_rss_mib",
        ours: "idle_rss_mib",
        unit: "idle RSS MiB",
        more_is_better: false,
    },
];

/// The table of the peers of the same run.
pub(super) fn ratios(ours: &[Value], theirs: &[Value], sizes: &[u64]) -> String {
    let mut text = String::from("\n| in the same run, on Redis | peer | Umbel | Umbel is |\n|---|---|---|---|\n");
    for (peer, workers, workload) in PEER_RUNS {
        let Some(compared) = COMPARED.iter().find(|c| c.workload == *workload) else { continue };
        for n in sizes_of((peer, workers, workload), sizes) {
            let mut their_marks = json!({"peer": peer, "workload": workload, "workers": workers});
            let mut our_marks = json!({"what": workload, "broker": "redis"});
            let mut size = String::new();
            if *n > 0 {
                (their_marks["n"], our_marks["n"]) = (json!(n), json!(n));
                size = format!(" of {}", short(*n as f64));
            }
            let other = median(theirs, &their_marks, compared.theirs);
            let own = median(ours, &our_marks, compared.ours);
            let (Some(other), Some(own)) = (other, own) else { continue };
            let factor = if compared.more_is_better { own / other } else { other / own };
            let (unit, their, our) = (compared.unit, short(other), short(own));
            text += &format!("| {peer} {workers}, {unit}{size} | {their} | {our} | {factor:.1}× |\n");
        }
    }
    text
}

fn short(value: f64) -> String {
    match value {
        v if v >= 1_000.0 => {
            let whole = (v.round() as u64).to_string();
            let mut text = String::new();
            for (i, digit) in whole.chars().enumerate() {
                if i > 0 && (whole.len() - i).is_multiple_of(3) {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// Limited jobs as shares of those without a limit, run by run in the same minute.
fn limited(ours: &[Value]) -> String {
    let of = |broker: &str, limit: &str, field: &str| {
        median(ours, &json!({"what": "limited", "broker": broker, "limit": limit}), field)
    };
    let share = |broker: &str, limit: &str, field: &str| match (of(broker, limit, field), of(broker, "none", field)) {
        (Some(limited), Some(plain)) => format!("{:.2}×", limited / plain),
        _ => "–".to_owned(),
    };
    if of("redis", "none", "jobs_per_s").is_none() {
        return String::new();
    }
    let mut text = String::from("\n| limited jobs, as a share of plain ones | SQLite | Redis | CPU of Redis a job |\n");
    text += "|---|---|---|---|\n";
    for (name, limit) in &LIMITS[1..] {
        let (rate, cpu) = ("jobs_per_s", "redis_us_per_job");
        let cells = [share("sqlite", limit, rate), share("redis", limit, rate), share("redis", limit, cpu)];
        text += &format!("| {name} | {} |\n", cells.join(" | "));
    }
    text
}

/// What each attack made the processes hold, and what a quiet tenant noticed of it.
fn attacks(ours: &[Value]) -> String {
    let rows: Vec<&Value> = ours.iter().filter(|row| row["what"] == "attacks").collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = "| attack | broker | process, MiB | Redis beyond its data, MiB | submit and wait, p50 ms | p99 ms | slowest push, ms |";
    let mut text = format!("\n{head}\n|---|---|---|---|---|---|---|\n");
    for row in rows {
        let name = |field: &str| row[field].as_str().unwrap_or("–").to_owned();
        let number = |field: &str| row[field].as_f64().map_or_else(|| "–".into(), short);
        let numbers = ["process_mib", "redis_mib", "p50_ms", "p99_ms", "push_ms"].map(number).join(" | ");
        text += &format!("| {} | {} | {numbers} |\n", name("attack"), name("broker"));
    }
    text
}

/// The table of two binaries that ran in turn.
pub(super) fn compared(rows: &[Value], sizes: &[u64]) -> String {
    let mut text = String::from("| | before | now | now is |\n|---|---|---|---|\n");
    let mut line = |name: String, marks: Value, field: &str| {
        let of = |binary: &str| {
            let mut marks = marks.clone();
            marks["binary"] = binary.into();
            median(rows, &marks, field)
        };
        if let (Some(before), Some(now)) = (of("before"), of("now")) {
            text += &format!("| {name} | {} | {} | {:.2}× |\n", short(before), short(now), now / before);
        }
    };
    for (broker, shown) in [("sqlite", "SQLite"), ("redis", "Redis")] {
        for n in sizes {
            let (marks, size) = (json!({"what": "throughput", "broker": broker, "n": n}), short(*n as f64));
            line(format!("{shown}, {size} jobs, jobs/s"), marks.clone(), "jobs_per_s");
            line(format!("{shown}, {size} jobs submitted over HTTP, jobs/s"), marks.clone(), "submit_per_s");
            line(format!("{shown}, {size} jobs, CPU of Redis in all, µs a job"), marks, "redis_us_per_job");
        }
        for (name, limit) in LIMITS {
            let marks = json!({"what": "limited", "broker": broker, "limit": limit});
            line(format!("{shown}, {name}, jobs/s"), marks.clone(), "jobs_per_s");
            line(format!("{shown}, {name}, submitted jobs/s"), marks.clone(), "submit_per_s");
            line(format!("{shown}, {name}, CPU of Redis in all, µs a job"), marks, "redis_us_per_job");
        }
        for field in ["p50_ms", "p99_ms"] {
            line(format!("{shown}, submit and wait, {field}"), json!({"what": "latency", "broker": broker}), field);
        }
        line(format!("{shown}, chain of {CHAIN}, s"), json!({"what": "chain", "broker": broker}), "seconds");
        for n in CHORDS {
            let marks = json!({"what": "chord", "broker": broker, "n": n});
            line(format!("{shown}, chord of {}, s", short(*n as f64)), marks, "seconds");
        }
        for field in ["idle_rss_mib", "busy_rss_mib"] {
            line(format!("{shown}, {field}"), json!({"what": "memory", "broker": broker}), field);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_taken_over_matching_rows() {
        let rows = [json!({"a": 1, "x": 5}), json!({"a": 1, "x": 1}), json!({"a": 1, "x": 3}), json!({"a": 2, "x": 9})];
        assert_eq!(median(&rows, &json!({"a": 1}), "x"), Some(3.0));
        assert_eq!(median(&rows, &json!({"a": 3}), "x"), None);
    }

    #[test]
    fn numbers_are_grouped_for_people() {
        assert_eq!(short(26_300.4), "26,300");
        assert_eq!(short(1_234_567.0), "1,234,567");
        assert_eq!(short(0.85), "0.85");
    }

    #[test]
    fn two_binaries_are_compared_row_by_row() {
        let row = |binary: &str, rate: u64| json!({"what": "throughput", "broker": "redis", "n": 9, "binary": binary, "jobs_per_s": rate});
        let table = compared(&[row("before", 100), row("now", 160), row("now", 150), row("now", 170)], &[9]);
        assert!(table.contains("| Redis, 9.00 jobs, jobs/s | 100.0 | 160.0 | 1.60× |"), "{table}");
        assert_eq!(table.lines().count(), 3, "{table}");
    }
}
