//! Large values are kept in the module store; the broker's record has a reference to them instead.

use serde::{Deserialize, Serialize};

use crate::{Digest, JobId};

/// Arguments and results up to this size are kept in the broker's records, bytes.
pub const INLINE_BYTES: usize = 64 << 10;
/// How the text of a reference begins. A result of a guest that begins so goes to the module store whatever its size: so a
/// text in a record that begins so was always written by a host.
pub const REFERENCE: &str = r#"{"$umbel"#;

/// A large value in the module store, under its job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LargeValue {
    /// SHA-256 of its text: what is read is checked.
    pub sha256: Digest,
    pub bytes: u64,
    /// The job that it belongs to and is deleted with.
    pub of: JobId,
}

/// `{"$umbel:stored": {…}}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    #[serde(rename = "$umbel:stored")]
    stored: LargeValue,
}

impl LargeValue {
    /// The JSON text that the record has instead of the value.
    pub fn reference(&self) -> String {
        serde_json::to_string(&Reference { stored: self.clone() }).expect("a reference has text keys only")
    }

    /// The value that a result's text refers to; none when the text is the result itself.
    pub fn from_reference(text: &str) -> Option<Self> {
        if !text.starts_with(REFERENCE) {
            return None;
        }
        serde_json::from_str::<Reference>(text).ok().map(|reference| reference.stored)
    }

    /// Whether a result has to go to the module store.
    pub fn is_needed(text: &str) -> bool {
        text.len() > INLINE_BYTES || text.starts_with(REFERENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_back_and_anything_that_looks_like_one_is_stored_apart() {
        let stored = LargeValue { sha256: Digest::of(b"x"), bytes: 1, of: JobId::from_parts(1, 2) };
        let text = stored.reference();
        assert_eq!(LargeValue::from_reference(&text), Some(stored));
        assert!(LargeValue::is_needed(&text) && LargeValue::is_needed(r#"{"$umbel":1}"#));
        assert!(!LargeValue::is_needed(r#"{"a":"$umbel"}"#) && LargeValue::from_reference("7").is_none());
    }
}
