//! From a canvas to a workflow to store: planned, its tasks looked up, its calls checked, its policies decided.
//!
//! Used wherever canvases come in: by the API, and by workers for what guests submit. A `Composer` answers the head and
//! the nodes that `umbel_broker` stores, or every place of the canvas that is wrong. This crate must not know HTTP.

mod broker_options;
mod broker_tasks;
mod call;
mod error;
mod json_error;
mod limits;
mod options;
mod resume;
mod routes;
mod task;
mod task_document;
mod templates;
mod workflow;

pub use broker_options::{BrokerOptionRule, Misplaced};
pub use broker_tasks::BrokerTasks;
pub use error::{Error, Fault, FaultKind, Result};
pub use json_error::{Misread, plain};
pub use limits::{Limits, Rules, Stamps};
pub use options::{MAX_CALLBACKS, Options, check_key, parse_time};
pub use resume::{Digests, FailedWorkflow};
pub use routes::{MAX_ROUTES, ROUTES_NAME, Route, RouteKind, RouteTable, Routes};
pub use task::{Complaints, TaskFacts, TaskSource};
pub use task_document::{Deploy, TaskDocument};
pub use workflow::{Composed, Composer, Composing, Head};

#[cfg(test)]
mod tests;
