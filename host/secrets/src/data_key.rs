//! Data keys of tenants: random, stored wrapped by a master key.

use std::fmt;

use serde::{Deserialize, Serialize};
use umbel_model::{TenantId, UnixMs};
use zeroize::Zeroizing;

use crate::{
    Error, MasterKey, MasterKeys, Result,
    aead::{KEY_BYTES, Key, random},
};

const WHAT: &[u8] = b"umbel data key 1";
/// Digits of the time in an id: ids sort by it until the year 2286.
const TIME_DIGITS: usize = 13;

/// A key that seals the secrets of one tenant.
pub struct DataKey {
    id: String,
    key: Key,
}

/// A data key as it is stored, under its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataKeyRecord {
    v: u8,
    /// The id of the master key that wraps it.
    pub master: String,
    wrapped: String,
}

impl DataKey {
    /// A new key. Its id sorts behind `last`, the last one of the tenant.
    pub fn generate(
        tenant: &TenantId,
        master: &MasterKey,
        now: UnixMs,
        last: Option<&str>,
    ) -> Result<(Self, DataKeyRecord)> {
        let after = last.and_then(made_at).map_or(0, |at| at + 1);
        let id = format!("{:0TIME_DIGITS$}-{}", now.max(after), hex::encode(random::<8>()?));
        let bytes: Zeroizing<[u8; KEY_BYTES]> = Zeroizing::new(random()?);
        let record = wrap(tenant, &id, master, &*bytes)?;
        Ok((Self { key: Key::new(&bytes), id }, record))
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

/// When a key was made, by its id.
fn made_at(id: &str) -> Option<UnixMs> {
    id.get(..TIME_DIGITS)?.parse().ok()
}

fn wrap(tenant: &TenantId, id: &str, master: &MasterKey, bytes: &[u8]) -> Result<DataKeyRecord> {
    let wrapped = master.key().seal(&parts(tenant, id, master.id()), bytes)?;
    Ok(DataKeyRecord { v: 1, master: master.id().to_owned(), wrapped })
}

fn parts<'a>(tenant: &'a TenantId, id: &'a str, master: &'a str) -> [&'a [u8]; 4] {
    [WHAT, tenant.as_str().as_bytes(), id.as_bytes(), master.as_bytes()]
}

impl DataKeyRecord {
    /// The key, if one of the master keys opens it.
    pub fn unwrap(&self, tenant: &TenantId, id: &str, masters: &MasterKeys) -> Result<DataKey> {
        Ok(DataKey { key: Key::new(&*self.bytes(tenant, id, masters)?), id: id.to_owned() })
    }

    /// The same key, wrapped by the current master key. None: it is already.
    pub fn rewrap(&self, tenant: &TenantId, id: &str, masters: &MasterKeys) -> Result<Option<Self>> {
        let current = masters.current().ok_or_else(|| Error::NoMasterKey(self.master.clone()))?;
        if current.id() == self.master {
            return Ok(None);
        }
        let bytes = self.bytes(tenant, id, masters)?;
        wrap(tenant, id, current, &*bytes).map(Some)
    }

    fn bytes(&self, tenant: &TenantId, id: &str, masters: &MasterKeys) -> Result<Zeroizing<[u8; KEY_BYTES]>> {
        let damaged = Error::Damaged("a data key");
        let master = masters.of(&self.master).ok_or_else(|| Error::NoMasterKey(self.master.clone()))?;
        let opened = master.key().open(&parts(tenant, id, &self.master), &self.wrapped).map(Zeroizing::new);
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        match opened.filter(|opened| self.v == 1 && opened.len() == KEY_BYTES) {
            Some(opened) => bytes.copy_from_slice(&opened),
            None => return Err(damaged),
        }
        Ok(bytes)
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DataKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masters(seeds: &[u8]) -> MasterKeys {
        let mut keys = MasterKeys::default();
        for seed in seeds {
            keys.add(&format!("{seed:02x}{}", "ab".repeat(31)), "test").unwrap();
        }
        keys
    }

    #[test]
    fn a_data_key_opens_for_its_tenant_with_its_master_key_only() {
        let (old, both, new) = (masters(&[1]), masters(&[2, 1]), masters(&[2]));
        let [a, b] = ["a", "b"].map(|name| TenantId::new(name).unwrap());
        let (key, record) = DataKey::generate(&a, old.current().unwrap(), 5, None).unwrap();
        assert!(record.unwrap(&a, key.id(), &old).is_ok());
        assert_eq!(record.unwrap(&b, key.id(), &old).unwrap_err(), Error::Damaged("a data key"));
        assert_eq!(record.unwrap(&a, "other", &old).unwrap_err(), Error::Damaged("a data key"));
        assert!(matches!(record.unwrap(&a, key.id(), &new), Err(Error::NoMasterKey(id)) if id == record.master));
        let again = record.rewrap(&a, key.id(), &both).unwrap().unwrap();
        assert_eq!(again.rewrap(&a, key.id(), &both), Ok(None));
        let sealed = key.key().seal(&[], b"x").unwrap();
        assert_eq!(again.unwrap(&a, key.id(), &new).unwrap().key().open(&[], &sealed).as_deref(), Some(&b"x"[..]));
    }

    #[test]
    fn a_newer_key_sorts_behind_the_older_ones_whatever_the_clock_says() {
        let (masters, tenant) = (masters(&[1]), TenantId::new("t").unwrap());
        let make = |now, last: Option<&str>| {
            DataKey::generate(&tenant, masters.current().unwrap(), now, last).unwrap().0.id().to_owned()
        };
        let first = make(1_700_000_000_000, None);
        let second = make(1_600_000_000_000, Some(&first));
        assert!(first < second, "{first} {second}");
        assert!(make(1_800_000_000_000, Some(&second)) > second);
    }
}
