//! AES-256-GCM with a random nonce, as base64 text of nonce, ciphertext and tag.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::{Error, Result};

pub(crate) const KEY_BYTES: usize = 32;

/// A key that seals and opens. Few are sealed with one key: random nonces do not repeat.
pub(crate) struct Key(LessSafeKey);

impl Key {
    pub(crate) fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, bytes);
        Self(LessSafeKey::new(key.expect("the key has the length that the algorithm wants")))
    }

    /// Seals `plain`, together with what is authenticated beside it.
    pub(crate) fn seal(&self, parts: &[&[u8]], plain: &[u8]) -> Result<String> {
        let nonce: [u8; NONCE_LEN] = random()?;
        // With room for the tag: no copy of the value is left behind.
        let mut sealed = Zeroizing::new(Vec::with_capacity(NONCE_LEN + plain.len() + AES_256_GCM.tag_len()));
        sealed.extend_from_slice(plain);
        let nonce_of_it = Nonce::assume_unique_for_key(nonce);
        let done = self.0.seal_in_place_append_tag(nonce_of_it, Aad::from(joined(parts)), &mut *sealed);
        done.expect("a value is far shorter than the algorithm's limit");
        Ok(STANDARD.encode([&nonce[..], &sealed].concat()))
    }

    /// None: it was not sealed with this key and these parts.
    pub(crate) fn open(&self, parts: &[&[u8]], sealed: &str) -> Option<Vec<u8>> {
        let mut bytes = STANDARD.decode(sealed).ok()?;
        let nonce: [u8; NONCE_LEN] = bytes.get(..NONCE_LEN)?.try_into().ok()?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let len = self.0.open_within(nonce, Aad::from(joined(parts)), &mut bytes, NONCE_LEN..).ok()?.len();
        bytes.truncate(len);
        Some(bytes)
    }
}

/// The parts, each with its length: no two lists of parts look the same.
fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        all.extend_from_slice(&(part.len() as u64).to_le_bytes());
        all.extend_from_slice(part);
    }
    all
}

pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| Error::Random(e.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_the_same_key_and_parts_only() {
        let key = Key::new(&[7; 32]);
        let sealed = key.seal(&[b"ab", b"c"], b"value").unwrap();
        assert_eq!(key.open(&[b"ab", b"c"], &sealed).as_deref(), Some(&b"value"[..]));
        assert_eq!(key.open(&[b"a", b"bc"], &sealed), None);
        assert_eq!(Key::new(&[8; 32]).open(&[b"ab", b"c"], &sealed), None);
        assert_ne!(sealed, key.seal(&[b"ab", b"c"], b"value").unwrap());
        for damaged in ["", "x", "AAAA", &sealed[..sealed.len() - 4]] {
            assert_eq!(key.open(&[b"ab", b"c"], damaged), None, "{damaged}");
        }
    }
}
