//! Blobs: files that the service keeps for a tenant, which tasks take as arguments, read as streams, write and return.
//!
//! ```
//! use std::io::{BufRead, Write};
//! use umbel::{blob, blob::Blob, prelude::*};
//!
//! /// Numbers the lines of a text.
//! #[task]
//! fn number_lines(text: Blob) -> TaskResult<Blob> {
//!     let mut numbered = blob::create_typed("text/plain")?;
//!     for (number, line) in text.open()?.lines().enumerate() {
//!         writeln!(numbered, "{:4} {}", number + 1, line?)?;
//!     }
//!     Ok(numbered.finish()?)
//! }
//!
//! # fn main() {
//! // Natively there is a store in memory, one for each thread, and so for each test.
//! let text = blob::fake().put("one\ntwo\n");
//! let numbered = number_lines(text).unwrap();
//! assert_eq!(blob::fake().text(&numbered).as_deref(), Some("   1 one\n   2 two\n"));
//! # }
//! # umbel::module![number_lines];
//! ```
//!
//! A task needs the permission `blob read`, or `blob` to write as well. In arguments and results a blob is
//! `{"$blob": "sha256:…"}`: callers put it with `umbel blob put` and get it with `umbel blob get`.
//!
//! What an attempt writes comes to exist when it succeeds, and otherwise never. A blob to which no job refers is deleted after some
//! days.

mod error;
#[cfg(not(target_arch = "wasm32"))]
mod fake;
mod read;
mod write;

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap as _};

pub use error::Error;
#[cfg(not(target_arch = "wasm32"))]
pub use fake::{FakeBlobs, fake};
pub use read::BlobReader;
pub use write::{BlobWriter, create, create_typed, write};

#[cfg(target_arch = "wasm32")]
use crate::raw::umbel::blob::store as backend;
#[cfg(not(target_arch = "wasm32"))]
use fake as backend;

/// The result of what is done with blobs. By `?` in a task, an error that may be over later is retried, and one that will stay is
/// fatal: see [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// The only field of a reference.
const FIELD: &str = "$blob";

/// A blob by its digest: the type of a parameter or result that is one. It costs no call to the host until it is opened.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob {
    digest: String,
}

impl Blob {
    /// A blob by its digest, `sha256:` and 64 lower-case hex digits.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no digest.
    pub fn new(digest: &str) -> Result<Self> {
        digest.parse()
    }

    /// `sha256:` and 64 lower-case hex digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Opens it to be read as a stream, forth and back.
    pub fn open(&self) -> Result<BlobReader> {
        BlobReader::open(self)
    }

    /// All of it, if it has at most `max_bytes`; otherwise [`Error::TooLarge`], and nothing is read.
    pub fn read_bytes(&self, max_bytes: usize) -> Result<Vec<u8>> {
        self.open()?.read_all(max_bytes)
    }

    /// The same as text.
    pub fn read_text(&self, max_bytes: usize) -> Result<String> {
        String::from_utf8(self.read_bytes(max_bytes)?).map_err(|error| Error::Unreadable(error.to_string()))
    }
}

impl FromStr for Blob {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self { digest: text.to_owned() });
        }
        Err(Error::Invalid("a digest is `sha256:` and 64 lower-case hex digits".into()))
    }
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digest)
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({})", self.digest)
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(FIELD, &self.digest)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Reference {
            #[serde(rename = "$blob")]
            digest: String,
        }
        let Reference { digest } = Reference::deserialize(deserializer)?;
        digest.parse().map_err(|error: Error| de::Error::custom(error))
    }
}

impl JsonSchema for Blob {
    fn schema_name() -> Cow<'static, str> {
        "Blob".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "title": "Blob",
            "description": "A blob of the tenant, by its digest: `umbel blob put` prints it.",
            "type": "object",
            "properties": { FIELD: { "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" } },
            "required": [FIELD],
            "additionalProperties": false
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(digit: char) -> String {
        format!("sha256:{}", String::from(digit).repeat(64))
    }

    #[test]
    fn a_blob_is_an_object_of_one_field_in_json() {
        let blob = Blob::new(&digest('a')).unwrap();
        let text = json!({"$blob": digest('a')});
        assert_eq!(serde_json::to_value(&blob).unwrap(), text);
        assert_eq!(serde_json::from_value::<Blob>(text).unwrap(), blob);
        for wrong in [
            json!({"$blob": digest('A')}),
            json!({"$blob": "sha256:aa"}),
            json!({"$blob": digest('a'), "more": 1}),
            json!({}),
            json!(digest('a')),
        ] {
            assert!(serde_json::from_value::<Blob>(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn its_schema_takes_what_it_reads_and_nothing_else() {
        let schema = schemars::schema_for!(Vec<Blob>);
        let validator = jsonschema::validator_for(schema.as_value()).unwrap();
        assert!(validator.is_valid(&json!([{"$blob": digest('0')}])));
        for wrong in [json!([{"$blob": digest('A')}]), json!([digest('0')]), json!([{}])] {
            assert!(!validator.is_valid(&wrong), "{wrong}");
        }
    }
}
