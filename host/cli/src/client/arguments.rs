//! Arguments from the command line: each is JSON, or else text. Numbers keep all their digits.

use std::{collections::BTreeMap, path::Path};

use serde::Serialize;
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};
use umbel_compose::{JsonError, nearest};
use umbel_model::{Policy, PolicyPatch, human};

use super::input;
use crate::{Failure, Result};

/// A value as it was typed.
pub fn value(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.trim().to_owned()).unwrap_or_else(|_| {
        let quoted = serde_json::Value::from(text).to_string();
        RawValue::from_string(quoted).expect("a quoted text is JSON")
    })
}

/// Bytes of a file, or of stdin, that is an argument.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// An argument as it was typed, or what is in the file of `@FILE`, or in stdin for `-`. `@@x` is the text `@x`.
pub fn given(text: &str) -> Result<Box<RawValue>> {
    match text.strip_prefix('@') {
        _ if text == "-" => Ok(value(&input::text(Path::new("-"), MAX_FILE_BYTES)?)),
        None => Ok(value(text)),
        Some(rest) if rest.starts_with('@') => Ok(value(rest)),
        Some(file) => Ok(value(&input::text(Path::new(file), MAX_FILE_BYTES)?)),
    }
}

/// All arguments by position.
pub fn all_given(texts: &[String]) -> Result<Vec<Box<RawValue>>> {
    texts.iter().map(|text| given(text)).collect()
}

/// The parts of `NAME=VALUE`; `example` is such a text for the failure.
fn pair<'a>(text: &'a str, example: &str) -> Result<(&'a str, &'a str)> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    pair.ok_or_else(|| Failure::usage(format!("{text:?} is not NAME=VALUE")).help(format!("write {example}")))
}

/// `NAME=VALUE` pairs.
pub fn named(pairs: &[String]) -> Result<BTreeMap<String, Box<RawValue>>> {
    self::pairs(pairs)?.into_iter().map(|(name, text)| Ok((name, given(&text)?))).collect()
}

/// The names, each once, and the texts of `NAME=VALUE` pairs.
pub fn pairs(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    let mut named = BTreeMap::new();
    for text in pairs {
        let (name, text) = pair(text, "--kwarg express=true")?;
        if named.insert(name.to_owned(), text.to_owned()).is_some() {
            return Err(Failure::usage(format!("the argument {name:?} is given twice")));
        }
    }
    Ok(named)
}

/// A value of ours as JSON.
pub fn raw(value: &impl Serialize) -> Result<Box<RawValue>> {
    to_raw_value(value).map_err(|error| Failure::usage(format!("this cannot be written as JSON: {error}")))
}

