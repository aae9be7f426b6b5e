//! How a task's jobs run. A `PolicyPatch` holds only what somebody set; patches are laid over the defaults in the
//! order *defaults < code < server < call*, and bounds set by the operator are checked on the result.

use serde::{Deserialize, Serialize};

use crate::{Backoff, Expression, QueueName, Rate, backoff::is_two, outcome::PANIC, settings};

/// Result retention, 1 day: Celery's `result_expires`.
pub const DEFAULT_RESULT_TTL_MS: u64 = 86_400_000;
/// Dead-set retention, 14 days: two sprints to notice and redrive.
pub const DEFAULT_DEAD_TTL_MS: u64 = 14 * 86_400_000;

/// The options of a policy, each with its default and, unless it is the first, the version of a job's spec that brought it.
macro_rules! policy {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $default:expr $(, since $version:literal)?;)*) => {
        settings! {
            /// How a job runs, with every field decided.
            #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct Policy { $($(#[$doc])* pub $field: $type = $default,)* }
        }

        /// The fields of a policy that somebody set; the others are left to the layer below.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct PolicyPatch {
            $($(#[$doc])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }

        impl PolicyPatch {
            /// This patch with `over` laid on top: what `over` sets wins.
            #[must_use]
            pub fn overlaid(&self, over: &Self) -> Self {
                Self { $($field: over.$field.clone().or_else(|| self.$field.clone()),)* }
            }

            pub fn is_empty(&self) -> bool { *self == Self::default() }

            /// The version of a job's spec that has a policy with these fields: older workers do not know the newer ones.
            pub fn spec_version(&self) -> u8 {
                let multiplier = self.retry_backoff.is_some_and(|backoff| !is_two(&backoff.multiplier)).then_some(2);
                let newer = [multiplier, $($(self.$field.is_some().then_some($version),)?)*];
                newer.into_iter().flatten().max().unwrap_or(1)
            }
        }

        impl Policy {
            /// The defaults with `patch` laid on top.
            pub fn resolve(patch: &PolicyPatch) -> Self {
                let base = Self::default();
                Self { $($field: patch.$field.clone().unwrap_or(base.$field),)* }
            }
        }
    };
}

policy! {
    /// Where its jobs wait.
    queue: QueueName = QueueName::default();
    /// 0–9, 9 first.
    priority: u8 = 5;
    /// Retries after the first attempt; `retries_unlimited` lifts it.
    max_retries: u32 = 3;
    /// Retry for ever, whatever `max_retries` says.
    retries_unlimited: bool = false;
    /// How long to wait before a retry.
    retry_backoff: Backoff = Backoff::default();
    /// Kinds of failure that are retried, as names or with a `*` at the end. Empty: every error of the guest's own. A trap
    /// is retried only when a pattern other than `*` names it (`deadline`, `trap:*`), `out_of_fuel` only when
    /// `retry_fuel_factor` gives it more; `bad_output` and fatal errors never.
    retry_on: Vec<String> = Vec::new(), since 2;
    /// Kinds that are not retried, whatever `retry_on` says.
    dont_retry_on: Vec<String> = Vec::new(), since 2;
    /// Each retry gets so many times the fuel of the attempt before it, up to the operator's bound.
    retry_fuel_factor: u32 = 1, since 2;
    /// Kinds of failure that are expected: logged by the worker as information, without frames.
    throws: Vec<String> = Vec::new(), since 2;
    /// Hard wall-clock limit of one attempt, milliseconds: the guest is stopped.
    time_limit_ms: u64 = 300_000;
    /// Soft limit, milliseconds: `should_stop` turns true so that the guest can clean up. 0: none.
    soft_time_limit_ms: u64 = 0;
    /// Fuel of one attempt (about one unit an instruction): 10^10 is several seconds of compute.
    fuel: u64 = 10_000_000_000;
    /// Linear memory of one attempt, summed over all its memories, bytes.
    memory_bytes: u64 = 64 << 20;
    /// When a delivery is over: `late`, when its outcome is settled, or `early`, when it is handed out. Early is *at most
    /// once*: a job whose worker was lost fails.
    acks: Acks = Acks::Late, since 2;
    /// Deliveries of one attempt before the job goes to the dead set as a worker killer.
    max_deliveries: u32 = 5;
    /// The fate of a job whose worker was lost.
    on_worker_lost: OnWorkerLost = OnWorkerLost::Requeue, since 2;
    /// A job that has not started this long after its submission expires, milliseconds. 0: never.
    expires_ms: u64 = 0;
    /// How long a finished job and its result are kept, milliseconds.
    result_ttl_ms: u64 = DEFAULT_RESULT_TTL_MS;
    /// How long a failed job is kept in the dead set, milliseconds. 0: it never gets there.
    dead_ttl_ms: u64 = DEFAULT_DEAD_TTL_MS;
    /// The result is not kept.
    ignore_result: bool = false, since 2;
    /// With `ignore_result`: false keeps no message of a failure either, and leaves the job out of the dead set.
    store_errors_even_if_ignored: bool = true, since 2;
    /// Jobs of this task started in a period across all workers, such as `100/m`. Empty: any number.
    rate_limit: String = String::new();
    /// So many of them may start at once before the rate holds. 1 spreads them evenly.
    rate_burst: u32 = 1, since 2;
    /// Jobs of this task that run at once across all workers. 0: any number.
    concurrency: u32 = 0, since 2;
    /// The key of the two limits below: an expression over the arguments, such as `kwargs.customer_id`. Its values also
    /// take turns. Empty: nothing.
    limit_key: String = String::new(), since 2;
    /// As `rate_limit`, for each value of `limit_key`.
    key_rate_limit: String = String::new(), since 2;
    key_rate_burst: u32 = 1, since 2;
    /// As `concurrency`, for each value of `limit_key`.
    key_concurrency: u32 = 0, since 2;
    /// Whether there may be two jobs that are alike.
    unique: Uniqueness = Uniqueness::Off, since 2;
    /// Two jobs are alike if these are equal: expressions over the arguments. Empty: all arguments. The task always counts.
    unique_by: Vec<String> = Vec::new(), since 2;
    /// A job keeps others like it away for so long, milliseconds. 0: until it has ended.
    unique_for_ms: u64 = 0, since 2;
    /// Starts so long after the last of the submissions like it, milliseconds; with it `unique` is `latest`. 0: at once.
    debounce_ms: u64 = 0, since 2;
    /// But never longer than this after the first of them, milliseconds. 0: however long.
    debounce_max_wait_ms: u64 = 0, since 2;
    /// Capabilities of the guest beyond logging, progress and sleeping. None is known yet.
    capabilities: Vec<String> = Vec::new();
}

/// When the broker takes a delivery for done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acks {
    #[default]
    Late,
    Early,
}

