//! The rules of limits, sub-queues and uniqueness, and the options of a job that a broker must know.
//!
//! # The tree of ready jobs
//!
//! The ready jobs of one tenant in one queue are a *tenant queue*. A job with `BrokerOptions::limits` waits in a *sub-queue*:
//! there is one for each task, divided into one for each value of the limit key (the empty key for jobs without one). All
//! other jobs are *plain*. A plain job whose task has a `Control` is moved, when it is next, to the sub-queue of its task and
//! the empty key; it keeps its place there.
//!
//! | branch | open when | forgotten with its last ready job |
//! |---|---|---|
//! | sub-queue of a key | it has jobs and is not blocked | yes |
//! | sub-queue of a task | one of its keys is open and it is not blocked | yes |
//! | tenant queue | it has plain jobs or an open sub-queue, and neither it, its queue nor its tenant is blocked or paused | no, but its block is |
//!
//! A job that moves inside a tenant queue is never missing in between: what was open stays open.
//!
//! # Who is next
//!
//! Start-time fair queueing, on each level of the tree. An open branch has a *virtual finish time*, and the branch with the
//! least one is next, by name when level.
//!
//! - **Among the tenants**, over all of their queues. Each job that is handed out to a tenant (or found expired) adds one to its
//!   virtual finish time. The virtual time is the highest finish time that was served. A tenant of which a queue
//!   opens has at least the virtual time minus one: it comes before those who wait for their next turn, and jobs that nobody
//!   serves earn it nothing. The finish time of a tenant with nothing open is remembered until the virtual time passes it or nobody waits, so that one who comes back after each of its jobs does so once a
//!   round and starves nobody.
//! - **Among the open queues of a tenant.** A claim that names queues takes the first of them. One that asks all of them takes
//!   the queue with the least finish time: each job that a tenant queue hands out adds one, and one that opens gets the
//!   least of its tenant plus one, or 0. It goes on with that queue at the tenant's next turns, while it is open, until it took
//!   `Claim::in_row` jobs from it.
//! - **Inside a tenant queue, and inside the sub-queue of a task.** The child whose first job has the highest priority comes
//!   first; among those, the least virtual finish time decides. The parent has a *virtual time*, which begins at 0 and ends with
//!   its last sub-queue. A child that opens gets the virtual time plus one. When a child with finish time `f` hands out a job,
//!   the virtual time becomes `max(f, virtual time)`, and the child's finish time that plus one. The plain jobs are one child,
//!   before all others when level, whose finish time counts as no less than the virtual time.
//!
//! For example, tenant `a` has jobs in 1,000 queues and was served 4 times: its finish time is 4, the virtual time 3. `b` submits
//! its first job, to any queue, and gets 2. `b` (2) is next and goes to 3, `b` (3) is next and goes to 4, `a` (4) is next by
//! name and goes to 5, then `b` (4), and from then on they take turns. Had `b` begun at 0, it would have been served four times
//! before `a`.
//!
//! # Limits
//!
//! A tenant and a queue of it may have a rate and a concurrency cap by `Control`; a task by `Control` or, where that says
//! nothing, by the `JobLimits` of the job that is next; a key by the `JobLimits` of the job that is next. A claim hands out one
//! job at a time:
//!
//! 1. It takes the next tenant queue: the next tenant, and its next queue. An exclusive one with running jobs on another worker is *excluded* from this claim.
//! 2. It looks at the tenant's cap, the queue's cap, the tenant's rate, the queue's rate. One that is used up *blocks* the
//!    tenant queue.
//! 3. It takes the next child. A plain job whose task has a control moves. The sub-queue of a paused task is blocked.
//! 4. It takes the next job of the child. One that is over its `expires_at` ends `expired`, and uses no limit.
//! 5. It looks at the task's cap and rate, which block the sub-queue of the task, and at the key's cap and rate, which block
//!    that of the key.
//! 6. The job leaves, the rates are used, and it counts as running for its task and key if it was in a sub-queue.
//!
//! Each step that ends without a job goes back to 1. Each look at a tenant queue costs one of the claim's budget of
//! `max + CLAIM_SCAN`; when that is used up and the claim has fewer than `max` jobs, a hint says that the queue has more. A
//! tenant that took `LOOKS_A_TENANT` looks in one claim without a job is *deferred* while another one has something open: what
//! one tenant has blocked or moved must not hold up another's job. A claim may *limit* tenants: when it has `max` jobs of all of them
//! together, it looks at none of them any more.
//!
//! For example, task `mail` has the cap 2 and 1,000 queued jobs of two keys, and two of them run. The next claim finds the cap
//! used up and blocks the sub-queue of `mail`: one look, not 1,000. When one of the two ends its delivery, the sub-queue opens,
//! and one job of the key with the lesser finish time is handed out.
//!
//! The used part of a rate is a number of starts, and comes back by the rate of whoever uses it next (`Rate::take`): a smaller
//! burst or another rate waits for it, and gives nothing back to the others.
//!
//! **What opens a blocked branch.** A rate: `promote`, at the time (rounded up to a millisecond) when one more may start, before
//! jobs that are due, in the order of (time, tenant, queue, task, key), at most `max` in one step. A cap: the end of a delivery
//! that counts for it; it opens all that this cap blocks, in all queues. Setting a `Control` opens all that is blocked of its
//! scope: the tenant's tenant queues; the queue's tenant queue; the sub-queues of the task in all queues. A broker whose process
//! keeps this tree in memory may open everything when it starts: a claim blocks it again.
//!
//! # Uniqueness
//!
//! `First`: while an earlier job holds the key, a submission answers `Duplicate` with it; with an idempotency key that one
//! answers with it from then on, too. `Latest`: a holder that waits (`scheduled`, `queued`, `retrying`) is *superseded*: it ends
//! `revoked` with the failure `superseded`, and the new job holds the key; if both are to be queued in the same queue with the
//! same priority, the new one takes the old one's place there, too. A job holds its key until it ends or, with `for_ms`, for
//! that long from its submission; then its record is kept at least as long, too. A `Latest` that starts `After` some time does
//! so no later than `max_wait_ms` after the first of those that superseded each other.
//!
//! The order in a submission: known id, idempotency key, `First`, redrive, room; then `Latest` supersedes.

