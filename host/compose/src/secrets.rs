//! Secrets as documents of a tenant: set, read, listed, deleted, and sealed anew.
//!
//! A tenant has one data key or several; the last one by its id seals what is set. A rotation makes a new one and seals all secrets
//! with it, each in a step of its own: whatever stops it, every secret stays readable, and it can be done again. A key that seals
//! nothing any more is deleted by a later rotation, when nobody can still be about to use it.

use std::{collections::BTreeSet, sync::Arc};

use umbel_broker::{Broker, Document, DocumentKind, DocumentPut, Expect, PutDocument};
use umbel_model::{SecretName, TenantId, UnixMs};
use umbel_secrets::{DataKey, DataKeyRecord, MasterKeys, Sealed, SecretRecord, SecretValue, Terms};

use crate::{Error, Result};

/// Secrets of one tenant.
pub const MAX_SECRETS: usize = 1_000;
/// Documents of one page: few, because a secret may have 87 KiB, and each request that looks at all of them has a page in memory.
const PAGE: u32 = 16;
/// Data keys of one tenant: each rotation makes one.
const MAX_DATA_KEYS: usize = 64;
/// How long after its successor was made a data key may be used by a request that had read it before, milliseconds.
const SUPERSEDED_MS: u64 = 600_000;
/// How often a write is tried again that lost to another one.
const TRIES: u32 = 8;

/// The secrets of all tenants, for a process that has these master keys.
#[derive(Debug, Clone, Copy)]
pub struct Secrets<'a> {
    pub broker: &'a dyn Broker,
    pub masters: &'a MasterKeys,
}

/// A secret to be set.
#[derive(Debug)]
pub struct NewSecret<'a> {
    pub terms: &'a Terms,
    pub value: &'a SecretValue,
    /// None: whatever is there.
    pub expect: Option<Expect>,
    pub now: UnixMs,
}

/// What is known of a secret, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretDocument {
    pub name: SecretName,
    pub version: u64,
    pub terms: Terms,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    Stored(SecretDocument),
    /// The version found instead of the expected one; 0: there is no such secret.
    Conflict(u64),
    /// The tenant has as many secrets as it may.
    Full,
    /// The tenant has stored as many bytes as it may.
    StorageFull,
}

/// What a rotation did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rotated {
    /// Secrets that were sealed anew.
    pub sealed: usize,
    /// Data keys that were deleted.
    pub keys_deleted: usize,
    /// Older data keys that are kept for a while.
    pub keys_kept: usize,
}

/// What wrapping all data keys anew did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrapped {
    /// Data keys that were wrapped by the current master key.
    pub rewrapped: usize,
    /// Data keys that the current master key wraps now.
    pub current: usize,
    /// Other master keys, and how many data keys each wraps still: mostly those that were not given.
    pub left: Vec<(String, usize)>,
}

impl Rewrapped {
    /// A data key that this master key wraps still.
    fn is_left(&mut self, master: String) {
        match self.left.iter_mut().find(|(id, _)| *id == master) {
            Some((_, count)) => *count += 1,
            None => self.left.push((master, 1)),
        }
    }
}

