//! Master keys of the operator: they wrap the data keys of tenants. The first one is current, the others open what they wrapped.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{
    Error, Result,
    aead::{KEY_BYTES, Key, random},
};

/// Master keys that a process may be given.
const MAX_KEYS: usize = 16;

/// One master key. It is named by an id that is made from it.
pub struct MasterKey {
    id: String,
    key: Key,
}

impl MasterKey {
    /// Reads a key: 64 hex digits, or 32 bytes as base64.
    fn parse(text: &str, shown: &str) -> Result<Self> {
        let invalid = || Error::InvalidMasterKey(shown.to_owned());
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        let decoded = Zeroizing::new(match text.len() {
            64 => hex::decode(text).ok(),
            _ => STANDARD.decode(text).ok(),
        });
        let decoded = decoded.as_ref().filter(|decoded| decoded.len() == KEY_BYTES).ok_or_else(invalid)?;
        bytes.copy_from_slice(decoded);
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err(invalid());
        }
        let hash = Sha256::new().chain_update(b"umbel master key id\0").chain_update(*bytes).finalize();
        Ok(Self { id: hex::encode(&hash[..8]), key: Key::new(&bytes) })
    }

    /// A new key, as the text of a file.
    pub fn generate() -> Result<Zeroizing<String>> {
        let bytes: Zeroizing<[u8; KEY_BYTES]> = Zeroizing::new(random()?);
        Ok(Zeroizing::new(format!("{}\n", STANDARD.encode(*bytes))))
    }

    /// 16 hex digits. Nobody finds the key from them.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", self.id)
    }
}

/// The master keys of a process. None: secrets can be neither set nor used.
#[derive(Debug, Default)]
pub struct MasterKeys(Vec<MasterKey>);

impl MasterKeys {
    /// Adds the keys of a text, one on each line, behind those that are there. Empty lines and those that begin with `#` are
    /// passed over. `shown` says in errors where the text is from.
    pub fn add(&mut self, text: &str, shown: &str) -> Result<()> {
        let before = self.0.len();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let key = MasterKey::parse(line, shown)?;
            if self.of(key.id()).is_none() {
                self.0.push(key);
            }
        }
        if text.trim().is_empty() || self.0.is_empty() && before == 0 {
            return Err(Error::InvalidMasterKey(format!("{shown} has no key")));
        }
        if self.0.len() > MAX_KEYS {
            return Err(Error::Invalid(format!("there are more than {MAX_KEYS} master keys")));
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The one that wraps new data keys.
    pub fn current(&self) -> Option<&MasterKey> {
        self.0.first()
    }

    pub fn of(&self, id: &str) -> Option<&MasterKey> {
        self.0.iter().find(|key| key.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_order_and_named_by_what_they_are() {
        let mut keys = MasterKeys::default();
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let base64 = STANDARD.encode(hex::decode(hex).unwrap());
        let new = MasterKey::generate().unwrap();
        keys.add(&format!("# new\n{}\n\n{hex}\n", new.trim()), "a").unwrap();
        keys.add(&base64, "b").unwrap();
        assert_eq!(keys.0.len(), 2);
        assert_ne!(keys.current().unwrap().id(), keys.0[1].id());
        assert_eq!(format!("{:?}", keys.0[1]), format!("MasterKey({})", keys.0[1].id()));
        assert!(keys.of(keys.0[1].id()).is_some() && keys.of("x").is_none());
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_shown() {
        for wrong in ["", "\n", "hunter2hunter2", &"0".repeat(64), &"a".repeat(63), "# only words"] {
            let error = MasterKeys::default().add(wrong, "the file").unwrap_err().to_string();
            assert!(error.contains("the file") && !error.contains("hunter2"), "{error}");
        }
    }
}
