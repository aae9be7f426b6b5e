//! How long to wait before a retry.

use serde::{Deserialize, Serialize};

use crate::settings;

settings! {
    /// Exponential backoff with full jitter: `min(max, initial · multiplier^retries)`, then a uniform part of it.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    pub struct Backoff {
        /// Before the first retry, milliseconds.
        pub initial_ms: u64 = 1_000,
        /// Never longer than this, milliseconds. Celery's `retry_backoff_max` is 600 s.
        pub max_ms: u64 = 600_000,
        /// Each delay is so many times the one before it. 1: they are all the same.
        #[serde(skip_serializing_if = "is_two")]
        pub multiplier: u32 = 2,
        /// Spread evenly over 0..delay so that jobs that failed together do not come back together.
        pub jitter: bool = true,
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_two(multiplier: &u32) -> bool {
    *multiplier == 2
}

impl Backoff {
    /// The delay before retry number `retries` (0 for the first), milliseconds. `random` is uniform in 0..=u64::MAX.
    pub fn delay_ms(&self, retries: u32, random: u64) -> u64 {
        let factor = u64::from(self.multiplier).saturating_pow(retries);
        let full = self.initial_ms.saturating_mul(factor).min(self.max_ms);
        if !self.jitter {
            return full;
        }
        // The high half of a 128-bit product maps `random` onto 0..=full without bias that matters.
        ((u128::from(random) * (u128::from(full) + 1)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn doubles_until_the_maximum() {
        let backoff = Backoff { initial_ms: 1_000, max_ms: 600_000, jitter: false, ..Backoff::default() };
        let delays: Vec<u64> = (0..12).map(|n| backoff.delay_ms(n, 0)).collect();
        assert_eq!(delays[..4], [1_000, 2_000, 4_000, 8_000]);
        assert_eq!(delays[9..], [512_000, 600_000, 600_000]);
    }

    proptest! {
        #[test]
        fn jitter_stays_within_the_full_delay(initial in 0..u64::MAX, max in 0..u64::MAX, n in 0..u32::MAX, multiplier in 1..101_u32, r: u64) {
            let plain = Backoff { initial_ms: initial, max_ms: max, multiplier, jitter: false };
            let jittered = Backoff { jitter: true, ..plain };
            prop_assert!(jittered.delay_ms(n, r) <= plain.delay_ms(n, r));
            prop_assert!(plain.delay_ms(n, r) <= max);
        }
    }
}
