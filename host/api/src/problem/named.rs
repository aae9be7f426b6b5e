//! Problems that are met in several places, each with its one text.

use std::fmt::Display;

use axum::http::{HeaderValue, header};
use umbel_model::{Digest, JobId, PolicyError, TaskName, WorkflowId};

use super::{Code, Problem, cut};

impl Problem {
    pub(crate) fn no_job(id: JobId) -> Self {
        Self::job_not_found(format!("no job {id}; check the id, or its retention has passed"))
    }

    pub(crate) fn no_workflow(id: WorkflowId) -> Self {
        Self::workflow_not_found(format!("no workflow {id}; check the id, or its retention has passed"))
    }

    pub(crate) fn no_task(name: &TaskName) -> Self {
        Self::task_not_found(format!("no task `{name}`; push a module that describes it, or check the name"))
    }

    pub(crate) fn no_module(digest: impl Display) -> Self {
        Self::module_not_found(format!("no module {digest}; push it first"))
    }

    pub(crate) fn deleted_module(digest: impl Display) -> Self {
        Self::module_deleted(format!("module {digest} was deleted; push it again to use it"))
    }

    pub(crate) fn no_queue(name: &str) -> Self {
        Self::queue_not_found(format!("no job was ever sent to a queue `{name}`, or it was forgotten"))
    }

    /// The broker gave fewer answers than there were questions.
    pub(crate) fn no_broker_answer() -> Self {
        Self::internal("the broker did not answer")
    }

    /// Something that the server's log explains under the request's id.
    pub(crate) fn see_log() -> Self {
        Self::internal("the server's log says more")
    }

    pub(crate) fn unreadable_record(what: impl Into<String>, error: &dyn Display) -> Self {
        let what = what.into();
        tracing::error!(what, %error, "a stored record cannot be read");
        Self::record_unreadable(what)
    }

    /// A submission for which the tenant's jobs take too many bytes; `used` says how many they take.
    pub(crate) fn jobs_quota(used: &str) -> Self {
        Self::storage_quota(format!(
            "its jobs and workflows would take more bytes than they may ({used}, see `GET /v1/tenant/storage`): forget some, \
             purge queues, keep results for less time, or let an operator raise the limit",
        ))
    }

    /// The same of a module, task or secret, and of the tenant's documents.
    pub(crate) fn documents_quota(used: &str) -> Self {
        Self::storage_quota(format!(
            "its modules, tasks and secrets would take more bytes than they may ({used}, see `GET /v1/tenant/storage`): delete \
             modules that are not used, or let an operator raise the limit",
        ))
    }

    /// The same of a key-value entry, and of the tenant's entries.
    pub(crate) fn entries_quota(used: &str) -> Self {
        Self::storage_quota(format!(
            "its key-value entries would take more bytes than they may ({used}, see `GET /v1/tenant/storage`): delete some, store \
             them for less time, or let an operator raise the limit",
        ))
    }

    pub(crate) fn no_blob(digest: Digest) -> Self {
        Self::blob_not_found(format!("no blob {digest}; it was never put, was deleted, or was unused for long"))
    }

    /// A blob for which the tenant has no room; `used` says how many bytes they take.
    pub(crate) fn blobs_quota(used: &str) -> Self {
        Self::storage_quota(format!(
            "its blobs would take more bytes than they may ({used}, see `GET /v1/tenant/storage`): delete some, or let an operator \
             raise the limit",
        ))
    }

    /// A submission refers to a blob that the tenant does not have.
    pub(crate) fn no_such_blob(digest: Digest) -> Self {
        Self::missing_blob(format!(
            "no blob {digest} is stored: it was never put, was deleted, or was unused for so long that it was taken away; put it \
             again, then submit"
        ))
    }

    /// The idempotency key of a submission belongs to `earlier`.
    pub(crate) fn key_conflict(earlier: impl Display) -> Self {
        let detail = format!("the key was used for {earlier} with another body; use a new key for a new request");
        Self::idempotency_conflict(detail)
    }

    /// The idempotency key of a submission belongs to a job or workflow that was forgotten.
    pub(crate) fn forgotten(id: JobId) -> Self {
        let detail =
            format!("the key belongs to {id}, which was forgotten, and is not done again; use a new key to do it");
        Self::idempotency_forgotten(detail)
    }

    /// A field of a task's policy that cannot be used.
    pub(crate) fn policy(error: &PolicyError) -> Self {
        let pointer = format!("/policy/{}", error.field.replace('.', "/"));
        Self::invalid_policy(error.to_string()).with_place(pointer, &*error.problem)
    }

    /// A problem with one place in the body.
    pub(crate) fn at(code: Code, pointer: &str, detail: &str) -> Self {
        let (pointer, detail) = (cut(pointer), cut(detail));
        Self::new(code, cut(&format!("{pointer}: {detail}"))).with_place(pointer, detail)
    }

    /// The problem, and the request to close the connection.
    #[must_use]
    pub(crate) fn closing(self) -> Self {
        self.header(header::CONNECTION, HeaderValue::from_static("close"))
    }
}
