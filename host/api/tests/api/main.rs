//! The API over an in-memory broker, one file per resource. One binary: linking is what takes the time.

#![allow(clippy::unwrap_used, reason = "a test may; the lint sees test functions only, not what they call")]

mod app;
mod auth;
mod batch;
mod broken;
mod canvases;
mod dead;
mod errors;
mod faults;
mod jobs;
mod logging;
mod modules;
mod openapi;
mod queues;
mod requests;
mod serving;
mod tasks;
mod waiting;
mod workflows;
