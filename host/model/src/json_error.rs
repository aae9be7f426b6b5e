//! Errors in JSON of a wrong shape: the field, and the cause in words for people.
//!
//! Made of the messages of serde, which are for programmers. Computed only once reading has failed.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::{JobState, binding::escape, outcome::truncated, suggest::nearest};

/// Longest pointer and detail, bytes: they may quote what was sent.
const MAX_BYTES: usize = 1_024;

/// An error in some JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonError {
    /// JSON pointer into it; empty when it is wrong as a whole.
    pub pointer: String,
    pub detail: String,
}

impl JsonError {
    /// Why this text is no `T`, in one line: where, and what is wrong there. `error` is what reading it answered.
    pub fn line_of_text<'de, T: Deserialize<'de>>(text: &'de str, error: &serde_json::Error) -> String {
        match Self::of_text::<T>(text) {
            Some(Self { pointer, detail }) if !pointer.is_empty() => format!("{pointer}: {detail}"),
            _ => plain(&error.to_string()),
        }
    }

    /// Why this text is no `T`; none when it is one.
    pub fn of_text<'de, T: Deserialize<'de>>(text: &'de str) -> Option<Self> {
        let error = serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text)).err()?;
        Some(Self::new(error.path(), &error.inner().to_string()))
    }

    /// Why this value is no `T`; none when it is one.
    pub fn of_value<'de, T: Deserialize<'de>>(value: &'de Value) -> Option<Self> {
        let error = serde_path_to_error::deserialize::<_, T>(value).err()?;
        Some(Self::new(error.path(), &error.inner().to_string()))
    }

    fn new(path: &Path, message: &str) -> Self {
        let mut pointer = String::new();
        for segment in path {
            let _ = match segment {
                Segment::Seq { index } => write!(pointer, "/{index}"),
                Segment::Map { key } => write!(pointer, "/{}", escape(key)),
                // A value of an enum is written where the field is.
                Segment::Enum { .. } | Segment::Unknown => Ok(()),
            };
        }
        let message = without_position(message);
        if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            let _ = write!(pointer, "/{}", escape(field));
        }
        Self { pointer: truncated(pointer, MAX_BYTES), detail: truncated(plain(message), MAX_BYTES) }
    }
}

fn without_position(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(before, _)| before)
}

/// A message of serde, in words for people.
pub fn plain(message: &str) -> String {
    let message = without_position(message);
    if message.contains("untagged enum States") {
        let names: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
        return format!("write one state or a list of them: {}", names.join(", "));
    }
    if message.contains("untagged enum") || message == "expected value" {
        return "it has a wrong type, or a name that is not known here".to_owned();
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        return format!("{rest} is missing");
    }
    if let Some((name, known)) = message.strip_prefix("unknown field ").and_then(|rest| rest.split_once(", ")) {
        let meant = nearest(name.trim_matches('`'), known.split('`').skip(1).step_by(2));
        let meant = meant.map(|meant| format!(", did you mean `{meant}`?")).unwrap_or_default();
        let known = known.replacen("expected one of ", "there are ", 1).replacen("expected ", "there is ", 1);
        return format!("there is no {name}{meant}; {known}").replace("?; t", "? T");
    }
    if let Some((name, known)) =
        message.strip_prefix("unknown variant ").and_then(|rest| rest.rsplit_once(", expected "))
    {
        return format!("{name} is not known; write {known}");
    }
    let kinds = ["invalid type: ", "invalid value: ", "invalid length "];
    let found = kinds.iter().find_map(|kind| message.strip_prefix(kind)?.rsplit_once(", expected "));
    match found {
        Some((found, expected)) => format!("write {}; this is {}", wanted(expected), given(found)),
        None => message.to_owned(),
    }
}

fn wanted(expected: &str) -> String {
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number, 0 or more",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "string" | "str" | "a borrowed string" => "a text",
        "a sequence" => "a list",
        "a map" | "map" => "an object",
        "string or map" | "variant identifier" | "unit variant" => "one of the names that are known here",
        _ if expected.starts_with("struct ") => "an object",
        _ if expected.starts_with("enum ") => "one of the names that are known here",
        _ if expected.starts_with("tuple ") => "a list",
        other => other,
    };
    words.to_owned()
}

fn given(found: &str) -> String {
    let number = ["integer `", "floating point `", "boolean `"].iter().find_map(|kind| found.strip_prefix(kind));
    match found {
        "sequence" => "a list".to_owned(),
        "map" => "an object".to_owned(),
        "null" | "unit value" => "null".to_owned(),
        _ => match (number, found.strip_prefix("string ")) {
            (Some(number), _) => number.trim_end_matches('`').to_owned(),
            (None, Some(text)) => format!("the text {text}"),
            (None, None) => found.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::PolicyPatch;

    fn error_of(value: &Value) -> (String, String) {
        let by_value = JsonError::of_value::<PolicyPatch>(value).unwrap();
        assert_eq!(JsonError::of_text::<PolicyPatch>(&value.to_string()).unwrap().pointer, by_value.pointer);
        (by_value.pointer, by_value.detail)
    }

    #[test]
    fn a_wrong_type_names_its_field_in_words_for_people() {
        for (value, pointer, detail) in [
            (
                json!({"max_retries": "x"}),
                "/max_retries",
                r#"write a whole number from 0 to 4294967295; this is the text "x""#,
            ),
            (json!({"priority": -1}), "/priority", "write a whole number from 0 to 255; this is -1"),
            (json!({"ignore_result": 1}), "/ignore_result", "write true or false; this is 1"),
            (json!({"retry_backoff": 5}), "/retry_backoff", "write an object; this is 5"),
            (
                json!({"retry_backoff": {"max_ms": true}}),
                "/retry_backoff/max_ms",
                "write a whole number, 0 or more; this is true",
            ),
            (json!({"retry_on": "x"}), "/retry_on", r#"write a list; this is the text "x""#),
            (json!({"retry_on": ["a", 1]}), "/retry_on/1", "write a text; this is 1"),
            (json!({"acks": "x"}), "/acks", "`x` is not known; write `late` or `early`"),
            (json!({"acks": 1}), "/acks", "write one of the names that are known here; this is 1"),
        ] {
            let found = JsonError::of_value::<PolicyPatch>(&value).unwrap();
            assert_eq!((found.pointer.as_str(), found.detail.as_str()), (pointer, detail), "{value}");
            assert_eq!(JsonError::of_text::<PolicyPatch>(&value.to_string()).unwrap().pointer, pointer);
        }
        let (pointer, detail) = error_of(&json!({"prioritty": 1}));
        assert_eq!(pointer, "/prioritty");
        assert!(
            detail.starts_with("there is no `prioritty`, did you mean `priority`? There are `queue`, `priority`, "),
            "{detail}"
        );
        let (_, detail) = error_of(&json!({"colour": 1}));
        assert!(detail.starts_with("there is no `colour`; there are `queue`, "), "{detail}");
    }

    #[test]
    fn what_is_missing_is_named() {
        #[derive(Debug, Deserialize)]
        struct Body {
            #[expect(dead_code, reason = "only read")]
            task: String,
        }
        let found = JsonError::of_text::<Body>("{}").unwrap();
        assert_eq!((found.pointer.as_str(), found.detail.as_str()), ("/task", "`task` is missing"));
        assert_eq!(JsonError::of_text::<Body>(r#"{"task": ""}"#), None);
    }

    #[test]
    fn states_are_listed() {
        let detail = plain("data did not match any variant of untagged enum States");
        assert!(detail.starts_with("write one state or a list of them: ") && detail.contains("queued"), "{detail}");
    }
}