impl Secrets<'_> {
    /// Sets a secret.
    pub async fn put(&self, tenant: &TenantId, name: &SecretName, new: NewSecret<'_>) -> Result<Put> {
        let key = self.sealing_key(tenant, new.now).await?;
        for _ in 0..TRIES {
            let found = self.broker.document(tenant, DocumentKind::Secret, name.as_str()).await?;
            let version = found.as_ref().map_or(0, |document| document.version);
            let is_expected = match new.expect {
                None | Some(Expect::Any) => true,
                Some(Expect::Absent) => version == 0,
                Some(Expect::Version(expected)) => version == expected,
            };
            if !is_expected {
                return Ok(Put::Conflict(version));
            }
            if version == 0 && self.count(tenant).await? >= MAX_SECRETS {
                return Ok(Put::Full);
            }
            // A damaged record is replaced.
            let before = found.as_ref().and_then(|document| record(document).ok());
            let created_at = before.map(|record| record.created_at);
            let next = version + 1;
            let sealed = SecretRecord::seal(tenant, name, next, new.terms, created_at, new.now, &key, new.value)?;
            match self.write(tenant, name, version, &sealed).await? {
                DocumentPut::Stored(_) => return Ok(Put::Stored(document(name.clone(), &sealed)?)),
                DocumentPut::Conflict(found) if new.expect.is_some() => return Ok(Put::Conflict(found)),
                DocumentPut::Conflict(_) => {}
                DocumentPut::Full => return Ok(Put::Full),
                DocumentPut::StorageFull => return Ok(Put::StorageFull),
            }
        }
        let busy = "the secret is being set by others all the time".to_owned();
        Err(umbel_broker::Error::Unavailable(busy).into())
    }

    /// What is known of a secret.
    pub async fn show(&self, tenant: &TenantId, name: &SecretName) -> Result<Option<SecretDocument>> {
        let found = self.broker.document(tenant, DocumentKind::Secret, name.as_str()).await?;
        found.map(|found| document(name.clone(), &record(&found)?)).transpose()
    }

    /// All secrets of a tenant by name: at most [`MAX_SECRETS`].
    pub async fn list(&self, tenant: &TenantId) -> Result<Vec<SecretDocument>> {
        self.each(tenant, DocumentKind::Secret, |found| document(secret_name(&found)?, &record(&found)?)).await
    }

    /// Deletes a secret. Needs no master key.
    pub async fn delete(&self, tenant: &TenantId, name: &SecretName, expect: Expect) -> Result<DocumentPut> {
        let put = PutDocument {
            tenant: tenant.clone(),
            kind: DocumentKind::Secret,
            name: name.to_string(),
            expect,
            body: None,
            held_bytes: 0,
        };
        Ok(self.broker.put_document(&put).await?)
    }

    /// A secret for a process that uses it. `known`: a data key that the process has already.
    pub async fn read(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        known: impl Fn(&str) -> Option<Arc<DataKey>>,
    ) -> Result<Option<(Sealed, Arc<DataKey>)>> {
        let Some(found) = self.broker.document(tenant, DocumentKind::Secret, name.as_str()).await? else {
            return Ok(None);
        };
        let record = record(&found)?;
        let key = match known(&record.key) {
            Some(key) => key,
            None => Arc::new(self.data_key(tenant, &record.key).await?),
        };
        let sealed = Sealed::new(tenant.clone(), name.clone(), record, found.version, key.clone())?;
        Ok(Some((sealed, key)))
    }

    /// Makes a new data key and seals all secrets of the tenant with it. Answers how far it came when another write came in
    /// between for too often: do it again.
    pub async fn rotate(&self, tenant: &TenantId, now: UnixMs) -> Result<Rotated> {
        let keys = self.documents(tenant, DocumentKind::SecretKey).await?;
        let mut rotated = self.forget_keys(tenant, &keys, now).await?;
        let last = keys.last().map(|key| key.name.as_str());
        let new = Arc::new(self.new_key(tenant, now, last).await?);
        rotated.keys_kept = keys.len() - rotated.keys_deleted;
        for name in self.each(tenant, DocumentKind::Secret, |found| secret_name(&found)).await? {
            rotated.sealed += usize::from(self.reseal(tenant, &name, &new).await?);
        }
        Ok(rotated)
    }

    /// Seals one secret with a new key; false: it is gone, or was sealed with one that is as new.
    async fn reseal(&self, tenant: &TenantId, name: &SecretName, new: &DataKey) -> Result<bool> {
        for _ in 0..TRIES {
            let found = self.broker.document(tenant, DocumentKind::Secret, name.as_str()).await?;
            let Some(found) = found else { return Ok(false) };
            let old = record(&found)?;
            if old.key.as_str() >= new.id() {
                return Ok(false);
            }
            let key = self.data_key(tenant, &old.key).await?;
            let again = old.reseal(tenant, name, &key, new)?;
            match self.write(tenant, name, found.version, &again).await? {
                DocumentPut::Stored(_) => return Ok(true),
                DocumentPut::Conflict(_) => {}
                DocumentPut::Full | DocumentPut::StorageFull => {
                    return Err(umbel_broker::Error::Full("the tenant's documents".into()).into());
                }
            }
        }
        Ok(false)
    }

    /// Deletes data keys that seal nothing and were superseded a while ago.
    async fn forget_keys(&self, tenant: &TenantId, keys: &[Document], now: UnixMs) -> Result<Rotated> {
        let used = self.each(tenant, DocumentKind::Secret, |found| Ok(record(&found)?.key)).await?;
        let used: BTreeSet<String> = used.into_iter().collect();
        let mut rotated = Rotated::default();
        for pair in keys.windows(2) {
            let made = |name: &str| name.split('-').next().and_then(|ms| ms.parse::<UnixMs>().ok()).unwrap_or(now);
            if used.contains(&pair[0].name) || made(&pair[1].name).saturating_add(SUPERSEDED_MS) > now {
                continue;
            }
            let put = PutDocument {
                tenant: tenant.clone(),
                kind: DocumentKind::SecretKey,
                name: pair[0].name.clone(),
                expect: Expect::Version(pair[0].version),
                body: None,
                held_bytes: 0,
            };
            rotated.keys_deleted += usize::from(self.broker.put_document(&put).await? == DocumentPut::Stored(0));
        }
        Ok(rotated)
    }

    /// Wraps the data keys of all tenants by the current master key, as far as the given ones open them.
    pub async fn rewrap(&self) -> Result<Rewrapped> {
        let current = self.masters.current().ok_or(no_master_key())?;
        let mut done = Rewrapped::default();
        for tenant in self.broker.document_tenants(DocumentKind::SecretKey).await? {
            for found in self.documents(&tenant, DocumentKind::SecretKey).await? {
                self.rewrap_key(&tenant, found, current.id(), &mut done).await?;
            }
        }
        Ok(done)
    }

    /// Wraps one data key by the current master key, and says which one wraps it in the end: an operator takes a master key away
    /// that nothing is said to need.
    async fn rewrap_key(
        &self,
        tenant: &TenantId,
        mut found: Document,
        current: &str,
        done: &mut Rewrapped,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let key = key_record(&found)?;
            if key.master == current {
                done.current += 1;
                return Ok(());
            }
            if self.masters.of(&key.master).is_none() {
                break;
            }
            // None: it is wrapped by the current one, which was seen above.
            let Some(again) = key.rewrap(tenant, &found.name, self.masters)? else { break };
            let put = put_of(tenant, DocumentKind::SecretKey, &found.name, found.version, &again);
            match self.broker.put_document(&put).await? {
                DocumentPut::Stored(_) => {
                    done.rewrapped += 1;
                    done.current += 1;
                    return Ok(());
                }
                DocumentPut::Full | DocumentPut::StorageFull => break,
                // Somebody else wrapped it, or a rotation deleted it: look again.
                DocumentPut::Conflict(_) => {}
            }
            let again = self.broker.document(tenant, DocumentKind::SecretKey, &found.name).await?;
            let Some(again) = again else { return Ok(()) };
            found = again;
        }
        done.is_left(key_record(&found)?.master);
        Ok(())
    }

    /// The secrets that no given master key opens, with their tenants.
    pub async fn unreadable(&self) -> Result<Vec<(TenantId, SecretName)>> {
        let mut lost = Vec::new();
        for tenant in self.broker.document_tenants(DocumentKind::Secret).await? {
            let keys = self.documents(&tenant, DocumentKind::SecretKey).await?;
            let unopened = |found: Document| {
                let Ok(name) = SecretName::new(&*found.name) else { return Ok(None) };
                Ok(self.opens(&tenant, &name, &found, &keys).is_err().then_some(name))
            };
            let names = self.each(&tenant, DocumentKind::Secret, unopened).await?;
            lost.extend(names.into_iter().flatten().map(|name| (tenant.clone(), name)));
        }
        Ok(lost)
    }

    /// Opens a secret with the one of these data keys that seals it.
    fn opens(&self, tenant: &TenantId, name: &SecretName, found: &Document, keys: &[Document]) -> Result<()> {
        let record = record(found)?;
        let key = keys.iter().find(|key| key.name == record.key);
        let key = key.ok_or(umbel_secrets::Error::Damaged("the list of data keys"))?;
        let key = Arc::new(key_record(key)?.unwrap(tenant, &record.key, self.masters)?);
        Sealed::new(tenant.clone(), name.clone(), record, found.version, key)?;
        Ok(())
    }

    /// The data key that seals what is set now, made if there is none.
    async fn sealing_key(&self, tenant: &TenantId, now: UnixMs) -> Result<DataKey> {
        self.masters.current().ok_or(no_master_key())?;
        let keys = self.documents(tenant, DocumentKind::SecretKey).await?;
        match keys.last() {
            Some(last) => Ok(key_record(last)?.unwrap(tenant, &last.name, self.masters)?),
            // Two that are made at once are both good.
            None => self.new_key(tenant, now, None).await,
        }
    }

    async fn new_key(&self, tenant: &TenantId, now: UnixMs, last: Option<&str>) -> Result<DataKey> {
        let master = self.masters.current().ok_or(no_master_key())?;
        if self.documents(tenant, DocumentKind::SecretKey).await?.len() >= MAX_DATA_KEYS {
            let full = format!("the tenant has {MAX_DATA_KEYS} data keys: rotate again in ten minutes");
            return Err(umbel_secrets::Error::Invalid(full).into());
        }
        let (key, record) = DataKey::generate(tenant, master, now, last)?;
        let put = put_of(tenant, DocumentKind::SecretKey, key.id(), 0, &record);
        match self.broker.put_document(&put).await? {
            DocumentPut::Stored(_) => Ok(key),
            DocumentPut::Conflict(_) => Err(umbel_secrets::Error::Random("they repeat".into()).into()),
            DocumentPut::Full | DocumentPut::StorageFull => {
                Err(umbel_broker::Error::Full("the tenant's documents".into()).into())
            }
        }
    }

    async fn data_key(&self, tenant: &TenantId, id: &str) -> Result<DataKey> {
        let found = self.broker.document(tenant, DocumentKind::SecretKey, id).await?;
        let found = found.ok_or(umbel_secrets::Error::Damaged("the list of data keys"))?;
        Ok(key_record(&found)?.unwrap(tenant, id, self.masters)?)
    }

    async fn write(
        &self,
        tenant: &TenantId,
        name: &SecretName,
        version: u64,
        record: &SecretRecord,
    ) -> Result<DocumentPut> {
        let put = put_of(tenant, DocumentKind::Secret, name.as_str(), version, record);
        Ok(self.broker.put_document(&put).await?)
    }

    async fn count(&self, tenant: &TenantId) -> Result<usize> {
        Ok(self.each(tenant, DocumentKind::Secret, |_| Ok(())).await?.len())
    }

    /// Whole documents: for data keys, which are few and small.
    async fn documents(&self, tenant: &TenantId, kind: DocumentKind) -> Result<Vec<Document>> {
        self.each(tenant, kind, Ok).await
    }

    /// What `keep` keeps of each document of a kind, by name. Of the documents themselves a page is in memory.
    async fn each<T>(
        &self,
        tenant: &TenantId,
        kind: DocumentKind,
        keep: impl Fn(Document) -> Result<T>,
    ) -> Result<Vec<T>> {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.broker.documents(tenant, kind, after.as_deref(), PAGE).await?;
            for document in page.documents {
                all.push(keep(document)?);
            }
            after = page.next;
            if after.is_none() || all.len() > MAX_SECRETS {
                return Ok(all);
            }
        }
    }
}