/// A header stamp, `NAME=VALUE`.
fn stamp(text: &str) -> Result<(String, String)> {
    pair(text, "--header order=7").map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// A header stamp to search for, as the server takes it: `name:value`.
pub fn header_filter(stamp: Option<&str>) -> Result<Option<String>> {
    stamp.map(|text| self::stamp(text).map(|(name, value)| format!("{name}:{value}"))).transpose()
}

/// Header stamps; of two of one name the last one counts.
pub fn stamps(pairs: &[String]) -> Result<BTreeMap<String, String>> {
    pairs.iter().map(|pair| stamp(pair)).collect()
}

/// Fields of a policy and its options whose name in `#[task(…)]` has no unit.
const WITH_UNITS: [(&str, &str); 10] = [
    ("time_limit", "time_limit_ms"),
    ("soft_time_limit", "soft_time_limit_ms"),
    ("expires", "expires_ms"),
    ("countdown", "countdown_ms"),
    ("result_ttl", "result_ttl_ms"),
    ("dead_ttl", "dead_ttl_ms"),
    ("unique_for", "unique_for_ms"),
    ("debounce", "debounce_ms"),
    ("debounce_max_wait", "debounce_max_wait_ms"),
    ("memory", "memory_bytes"),
];

/// `FIELD=VALUE` as fields of a policy. Durations and sizes may have units; their names may be those of `#[task(…)]`.
pub fn policy(fields: &[String]) -> Result<Map<String, Value>> {
    let mut policy = Map::new();
    for field in fields {
        let Some((name, text)) = field.split_once('=') else {
            return Err(Failure::usage(format!("{field:?} is not FIELD=VALUE")).help("write max_retries=5"));
        };
        let name = WITH_UNITS.iter().find(|(bare, _)| bare == &name).map_or(name, |(_, full)| full);
        let units = match name {
            _ if name.ends_with("_ms") => human::duration_ms(text).ok(),
            _ if name.ends_with("_bytes") => human::size_bytes(text).ok(),
            _ => None,
        };
        let value = units.map(Value::from);
        let value = value.or_else(|| serde_json::from_str(text).ok()).unwrap_or_else(|| Value::from(text));
        policy.insert(name.to_owned(), value);
    }
    Ok(policy)
}

/// A policy as JSON, as `--policy` takes it. A field that there is not is refused with the nearest one.
pub fn policy_json(text: &str) -> Result<PolicyPatch> {
    let fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
        Failure::usage(format!("--policy is not a JSON object: {error}")).help(r#"write --policy '{"max_retries": 9}'"#)
    })?;
    let known = serde_json::to_value(Policy::default()).and_then(serde_json::from_value::<Map<String, Value>>);
    let known = known.unwrap_or_default();
    if let Some(wrong) = fields.keys().find(|field| !known.contains_key(*field)) {
        let failure = Failure::usage(format!("a policy has no field {wrong:?}"));
        return Err(match nearest(wrong, known.keys().map(String::as_str)) {
            Some(near) => failure.help(format!("did you mean {near}?")),
            None => failure.help("umbel task show NAME shows all fields"),
        });
    }
    let fields = Value::Object(fields);
    match JsonError::of_value::<PolicyPatch>(&fields) {
        Some(JsonError { pointer, detail }) => Err(Failure::usage(format!("--policy: {pointer}: {detail}"))),
        None => serde_json::from_value(fields).map_err(|error| Failure::usage(format!("--policy: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_have_the_names_that_tasks_give_them() {
        let read = policy(&["time_limit=30s".into(), "memory=64MiB".into(), "expires_ms=5".into(), "fuel=null".into()])
            .unwrap();
        let expected =
            serde_json::json!({"time_limit_ms": 30_000, "memory_bytes": 64 << 20, "expires_ms": 5, "fuel": null});
        assert_eq!(Value::Object(read), expected);
    }

    #[test]
    fn arguments_are_json_or_else_text_and_keep_their_digits() {
        let shown = |text: &str| value(text).get().to_owned();
        assert_eq!(shown("123456789012345678901234567890"), "123456789012345678901234567890");
        assert_eq!(shown("{\"a\": [1]}"), "{\"a\": [1]}");
        assert_eq!(shown("hello \"you\""), r#""hello \"you\"""#);
        assert_eq!(shown("true"), "true");
        assert_eq!(shown("\"5\""), "\"5\"");
    }

    #[test]
    fn an_argument_may_be_in_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{\"n\": 100000000000000000000001}\n").unwrap();
        let shown = |text: &str| given(text).map(|value| value.get().to_owned());
        assert_eq!(shown(&format!("@{}", file.path().display())).unwrap(), "{\"n\": 100000000000000000000001}");
        assert_eq!(shown("@@home").unwrap(), "\"@home\"");
        assert_eq!(shown("a@b").unwrap(), "\"a@b\"");
        assert_eq!(shown("@/nowhere/x").unwrap_err().exit, crate::Exit::NotFound);
    }

    #[test]
    fn policy_fields_take_units_json_or_text() {
        let fields = ["time_limit_ms=30s", "memory_bytes=64MiB", "max_retries=5", "queue=slow", "fuel=null"];
        let policy = policy(&fields.map(str::to_owned)).unwrap();
        let expected = serde_json::json!({
            "time_limit_ms": 30_000, "memory_bytes": 64 << 20, "max_retries": 5, "queue": "slow", "fuel": null,
        });
        assert_eq!(Value::Object(policy), expected);
    }

    #[test]
    fn a_policy_as_json_knows_its_fields() {
        assert_eq!(policy_json(r#"{"max_retries": 9}"#).unwrap().max_retries, Some(9));
        let wrong = policy_json(r#"{"max_retry": 9}"#).unwrap_err();
        assert_eq!(wrong.help.as_deref(), Some("did you mean max_retries?"));
        for bad in ["[]", "x", r#"{"max_retries": "x"}"#] {
            assert_eq!(policy_json(bad).unwrap_err().code, "usage", "{bad}");
        }
    }

    #[test]
    fn header_stamps_are_names_and_values() {
        assert_eq!(stamps(&["k=v=w".into(), "k=x".into()]).unwrap()["k"], "x");
        assert!(stamp("x").is_err() && stamp("=x").is_err());
    }

    #[test]
    fn names_come_once_and_with_a_value() {
        assert_eq!(named(&["a=b=c".into()]).unwrap()["a"].get(), "\"b=c\"");
        assert!(named(&["a".into()]).is_err() && named(&["a=1".into(), "a=2".into()]).is_err());
    }
}
