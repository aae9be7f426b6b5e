//! A secret as it is stored: what may be known of it, and the sealed value.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use umbel_model::{SecretName, TenantId, UnixMs, permission::HttpTarget};

use crate::{DataKey, Error, Result, SecretHost, SecretValue};

/// Hosts of one secret.
pub const MAX_HOSTS: usize = 16;
const WHAT: &[u8] = b"umbel secret 1";
const DAMAGED: Error = Error::Damaged("the secret's record");

/// What may be done with a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// Where it may be sent. Empty: nowhere.
    pub hosts: Vec<SecretHost>,
    /// It may be put into bodies of requests, and not only into headers.
    pub body: bool,
    /// Code may get its value, if it has the permission.
    pub reveal: bool,
}

impl Terms {
    pub(crate) fn check(&self) -> Result<()> {
        let invalid = |text: &str| Err(Error::Invalid(text.to_owned()));
        if self.hosts.len() > MAX_HOSTS {
            return Err(Error::Invalid(format!("a secret is for at most {MAX_HOSTS} hosts")));
        }
        if self.hosts.is_empty() && !self.reveal {
            return invalid("name the hosts that it is for, or let code have it with `reveal`");
        }
        if self.hosts.is_empty() && self.body {
            return invalid("a secret without hosts is put into no body");
        }
        Ok(())
    }
}

/// The record of a secret, under its name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRecord {
    v: u8,
    /// The version of the document that has this record: an older record is not put in its place.
    pub version: u64,
    /// The id of the data key that seals it.
    pub key: String,
    pub created_at: UnixMs,
    /// When the value or its terms were set.
    pub updated_at: UnixMs,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    body: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    reveal: bool,
    sealed: String,
}

impl fmt::Debug for SecretRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretRecord").field("version", &self.version).finish_non_exhaustive()
    }
}

impl SecretRecord {
    /// Seals a value as this version. `created_at`: that of the version before it; none: now.
    #[expect(clippy::too_many_arguments, reason = "all of it is authenticated with the value")]
    pub fn seal(
        tenant: &TenantId,
        name: &SecretName,
        version: u64,
        terms: &Terms,
        created_at: Option<UnixMs>,
        now: UnixMs,
        key: &DataKey,
        value: &SecretValue,
    ) -> Result<Self> {
        terms.check()?;
        value.check(!terms.hosts.is_empty())?;
        let hosts = terms.hosts.iter().map(ToString::to_string).collect();
        let (body, reveal) = (terms.body, terms.reveal);
        let (key_id, created_at) = (key.id().to_owned(), created_at.unwrap_or(now));
        let unsealed = Self {
            v: 1,
            version,
            key: key_id,
            created_at,
            updated_at: now,
            hosts,
            body,
            reveal,
            sealed: String::new(),
        };
        let sealed = unsealed.with_parts(tenant, name, |parts| key.key().seal(parts, value.bytes()))?;
        Ok(Self { sealed, ..unsealed })
    }

    /// The same secret as the next version, sealed with another key.
    pub fn reseal(&self, tenant: &TenantId, name: &SecretName, old: &DataKey, new: &DataKey) -> Result<Self> {
        let value = self.open(tenant, name, old)?;
        let unsealed =
            Self { version: self.version + 1, key: new.id().to_owned(), sealed: String::new(), ..self.clone() };
        let sealed = unsealed.with_parts(tenant, name, |parts| new.key().seal(parts, value.bytes()))?;
        Ok(Self { sealed, ..unsealed })
    }

    /// What may be done with it, as the record says; whether that is true is known when it was opened.
    pub fn terms(&self) -> Result<Terms> {
        let hosts = self.hosts.iter().map(|host| host.parse()).collect::<Result<_>>();
        Ok(Terms { hosts: hosts.map_err(|_| DAMAGED)?, body: self.body, reveal: self.reveal })
    }

    fn open(&self, tenant: &TenantId, name: &SecretName, key: &DataKey) -> Result<SecretValue> {
        if self.v != 1 || self.key != key.id() {
            return Err(DAMAGED);
        }
        let opened = self.with_parts(tenant, name, |parts| key.key().open(parts, &self.sealed));
        opened.map(SecretValue::new).ok_or(DAMAGED)
    }

    /// What is authenticated beside the value: everything that is said of it.
    fn with_parts<T>(&self, tenant: &TenantId, name: &SecretName, with: impl FnOnce(&[&[u8]]) -> T) -> T {
        let numbers = [self.version, self.created_at, self.updated_at, self.hosts.len() as u64].map(u64::to_le_bytes);
        let flags = [u8::from(self.body), u8::from(self.reveal)];
        let mut parts = vec![WHAT, tenant.as_str().as_bytes(), name.as_str().as_bytes(), self.key.as_bytes(), &flags];
        parts.extend(numbers.iter().map(|number| &number[..]));
        parts.extend(self.hosts.iter().map(String::as_bytes));
        with(&parts)
    }
}

/// A sealed secret with the key that opens it: how a process keeps it.
#[derive(Debug, Clone)]
pub struct Sealed {
    tenant: TenantId,
    name: SecretName,
    record: SecretRecord,
    terms: Terms,
    key: Arc<DataKey>,
}

