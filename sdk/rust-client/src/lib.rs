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

mod blob;
mod bulk;
pub mod canvas;
mod client;
mod control;
mod error;
mod events;
mod job;
mod jobs;
mod kv;
mod module;
mod schedule;
mod time;
mod usage;
mod watch;
mod worker;
mod workflow;

pub use blob::{BlobDownload, BlobInfo, BlobPage, BlobRef};
pub use bulk::{Bulk, BulkAction, BulkFilter, BulkState, NewBulk};
pub use canvas::{Step, Unique};
pub use client::{Client, ClientOptions, MAX_ANSWER_BYTES, MAX_WAIT, PushOptions, Request, Retry, fresh_key, typed};
pub use control::{Control, ControlPatch, Queue, Route, RouteKind, Routes};
pub use error::{Error, FieldError, Problem};
pub use events::{ChangedJob, Event, EventFilter, Feed, JobChange, JobEvent, TenantEvent};
pub use job::{Accepted, Attempt, FailedJob, Job, JobError, Line, Lines, NodePlace, Progress, Refusal, Submitted};
pub use jobs::{Cancel, JobFilter, JobPage, Redrive};
pub use kv::{KvBucket, KvExpect, KvItem, KvItems, KvPut, KvValue, kv_path};
pub use module::{
    Approval, FieldChange, Module, ModuleApproval, ModuleRollback, PermissionChange, TaskChange, TaskMove,
};
pub use schedule::{
    BackfillPlan, NewBackfill, NewSchedule, NextTime, NextTimes, Schedule, ScheduleBackfill, ScheduleCatchUp,
    ScheduleFilter, ScheduleFire, ScheduleFires, ScheduleOverlap, SchedulePage, SchedulePause, ScheduleRetry,
    ScheduleRun, ScheduleStarted, ScheduleState, ScheduleWhen, SkippedSchedule, StoredSchedule,
};
pub use umbel_model::{Canvas, JobId, JobState, OnFailure, PolicyPatch, WorkflowId, WorkflowState};
pub use umbel_tls::Refusal as TlsRefusal;
pub use usage::{UsageBy, UsageFilter, UsagePage, UsageSum};
pub use worker::{Shutdown, Worker, WorkerPatch};
pub use workflow::{
    Digests, Node, NodePage, NodeRange, Tree, Workflow, WorkflowOptions, WorkflowPage, WorkflowProgress,
};

#[cfg(test)]
mod tests;