use serde::{Deserialize, Serialize};
use umbel_model::{Acks, Digest, Expression, JobId, OnWorkerLost, Policy, Rate, TaskName, Uniqueness, json};

use crate::{Control, controls::is_default, scheduler::Limit};

/// Looks at queues of a tenant without a job after which a claim looks at other tenants first.
pub const LOOKS_A_TENANT: u32 = 8;
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

/// The part of a job's policy that a broker needs; most jobs use none of it. Stored as JSON text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerOptions {
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_lost: OnWorkerLost,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<JobLimits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<Unique>,
}

/// The limits of a job's start. Rates and caps count all jobs of the tenant's task (and key), in all queues.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// 0: any number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub concurrency: u32,
    /// Hash of the limit key and its value: letters and digits, at most 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_rate: Option<Rate>,
    /// 0: any number.
    #[serde(default, skip_serializing_if = "is_default")]
    pub key_concurrency: u32,
}

impl JobLimits {
    /// The limits that hold under the control of the job's task.
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
    /// gives the JSON text of the bound value of one. None when the policy uses no such option.
    pub fn of<'t>(
        policy: &Policy,
        task: &TaskName,
        parameters: &[&str],
        mut argument: impl FnMut(&str) -> Option<&'t str>,
    ) -> Option<Box<Self>> {
        let on_lost = match (policy.acks, policy.on_worker_lost) {
            (Acks::Early, OnWorkerLost::Requeue) => OnWorkerLost::Fail,
            (_, wanted) => wanted,
        };
        let limits = limits_of(policy, |text| named_value(text, parameters, &mut argument));
        let wins = match (policy.unique, policy.debounce_ms) {
            (Uniqueness::First, 0) => Some(Wins::First),
            (Uniqueness::Latest, _) | (_, 1..) => Some(Wins::Latest),
            (Uniqueness::Off, 0) => None,
        };
        let unique = wins.map(|wins| {
            let by: Vec<String> = match policy.unique_by.is_empty() {
                true => parameters.iter().map(|name| canonical(argument(name))).collect(),
                false => policy.unique_by.iter().map(|text| named_value(text, parameters, &mut argument)).collect(),
            };
            let key = hash(&format!("[\"{task}\",[{}]]", by.join(",")));
            let for_ms = if wins == Wins::First { policy.unique_for_ms } else { 0 };
            Unique { key, wins, for_ms, max_wait_ms: policy.debounce_max_wait_ms }
        });
        let broker_options = Self { on_lost, limits, unique };
        (broker_options != Self::default()).then(|| Box::new(broker_options))
    }
}

/// An expression and the canonical text of its value in the bound arguments, as a JSON list. The value is `null` where there is
/// nothing.
fn named_value<'t>(text: &str, parameters: &[&str], argument: &mut impl FnMut(&str) -> Option<&'t str>) -> String {
    let Ok(expression) = Expression::parse(text) else { return "null".to_owned() };
    let name = expression.parameter(parameters.iter().copied());
    let value = name.and_then(argument).map(|value| expression.within(value));
    let named = name.map_or_else(|| expression.clone(), |name| expression.of_parameter(name)).to_string();
    format!("[{},{}]", serde_json::Value::from(named), canonical(value))
}