/// The fate of a job whose worker was lost while it ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnWorkerLost {
    /// It is handed out again, `max_deliveries` times at most.
    #[default]
    Requeue,
    /// It fails, and goes to the dead set.
    Dead,
    /// It fails, and does not go to the dead set.
    Fail,
}

/// Whether there may be two jobs that are alike.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Uniqueness {
    #[default]
    Off,
    /// The first wins: a later submission answers with it.
    First,
    /// The latest wins: it supersedes one that still waits.
    Latest,
}

/// Longest list of patterns or expressions in a policy.
pub const MAX_PATTERNS: usize = 32;
/// Longest pattern, bytes.
pub const MAX_PATTERN_BYTES: usize = 128;

settings! {
    /// The widest values that an operator allows, and the widest that make sense.
    #[derive(Debug, Clone)]
    pub struct PolicyBounds {
        /// An hour: an attempt holds a worker's slot all the while.
        pub max_time_limit_ms: u64 = 3_600_000,
        pub max_fuel: u64 = 100_000_000_000_000,
        pub max_memory_bytes: u64 = 256 << 20,
        /// Beside it, `retries_unlimited` is bounded by the lifetime.
        pub max_retries: u32 = 10_000,
        /// How long after its submission a job may run again, milliseconds. By default the longest delay, and a month for
        /// retries after it.
        pub max_lifetime_ms: u64 = 395 * 86_400_000,
        pub max_retention_ms: u64 = 365 * 86_400_000,
        pub max_deliveries: u32 = 100,
    }
}

/// A policy field with a value that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy field `{field}`: {problem}")]
pub struct PolicyError {
    pub field: &'static str,
    pub problem: String,
}

