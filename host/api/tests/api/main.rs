//! The API over an in-memory broker, one file per resource. One binary: linking is what takes the time.

#![allow(clippy::unwrap_used, reason = "a test may; the lint sees test functions only, not what they call")]

mod app;
mod auth;
mod batch;
mod blobs;
mod broken;
mod bulk;
mod canvases;
mod config;
mod controls;
mod dead;
mod errors;
mod events;
mod faults;
mod job_options;
mod jobs;
mod json_errors;
mod kv;
mod logging;
mod module_deletion;
mod modules;
mod openapi;
mod permissions;
mod queues;
mod requests;
mod schedules;
mod secrets;
mod serving;
mod tasks;
mod tenant_events;
mod usage;
mod waiting;
mod workflows;