/// What cannot be read counts as `null`: submissions with it are refused, and only jobs that an older release stored have it.
fn canonical(value: Option<&str>) -> String {
    value.and_then(|value| json::canonical(value).ok()).unwrap_or_else(|| "null".to_owned())
}

fn limits_of(policy: &Policy, mut found: impl FnMut(&str) -> String) -> Option<JobLimits> {
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

/// The first half of the SHA-256 of a text, hexadecimal.
fn hash(text: &str) -> String {
    Digest::of(text.as_bytes()).hex()[..32].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of arguments by name, each with its JSON text.
    fn broker_options(policy: &str, arguments: &[(&str, &str)]) -> Option<Box<BrokerOptions>> {
        let policy = Policy::resolve(&serde_json::from_str(policy).unwrap());
        let names: Vec<&str> = arguments.iter().map(|(name, _)| *name).collect();
        let argument = |name: &str| Some(arguments.iter().find(|(known, _)| *known == name)?.1);
        BrokerOptions::of(&policy, &TaskName::new("t").unwrap(), &names, argument)
    }

    fn limit_key(expression: &str, customer: &str) -> String {
        let policy = format!(r#"{{"limit_key":"{expression}","key_concurrency":1}}"#);
        broker_options(&policy, &[("customer", customer), ("n", "1")]).unwrap().limits.unwrap().key.unwrap()
    }

    fn unique(policy: &str, a: &str, n: &str) -> Unique {
        broker_options(policy, &[("a", a), ("n", n)]).unwrap().unique.unwrap()
    }

    #[test]
    fn a_job_that_uses_no_option_has_none() {
        assert_eq!(broker_options("{}", &[("a", "1")]), None);
    }

    #[test]
    fn jobs_with_the_same_key_share_a_sub_queue_and_others_do_not() {
        let key = |customer: &str| limit_key("kwargs.customer", customer);
        assert_eq!(key("7"), key("7.0"));
        assert_ne!(key("7"), key("\"7\""));
        assert_ne!(key("100000000000000000000001"), key("100000000000000000000002"));
        assert_eq!(key(r#"{"a":1,"b":2}"#), key(r#"{ "b": 2, "\u0061": 1e0 }"#));
        assert_eq!(key("7").len(), 32);
    }

    #[test]
    fn a_limit_key_names_its_expression() {
        assert_eq!(limit_key("args[0]", "7"), limit_key("kwargs.customer", "7"));
        assert_ne!(limit_key("kwargs.customer", "1"), limit_key("kwargs.n", "1"));
        assert_ne!(limit_key("kwargs.customer.id", r#"{"id":1}"#), limit_key("kwargs.n", "1"));
        let by = |field: &str| unique(&format!(r#"{{"unique":"first","unique_by":["kwargs.{field}"]}}"#), "1", "1").key;
        assert_ne!(by("a"), by("n"));
    }

    #[test]
    fn jobs_are_alike_by_all_arguments_or_by_those_that_were_chosen() {
        let all = |a: &str, n: &str| unique(r#"{"unique":"first"}"#, a, n).key;
        assert_ne!(all("1", "1"), all("1", "2"));
        assert_ne!(all("0.12345678901234567890", "1"), all("0.12345678901234567891", "1"));
        assert_eq!(all("1", "-0.0"), all("1e0", "0"));
        let by = |n: &str| unique(r#"{"unique":"first","unique_by":["kwargs.a"]}"#, "1", n).key;
        assert_eq!(by("1"), by("2"));
        assert_eq!(unique(r#"{"debounce_ms":5}"#, "1", "1").wins, Wins::Latest);
    }

    /// A process of the release before and one of this run side by side: usual arguments have the same key in both.
    #[test]
    fn the_key_of_all_arguments_is_that_of_earlier_releases() {
        let key = unique(r#"{"unique":"first"}"#, r#"{"b":0.5,"a":"é\n"}"#, "7").key;
        let before = serde_json::json!(["t", [{"a": "é\n", "b": 0.5}, 7]]).to_string();
        assert_eq!(key, Digest::of(before.as_bytes()).hex()[..32]);
    }

    #[test]
    fn early_acknowledgement_is_at_most_once() {
        let lost = |policy: &str| broker_options(policy, &[]).map(|k| k.on_lost);
        assert_eq!(lost(r#"{"acks":"early"}"#), Some(OnWorkerLost::Fail));
        assert_eq!(lost(r#"{"acks":"early","on_worker_lost":"dead"}"#), Some(OnWorkerLost::Dead));
        assert_eq!(lost(r#"{"acks":"late"}"#), None);
    }
}
