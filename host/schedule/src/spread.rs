//! Where within its time a fire happens: a stable place in a window, and jitter.
//!
//! Both are hashes, so every process computes the same one. SHA-256 of a label, the key and, for jitter, the nominal
//! time; its first 8 bytes, big-endian, scaled to the length. The formula is part of the contract between releases: a
//! window that moved would fire some schedules twice as late and others at once.

use sha2::{Digest as _, Sha256};
use umbel_model::UnixMs;

/// How long after each nominal time a schedule with a window fires, milliseconds: the same after all of them, below
/// `window_ms` and before the next nominal time.
///
/// `key` names the schedule among all tenants. With `next` before the end of the window the place is scaled down.
pub fn offset_ms(key: &str, window_ms: u64, nominal: UnixMs, next: Option<UnixMs>) -> u64 {
    scaled(hash("umbel schedule window", key, None), window_ms, nominal, next)
}

/// How long after one nominal time a schedule with jitter fires, milliseconds: another after each of them, below
/// `jitter_ms` and before the next nominal time.
///
/// With a window too, `next` is the next nominal time less the offset in the window.
pub fn jitter_ms(key: &str, nominal: UnixMs, jitter_ms: u64, next: Option<UnixMs>) -> u64 {
    scaled(hash("umbel schedule jitter", key, Some(nominal)), jitter_ms, nominal, next)
}

fn hash(label: &str, key: &str, nominal: Option<UnixMs>) -> u64 {
    let mut hash = Sha256::new();
    hash.update(label);
    hash.update([0]);
    hash.update(nominal.unwrap_or_default().to_be_bytes());
    hash.update(key);
    let digest = hash.finalize();
    let (first, _) = digest.split_at(8);
    first.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// From 0 to below the length, and to below what is left until `next`.
fn scaled(hash: u64, length_ms: u64, nominal: UnixMs, next: Option<UnixMs>) -> u64 {
    let length_ms = next.map_or(length_ms, |next| length_ms.min(next.saturating_sub(nominal)));
    ((u128::from(hash) * u128::from(length_ms)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_place_in_a_window_is_that_of_every_release() {
        assert_eq!(offset_ms("acme/nightly", 3_600_000, 0, None), 742_696);
        assert_eq!(jitter_ms("acme/nightly", 1_800_000_000_000, 60_000, None), 48_068);
    }

    #[test]
    fn places_are_spread_evenly() {
        let mut tenths = [0; 10];
        for number in 0..10_000 {
            tenths[offset_ms(&format!("acme/{number}"), 10, 0, None) as usize] += 1;
        }
        assert!(tenths.iter().all(|count| (800..1_200).contains(count)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn a_fire_stays_before_the_next(key in ".{0,20}", nominal: u32, length: u64, to_next in 0..100_000u64) {
            let nominal = UnixMs::from(nominal);
            let next = nominal + to_next;
            for place in [offset_ms(&key, length, nominal, Some(next)), jitter_ms(&key, nominal, length, Some(next))] {
                prop_assert!(place == 0 || place < length.min(to_next));
            }
            prop_assert_eq!(offset_ms(&key, 1_000, nominal, None), offset_ms(&key, 1_000, 0, None));
        }
    }
}
