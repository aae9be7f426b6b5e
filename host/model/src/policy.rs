//! How a task's jobs run. A `PolicyPatch` holds only what somebody set; patches are laid over the defaults in the
//! order *defaults < code < server < call*, and bounds set by the operator are checked on the result.

use serde::{Deserialize, Serialize};

use crate::{Backoff, QueueName};

/// Result retention, 1 day: Celery's `result_expires`.
pub const DEFAULT_RESULT_TTL_MS: u64 = 86_400_000;
/// Dead-set retention, 14 days: two sprints to notice and redrive.
pub const DEFAULT_DEAD_TTL_MS: u64 = 14 * 86_400_000;

macro_rules! policy {
    ($($(#[$doc:meta])* $field:ident: $type:ty = $default:expr;)*) => {
        /// How a job runs, with every field decided.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Policy { $($(#[$doc])* pub $field: $type,)* }

        impl Default for Policy {
            fn default() -> Self { Self { $($field: $default,)* } }
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
    /// Hard wall-clock limit of one attempt, milliseconds: the guest is stopped.
    time_limit_ms: u64 = 300_000;
    /// Soft limit, milliseconds: `should_stop` turns true so that the guest can clean up. 0: none.
    soft_time_limit_ms: u64 = 0;
    /// Fuel of one attempt (about one unit an instruction): 10^10 is several seconds of compute.
    fuel: u64 = 10_000_000_000;
    /// Linear memory of one attempt, summed over all its memories, bytes.
    memory_bytes: u64 = 64 << 20;
    /// Deliveries of one attempt before the job goes to the dead set as a worker killer.
    max_deliveries: u32 = 5;
    /// A job that has not started this long after its submission expires, milliseconds. 0: never.
    expires_ms: u64 = 0;
    /// How long a finished job and its result are kept, milliseconds.
    result_ttl_ms: u64 = DEFAULT_RESULT_TTL_MS;
    /// How long a failed job is kept in the dead set, milliseconds.
    dead_ttl_ms: u64 = DEFAULT_DEAD_TTL_MS;
    /// Jobs of this task started in a period across all workers, such as `100/m`. Recorded, not yet enforced; empty: none.
    rate_limit: String = String::new();
    /// What a guest may do beyond logging, progress and sleeping. None is known yet.
    capabilities: Vec<String> = Vec::new();
}

/// The widest values that an operator allows, and the widest that make sense.
#[derive(Debug, Clone)]
pub struct PolicyBounds {
    /// An hour by default: an attempt holds a worker's slot all the while.
    pub max_time_limit_ms: u64,
    pub max_fuel: u64,
    pub max_memory_bytes: u64,
    pub max_retries: u32,
    pub max_retention_ms: u64,
    pub max_deliveries: u32,
}

impl Default for PolicyBounds {
    fn default() -> Self {
        Self {
            max_time_limit_ms: 3_600_000,
            max_fuel: 100_000_000_000_000,
            max_memory_bytes: 256 << 20,
            max_retries: 10_000,
            max_retention_ms: 365 * 86_400_000,
            max_deliveries: 100,
        }
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
        range("max_retries", p.max_retries.into(), 0, self.max_retries.into())?;
        range("time_limit_ms", p.time_limit_ms, 1, self.max_time_limit_ms)?;
        range("fuel", p.fuel, 1, self.max_fuel)?;
        range("memory_bytes", p.memory_bytes, 64 << 10, self.max_memory_bytes)?;
        range("max_deliveries", p.max_deliveries.into(), 1, self.max_deliveries.into())?;
        range("expires_ms", p.expires_ms, 0, self.max_retention_ms)?;
        range("result_ttl_ms", p.result_ttl_ms, 0, self.max_retention_ms)?;
        range("dead_ttl_ms", p.dead_ttl_ms, 0, self.max_retention_ms)?;
        range("retry_backoff.max_ms", p.retry_backoff.max_ms, p.retry_backoff.initial_ms, self.max_retention_ms)?;
        if p.soft_time_limit_ms >= p.time_limit_ms {
            let problem = format!("{} must be below time_limit_ms, {}", p.soft_time_limit_ms, p.time_limit_ms);
            return Err(PolicyError { field: "soft_time_limit_ms", problem });
        }
        if !p.rate_limit.is_empty() {
            check_rate(&p.rate_limit).map_err(|problem| PolicyError { field: "rate_limit", problem })?;
        }
        if let Some(name) = p.capabilities.first() {
            let problem = format!("{name:?} is not a capability of this server, which knows none yet");
            return Err(PolicyError { field: "capabilities", problem });
        }
        Ok(())
    }
}

fn range(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), PolicyError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(PolicyError { field, problem: format!("{value} is outside {min} to {max}") })
}

fn check_rate(text: &str) -> Result<(), String> {
    let hint =
        || format!("{:?} is not a rate: write a number and /s, /m or /h", text.chars().take(32).collect::<String>());
    let (number, unit) = text.split_once('/').ok_or_else(hint)?;
    let number: u32 = number.trim().parse().map_err(|_| hint())?;
    if number == 0 || !matches!(unit.trim(), "s" | "m" | "h") { Err(hint()) } else { Ok(()) }
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
    fn an_unknown_field_is_an_error_and_not_a_silent_default() {
        assert!(serde_json::from_str::<PolicyPatch>(r#"{"max_retry": 3}"#).is_err());
    }
}
