//! The options of a call: the fields of a policy, and when it starts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use umbel_broker::Start;
use umbel_model::{
    Canvas, PolicyPatch, RawObject, UnixMs, binding::escape, json, outcome::MAX_DELAY_MS, outcome::truncated,
};

use crate::{Fault, FaultKind, JsonError, Result, plain};

/// Options that are no field of a policy.
const OTHERS: &str =
    "`countdown_ms`, `eta`, `expires_at`, `idempotency_key`, `tags`, `headers`, `on_success`, `on_failure`";

/// Bytes of an idempotency key.
const MAX_KEY_BYTES: usize = 255;
const MAX_TAGS: usize = 16;
const MAX_HEADERS: usize = 16;
/// Characters of a tag and of a header's name.
const MAX_NAME_CHARS: usize = 64;
/// Characters of a header's value.
const MAX_VALUE_CHARS: usize = 256;
/// Steps that follow one end of a job.
pub const MAX_CALLBACKS: usize = 16;

/// The options of a job: everything that a caller may set apart from its arguments.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub policy: PolicyPatch,
    pub start: Option<Start>,
    pub idempotency_key: Option<String>,
    /// It expires if it has not started by then.
    pub expires_at: Option<UnixMs>,
    pub tags: Vec<String>,
    pub headers: BTreeMap<String, String>,
    /// Steps that run with its result.
    pub on_success: Vec<Canvas>,
    /// Steps that run with its error.
    pub on_failure: Vec<Canvas>,
}

/// The options whose values are kept as they were written.
#[derive(Deserialize)]
struct Callbacks<'a> {
    #[serde(borrow, default)]
    on_success: Option<&'a RawValue>,
    #[serde(borrow, default)]
    on_failure: Option<&'a RawValue>,
}

impl Options {
    /// Reads `options`: the fields of a policy, and `countdown_ms`, `eta`, `expires_at`, `idempotency_key`, `tags`,
    /// `headers`, `on_success`, `on_failure`. Pointers begin with `/options`.
    ///
    /// # Errors
    /// The first option that cannot be used.
    pub fn parse(json: &str, now_ms: UnixMs) -> Result<Self> {
        let shape = |pointer: &str, detail| Fault::new(FaultKind::Options, format!("/options{pointer}"), detail);
        let whole = |e: serde_json::Error| shape("", plain(&e.to_string()));
        let mut fields: Map<String, Value> = serde_json::from_str(json).map_err(whole)?;
        if let Some(pointer) = twice(json) {
            return Err(shape(&pointer, "is given twice".to_owned()).into());
        }
        fields.retain(|_, value| !value.is_null());
        let countdown = fields.remove("countdown_ms").map(|value| countdown_of(&value)).transpose()?;
        let eta = fields.remove("eta").map(|value| time_of("eta", &value, now_ms).map(Start::At)).transpose()?;
        if countdown.is_some() && eta.is_some() {
            return Err(wrong("/options/eta", "set countdown_ms or eta, not both").into());
        }
        let idempotency_key = fields.remove("idempotency_key").map(|value| key_of(&value)).transpose()?;
        let expires_at = fields.remove("expires_at").map(|value| time_of("expires_at", &value, now_ms)).transpose()?;
        let tags = fields.remove("tags").map(|value| tags_of(&value)).transpose()?.unwrap_or_default();
        let headers = fields.remove("headers").map(|value| headers_of(&value)).transpose()?.unwrap_or_default();
        let has = [fields.remove("on_success").is_some(), fields.remove("on_failure").is_some()];
        let (mut on_success, mut on_failure) = (Vec::new(), Vec::new());
        if has.contains(&true) {
            let texts: Callbacks<'_> = serde_json::from_str(json).map_err(whole)?;
            on_success = steps_of("on_success", texts.on_success)?;
            on_failure = steps_of("on_failure", texts.on_failure)?;
        }
        let fields = Value::Object(fields);
        let policy = PolicyPatch::deserialize(&fields).map_err(|error| {
            let Some(JsonError { pointer, detail }) = JsonError::of_value::<PolicyPatch>(&fields) else {
                return whole(error);
            };
            let is_unknown = detail.starts_with("there is no ");
            shape(&pointer, if is_unknown { format!("{detail}, {OTHERS}") } else { detail })
        })?;
        if policy.expires_ms == Some(0) {
            let detail = "write at least 1; leave it out if the job may start at any time";
            return Err(wrong("/options/expires_ms", detail).into());
        }
        let start = countdown.or(eta);
        Ok(Self { policy, start, idempotency_key, expires_at, tags, headers, on_success, on_failure })
    }
}

/// The first name that an object has twice: of the options, and of their headers.
fn twice(json: &str) -> Option<String> {
    let of = |text: &str, at: &str| {
        let fields: RawObject<'_> = serde_json::from_str(text).ok()?;
        let mut seen = BTreeSet::new();
        let name = fields.iter().map(|(name, _)| name.to_owned()).find(|name| !seen.insert(name.clone()));
        name.map(|name| format!("{at}/{}", escape(&truncated(name, MAX_NAME_CHARS))))
    };
    of(json, "").or_else(|| of(json::field(json, "headers")?, "/headers"))
}

fn wrong(pointer: &str, detail: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Option, pointer, detail)
}

fn countdown_of(value: &Value) -> Result<Start, Fault> {
    match value.as_u64() {
        Some(ms) if ms <= MAX_DELAY_MS => Ok(Start::After(ms)),
        _ => Err(wrong("/options/countdown_ms", format!("write whole milliseconds from 0 to {MAX_DELAY_MS}, a year"))),
    }
}

