//! Workflows: submission, the work list, growth and deletion.

mod advance;
mod growth;
pub(super) mod removal;
mod stage;
