//! The handlers, one file per resource.

pub(crate) mod batch;
pub(crate) mod bulk;
pub(crate) mod callbacks;
pub(crate) mod dead;
pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod job_lists;
pub(crate) mod jobs;
pub(crate) mod modules;
pub(crate) mod outputs;
pub(crate) mod queues;
pub(crate) mod redrive;
pub(crate) mod tasks;
pub(crate) mod tenant;
pub(crate) mod tenant_events;
pub(crate) mod workers;
pub(crate) mod workflows;
