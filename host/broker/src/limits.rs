//! Limits that hold across all workers, lanes, uniqueness, and what else of a job's life a broker must know.
//!
//! # Lanes
//!
//! The ready jobs of a tenant's queue, a *line*, are *plain*, or they lie in a *lane*: one for each task with limits of
//! its own, divided into one *key lane* for each value of its limit key (the empty one for jobs without a key). A job with
//! `BrokerOptions::limits` is queued in the lane of its task and key, any other is plain. A plain job whose task has a `Control` is
//! moved when it is met: out of the plain ones and, with its place in the line, into its task's lane with no key.
//!
//! A key lane is *open* when it has jobs and is not parked; a lane when one of its key lanes is open and it is not parked; a
//! line when it has plain jobs or an open lane, neither its queue nor its tenant is paused, and it is not parked. A key lane
//! or lane that loses its last ready job is forgotten, parked or not; a line that does is not parked any more. (A job that
//! moves within a line is never missing: what was open stays open.)
//!
//! **Who is next.** Among the tenants with an open line in a queue: the one served least (its *tag*, by name when level); a
//! line that opens gets the least tag there plus one, or 0. Inside a line, and inside a lane, every open child has a tag,
//! too, and each parent a *clock*, which begins at 0 and is forgotten with the last lane of the line (with the lane): a
//! child that opens gets clock + 1. Next is the child whose first job has the highest priority, of those the one with the
//! least tag, then by name; a key lane's first job is the one with the lowest score, a lane's priority is that of its first
//! key lane in this order. The plain jobs of a line are a child, too, before all others when level, whose tag counts as no
//! less than the clock. When a child with tag `t` hands out (or finds expired) a job, `clock = max(t, clock)` and its tag is
//! that plus one. (A line without lanes keeps no tags for its plain jobs.)
//!
//! # Limits
//!
//! A tenant and a queue of it may have a rate and a concurrency cap by `Control`; a task by `Control` or, where that says
//! nothing, by the `JobLimits` of the job that is next; a key by the `JobLimits` of the job that is next. One job is handed
//! out at a time, in this way:
//!
//! 1. The next line of the queue. An exclusive queue with running jobs on another worker is passed over in this claim.
//! 2. Its tenant's concurrency, its queue's concurrency, its tenant's rate, its queue's rate. One that is used up *parks* the
//!    line.
//! 3. The next child. A plain job whose task has a control moves. A lane whose task is paused is parked.
//! 4. The next job of the child. One that is over its `expires_at` ends `expired`, and takes from no limit.
//! 5. The task's concurrency, its rate: used up, they park the lane. The key's concurrency, its rate: they park the key lane.
//! 6. It leaves its lane, the rates are taken from, and the job counts as running for its task and key if it was in a lane.
//!
//! Every step that ends without a job goes back to 1. Each of these costs one of the claim's budget of `max + CLAIM_SCAN`;
//! when that is used up and the claim has fewer than `max` jobs, a hint says that the queue has more. A line that took
//! `LOOKS_A_QUEUE` of them in one claim without a job in between is passed over while another line of the queue is open, and
//! then begins anew: what one tenant has to park or move must not hold up another's job.
//!
//! What was used of a rate is a number of starts, and comes back by the rate of whoever uses it next (`Rate::take`): a smaller
//! burst or another rate waits for it, and gives nothing back to the others.
//!
//! Parked by a rate, it is opened by `promote` at the time (rounded up to a millisecond) when one more may start; before
//! jobs that are due, in the order of (time, tenant, queue, task, key), lines before lanes before key lanes; at most `max` in
//! one step. Parked by a concurrency cap, it is opened when a job that counts there ends its delivery (all that are parked by
//! that cap, in all queues). Setting a `Control` opens everything that is parked of its scope: lines of the tenant; the
//! queue's line; lanes of the task in all queues.
//!
//! # Uniqueness
//!
//! `First`: while an earlier job holds the key, a submission answers `Duplicate` with it; with an idempotency key that one
//! answers with it from then on, too. `Latest`: a holder that waits (`scheduled`, `queued`, `retrying`) ends `revoked` with
//! the failure `superseded`, and the new job holds the key; if both are to be queued in the same queue with the same priority,
//! it takes the old one's place in the line, too. One holds the key until it ends or, with `for_ms`, for that long
//! from its submission; then its record is kept at least as long, too. A `Latest` that starts `After` some time does so no
//! later than `max_wait_ms` after the first of those that took each other's place.
//!
//! The order in a submission: known id, idempotency key, `First`, redrive, room; then `Latest` takes its place.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use umbel_model::{Acks, Digest, Expression, JobId, OnWorkerLost, Policy, Rate, TaskName, Uniqueness};

