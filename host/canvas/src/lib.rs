//! From a canvas to a workflow to store: planned, its tasks looked up, its calls checked, its policies decided.
//!
//! Used wherever canvases come in: by the API, and by workers for what guests submit. A `Composer` answers the head and
//! the nodes that `umbel_broker` stores, or every place of the canvas that is wrong. This crate must not know HTTP.

mod broker_options;
mod call;
mod compose;
mod document;
mod error;
mod misread;
mod options;
mod paging;
mod resumed;
mod routes;
mod rules;
mod stored;
mod task;
mod templates;

pub use broker_options::{BrokerOptionRule, Misplaced};
pub use compose::{Composed, Composer, Composing, Head};
pub use document::{Deploy, TaskDocument};
pub use error::{Error, Fault, FaultKind, Result};
pub use misread::{Misread, plain};
pub use options::{MAX_CALLBACKS, Options, check_key, parse_time};
pub use paging::PageSize;
pub use resumed::{Digests, Stored};
pub use routes::{MAX_ROUTES, ROUTES_NAME, Route, RouteKind, RouteTable, Routes};
pub use rules::{Limits, Rules, Stamps};
pub use stored::BrokerTasks;
pub use task::{Complaints, TaskFacts, TaskSource};

#[cfg(test)]
mod tests;