fn no_master_key() -> Error {
    umbel_secrets::Error::NoMasterKeys.into()
}

fn secret_name(document: &Document) -> Result<SecretName> {
    SecretName::new(&*document.name).map_err(|_| Error::Corrupt("the name of a secret".into()))
}

fn record(document: &Document) -> Result<SecretRecord> {
    let read = serde_json::from_str(&document.body);
    // Without the words of the reader, which may quote what it read.
    read.map_err(|_| umbel_secrets::Error::Damaged("the secret's record").into())
}

fn key_record(document: &Document) -> Result<DataKeyRecord> {
    let read = serde_json::from_str(&document.body);
    read.map_err(|_| umbel_secrets::Error::Damaged("a data key").into())
}

fn document(name: SecretName, record: &SecretRecord) -> Result<SecretDocument> {
    let SecretRecord { version, created_at, updated_at, .. } = *record;
    Ok(SecretDocument { name, version, terms: record.terms()?, created_at, updated_at })
}

/// A write of what must have this version; 0: of what must not be there.
fn put_of(
    tenant: &TenantId,
    kind: DocumentKind,
    name: &str,
    version: u64,
    body: &impl serde::Serialize,
) -> PutDocument {
    let body = serde_json::to_string(body).expect("a record has text keys only");
    let expect = if version == 0 { Expect::Absent } else { Expect::Version(version) };
    PutDocument { tenant: tenant.clone(), kind, name: name.to_owned(), expect, body: Some(body), held_bytes: 0 }
}

