//! The bytes that the model has stored of a tenant: they are counted when somebody asks.

use umbel_model::TenantId;

use super::state::State;
use umbel_broker::{
    rules::storage::{self, document},
    *,
};

impl State {
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
        StoredBytes { jobs: jobs + logs + workflows, logs, documents, modules }
    }
}