impl Sealed {
    /// `version`: that of the document which has the record.
    pub fn new(
        tenant: TenantId,
        name: SecretName,
        record: SecretRecord,
        version: u64,
        key: Arc<DataKey>,
    ) -> Result<Self> {
        if record.version != version {
            return Err(DAMAGED);
        }
        let sealed = Self { terms: record.terms()?, tenant, name, record, key };
        // What is said of it is used before the value is.
        sealed.open()?;
        Ok(sealed)
    }

    /// The value, opened for this call.
    pub fn open(&self) -> Result<SecretValue> {
        self.record.open(&self.tenant, &self.name, &self.key)
    }

    /// Whether both have the same value, in a time that tells nothing of it but its length. What does not open has no value.
    pub fn has_value_of(&self, other: &Self) -> bool {
        let (Ok(own), Ok(others)) = (self.open(), other.open()) else { return false };
        own.bytes().ct_eq(others.bytes()).into()
    }

    pub fn name(&self) -> &SecretName {
        &self.name
    }

    pub fn version(&self) -> u64 {
        self.record.version
    }

    /// Bytes of the sealed text: a third more than the value has, and a few.
    pub fn sealed_bytes(&self) -> usize {
        self.record.sealed.len()
    }

    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether it may be sent with a request.
    pub fn is_for(&self, target: &HttpTarget<'_>) -> bool {
        self.terms.hosts.iter().any(|host| host.is_of(target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MasterKeys;

    struct World {
        tenant: TenantId,
        name: SecretName,
        key: Arc<DataKey>,
    }

    fn world() -> World {
        let mut masters = MasterKeys::default();
        masters.add(&"0123456789abcdef".repeat(4), "test").unwrap();
        let tenant = TenantId::new("t").unwrap();
        let key = DataKey::generate(&tenant, masters.current().unwrap(), 1, None).unwrap().0;
        World { tenant, name: SecretName::new("api_key").unwrap(), key: Arc::new(key) }
    }

    fn terms(hosts: &[&str], body: bool, reveal: bool) -> Terms {
        Terms { hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(), body, reveal }
    }

    impl World {
        fn seal(&self, terms: &Terms, value: &[u8]) -> Result<SecretRecord> {
            let value = SecretValue::new(value.to_vec());
            SecretRecord::seal(&self.tenant, &self.name, 3, terms, Some(1), 2, &self.key, &value)
        }

        fn sealed(&self, record: SecretRecord) -> Result<Sealed> {
            Sealed::new(self.tenant.clone(), self.name.clone(), record, 3, self.key.clone())
        }
    }

    #[test]
    fn a_record_has_the_value_sealed_and_says_where_it_goes() {
        let world = world();
        let record = world.seal(&terms(&["a.test"], true, false), b"correct horse").unwrap();
        let text = serde_json::to_string(&record).unwrap();
        assert!(!text.contains("horse") && !format!("{record:?}").contains(&record.sealed), "{text}");
        let read: SecretRecord = serde_json::from_str(&text).unwrap();
        let sealed = world.sealed(read).unwrap();
        assert_eq!(sealed.open().unwrap().bytes(), b"correct horse");
        assert_eq!(*sealed.terms(), terms(&["a.test"], true, false));
    }

    #[test]
    fn nobody_who_writes_to_the_store_widens_or_moves_a_secret() {
        let world = world();
        let record = world.seal(&terms(&["a.test"], false, false), b"correct horse").unwrap();
        let changes: [fn(&mut SecretRecord); 7] = [
            |record| record.hosts.push("https://evil.test".into()),
            |record| record.hosts = vec!["https://evil.test".into()],
            |record| record.body = true,
            |record| record.reveal = true,
            |record| record.updated_at += 1,
            |record| record.version += 1,
            |record| record.v = 2,
        ];
        for change in changes {
            let mut changed = record.clone();
            change(&mut changed);
            assert_eq!(world.sealed(changed).unwrap_err(), DAMAGED);
        }
        let elsewhere = |tenant: &str, name: &str, version| {
            let (tenant, name) = (TenantId::new(tenant).unwrap(), SecretName::new(name).unwrap());
            Sealed::new(tenant, name, record.clone(), version, world.key.clone()).map(drop)
        };
        assert_eq!(elsewhere("t", "api_key", 3), Ok(()));
        for moved in [elsewhere("u", "api_key", 3), elsewhere("t", "other", 3), elsewhere("t", "api_key", 4)] {
            assert_eq!(moved, Err(DAMAGED));
        }
    }

    #[test]
    fn a_secret_goes_somewhere_and_a_resealed_one_is_the_same() {
        let world = world();
        for wrong in [terms(&[], false, false), terms(&[], true, true)] {
            assert!(matches!(world.seal(&wrong, b"12345678"), Err(Error::Invalid(_))));
        }
        assert!(world.seal(&terms(&["a.test"], false, true), b"with\nlines").is_err());
        let record = world.seal(&terms(&[], false, true), b"with\nlines").unwrap();
        let other = super::tests::world();
        let again = record.reseal(&world.tenant, &world.name, &world.key, &other.key).unwrap();
        let before = world.sealed(record).unwrap();
        let different = world.sealed(world.seal(&terms(&[], false, true), b"with\nlinez").unwrap()).unwrap();
        let sealed = Sealed::new(world.tenant, world.name, again.clone(), 4, other.key).unwrap();
        assert_eq!((sealed.open().unwrap().bytes(), again.updated_at), (&b"with\nlines"[..], 2));
        assert!(sealed.has_value_of(&before) && !sealed.has_value_of(&different));
    }
}
