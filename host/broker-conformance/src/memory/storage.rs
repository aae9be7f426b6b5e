//! The bytes that the model has stored of a tenant: they are counted when somebody asks.

use umbel_model::TenantId;

use super::{records::Job, state::State};
use umbel_broker::{
    rules::storage::{self, document},
    *,
};

impl State {
    pub(super) fn storage_limits(&self, tenant: &TenantId) -> StorageLimits {
        self.storage_limits.get(tenant).copied().unwrap_or_default()
    }

    pub(super) fn set_storage_limits(&mut self, tenant: &TenantId, limits: StorageLimits) {
        self.storage_limits.insert(tenant.clone(), limits);
    }

    /// The limits that hold.
    pub(super) fn limits_of(&self, tenant: &TenantId) -> StorageLimits {
        self.storage_limits(tenant).or(StorageLimits::of(&self.limits))
    }

    /// Whether so many bytes more of jobs fit.
    pub(super) fn fits(&self, tenant: &TenantId, more: u64) -> bool {
        let limit = self.limits_of(tenant).jobs;
        limit == 0 || storage::fits(limit, self.stored_bytes(tenant).jobs, more)
    }

    /// The log lines for which there is room: the first ones.
    pub(super) fn lines_that_fit<'l>(&self, tenant: &TenantId, job: &Job, lines: &'l [LogLine]) -> &'l [LogLine] {
        let room = (self.limits.max_log_lines as usize).saturating_sub(job.logs.len());
        let lines = &lines[..lines.len().min(room)];
        let (limit, mut used) = (self.limits_of(tenant).jobs, 0);
        if limit > 0 && !lines.is_empty() {
            used = self.stored_bytes(tenant).jobs;
        }
        let fitting = lines.iter().take_while(|line| {
            let bytes = storage::line(line);
            let fits = storage::fits(limit, used, bytes);
            used += bytes;
            fits
        });
        &lines[..fitting.count()]
    }

    pub(super) fn stored_bytes(&self, tenant: &TenantId) -> StoredBytes {
        let mine = || self.jobs.iter().filter(|(key, _)| key.0 == *tenant).map(|(_, job)| job);
        let logs: u64 = mine().flat_map(|job| &job.logs).map(storage::line).sum();
        let jobs: u64 = mine().map(|job| storage::job(&job.record)).sum();
        let workflows = self.workflows.iter().filter(|(key, _)| key.0 == *tenant).map(|(_, workflow)| &workflow.head);
        let workflows: u64 = workflows.map(|head| storage::workflow(&head.spec, &head.templates)).sum();
        let of_kind = |only: Option<DocumentKind>| -> u64 {
            let mine =
                self.documents.iter().filter(|((of, kind, _), _)| of == tenant && only.is_none_or(|k| k == *kind));
            mine.map(|(key, of)| document(&of.name, of.version, &of.body) + self.held_bytes[key]).sum()
        };
        let (documents, modules) = (of_kind(None), of_kind(Some(DocumentKind::Module)));
        StoredBytes {
            jobs: jobs + logs + workflows,
            logs,
            documents: documents + self.schedule_bytes(tenant),
            modules,
            kv: self.kv_bytes(tenant),
            blobs: self.blob_bytes(tenant),
        }
    }
}