fn time_of(field: &str, value: &Value, now_ms: UnixMs) -> Result<UnixMs, Fault> {
    let pointer = format!("/options/{field}");
    let at = parse_time(value.as_str().unwrap_or_default()).map_err(|e| wrong(&pointer, e))?;
    if at > now_ms.saturating_add(MAX_DELAY_MS) {
        return Err(wrong(&pointer, "at most a year from now"));
    }
    Ok(at)
}

/// A text of 1 to `max` characters, none of which could break a line.
fn label(value: &Value, max: usize) -> Option<String> {
    let text = value.as_str()?;
    let fine = (1..=max).contains(&text.chars().count()) && !text.chars().any(char::is_control);
    fine.then(|| text.to_owned())
}

fn tags_of(value: &Value) -> Result<Vec<String>, Fault> {
    let rule =
        || format!("write at most {MAX_TAGS} texts of 1 to {MAX_NAME_CHARS} characters without control characters");
    let tags = value.as_array().filter(|tags| tags.len() <= MAX_TAGS).ok_or_else(|| wrong("/options/tags", rule()))?;
    let tag = |(at, tag)| label(tag, MAX_NAME_CHARS).ok_or_else(|| wrong(&format!("/options/tags/{at}"), rule()));
    tags.iter().enumerate().map(tag).collect()
}

fn headers_of(value: &Value) -> Result<BTreeMap<String, String>, Fault> {
    let rule = || {
        format!(
            "write an object of at most {MAX_HEADERS} texts of at most {MAX_VALUE_CHARS} characters, by names of 1 to \
             {MAX_NAME_CHARS} without `:`"
        )
    };
    let headers = value.as_object().filter(|headers| headers.len() <= MAX_HEADERS);
    let headers = headers.ok_or_else(|| wrong("/options/headers", rule()))?;
    let header = |(name, value): (&String, &Value)| {
        let known = label(&Value::from(name.as_str()), MAX_NAME_CHARS).filter(|name| !name.contains(':'));
        let text = value.as_str().filter(|text| text.is_empty()).map(str::to_owned);
        let text = text.or_else(|| label(value, MAX_VALUE_CHARS));
        known.zip(text).ok_or_else(|| {
            wrong(&format!("/options/headers/{}", escape(&truncated(name.clone(), MAX_NAME_CHARS))), rule())
        })
    };
    headers.iter().map(header).collect()
}

/// One step, or a list of them.
fn steps_of(field: &str, text: Option<&RawValue>) -> Result<Vec<Canvas>, Fault> {
    let Some(text) = text.map(RawValue::get) else { return Ok(Vec::new()) };
    let steps = match text.trim_start().starts_with('[') {
        true => steps_in(field, text)?,
        false => vec![steps_in::<Canvas>(field, text)?],
    };
    if steps.len() > MAX_CALLBACKS {
        return Err(wrong(&format!("/options/{field}"), format!("at most {MAX_CALLBACKS} steps")));
    }
    Ok(steps)
}

/// What a text is, or the place in it that is wrong.
fn steps_in<'de, T: Deserialize<'de>>(field: &str, text: &'de str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| {
        let (pointer, detail) = match JsonError::of_text::<T>(text) {
            Some(JsonError { pointer, detail }) if !pointer.is_empty() => (pointer, detail),
            _ => (String::new(), format!("write one step or a list of steps: {}", plain(&error.to_string()))),
        };
        Fault::new(FaultKind::Canvas, format!("/options/{field}{pointer}"), detail)
    })
}

fn key_of(value: &Value) -> Result<String, Fault> {
    let key = value.as_str().unwrap_or_default();
    check_key(key).map_err(|detail| wrong("/options/idempotency_key", detail))?;
    Ok(key.to_owned())
}

/// The rule of idempotency keys, wherever they come from.
pub fn check_key(key: &str) -> Result<(), String> {
    let fine = (1..=MAX_KEY_BYTES).contains(&key.len()) && !key.chars().any(char::is_control);
    fine.then_some(())
        .ok_or_else(|| format!("an idempotency key has 1 to {MAX_KEY_BYTES} bytes and no control characters"))
}

/// The time of an RFC 3339 text, milliseconds. Times before 1970 are 1970.
pub fn parse_time(text: &str) -> Result<UnixMs, String> {
    let at: Timestamp =
        text.parse().map_err(|_| "write a time as RFC 3339, such as 2026-11-22T12:00:00Z".to_owned())?;
    Ok(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_is_given_twice_is_refused_where_it_is() {
        let refused = |json: &str| match Options::parse(json, 0) {
            Err(crate::Error::Refused(faults)) => faults[0].pointer.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused(r#"{"priority": 1, "tags": [], "priority": 2}"#), "/options/priority");
        assert_eq!(refused(r#"{"headers": {"a/b": "1", "a\u002fb": "2"}}"#), "/options/headers/a~1b");
    }

    #[test]
    fn an_expiry_of_no_time_is_refused_where_it_meant_never() {
        let refused = Options::parse(r#"{"expires_ms": 0}"#, 0);
        let Err(crate::Error::Refused(faults)) = refused else { panic!("{refused:?}") };
        assert_eq!((faults[0].kind, faults[0].pointer.as_str()), (FaultKind::Option, "/options/expires_ms"));
        assert!(Options::parse(r#"{"expires_ms": null}"#, 0).is_ok());
    }

    #[test]
    fn times_are_read_in_any_zone() {
        assert_eq!(parse_time("2027-01-15T09:00:00.007+01:00"), Ok(1_800_000_000_007));
        assert!(parse_time("tomorrow").is_err());
    }
}
