//! The rules of Umbel as plain functions over plain data: ids, policy, signatures, jobs and what may follow what.
//!
//! Nothing here does IO, reads a clock, is async or draws random numbers; time and randomness are passed in.

mod macros;

pub mod backoff;
pub mod binding;
pub mod blob_reference;
pub mod canvas;
pub mod expression;
pub mod human;
pub mod ids;
pub mod job;
pub mod json;
mod json_error;
mod json_text;
pub mod large_value;
pub mod manifest;
pub mod outcome;
pub mod policy;
pub mod rate;
mod suggest;
pub mod task;

pub use backoff::Backoff;
pub use binding::{BindError, BindProblem, Binding, RawList, RawObject, bind_text};
pub use blob_reference::BlobReferences;
pub use canvas::{Canvas, OnFailure, WorkflowId};
pub use expression::Expression;
pub use ids::{
    BucketName, ConfigName, Digest, DigestPrefix, InvalidName, JobId, KvKey, QueueName, ScheduleName, SecretName,
    TaskName, TenantId, Token, WorkerId,
};
pub use job::{
    CompositeLabels, JobRecord, JobSpec, JobState, NodeArguments, NodeRef, NodeSpec, ParameterText, Progress,
    ScheduleStamp, Stamps, WorkflowSpec, WorkflowState,
};
pub use json_error::{JsonError, plain};
pub use json_text::JsonText;
pub use large_value::LargeValue;
pub use manifest::{Capability, Declared, InvalidDeclaration, Manifest};
pub use outcome::{AttemptRecord, Failure, Frame, Outcome, Resolution, Usage, decide};
pub use policy::{Acks, OnWorkerLost, Policy, PolicyBounds, PolicyError, PolicyPatch, Uniqueness};
pub use rate::Rate;
pub use suggest::nearest;
pub use task::{ModuleInfo, Parameter, TaskDescription, TaskError};
pub use umbel_permission as permission;
pub use umbel_permission::{Permission, Permissions};

/// Milliseconds since the Unix epoch, by the broker's clock.
pub type UnixMs = u64;
