//! The dead set: which failed jobs get into it, and how long one is kept that makes room for another.

use umbel_model::UnixMs;

/// Whether a job that failed gets into the dead set. A node does, whatever its policy: its workflow is kept.
pub fn may_be_dead(dead_ttl_ms: u64, is_node: bool) -> bool {
    dead_ttl_ms > 0 || is_node
}

/// When a job is deleted that left the dead set because there were too many: after its result's time, but not while it is
/// `held_until` a time by a unique key.
pub fn delete_at_without(finished_at: Option<UnixMs>, result_ttl_ms: u64, held_until: UnixMs) -> UnixMs {
    finished_at.unwrap_or(0).saturating_add(result_ttl_ms).max(held_until)
}
