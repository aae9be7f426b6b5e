//! The handlers, one file or folder per resource.

pub(crate) mod approvals;
pub(crate) mod blobs;
pub(crate) mod bulk;
pub(crate) mod config;
pub(crate) mod dead;
pub(crate) mod health;
pub(crate) mod jobs;
pub(crate) mod kv;
pub(crate) mod modules;
pub(crate) mod queues;
pub(crate) mod schedules;
pub(crate) mod secrets;
pub(crate) mod tasks;
pub(crate) mod tenant;
pub(crate) mod tokens;
pub(crate) mod usage;
pub(crate) mod workers;
pub(crate) mod workflows;
