//! The approval of a module: that its tasks may reach what its manifest asks for. One record for each digest of a tenant.

use serde::{Deserialize, Serialize};
use umbel_broker::{Broker, DocumentKind, DocumentPut, Expect, PutDocument};
use umbel_model::{Declared, Digest, ModuleInfo, Permission, TenantId, UnixMs};

use crate::{Error, Result};

/// The record of one digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// None: nobody approved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Granted>,
    /// A push that is to deploy its tasks as soon as it is approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<WaitingPush>,
}

/// What was approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    pub permissions: Declared,
    /// By the clock of the server that did it: for people.
    pub at: UnixMs,
    /// The name of the token with which it was approved.
    pub by: String,
    /// The module whose approval covers it, if nobody approved it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inherited_from: Option<Digest>,
}

/// See [`Approval::waiting`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingPush {
    /// Whether it may take tasks of other modules.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub take_over: bool,
}

impl Approval {
    /// The record of a digest and its version; one that says nothing, and version 0, when there is none.
    pub async fn read(broker: &dyn Broker, tenant: &TenantId, digest: Digest) -> Result<(Self, u64)> {
        let Some(document) = broker.document(tenant, DocumentKind::Approval, &digest.to_string()).await? else {
            return Ok((Self::default(), 0));
        };
        let approval = serde_json::from_str(&document.body);
        let approval = approval.map_err(|error| Error::Corrupt(format!("the approval of {digest}: {error}")))?;
        Ok((approval, document.version))
    }

    /// Writes it at the version that was read, 0: there was none. One that says nothing is deleted.
    pub async fn write(
        &self,
        broker: &dyn Broker,
        tenant: &TenantId,
        digest: Digest,
        version: u64,
    ) -> Result<DocumentPut> {
        let body =
            (*self != Self::default()).then(|| serde_json::to_string(self).expect("a record has text keys only"));
        let expect = if version == 0 { Expect::Absent } else { Expect::Version(version) };
        let put = PutDocument {
            tenant: tenant.clone(),
            kind: DocumentKind::Approval,
            name: digest.to_string(),
            expect,
            body,
            held_bytes: 0,
        };
        Ok(broker.put_document(&put).await?)
    }

    /// Deletes the record of a digest, if there is one.
    pub async fn forget(broker: &dyn Broker, tenant: &TenantId, digest: Digest) -> Result<()> {
        let put = PutDocument {
            tenant: tenant.clone(),
            kind: DocumentKind::Approval,
            name: digest.to_string(),
            expect: Expect::Any,
            body: None,
            held_bytes: 0,
        };
        broker.put_document(&put).await?;
        Ok(())
    }

    /// What the module asks for and nobody approved.
    pub fn missing(&self, info: &ModuleInfo) -> Vec<Permission> {
        let Some(asked) = &info.permissions else { return Vec::new() };
        match &self.granted {
            None => asked.all().iter().cloned().collect(),
            Some(granted) => granted.permissions.all().missing(&asked.all()).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(texts: &[&str]) -> Declared {
        Declared::read(texts.iter().map(|text| (None, *text)), &[]).unwrap()
    }

    #[test]
    fn what_is_not_approved_is_missing_and_a_module_that_asks_for_nothing_misses_nothing() {
        let digest = Digest::of(b"m");
        let info = |permissions| ModuleInfo {
            digest,
            size_bytes: 1,
            core_module: false,
            imports: Vec::new(),
            tasks: Vec::new(),
            permissions,
            pushed_at: None,
            deleted_at: None,
        };
        let granted = Granted { permissions: declared(&["kv a"]), at: 1, by: "me".into(), inherited_from: None };
        let approval = Approval { granted: Some(granted), waiting: None };
        let missing = |approval: &Approval, texts: Option<&[&str]>| {
            let missing = approval.missing(&info(texts.map(declared)));
            missing.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(missing(&approval, Some(&["kv a read"])), [""; 0]);
        assert_eq!(missing(&approval, Some(&["kv a", "blob"])), ["blob"]);
        assert_eq!(missing(&Approval::default(), Some(&["kv a"])), ["kv a"]);
        assert_eq!(missing(&Approval::default(), Some(&[])), [""; 0]);
        assert_eq!(missing(&Approval::default(), None), [""; 0]);
    }
}