#[cfg(test)]
mod tests {
    use umbel_broker::Registry as _;
    use umbel_broker_conformance::MemoryBroker;

    use super::*;

    const NOW: UnixMs = 1_800_000_000_000;

    struct World {
        broker: MemoryBroker,
        tenant: TenantId,
        name: SecretName,
    }

    fn world() -> World {
        let broker = MemoryBroker::new(Default::default(), Default::default());
        World { broker, tenant: TenantId::new("t").unwrap(), name: SecretName::new("api_key").unwrap() }
    }

    fn masters(seeds: &[u8]) -> MasterKeys {
        let mut keys = MasterKeys::default();
        for seed in seeds {
            keys.add(&format!("{seed:02x}{}", "ab".repeat(31)), "test").unwrap();
        }
        keys
    }

    impl World {
        fn with<'a>(&'a self, masters: &'a MasterKeys) -> Secrets<'a> {
            Secrets { broker: &self.broker, masters }
        }

        async fn put(&self, masters: &MasterKeys, value: &str, expect: Option<Expect>) -> Result<Put> {
            let terms = Terms { hosts: vec!["a.test".parse().unwrap()], ..Terms::default() };
            let value = SecretValue::new(value.into());
            let new = NewSecret { terms: &terms, value: &value, expect, now: NOW };
            self.with(masters).put(&self.tenant, &self.name, new).await
        }

