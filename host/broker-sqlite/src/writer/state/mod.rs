//! What the writer keeps in memory between operations, and writes once for a group of them. What a group changed can be
//! undone.

pub(super) mod event_subscriptions;
pub(super) mod known;
pub(super) mod stored_scheduler;
pub(super) mod work_items;
pub(super) mod workflow_state;
