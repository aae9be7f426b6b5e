//! The idempotency key of a submission, and what its body is known by.

use serde_json::value::RawValue;
use std::collections::BTreeMap;
use umbel_broker::{IDEMPOTENCY_TTL_MS, Idempotency};
use umbel_model::{Digest, json};

/// An idempotency key with the hashes of the body that it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubmissionKey {
    /// Its body is hashed as it was written, but for white space: brokers compare it, and so do older releases.
    pub idempotency: Idempotency,
    /// Hash of the body in canonical form and without the key: stored with the job, and compared when the other hash differs.
    pub canonical_body: String,
}

impl SubmissionKey {
    /// `compact` is the body without white space between its tokens.
    pub fn new(key: &str, compact: &[u8]) -> Self {
        let hash = |bytes: &[u8]| Digest::of(bytes).hex();
        let canonical = std::str::from_utf8(compact).ok().and_then(canonical_body);
        Self {
            idempotency: Idempotency { key: hash(key.as_bytes()), body: hash(compact), ttl_ms: IDEMPOTENCY_TTL_MS },
            canonical_body: hash(canonical.as_deref().map_or(compact, str::as_bytes)),
        }
    }
}

/// A JSON object in canonical form, without the key, which may also come as a header; none when it is no object.
fn canonical_body(text: &str) -> Option<String> {
    type Fields = BTreeMap<String, Box<RawValue>>;
    const KEY: &str = "idempotency_key";
    let mut fields: Fields = serde_json::from_str(text).ok()?;
    fields.remove(KEY);
    if let Some(options) = fields.remove("options") {
        match serde_json::from_str::<Fields>(options.get()) {
            Ok(mut rest) => {
                rest.remove(KEY);
                if !rest.is_empty() {
                    fields.insert("options".into(), serde_json::value::to_raw_value(&rest).ok()?);
                }
            }
            Err(_) => {
                fields.insert("options".into(), options);
            }
        }
    }
    json::canonical(&serde_json::to_string(&fields).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_known_in_any_spelling_and_wherever_its_key_is() {
        let of = |text: &str| canonical_body(text).unwrap();
        let first = of(r#"{"task":"a","args":[{"x":1,"y":"é"}]}"#);
        for same in [
            r#"{"args":[{"y":"\u00e9","x":1.0}],"task":"a"}"#,
            r#"{"task":"a","args":[{"x":1,"y":"é"}],"options":{"idempotency_key":"k"}}"#,
            r#"{"task":"a","args":[{"x":1,"y":"é"}],"idempotency_key":"k"}"#,
        ] {
            assert_eq!(of(same), first, "{same}");
        }
        for other in [r#"{"task":"a","args":[{"x":1,"y":"e"}]}"#, r#"{"task":"a","options":{"priority":1}}"#] {
            assert_ne!(of(other), first, "{other}");
        }
        assert_eq!(canonical_body("resume x pinned"), None);
    }
}
