//! So many in a period: rates as text, and the arithmetic that holds them across any number of workers.

use serde::{Deserialize, Serialize};

/// At most `count` in each `period_ms`, of which `burst` may come at once.
///
/// Held by the generic cell rate algorithm: one number is stored, the time (in microseconds) at which the rate would be
/// used up exactly. No counter has to be reset, and the broker's clock alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub count: u32,
    pub period_ms: u64,
    pub burst: u32,
}

impl Rate {
    /// Reads `100/m`: per `s`, `m` or `h`. None for an empty text.
    pub fn parse(text: &str, burst: u32) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let hint = || {
            let shown: String = text.chars().take(32).collect();
            format!("{shown:?} is not a rate: write a number from 1 to 1000000 and /s, /m or /h")
        };
        let (number, unit) = text.split_once('/').ok_or_else(hint)?;
        let count: u32 = number.trim().parse().map_err(|_| hint())?;
        let period_ms = match unit.trim() {
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(hint()),
        };
        if !(1..=1_000_000).contains(&count) {
            return Err(hint());
        }
        Ok(Some(Self { count, period_ms, burst: burst.max(1) }))
    }

    /// Between two of them, microseconds; never 0.
    pub fn interval_us(&self) -> u64 {
        (self.period_ms.saturating_mul(1_000) / u64::from(self.count.max(1))).max(1)
    }

    /// What is stored when one more starts at `now_ms`, or the time (milliseconds) from which one may. `used_until_us` is
    /// what was stored before; 0 for nothing.
    pub fn take(&self, now_ms: u64, used_until_us: u64) -> Result<u64, u64> {
        let now_us = now_ms.saturating_mul(1_000);
        let ahead = self.interval_us().saturating_mul(u64::from(self.burst.max(1)));
        // More than its burst a rate cannot have used: what is stored is of another rate, or of a clock that was set back.
        let used = if used_until_us > now_us.saturating_add(ahead) {
            now_us + ahead - self.interval_us()
        } else {
            used_until_us
        };
        let next = used.max(now_us).saturating_add(self.interval_us());
        if next <= now_us.saturating_add(ahead) {
            return Ok(next);
        }
        Err((next - ahead).div_ceil(1_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_is_a_number_and_a_unit() {
        assert_eq!(Rate::parse("", 1), Ok(None));
        assert_eq!(Rate::parse("100/m", 3), Ok(Some(Rate { count: 100, period_ms: 60_000, burst: 3 })));
        for bad in ["100", "0/s", "5/d", "-1/s", "1000001/s", "x/m"] {
            assert!(Rate::parse(bad, 1).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_a_burst_they_are_spread_evenly() {
        let rate = Rate { count: 100, period_ms: 60_000, burst: 1 };
        let first = rate.take(1_000, 0).unwrap();
        assert_eq!(rate.take(1_000, first), Err(1_600));
        assert!(rate.take(1_599, first).is_err() && rate.take(1_600, first).is_ok());
    }

    #[test]
    fn a_rate_that_was_raised_holds_at_once() {
        let slow = Rate { count: 1, period_ms: 3_600_000, burst: 100 };
        let stored = (0..100).fold(0, |stored, _| slow.take(1_000, stored).unwrap());
        let fast = Rate { count: 1_000, period_ms: 1_000, burst: 1 };
        assert_eq!(fast.take(1_000, stored), Ok(1_001_000));
        assert_eq!(fast.take(1_000, 1_001_000), Err(1_001));
    }

    proptest! {
        #[test]
        fn no_period_sees_more_than_its_count_and_a_burst(
            count in 1..50_u32, burst in 1..20_u32, steps in prop::collection::vec(0..400_u64, 1..400)
        ) {
            let rate = Rate { count, period_ms: 1_000, burst };
            let (mut now, mut stored, mut taken) = (1_000_000, 0, Vec::new());
            for step in steps {
                now += step / 20;
                match rate.take(now, stored) {
                    Ok(next) => { stored = next; taken.push(now); }
                    Err(at) => {
                        prop_assert!(at > now);
                        prop_assert!(rate.take(at, stored).is_ok() && rate.take(at - 1, stored).is_err());
                    }
                }
            }
            for from in &taken {
                let within = taken.iter().filter(|at| (*from..from + 1_000).contains(at)).count();
                prop_assert!(within as u32 <= count + burst);
            }
        }
    }
}