impl PolicyBounds {
    /// Checks a decided policy. The first field that breaks a bound is named, with the bound.
    pub fn check(&self, policy: &Policy) -> Result<(), PolicyError> {
        let p = policy;
        range("priority", p.priority.into(), 0, 9)?;
        set_by("--max-retries", range("max_retries", p.max_retries.into(), 0, self.max_retries.into()))?;
        set_by("--max-time-limit", range("time_limit_ms", p.time_limit_ms, 1, self.max_time_limit_ms))?;
        set_by("--max-fuel", range("fuel", p.fuel, 1, self.max_fuel))?;
        range("memory_bytes", p.memory_bytes, 64 << 10, self.max_memory_bytes)?;
        range("max_deliveries", p.max_deliveries.into(), 1, self.max_deliveries.into())?;
        let max = self.max_retention_ms;
        for (field, kept_ms) in
            [("expires_ms", p.expires_ms), ("result_ttl_ms", p.result_ttl_ms), ("dead_ttl_ms", p.dead_ttl_ms)]
        {
            set_by("--max-retention", range(field, kept_ms, 0, max))?;
        }
        range("retry_backoff.max_ms", p.retry_backoff.max_ms, p.retry_backoff.initial_ms, self.max_retention_ms)?;
        if p.soft_time_limit_ms >= p.time_limit_ms {
            let problem = format!("{} must be below time_limit_ms, {}", p.soft_time_limit_ms, p.time_limit_ms);
            return Err(refused("soft_time_limit_ms", problem));
        }
        range("retry_backoff.multiplier", p.retry_backoff.multiplier.into(), 1, 100)?;
        range("retry_fuel_factor", p.retry_fuel_factor.into(), 1, 1_000)?;
        range("rate_burst", p.rate_burst.into(), 1, 1_000_000)?;
        range("key_rate_burst", p.key_rate_burst.into(), 1, 1_000_000)?;
        for (field, rate) in [("rate_limit", &p.rate_limit), ("key_rate_limit", &p.key_rate_limit)] {
            Rate::parse(rate, 1).map_err(|problem| refused(field, problem))?;
        }
        check_patterns("retry_on", &p.retry_on)?;
        check_patterns("dont_retry_on", &p.dont_retry_on)?;
        check_patterns("throws", &p.throws)?;
        p.check_keys()?;
        range("unique_for_ms", p.unique_for_ms, 0, self.max_retention_ms)?;
        range("debounce_ms", p.debounce_ms, 0, self.max_retention_ms)?;
        range("debounce_max_wait_ms", p.debounce_max_wait_ms, 0, self.max_retention_ms)?;
        if let Some(name) = p.capabilities.first() {
            let problem =
                format!("{name:?}: policies grant nothing; a module declares what it asks for in its permissions");
            return Err(refused("capabilities", problem));
        }
        Ok(())
    }
}

fn range(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), PolicyError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(refused(field, format!("{value} is outside {min} to {max}")))
}

/// Names the server's option that set the bound.
fn set_by(option: &str, checked: Result<(), PolicyError>) -> Result<(), PolicyError> {
    checked.map_err(|e| PolicyError { problem: format!("{}, the bound of the server's `{option}`", e.problem), ..e })
}

fn refused(field: &'static str, problem: impl Into<String>) -> PolicyError {
    PolicyError { field, problem: problem.into() }
}

fn check_patterns(field: &'static str, patterns: &[String]) -> Result<(), PolicyError> {
    let fits = |p: &String| (1..=MAX_PATTERN_BYTES).contains(&p.len()) && !p[..p.len() - 1].contains('*');
    if patterns.len() <= MAX_PATTERNS && patterns.iter().all(|p| p.is_ascii() && fits(p)) {
        return Ok(());
    }
    Err(refused(field, format!("write at most {MAX_PATTERNS} kinds of failure, such as `Timeout` or `trap:*`")))
}

impl Policy {
    /// The fields that depend on each other: keys and what is counted by them.
    fn check_keys(&self) -> Result<(), PolicyError> {
        let expression = |field, text: &String| Expression::parse(text).map(drop).map_err(|e| refused(field, e));
        if !self.limit_key.is_empty() {
            expression("limit_key", &self.limit_key)?;
        } else if !self.key_rate_limit.is_empty() || self.key_concurrency > 0 {
            return Err(refused("limit_key", "set it as well: the limits for each key need to know the key"));
        }
        if self.unique_by.len() > MAX_PATTERNS {
            return Err(refused("unique_by", format!("at most {MAX_PATTERNS} expressions")));
        }
        self.unique_by.iter().try_for_each(|text| expression("unique_by", text))?;
        if self.unique_for_ms > 0 && self.unique != Uniqueness::First {
            let problem = "it needs `unique` to be `first`: only the first job keeps others away";
            return Err(refused("unique_for_ms", problem));
        }
        if self.debounce_ms > 0 && self.unique == Uniqueness::First {
            let problem = "it needs `unique` to be `latest`: the last submission is the one that runs";
            return Err(refused("debounce_ms", problem));
        }
        if self.debounce_max_wait_ms > 0 && self.debounce_ms == 0 {
            return Err(refused("debounce_max_wait_ms", "set debounce_ms as well"));
        }
        Ok(())
    }

