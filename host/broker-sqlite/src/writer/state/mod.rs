//! The state that the writer keeps in memory between operations, and writes once for a group of them. The changes of a
//! group can be undone.

pub(super) mod event_subscriptions;
pub(super) mod known;
pub(super) mod scheduler_rebuild;
pub(super) mod stored;
pub(super) mod usage;
pub(super) mod work_items;
pub(super) mod workflow_state;