        async fn value(&self, masters: &MasterKeys) -> Result<Option<String>> {
            let read = self.with(masters).read(&self.tenant, &self.name, |_| None).await?;
            Ok(read.map(|(sealed, _)| String::from_utf8(sealed.open().unwrap().bytes().to_vec()).unwrap()))
        }
    }

    #[tokio::test]
    async fn a_secret_is_set_read_replaced_and_deleted() {
        let (world, keys) = (world(), masters(&[1]));
        assert!(matches!(world.put(&keys, "first value", Some(Expect::Absent)).await, Ok(Put::Stored(_))));
        assert_eq!(world.put(&keys, "second value", Some(Expect::Absent)).await.unwrap(), Put::Conflict(1));
        let Put::Stored(stored) = world.put(&keys, "second value", None).await.unwrap() else { panic!() };
        assert_eq!((stored.version, stored.created_at), (2, NOW));
        assert_eq!(world.value(&keys).await.unwrap().as_deref(), Some("second value"));
        assert_eq!(world.with(&keys).list(&world.tenant).await.unwrap(), std::slice::from_ref(&stored));
        let none = MasterKeys::default();
        assert_eq!(world.with(&none).show(&world.tenant, &world.name).await.unwrap(), Some(stored));
        assert!(matches!(world.put(&none, "third value", None).await, Err(Error::Secret(_))));
        let deleted = world.with(&none).delete(&world.tenant, &world.name, Expect::Any).await.unwrap();
        assert_eq!((deleted, world.value(&keys).await.unwrap()), (DocumentPut::Stored(0), None));
    }

