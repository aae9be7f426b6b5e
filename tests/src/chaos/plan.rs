//! The jobs of a chaos run, and how each must end: decided by the seed and the job's number alone.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::draw::Draw;

/// Hand-overs of one attempt: workers are killed all the time, and no job is to blame.
const MAX_DELIVERIES: u64 = 100;
/// A job with this delay is cancelled long before.
const FAR_MS: u64 = 3_600_000;
/// Members of a chord.
pub(crate) const MEMBERS: u64 = 3;

/// How a job ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Fails so many times and then succeeds.
    Flaky { failures: u64 },
    /// Sleeps and succeeds.
    Nap { ms: u64 },
    /// Fails for good at once.
    Fatal,
    /// Fails more often than it may be retried.
    Exhausted,
    /// Expires before it is due.
    Expires,
    /// Is cancelled before it is due.
    Cancelled,
}

/// Retries of `Exhausted`.
const RETRIES: u64 = 2;

/// One job of a run.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    priority: u64,
    delay_ms: u64,
}

impl Planned {
    pub(crate) fn of(seed: u64, number: u64) -> Self {
        let mut draw = Draw::part(seed, number);
        let kind = match draw.below(100) {
            0..47 => Kind::Flaky { failures: 0 },
            47..71 => Kind::Flaky { failures: draw.between(1, 3) },
            71..81 => Kind::Nap { ms: draw.between(20, 1_000) },
            // Longer than a lease.
            81..86 => Kind::Nap { ms: draw.between(4_000, 6_000) },
            86..90 => Kind::Fatal,
            90..94 => Kind::Exhausted,
            94..97 => Kind::Expires,
            _ => Kind::Cancelled,
        };
        let delay_ms = match kind {
            Kind::Cancelled => FAR_MS,
            Kind::Expires => draw.between(3_000, 10_000),
            _ if draw.below(5) == 0 => draw.between(100, 15_000),
            _ => 0,
        };
        Self { number, kind, priority: draw.below(10), delay_ms }
    }

    /// The body of its submission, the same each time.
    pub(crate) fn body(&self, seed: u64) -> Value {
        let mut options = json!({
            "priority": self.priority,
            "max_deliveries": MAX_DELIVERIES,
            "idempotency_key": format!("chaos-{seed}-{}", self.number),
            "retry_backoff": {"initial_ms": 100, "max_ms": 2_000},
        });
        if self.delay_ms > 0 {
            options["countdown_ms"] = self.delay_ms.into();
        }
        let (task, args) = match self.kind {
            Kind::Flaky { failures } => ("flaky", json!([self.number, failures])),
            Kind::Nap { ms } => ("nap", json!([ms as f64 / 1_000.0])),
            Kind::Fatal => ("fail", json!([self.number])),
            Kind::Exhausted => {
                options["max_retries"] = RETRIES.into();
                ("flaky", json!([self.number, 50]))
            }
            Kind::Expires => {
                options["expires_ms"] = 1_000.into();
                ("flaky", json!([self.number, 0]))
            }
            Kind::Cancelled => ("flaky", json!([self.number, 0])),
        };
        json!({"task": task, "args": args, "options": options})
    }

    /// Compares how the job ended with how it had to.
    pub(crate) fn check(&self, job: &Value) -> Result<()> {
        let none = Value::Null;
        let (state, result, error, outcomes) = match self.kind {
            Kind::Flaky { failures } => ("succeeded", json!(self.number), none, (failures, 0, 1)),
            Kind::Nap { ms } => ("succeeded", json!(ms as f64 / 1_000.0), none, (0, 0, 1)),
            Kind::Fatal => ("failed", none, json!("Failed"), (0, 1, 0)),
            Kind::Exhausted => ("failed", none, json!("Flaky"), (RETRIES + 1, 0, 0)),
            Kind::Expires => ("expired", none, job["error"]["kind"].clone(), (0, 0, 0)),
            Kind::Cancelled => ("revoked", none, job["error"]["kind"].clone(), (0, 0, 0)),
        };
        ensure!(job["state"] == state, "it ended {} and not {state}", job["state"]);
        ensure!(job["result"] == result, "its result is {} and not {result}", job["result"]);
        ensure!(job["error"]["kind"] == error, "its error is {} and not {error}", job["error"]);
        ensure!(job["priority"] == self.priority, "its priority is {} and not {}", job["priority"], self.priority);
        let found = (counted(job, "error"), counted(job, "fatal"), counted(job, "succeeded"));
        ensure!(found == outcomes, "(errors, fatal ones, successes) recorded are {found:?} and not {outcomes:?}");
        let (errors, fatal, successes) = outcomes;
        let retries = (errors + fatal + successes).saturating_sub(1);
        ensure!(job["retries"] == retries, "{} retries and not {retries}: a fault cost or gave one", job["retries"]);
        if errors + fatal + successes == 0 {
            ensure!(job["started_at"].is_null(), "it was started");
        }
        in_order(job)
    }
}

