//! So many in a period: rates as text, and the arithmetic that holds them across any number of workers.

use serde::{Deserialize, Serialize};

/// At most `count` in each `period_ms`, of which `burst` may come at once.
///
/// Held by the generic cell rate algorithm: the time is stored (in microseconds) at which what was used would have come
/// back. No counter has to be reset, and the broker's clock alone decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub count: u32,
    pub period_ms: u64,
    pub burst: u32,
}

/// How much of a rate has been used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Used {
    /// Until when, microseconds.
    pub until_us: u64,
    /// `Rate::interval_us` of whoever used it last; 0 when that is not known.
    pub interval_us: u64,
    /// Its burst.
    pub burst: u32,
}

/// None may start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// From then on one may, milliseconds.
    pub until_ms: u64,
    /// To be stored, so that it comes back by this rate from now on: another one had used it.
    pub store: Option<Used>,
}

/// Brokers open what a rate has parked some hundred times a second: faster rates let as many start at once as come in this
/// time, milliseconds.
const GRAIN_MS: u64 = 20;
/// With slower rates so much of a start's lateness delays none of those after it, milliseconds. A machine with much to do is so
/// late.
const LATE_MS: u64 = 200;

impl Rate {
    /// Reads `100/m`: per `s`, `m` or `h`. None for an empty text. The burst is at least what comes in 20 ms.
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
        let least = (u64::from(count) * GRAIN_MS / period_ms).max(1);
        Ok(Some(Self { count, period_ms, burst: burst.max(least as u32) }))
    }

    /// Between two of them, microseconds; never 0.
    pub fn interval_us(&self) -> u64 {
        (self.period_ms.saturating_mul(1_000) / u64::from(self.count.max(1))).max(1)
    }

    /// What is stored when one more starts at `now_ms`, or until when none may. `used` is what was stored before, perhaps by
    /// one with another rate: as many starts as that one had used are used of this one.
    pub fn take(&self, now_ms: u64, used: Option<Used>) -> Result<Used, Wait> {
        let (now_us, interval_us) = (now_ms.saturating_mul(1_000), self.interval_us());
        let ahead = interval_us.saturating_mul(u64::from(self.burst.max(1)));
        let debt = used.map_or(0, |used| self.debt_us(used, now_us, ahead));
        let late = used.map_or(0, |used| self.late_us(used, now_us));
        let until_us = now_us.saturating_add(debt).saturating_sub(late).saturating_add(interval_us);
        if until_us <= now_us.saturating_add(ahead) {
            return Ok(Used { until_us, interval_us, burst: self.burst });
        }
        let is_anothers = used.is_some_and(|used| used.interval_us != interval_us);
        let starts = (debt as f64 / interval_us as f64).ceil() as u32;
        let store = Used { until_us: now_us.saturating_add(debt), interval_us, burst: self.burst.max(starts) };
        Err(Wait { until_ms: (until_us - ahead).div_ceil(1_000), store: is_anothers.then_some(store) })
    }

    /// How much of a start's lateness is made up for: it counts from when it was due, otherwise each that begins a moment late
    /// would delay all after it. With a burst there is room for it already.
    ///
    /// Never more starts than the rate says: each counts from `LATE_MS` and one interval before it at most, whichever is less, so
    /// that `n` starts take at least `n - 1` intervals less that, and a period sees one more than its count at most. One that is
    /// late by more than an interval gets nothing, because nothing tells it from one that follows a pause in which nobody waited:
    /// after each pause two would start at once.
    fn late_us(&self, used: Used, now_us: u64) -> u64 {
        let (late, interval_us) = (now_us.saturating_sub(used.until_us), self.interval_us());
        let counts = self.burst <= 1 && used.interval_us == interval_us && late <= interval_us;
        if counts { late.min(LATE_MS * 1_000) } else { 0 }
    }

    /// How long it takes for what was used to come back. Brokers in other languages calculate the same, in floats.
    fn debt_us(&self, used: Used, now_us: u64, ahead: u64) -> u64 {
        let (debt, interval_us) = (used.until_us.saturating_sub(now_us), self.interval_us());
        // More than its burst nobody can have used: the clock was set back.
        let most = used.interval_us.saturating_mul(u64::from(used.burst.max(1)));
        match used.interval_us {
            0 if debt > ahead => ahead - interval_us,
            0 => debt,
            before if before == interval_us => debt.min(most),
            before => (debt.min(most) as f64 / before as f64 * interval_us as f64).floor() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn until(taken: Result<Used, Wait>) -> u64 {
        taken.unwrap_err().until_ms
    }

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
        let first = rate.take(1_000, None).ok();
        assert_eq!(until(rate.take(1_000, first)), 1_600);
        assert!(rate.take(1_599, first).is_err() && rate.take(1_600, first).is_ok());
    }

    #[test]
    fn starts_that_are_a_little_late_are_as_many_as_the_rate_says_and_never_more() {
        for (text, starts) in [("90/s", 90), ("50/s", 50), ("10/s", 10), ("600/m", 10), ("3/s", 3)] {
            let rate = Rate::parse(text, 1).unwrap().unwrap();
            let (mut used, mut now, mut taken) = (None, 1_000_000, 0);
            // Each is opened up to 30 ms after its time, and less than an interval.
            for n in 0.. {
                match rate.take(now, used) {
                    Ok(next) => (used, taken) = (Some(next), taken + 1),
                    Err(wait) => now = wait.until_ms + [0, 10, 30, 7, 25][n % 5].min(rate.interval_us() / 1_000 - 1),
                }
                if now >= 1_010_000 {
                    break;
                }
            }
            assert!((starts * 98 / 10..=starts * 10 + 1).contains(&taken), "{text}: {taken}");
        }
        // A long pause is not made up for.
        let rate = Rate { count: 10, period_ms: 1_000, burst: 1 };
        let used = rate.take(1_000, None).ok();
        assert_eq!(until(rate.take(1_201, rate.take(1_201, used).ok())), 1_301);
        assert_eq!(until(rate.take(1_199, rate.take(1_199, used).ok())), 1_200);
    }

    #[test]
    fn a_start_that_is_late_by_more_than_is_made_up_for_loses_the_rest_only() {
        for (late_ms, starts) in [(199, 101), (201, 100), (250, 95), (400, 83)] {
            let rate = Rate { count: 1, period_ms: 1_000, burst: 1 };
            let (mut used, mut now, mut taken) = (None, 1_000_000, 0);
            while now < 1_100_000 {
                match rate.take(now, used) {
                    Ok(next) => (used, taken) = (Some(next), taken + 1),
                    Err(wait) => now = wait.until_ms + late_ms,
                }
            }
            assert!((starts - 1..=(starts + 1).min(101)).contains(&taken), "{late_ms} ms late: {taken}");
        }
    }

    #[test]
    fn a_rate_that_was_raised_holds_at_once() {
        let slow = Rate { count: 1, period_ms: 3_600_000, burst: 100 };
        let used = (0..100).fold(None, |used, _| slow.take(1_000, used).ok());
        let fast = Rate { count: 1_000, period_ms: 1_000, burst: 1 };
        // A hundred starts were used: with this rate they come back in 100 ms.
        let wait = fast.take(1_000, used).unwrap_err();
        assert_eq!(wait.until_ms, 1_100);
        assert_eq!(slow.take(1_000, used), Err(Wait { until_ms: 3_601_000, store: None }));
        // It is theirs now, and comes back as they do.
        assert_eq!(until(fast.take(1_060, wait.store)), 1_100);
        assert!(fast.take(1_100, wait.store).is_ok());
    }

    #[test]
    fn one_with_a_smaller_burst_waits_and_gives_nothing_back_to_the_others() {
        let wide = Rate { count: 10, period_ms: 1_000, burst: 100 };
        let narrow = Rate { burst: 1, ..wide };
        let used = (0..50).fold(None, |used, _| wide.take(1_000, used).ok());
        assert_eq!(until(narrow.take(1_000, used)), 6_000);
        let after = narrow.take(6_000, used).ok();
        let more = (0..200).try_fold(after, |used, n| wide.take(6_000, used).map(Some).map_err(|_| n));
        assert_eq!(more, Err(99));
    }

    #[test]
    fn a_clock_that_was_set_back_costs_no_more_than_the_burst() {
        let rate = Rate { count: 1, period_ms: 1_000, burst: 2 };
        let used = rate.take(1_000_000, rate.take(1_000_000, None).ok()).ok();
        assert_eq!(until(rate.take(5_000, used)), 6_000);
    }

    #[test]
    fn a_fast_rate_lets_start_at_once_what_comes_in_twenty_milliseconds() {
        let burst = |text, burst| Rate::parse(text, burst).unwrap().unwrap().burst;
        assert_eq!([burst("50/s", 1), burst("100/s", 1), burst("1000/s", 1), burst("1000/s", 100)], [1, 2, 20, 100]);
        assert_eq!(burst("6000/m", 1), 2);
    }

    proptest! {
        #[test]
        fn late_starts_are_never_more_than_the_rate_says(
            count in 1..8_u32, lateness in prop::collection::vec(0..1_500_u64, 1..200)
        ) {
            let rate = Rate { count, period_ms: 1_000, burst: 1 };
            let (mut now, mut stored, mut taken) = (1_000_000, None, Vec::new());
            for late in lateness {
                match rate.take(now, stored) {
                    Ok(next) => { stored = Some(next); taken.push(now); }
                    Err(wait) => now = wait.until_ms + late,
                }
            }
            for from in &taken {
                let within = taken.iter().filter(|at| (*from..from + 1_000).contains(at)).count();
                prop_assert!(within as u32 <= count + 1);
            }
        }

        #[test]
        fn no_period_sees_more_than_its_count_and_a_burst(
            count in 1..50_u32, burst in 1..20_u32, steps in prop::collection::vec(0..400_u64, 1..400)
        ) {
            let rate = Rate { count, period_ms: 1_000, burst };
            let (mut now, mut stored, mut taken) = (1_000_000, None, Vec::new());
            for step in steps {
                now += step / 20;
                match rate.take(now, stored) {
                    Ok(next) => { stored = Some(next); taken.push(now); }
                    Err(wait) => {
                        let at = wait.until_ms;
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
