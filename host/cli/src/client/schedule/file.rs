//! Files with schedules: TOML with a table `[schedules.NAME]` for each, or JSON of this form; and single definitions.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use umbel_model::{ScheduleName, plain};

use super::Body;
use crate::client::{arguments::raw, input};
use crate::{Failure, Result};

/// Bytes of a file: 1,000 schedules have far less.
const MAX_FILE_BYTES: u64 = 8 << 20;

const EXAMPLE: &str =
    "write [schedules.NAME] with start = { task = \"report\" } and when = { cron = \"0 3 * * *\" } below it";

/// Schedules by name.
pub type Schedules = BTreeMap<ScheduleName, Body>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schedules: BTreeMap<String, BTreeMap<String, Box<RawValue>>>,
}

/// All schedules of a file.
pub fn schedules(path: &Path) -> Result<Schedules> {
    read(&input::text(path, MAX_FILE_BYTES)?)
}

fn read(text: &str) -> Result<Schedules> {
    let File { schedules } = typed(text, EXAMPLE)?;
    let named = |(name, body)| match ScheduleName::new(&name) {
        Ok(name) => Ok((name, body)),
        Err(error) => Err(Failure::usage(format!("{name:?} cannot be the name of a schedule: {error}"))),
    };
    schedules.into_iter().map(named).collect()
}

/// One definition.
pub fn definition(path: &Path) -> Result<Body> {
    typed(
        &input::text(path, MAX_FILE_BYTES)?,
        "write start = { task = \"report\" } and when = { cron = \"0 3 * * *\" }",
    )
}

/// JSON if it begins so, else TOML.
fn typed<T: for<'de> Deserialize<'de>>(text: &str, help: &str) -> Result<T> {
    let wrong = |what: &str, why: &str| {
        Failure::new("bad_file", format!("the file is no {what} of schedules: {}", plain(why))).help(help)
    };
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| wrong("JSON", &error.to_string()));
    }
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| wrong("TOML", error.to_string().trim_end()))?;
    let json = raw(&json_of(toml::Value::Table(table)))?;
    serde_json::from_str(json.get()).map_err(|error| wrong("TOML", &error.to_string()))
}

/// Dates and times of TOML become the texts that they are.
fn json_of(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(items) => items.into_iter().map(json_of).collect(),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(key, value)| (key, json_of(value))).collect())
        }
    }
}

/// The schedules as TOML.
///
/// # Errors
/// One has a `null`, which TOML does not have.
pub fn to_toml(schedules: &BTreeMap<String, Map<String, Value>>) -> Result<String> {
    if let Some((name, _)) = schedules.iter().find(|(_, fields)| fields.values().any(has_null)) {
        let message = format!("TOML has no null, and the arguments of the schedule {name} have one");
        return Err(Failure::new("no_null", message).help("write JSON: --write schedules.json"));
    }
    let unwritten = |error: toml::ser::Error| Failure::new("output", error.to_string());
    toml::to_string(&BTreeMap::from([("schedules", schedules)])).map_err(unwritten)
}

/// The schedules as JSON.
pub fn to_json(schedules: &BTreeMap<String, Map<String, Value>>) -> Result<String> {
    let text = serde_json::to_string_pretty(&BTreeMap::from([("schedules", schedules)]));
    text.map_err(crate::output::unwritten)
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(items) => items.iter().any(has_null),
        Value::Object(fields) => fields.values().any(has_null),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const TOML: &str = r#"
        [schedules.nightly]
        start = { task = "report", args = [1, 2.5, "x"] }
        zone = "Europe/Berlin"
        starts_at = 2030-01-01T00:00:00Z
        [schedules.nightly.when]
        cron = "0 3 * * *"
    "#;

    #[test]
    fn a_file_is_toml_or_json() {
        let nightly = json!({
            "start": {"task": "report", "args": [1, 2.5, "x"]}, "zone": "Europe/Berlin", "starts_at": "2030-01-01T00:00:00Z",
            "when": {"cron": "0 3 * * *"},
        });
        let of = |text: &str| {
            let mut all = read(text).unwrap();
            serde_json::to_value(all.remove(&ScheduleName::new("nightly").unwrap()).unwrap()).unwrap()
        };
        assert_eq!(of(TOML), nightly);
        assert_eq!(of(&json!({"schedules": {"nightly": nightly}}).to_string()), nightly);
        let digits = r#"{"schedules": {"a": {"start": {"args": [123456789012345678901234567890]}}}}"#;
        assert!(
            read(digits).unwrap()[&ScheduleName::new("a").unwrap()]["start"].get().contains("12345678901234567890123")
        );
        for bad in ["", "x", "[schedule.a]", "{", "[]", "[schedules.a]\nx = ", "[schedules.\"a b\"]", "schedules = 1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_a_null_is_refused() {
        let schedules = |args: Value| {
            let body = json!({"start": {"task": "t", "args": args}, "when": {"every": "5s"}, "overlap": "allow"});
            BTreeMap::from([("a.b".to_owned(), body.as_object().unwrap().clone())])
        };
        let plain = schedules(json!([1, "é\"\n", {"k": [true]}]));
        for text in [to_toml(&plain).unwrap(), to_json(&plain).unwrap()] {
            let read = read(&text).unwrap();
            let found = serde_json::to_value(&read[&ScheduleName::new("a.b").unwrap()]).unwrap();
            assert_eq!(found, Value::Object(plain["a.b"].clone()), "{text}");
        }
        assert_eq!(to_toml(&schedules(json!([[null]]))).unwrap_err().code, "no_null");
        assert!(to_json(&schedules(json!([null]))).is_ok());
    }
}
