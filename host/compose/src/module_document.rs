//! A module as it is stored, and which tasks need it.
//!
//! A deleted module is marked first. From then on nothing new may use it, what was submitted before keeps it, and a background
//! service takes it away when nothing needs it any more. A push of the same bytes takes the mark away.

use umbel_broker::{Broker, Document, DocumentKind, DocumentPut, Expect, PutDocument};
use umbel_model::{Digest, ModuleInfo, TaskName, TenantId, UnixMs};

use crate::{Approval, Error, Result, TaskDocument};

/// Tasks that are read at once.
const READS_AT_ONCE: usize = 16;
/// More than the mark of a deletion adds to a record, bytes: a tenant that has no room left must be able to set it.
const MARK_BYTES: u64 = 64;

/// The record of a module, and its version.
#[derive(Debug, Clone)]
pub struct ModuleDocument {
    pub info: ModuleInfo,
    pub version: u64,
}

/// The tasks that need a module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModuleUsers {
    /// Those that point at it.
    pub pointing: Vec<TaskName>,
    /// Whether a rollback of a task may come back to it.
    pub is_reachable: bool,
}

impl ModuleDocument {
    /// A module of the tenant, deleted or not; none when there is no record of it.
    pub async fn read(broker: &dyn Broker, tenant: &TenantId, digest: Digest) -> Result<Option<Self>> {
        let found = broker.document(tenant, DocumentKind::Module, &digest.to_string()).await?;
        found.map(|document| Self::parse(&document)).transpose()
    }

    /// # Errors
    /// The record cannot be read.
    pub fn parse(document: &Document) -> Result<Self> {
        let info = serde_json::from_str(&document.body);
        let info = info.map_err(|error| Error::Corrupt(format!("module {}: {error}", document.name)))?;
        Ok(Self { info, version: document.version })
    }

    /// Writes a record where `expect` holds.
    pub async fn write(
        broker: &dyn Broker,
        tenant: &TenantId,
        info: &ModuleInfo,
        expect: Expect,
    ) -> Result<DocumentPut> {
        let body = serde_json::to_string(info).expect("a record has text keys only");
        Self::put(broker, tenant, info, expect, Some(body)).await
    }

    /// Deletes the record if it still has this version, and then its approval; whether it had. One that is left behind when
    /// that is interrupted allows what was approved for the same bytes.
    pub async fn forget(&self, broker: &dyn Broker, tenant: &TenantId) -> Result<bool> {
        let put = Self::put(broker, tenant, &self.info, Expect::Version(self.version), None).await?;
        let is_gone = matches!(put, DocumentPut::Stored(_));
        if is_gone && self.info.needs_approval() {
            Approval::forget(broker, tenant, self.info.digest).await?;
        }
        Ok(is_gone)
    }

    async fn put(
        broker: &dyn Broker,
        tenant: &TenantId,
        info: &ModuleInfo,
        expect: Expect,
        body: Option<String>,
    ) -> Result<DocumentPut> {
        let (tenant, kind, name) = (tenant.clone(), DocumentKind::Module, info.digest.to_string());
        // The bytes of a deleted module count until they may be gone.
        let held_bytes = match (&body, info.deleted_at) {
            (None, _) => 0,
            (Some(_), None) => info.size_bytes,
            (Some(_), Some(_)) => info.size_bytes.saturating_sub(MARK_BYTES),
        };
        Ok(broker.put_document(&PutDocument { tenant, kind, name, expect, body, held_bytes }).await?)
    }

    /// Marks the module as deleted, or takes the mark away, if the record still has this version; whether it had.
    pub async fn mark(&self, broker: &dyn Broker, tenant: &TenantId, deleted_at: Option<UnixMs>) -> Result<bool> {
        let info = ModuleInfo { deleted_at, ..self.info.clone() };
        let put = Self::write(broker, tenant, &info, Expect::Version(self.version)).await?;
        Ok(matches!(put, DocumentPut::Stored(_)))
    }

    /// The tasks that need the module: only those that it describes can.
    pub async fn users(&self, broker: &dyn Broker, tenant: &TenantId) -> Result<ModuleUsers> {
        let mut users = ModuleUsers::default();
        for tasks in self.info.tasks.chunks(READS_AT_ONCE) {
            let reads = tasks.iter().map(|task| TaskDocument::read(broker, tenant, &task.name));
            for (task, found) in tasks.iter().zip(futures::future::try_join_all(reads).await?) {
                let Some((document, _)) = found else { continue };
                users.is_reachable |= document.may_return_to(self.info.digest);
                if document.digest() == Some(self.info.digest) {
                    users.pointing.push(task.name.clone());
                }
            }
        }
        Ok(users)
    }
}
