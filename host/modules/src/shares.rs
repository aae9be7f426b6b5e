//! Who gives way in a cache that tenants share: whoever holds the most, so that nobody can take the place of others.

use std::collections::{HashMap, VecDeque};

/// Which of `held` to drop so that the rest fits into `max_bytes`: again and again what was used longest ago of the tenant
/// that holds the most. `held` has the owner and the bytes of each, what was used longest ago first; the answer has places
/// in it.
pub fn gives_way(held: &[(&str, u64)], max_bytes: u64) -> Vec<usize> {
    let mut total: u64 = held.iter().map(|(_, bytes)| bytes).sum();
    let mut tenants: HashMap<&str, (u64, VecDeque<usize>)> = HashMap::new();
    for (at, (tenant, bytes)) in held.iter().enumerate() {
        let (sum, places) = tenants.entry(tenant).or_default();
        *sum += bytes;
        places.push_back(at);
    }
    let mut dropped = Vec::new();
    while total > max_bytes {
        // Of equal ones whoever used nothing for longer.
        let largest = tenants.values_mut().filter(|(_, places)| !places.is_empty());
        let largest = largest.max_by_key(|(sum, places)| (*sum, std::cmp::Reverse(places.front().copied())));
        let Some((sum, places)) = largest else { break };
        let Some(at) = places.pop_front() else { break };
        let bytes = held[at].1;
        (*sum, total) = (*sum - bytes, total - bytes);
        dropped.push(at);
    }
    dropped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_the_most_gives_way_and_what_was_used_longest_ago_goes_first() {
        let held = [("b", 10), ("a", 30), ("a", 30), ("b", 10), ("a", 30)];
        assert_eq!(gives_way(&held, 110), Vec::<usize>::new());
        assert_eq!(gives_way(&held, 100), [1]);
        assert_eq!(gives_way(&held, 50), [1, 2]);
        assert_eq!(gives_way(&held, 20), [1, 2, 4]);
        assert_eq!(gives_way(&held, 0), [1, 2, 4, 0, 3]);
    }

    #[test]
    fn one_tenant_that_fills_the_cache_drops_nothing_of_another() {
        let mut held = vec![("quiet", 10)];
        held.extend(std::iter::repeat_n(("loud", 10), 1_000));
        assert!(!gives_way(&held, 1_000).contains(&0));
    }
}