    #[tokio::test]
    async fn a_rotation_seals_all_secrets_anew_and_can_be_repeated() {
        let (world, keys) = (world(), masters(&[1]));
        world.put(&keys, "the value", None).await.unwrap();
        let secrets = world.with(&keys);
        let first = secrets.rotate(&world.tenant, NOW + 1).await.unwrap();
        assert_eq!(first, Rotated { sealed: 1, keys_deleted: 0, keys_kept: 1 });
        assert_eq!(world.value(&keys).await.unwrap().as_deref(), Some("the value"));
        // Killed after its new key was stored: the next one goes on from there.
        let keys_of = async || secrets.documents(&world.tenant, DocumentKind::SecretKey).await.unwrap();
        let last = keys_of().await.last().unwrap().name.clone();
        secrets.new_key(&world.tenant, NOW + 2, Some(&last)).await.unwrap();
        let third = secrets.rotate(&world.tenant, NOW + 2 + SUPERSEDED_MS).await.unwrap();
        assert_eq!((third.sealed, third.keys_deleted), (1, 1));
        assert_eq!(world.value(&keys).await.unwrap().as_deref(), Some("the value"));
        let later = secrets.rotate(&world.tenant, NOW + 9 * SUPERSEDED_MS).await.unwrap();
        assert_eq!(later.keys_deleted, 2);
        assert_eq!(world.value(&keys).await.unwrap().as_deref(), Some("the value"));
    }

    #[tokio::test]
    async fn another_master_key_opens_nothing_until_the_data_keys_are_wrapped_by_it() {
        let (world, old, both, new) = (world(), masters(&[1]), masters(&[2, 1]), masters(&[2]));
        world.put(&old, "the value", None).await.unwrap();
        assert!(matches!(world.value(&new).await, Err(Error::Secret(umbel_secrets::Error::NoMasterKey(_)))));
        assert_eq!(world.with(&new).unreadable().await.unwrap(), [(world.tenant.clone(), world.name.clone())]);
        let left = world.with(&new).rewrap().await.unwrap();
        assert_eq!((left.rewrapped, left.left), (0, vec![(old.current().unwrap().id().to_owned(), 1)]));
        let done = world.with(&both).rewrap().await.unwrap();
        assert_eq!(done, Rewrapped { rewrapped: 1, current: 1, left: vec![] });
        assert_eq!(world.value(&new).await.unwrap().as_deref(), Some("the value"));
        assert_eq!(world.with(&new).unreadable().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_record_that_was_moved_to_another_tenant_does_not_open() {
        let (world, keys) = (world(), masters(&[1]));
        world.put(&keys, "the value", None).await.unwrap();
        let thief = TenantId::new("thief").unwrap();
        for kind in [DocumentKind::Secret, DocumentKind::SecretKey] {
            for found in world.with(&keys).documents(&world.tenant, kind).await.unwrap() {
                let put = PutDocument {
                    tenant: thief.clone(),
                    kind,
                    name: found.name,
                    expect: Expect::Any,
                    body: Some(found.body),
                    held_bytes: 0,
                };
                world.broker.put_document(&put).await.unwrap();
            }
        }
        let read = world.with(&keys).read(&thief, &world.name, |_| None).await;
        assert!(matches!(read, Err(Error::Secret(umbel_secrets::Error::Damaged(_)))), "{read:?}");
    }
}
