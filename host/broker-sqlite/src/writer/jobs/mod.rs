//! Jobs: their rows, and the operations on them.

pub(super) mod broker_options;
mod dead_set;
mod deliveries;
mod events;
pub(super) mod head;
pub(super) mod inserts;
pub(super) mod labels;
mod records;
mod requests;
mod state_changes;
mod submit;
mod uniqueness;
