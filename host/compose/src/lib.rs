//! Makes what is stored of a submission: its tasks looked up, its calls checked, its policies decided.
//!
//! A `JobTemplate` makes jobs of calls, a `Composer` makes workflows of canvases, `redrive` makes new jobs of dead ones. The
//! API uses them for what comes over HTTP, workers for what guests submit. A submission that cannot be stored is refused
//! with a list of its faults. This crate must not know HTTP.

mod approval;
mod blobs;
mod broker_options;
mod broker_tasks;
mod call;
mod config;
mod error;
mod grants;
mod job;
mod limits;
mod module_document;
mod options;
mod pinned_task;
mod redrive;
mod resume;
mod routes;
mod scheduled;
mod secrets;
mod submission_key;
mod task;
mod task_document;
mod templates;
mod unknown_parameter;
mod workflow;

pub use approval::{Approval, Granted, WaitingPush};
pub use broker_tasks::BrokerTasks;
pub use config::{ConfigDocument, ConfigLayer, MAX_CONFIG_BYTES, MAX_CONFIG_VALUE_BYTES, MAX_CONFIG_VALUES};
pub use error::{Error, Fault, FaultKind, Result};
pub use grants::{GrantLayer, GrantsDocument, default_bounds};
pub use job::{JobDraft, JobTemplate};
pub use limits::{Limits, Rules};
pub use module_document::{ModuleDocument, ModuleUsers};
pub use options::{MAX_CALLBACKS, Options, check_key, parse_time};
pub use pinned_task::pinned_task;
pub use redrive::{Redrive, Refusal};
pub use resume::{Digests, FailedWorkflow};
pub use routes::{MAX_ROUTES, ROUTES_NAME, Route, RouteKind, RouteTable, Routes};
pub use scheduled::{LargeArguments, NotStored, Scheduled, ScheduledRun, with_callbacks};
pub use secrets::{MAX_SECRETS, NewSecret, Put as SecretPut, Rewrapped, Rotated, SecretDocument, Secrets};
pub use submission_key::SubmissionKey;
pub use task::{Complaints, TaskFacts, TaskSource, ValueChecker};
pub use task_document::{Deploy, TaskDocument};
pub use umbel_model::{JsonError, nearest, plain};
pub use unknown_parameter::UnknownParameter;
pub use workflow::{Composer, Composing, Head};

#[cfg(test)]
mod tests;