use crate::{Control, scheduler::Limit};

/// Looks at a tenant queue without a job after which a claim looks at other tenants first.
pub const LOOKS_A_QUEUE: u32 = 8;
/// The failure's kind of a job whose worker was lost and that is not handed out again.
pub const WORKER_LOST: &str = "worker_lost";
/// Its message.
pub const WORKER_LOST_MESSAGE: &str = "its worker was lost while it ran, and its policy says not to run it again";
/// The failure's kind of a job whose place was taken.
pub const SUPERSEDED: &str = "superseded";

/// The message of a job whose place was taken.
pub fn superseded_message(by: JobId) -> String {
    format!("job {by}, submitted later, took its place")
}

/// What a broker must know of a job's policy, and most jobs do not use. Stored as JSON text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerOptions {
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_lost: OnWorkerLost,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<JobLimits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<Unique>,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What limits a job's start. Rates and caps count all jobs of the tenant's task (and key), in all queues.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// 0: any number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: u32,
    /// Hash of the limit key's value: letters and digits, at most 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_rate: Option<Rate>,
    /// 0: any number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key_concurrency: u32,
}

impl JobLimits {
    /// What holds under the control of the job's task.
    #[must_use]
    pub fn under(mut self, control: &Control) -> Self {
        self.rate = control.rate.or(self.rate);
        if control.concurrency > 0 {
            self.concurrency = control.concurrency;
        }
        self
    }

    /// The cap (0: none) and the rate of the job's task or key.
    pub(crate) fn of(&self, limit: &Limit) -> (u32, Option<Rate>) {
        match limit {
            Limit::Key(..) => (self.key_concurrency, self.key_rate),
            _ => (self.concurrency, self.rate),
        }
    }
}

/// Which of two jobs that are alike stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wins {
    First,
    Latest,
}

/// A key that one job of the tenant holds at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    /// A hash: letters and digits, at most 64.
    pub key: String,
    pub wins: Wins,
    /// Held so long, milliseconds. 0: until the job has ended; always so for `Latest`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub for_ms: u64,
    /// See the rules. 0: no bound.
    #[serde(default, skip_serializing_if = "is_default")]
    pub max_wait_ms: u64,
}

impl BrokerOptions {
    /// The broker options of a call of `task` under a policy that was checked. `parameters` are its names in their order, `argument`
    /// gives the bound value of one. None when no knob is used.
    pub fn of<'a>(
        policy: &Policy,
        task: &TaskName,
        parameters: &[&'a str],
        mut argument: impl FnMut(&'a str) -> Option<Value>,
    ) -> Option<Box<Self>> {
        let on_lost = match (policy.acks, policy.on_worker_lost) {
            (Acks::Early, OnWorkerLost::Requeue) => OnWorkerLost::Fail,
            (_, wanted) => wanted,
        };
        let limits = limits_of(policy, |text| value_of(text, parameters, &mut argument));
        let wins = match (policy.unique, policy.debounce_ms) {
            (Uniqueness::First, 0) => Some(Wins::First),
            (Uniqueness::Latest, _) | (_, 1..) => Some(Wins::Latest),
            (Uniqueness::Off, 0) => None,
        };
        let unique = wins.map(|wins| {
            let by: Vec<Value> = match policy.unique_by.is_empty() {
                true => parameters.iter().map(|name| argument(name).unwrap_or(Value::Null)).collect(),
                false => policy.unique_by.iter().map(|text| value_of(text, parameters, &mut argument)).collect(),
            };
            let key = hash(&serde_json::json!([task.as_str(), by]));
            let for_ms = if wins == Wins::First { policy.unique_for_ms } else { 0 };
            Unique { key, wins, for_ms, max_wait_ms: policy.debounce_max_wait_ms }
        });
        let broker_options = Self { on_lost, limits, unique };
        (broker_options != Self::default()).then(|| Box::new(broker_options))
    }
}

/// What an expression finds in the bound arguments; `null` where there is nothing.
fn value_of<'a>(text: &str, parameters: &[&'a str], argument: &mut impl FnMut(&'a str) -> Option<Value>) -> Value {
    let Ok(expression) = Expression::parse(text) else { return Value::Null };
    let name = expression.parameter(parameters.iter().copied());
    let name = name.and_then(|name| parameters.iter().find(|parameter| **parameter == name));
    name.and_then(|name| argument(name)).map_or(Value::Null, |value| expression.within(&value).clone())
}