    /// Whether a failure of this kind is one that a trap or an error of the guest may be retried for.
    pub fn retries(&self, kind: &str, is_trap: bool) -> bool {
        let named = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, kind));
        if kind == "bad_output" || named(&self.dont_retry_on) {
            return false;
        }
        match is_trap {
            false => self.retry_on.is_empty() || named(&self.retry_on),
            true if kind == "out_of_fuel" && self.retry_fuel_factor < 2 => false,
            true => self.retry_on.iter().any(|pattern| pattern != "*" && matches(pattern, kind)),
        }
    }

    /// Whether a job may answer a submission of another one like it.
    pub fn is_unique(&self) -> bool {
        self.unique != Uniqueness::Off || self.debounce_ms > 0
    }

    /// Whether nothing is kept of a failure: neither its message nor a place in the dead set.
    pub fn forgets_failures(&self) -> bool {
        self.ignore_result && !self.store_errors_even_if_ignored
    }

    /// Whether a failure of this kind is an expected one.
    pub fn expects(&self, kind: &str) -> bool {
        self.throws.iter().any(|pattern| matches(pattern, kind))
    }

    /// The fuel of an attempt after so many retries, within `max`.
    pub fn fuel_after(&self, retries: u32, max: u64) -> u64 {
        let factor = u64::from(self.retry_fuel_factor).saturating_pow(retries);
        // Fuel that was set above the bound before the operator lowered it stays as it is.
        self.fuel.saturating_mul(factor).min(max.max(self.fuel))
    }
}

