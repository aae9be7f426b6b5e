//! How long what has ended is kept.

use umbel_model::UnixMs;

/// When a job that ends now is deleted, one on its own: not while it is `held_until` a time by a unique key.
pub fn delete_job_at(now: UnixMs, dead: bool, result_ttl_ms: u64, dead_ttl_ms: u64, held_until: UnixMs) -> UnixMs {
    let keep_ms = if dead { result_ttl_ms.max(dead_ttl_ms) } else { result_ttl_ms };
    now.saturating_add(keep_ms).max(held_until)
}

/// When a workflow that is over is deleted. One that replaced a job is deleted with it, or now if that is gone.
pub fn delete_workflow_at(now: UnixMs, keep_ms: u64, replaces_a_job: bool, orphaned: bool) -> Option<UnixMs> {
    match (replaces_a_job, orphaned) {
        (false, _) => Some(now.saturating_add(keep_ms)),
        (true, true) => Some(now),
        (true, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_kept_as_long_as_its_result_its_place_among_the_dead_and_its_key() {
        assert_eq!(delete_job_at(100, false, 10, 50, 0), 110);
        assert_eq!(delete_job_at(100, true, 10, 50, 0), 150);
        assert_eq!(delete_job_at(100, true, 10, 50, 400), 400);
    }
}