fn limits_of(policy: &Policy, mut found: impl FnMut(&str) -> Value) -> Option<JobLimits> {
    let rate = |text: &str, burst| Rate::parse(text, burst).ok().flatten();
    let limits = JobLimits {
        rate: rate(&policy.rate_limit, policy.rate_burst),
        concurrency: policy.concurrency,
        key: (!policy.limit_key.is_empty()).then(|| hash(&found(&policy.limit_key))),
        key_rate: rate(&policy.key_rate_limit, policy.key_rate_burst),
        key_concurrency: policy.key_concurrency,
    };
    (limits != JobLimits::default()).then_some(limits)
}

/// The first half of the SHA-256 of a value's text, hexadecimal. Objects are written in the order of their keys.
fn hash(value: &Value) -> String {
    Digest::of(value.to_string().as_bytes()).hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker_options(policy: &str, arguments: &Value) -> Option<Box<BrokerOptions>> {
        let policy = Policy::resolve(&serde_json::from_str(policy).unwrap());
        let names: Vec<&str> = arguments.as_object().unwrap().keys().map(String::as_str).collect();
        BrokerOptions::of(&policy, &TaskName::new("t").unwrap(), &names, |name| arguments.get(name).cloned())
    }

    #[test]
    fn a_job_that_uses_no_knob_has_none() {
        assert_eq!(broker_options("{}", &serde_json::json!({"a": 1})), None);
    }

    #[test]
    fn jobs_with_the_same_key_share_a_lane_and_others_do_not() {
        let key = |customer: Value| {
            let arguments = serde_json::json!({"customer": customer, "n": 1});
            let found = broker_options(r#"{"limit_key":"kwargs.customer","key_concurrency":1}"#, &arguments).unwrap();
            found.limits.unwrap().key.unwrap()
        };
        assert_eq!(key(7.into()), key(7.into()));
        assert_ne!(key(7.into()), key("7".into()));
        assert_eq!(key(7.into()).len(), 32);
    }

    #[test]
    fn jobs_are_alike_by_all_arguments_or_by_those_that_were_chosen() {
        let unique = |policy: &str, n: u64| {
            broker_options(policy, &serde_json::json!({"a": 1, "n": n})).unwrap().unique.unwrap()
        };
        assert_ne!(unique(r#"{"unique":"first"}"#, 1).key, unique(r#"{"unique":"first"}"#, 2).key);
        let by = r#"{"unique":"first","unique_by":["kwargs.a"]}"#;
        assert_eq!(unique(by, 1).key, unique(by, 2).key);
        assert_eq!(unique(r#"{"debounce_ms":5}"#, 1).wins, Wins::Latest);
    }

    #[test]
    fn early_acknowledgement_is_at_most_once() {
        let lost = |policy: &str| broker_options(policy, &serde_json::json!({})).map(|k| k.on_lost);
        assert_eq!(lost(r#"{"acks":"early"}"#), Some(OnWorkerLost::Fail));
        assert_eq!(lost(r#"{"acks":"early","on_worker_lost":"dead"}"#), Some(OnWorkerLost::Dead));
        assert_eq!(lost(r#"{"acks":"late"}"#), None);
    }
}
