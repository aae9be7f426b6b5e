//! Actions on many jobs: cancel, redrive, forget, run now, each over all jobs that a filter finds.
//!
//! An action is an object of its own, stored in the broker: the API makes it, and any replica of the control service carries
//! it out with `advance`, page by page. Before a page is acted on, the ids in it are stored; afterwards its counts are. So
//! one that died in between is taken up again by another with exactly that page, and no job is counted twice: every act may
//! be repeated. This crate must not know HTTP.

mod advance;
mod bulk;
mod documents;
mod filter;
mod large_store;
mod redrive;
mod start_claims;
mod store;

use umbel_broker::Broker;
use umbel_model::PolicyBounds;
use umbel_modules::ModuleStore;

pub use advance::{Advanced, advance};
pub use bulk::{Action, Bulk, State};
pub use documents::system_tenant;
pub use filter::{Filter, MAX_IDS};
pub use large_store::LargeStore;
pub use redrive::Redriver;
pub use store::{Aborted, MAX_KEPT, MAX_RUNNING, Started, abort, list, load, running, start};

/// Everything that carrying out an action needs.
#[derive(Debug, Clone, Copy)]
pub struct Carrier<'a> {
    pub broker: &'a dyn Broker,
    /// The store of large arguments; without it jobs that have them are not repeated.
    pub store: Option<&'a ModuleStore>,
    /// The operator's bounds of policies.
    pub bounds: &'a PolicyBounds,
}

#[cfg(test)]
mod tests;