/// `pattern` is a name, or the beginning of one and a `*`. The name of a type of errors stands for all of its variants, too.
fn matches(pattern: &str, kind: &str) -> bool {
    let is = |kind: &str| match pattern.strip_suffix('*') {
        Some(beginning) => kind.starts_with(beginning),
        None => kind.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")),
    };
    // A panic is a trap, and policies may still have the name that it had as one.
    is(kind) || kind == PANIC && is("trap:unreachable")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn call_wins_over_server_over_code_over_defaults() {
        let code = PolicyPatch { priority: Some(1), max_retries: Some(1), fuel: Some(1), ..Default::default() };
        let server = PolicyPatch { priority: Some(2), max_retries: Some(2), ..Default::default() };
        let call = PolicyPatch { priority: Some(3), ..Default::default() };
        let policy = Policy::resolve(&code.overlaid(&server).overlaid(&call));
        assert_eq!((policy.priority, policy.max_retries, policy.fuel), (3, 2, 1));
        assert_eq!(policy.memory_bytes, Policy::default().memory_bytes);
    }

    #[test]
    fn defaults_are_within_the_bounds() {
        PolicyBounds::default().check(&Policy::default()).unwrap();
    }

    #[test]
    fn absurd_values_are_refused_by_name() {
        let bounds = PolicyBounds::default();
        let check = |patch: PolicyPatch| bounds.check(&Policy::resolve(&patch)).unwrap_err().field;
        assert_eq!(check(PolicyPatch { priority: Some(10), ..Default::default() }), "priority");
        assert_eq!(check(PolicyPatch { memory_bytes: Some(u64::MAX), ..Default::default() }), "memory_bytes");
        assert_eq!(check(PolicyPatch { time_limit_ms: Some(3_600_001), ..Default::default() }), "time_limit_ms");
        assert_eq!(check(PolicyPatch { fuel: Some(0), ..Default::default() }), "fuel");
        assert_eq!(
            check(PolicyPatch { soft_time_limit_ms: Some(u64::MAX), ..Default::default() }),
            "soft_time_limit_ms"
        );
        assert_eq!(check(PolicyPatch { rate_limit: Some("1/y".into()), ..Default::default() }), "rate_limit");
    }

    #[test]
    fn a_value_above_an_operators_bound_is_refused_with_the_bound_and_its_option() {
        let bounds = PolicyBounds { max_retention_ms: 500, max_retries: 4, ..PolicyBounds::default() };
        for (patch, bound, option) in [
            (r#"{"max_retries":5}"#, " 4,", "--max-retries"),
            (r#"{"result_ttl_ms":501}"#, " 500,", "--max-retention"),
            (r#"{"result_ttl_ms":1,"dead_ttl_ms":501}"#, " 500,", "--max-retention"),
            (r#"{"fuel":18446744073709551615}"#, " 100000000000000,", "--max-fuel"),
        ] {
            let problem = bounds.check(&Policy::resolve(&serde_json::from_str(patch).unwrap())).unwrap_err().problem;
            assert!(problem.contains(bound) && problem.contains(option), "{problem}");
        }
    }

    #[test]
    fn traps_are_retried_only_when_they_are_named() {
        let policy = |on: &[&str], not: &[&str], factor| Policy {
            retry_on: on.iter().map(ToString::to_string).collect(),
            dont_retry_on: not.iter().map(ToString::to_string).collect(),
            retry_fuel_factor: factor,
            ..Policy::default()
        };
        let all = policy(&[], &["Void"], 1);
        assert!(all.retries("Timeout", false) && !all.retries("Void", false) && !all.retries("deadline", true));
        let star = policy(&["*", "trap:*"], &[], 1);
        assert!(
            star.retries("x", false)
                && star.retries("trap:unreachable", true)
                && star.retries(PANIC, true)
                && !star.retries("memory", true)
        );
        assert!(!policy(&["out_of_fuel"], &[], 1).retries("out_of_fuel", true));
        assert!(policy(&["out_of_fuel"], &[], 2).retries("out_of_fuel", true));
        assert!(!policy(&["bad_*", "bad_output"], &[], 2).retries("bad_output", true));
        assert!(!policy(&["Timeout"], &[], 1).retries("Other", false));
    }

    #[test]
    fn a_type_of_errors_stands_for_its_variants_and_a_panic_has_its_older_name_too() {
        let matching = |pattern, kind| matches(pattern, kind);
        assert!(matching("PayError", "PayError::Declined") && matching("PayError::Declined", "PayError::Declined"));
        assert!(!matching("PayError::Declined", "PayError::Timeout") && !matching("Pay", "PayError::Declined"));
        assert!(matching("panic", "panic") && matching("trap:unreachable", "panic") && matching("trap:*", "panic"));
        assert!(!matching("panic", "trap:unreachable") && !matching("trap:stack", "panic"));
    }

    #[test]
    fn each_retry_gets_more_fuel_within_the_bound() {
        let policy = Policy { fuel: 10, retry_fuel_factor: 3, ..Policy::default() };
        assert_eq!([0, 1, 2, 9].map(|n| policy.fuel_after(n, 100)), [10, 30, 90, 100]);
        assert_eq!(policy.fuel_after(u32::MAX, 5), 10);
    }

    #[test]
    fn fields_that_need_each_other_are_checked_together() {
        let bounds = PolicyBounds::default();
        let check =
            |patch: &str| bounds.check(&Policy::resolve(&serde_json::from_str(patch).unwrap())).map_err(|e| e.field);
        assert_eq!(check(r#"{"key_concurrency":1}"#), Err("limit_key"));
        assert_eq!(check(r#"{"limit_key":"customer"}"#), Err("limit_key"));
        assert_eq!(check(r#"{"limit_key":"kwargs.customer","key_concurrency":1}"#), Ok(()));
        assert_eq!(check(r#"{"debounce_ms":5,"unique":"first"}"#), Err("debounce_ms"));
        assert_eq!(check(r#"{"retry_on":["a*b"]}"#), Err("retry_on"));
    }

    #[test]
    fn a_spec_without_newer_fields_can_be_read_by_older_workers() {
        let version = |patch: &str| serde_json::from_str::<PolicyPatch>(patch).unwrap().spec_version();
        assert_eq!(version(r#"{"max_retries":3,"retry_backoff":{"initial_ms":5}}"#), 1);
        assert_eq!(version(r#"{"concurrency":3}"#), 2);
        assert_eq!(version(r#"{"retry_backoff":{"multiplier":3}}"#), 2);
    }

    #[test]
    fn an_unknown_field_is_an_error_and_not_a_silent_default() {
        assert!(serde_json::from_str::<PolicyPatch>(r#"{"max_retry": 3}"#).is_err());
    }
}
