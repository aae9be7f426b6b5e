//! The client of Umbel's HTTP API: what is in `README.md`, and streams of changes:
//!
//! ```no_run
//! # async fn example(client: umbel_client::Client, id: umbel_client::WorkflowId) -> Result<(), umbel_client::Error> {
//! use std::{pin::pin, time::Duration};
//!
//! use futures::StreamExt as _;
//!
//! let mut changes = pin!(client.watch_workflow(id, Duration::from_millis(500)));
//! while let Some(workflow) = changes.next().await {
//!     let progress = workflow?.progress;
//!     println!("{} of {} jobs are done", progress.done, progress.total);
//! }
//! # Ok(())
//! # }
//! ```
#![doc = ""]
#![doc = include_str!("../README.md")]

pub mod canvas;
mod client;
mod error;
mod job;
mod watch;
mod workflow;

pub use canvas::Step;
pub use client::{Client, MAX_ANSWER_BYTES, MAX_WAIT, Request, Retry, fresh_key, typed};
pub use error::{Error, FieldError, Problem};
pub use job::{Accepted, FailedJob, Job, JobError, Line, Lines, Module, NodePlace, Progress, Refusal};
pub use umbel_model::{Canvas, JobId, JobState, OnFailure, WorkflowId};
pub use workflow::{
    Digests, Node, NodePage, NodeRange, Tree, Workflow, WorkflowOptions, WorkflowPage, WorkflowProgress, WorkflowState,
};

#[cfg(test)]
mod tests;
