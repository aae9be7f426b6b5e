//! A JSON value that is kept as its text.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// A JSON value as its text. It takes as many bytes as it was written with, where a tree of small values takes a hundred
/// times as many; so what strangers sent is kept this way. Equal when the texts are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JsonText(Box<RawValue>);

impl JsonText {
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// The tree. Many times as large as the text: for a moment only.
    ///
    /// # Errors
    /// It is nested more deeply than `serde_json` reads, or has a number that does not fit.
    pub fn to_value(&self) -> serde_json::Result<Value> {
        serde_json::from_str(self.as_str())
    }

    pub fn into_raw(self) -> Box<RawValue> {
        self.0
    }
}

impl From<&Value> for JsonText {
    fn from(value: &Value) -> Self {
        Self(RawValue::from_string(value.to_string()).expect("what serde_json writes is JSON"))
    }
}

impl PartialEq for JsonText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}