/// How an attempt that was settled may have ended.
pub(crate) const OUTCOMES: [&str; 3] = ["error", "fatal", "succeeded"];

/// Attempts in a job's history that ended so.
pub(crate) fn counted(job: &Value, outcome: &str) -> u64 {
    let history = job["history"].as_array().into_iter().flatten();
    history.filter(|record| record["outcome"] == outcome).count() as u64
}

/// Each attempt has one outcome, and they were made one after the other.
fn in_order(job: &Value) -> Result<()> {
    let history = job["history"].as_array().into_iter().flatten();
    let ends = history.filter(|record| OUTCOMES.iter().any(|outcome| record["outcome"] == *outcome));
    for (before, record) in ends.enumerate() {
        ensure!(record["attempt"] == before + 1, "an attempt has two outcomes, or none: {}", job["history"]);
    }
    Ok(())
}

/// A chord of flaky members: what ends is counted by another job, whose result is the sum.
pub(crate) fn chord(seed: u64, number: u64) -> Value {
    let mut draw = Draw::part(seed, u64::MAX - number);
    let options = json!({"max_deliveries": MAX_DELIVERIES});
    let member = |i: u64| {
        let failures = draw.below(2);
        json!({"task": "flaky", "args": [number + i, failures], "options": options})
    };
    let members: Vec<Value> = (0..MEMBERS).map(member).collect();
    let body = json!({"task": "total", "options": options});
    json!({"canvas": {"chord": members, "body": body}, "idempotency_key": format!("chaos-{seed}-w{number}")})
}

/// The result of the body of `chord`.
pub(crate) fn chord_sum(number: u64) -> u64 {
    (0..MEMBERS).map(|i| number + i).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_of_a_seed_is_always_the_same_and_has_every_kind() {
        let plans = |seed| -> Vec<Value> { (0..500).map(|n| Planned::of(seed, n).body(seed)).collect() };
        assert_eq!(plans(1), plans(1));
        assert_ne!(plans(1), plans(2));
        let has = |wanted: fn(Kind) -> bool| (0..500).any(|n| wanted(Planned::of(1, n).kind));
        assert!(has(|k| matches!(k, Kind::Flaky { failures: 2 })) && has(|k| matches!(k, Kind::Nap { ms: 4_000.. })));
        assert!(has(|k| k == Kind::Fatal) && has(|k| k == Kind::Exhausted));
        assert!(has(|k| k == Kind::Expires) && has(|k| k == Kind::Cancelled));
    }

    #[test]
    fn an_outcome_that_is_recorded_twice_is_found() {
        let planned = Planned { number: 7, kind: Kind::Flaky { failures: 1 }, priority: 3, delay_ms: 0 };
        let record = |attempt: u64, outcome: &str| json!({"attempt": attempt, "outcome": outcome});
        let job = |history: &[Value]| json!({"state": "succeeded", "result": 7, "priority": 3, "retries": 1, "error": null, "history": history});
        let good = [record(1, "error"), record(2, "succeeded")];
        planned.check(&job(&good)).unwrap();
        for bad in [
            vec![record(1, "error"), record(2, "succeeded"), record(2, "succeeded")],
            vec![record(1, "error"), record(1, "error"), record(2, "succeeded")],
            vec![record(2, "error"), record(2, "succeeded")],
            vec![record(2, "succeeded")],
        ] {
            assert!(planned.check(&job(&bad)).is_err(), "{bad:?}");
        }
    }
}
