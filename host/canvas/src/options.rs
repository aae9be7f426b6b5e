//! The options of a call: the fields of a policy, and when it starts.

use jiff::Timestamp;
use serde_json::{Map, Value};
use umbel_broker::Start;
use umbel_model::{PolicyPatch, UnixMs, outcome::MAX_DELAY_MS, outcome::truncated};

use crate::{Fault, FaultKind};

/// Bytes of an idempotency key.
const MAX_KEY_BYTES: usize = 255;

/// What a caller may say of a job beyond its arguments.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    pub policy: PolicyPatch,
    pub start: Option<Start>,
    pub idempotency_key: Option<String>,
}

impl Options {
    /// Reads `options`: the fields of a policy, and `countdown_ms`, `eta`, `idempotency_key`. Pointers begin with
    /// `/options`.
    pub fn parse(json: &str, now_ms: UnixMs) -> Result<Self, Fault> {
        let shape = |detail: String| Fault {
            kind: FaultKind::Options,
            pointer: "/options".into(),
            detail: truncated(format!("options: {detail}"), 1_024),
        };
        let mut fields: Map<String, Value> = serde_json::from_str(json).map_err(|e| shape(e.to_string()))?;
        fields.retain(|_, value| !value.is_null());
        let countdown = fields.remove("countdown_ms").map(|value| countdown_of(&value)).transpose()?;
        let eta = fields.remove("eta").map(|value| eta_of(&value, now_ms)).transpose()?;
        if countdown.is_some() && eta.is_some() {
            return Err(wrong("/options/eta", "set countdown_ms or eta, not both"));
        }
        let idempotency_key = fields.remove("idempotency_key").map(|value| key_of(&value)).transpose()?;
        let policy = serde_json::from_value(Value::Object(fields))
            .map_err(|e| shape(format!("{e} (besides: countdown_ms, eta, idempotency_key)")))?;
        Ok(Self { policy, start: countdown.or(eta), idempotency_key })
    }
}

fn wrong(pointer: &str, detail: impl Into<String>) -> Fault {
    Fault { kind: FaultKind::Option, pointer: pointer.into(), detail: detail.into() }
}

fn countdown_of(value: &Value) -> Result<Start, Fault> {
    match value.as_u64() {
        Some(ms) if ms <= MAX_DELAY_MS => Ok(Start::After(ms)),
        _ => Err(wrong("/options/countdown_ms", format!("write whole milliseconds from 0 to {MAX_DELAY_MS}, a year"))),
    }
}

fn eta_of(value: &Value, now_ms: UnixMs) -> Result<Start, Fault> {
    let at = parse_time(value.as_str().unwrap_or_default()).map_err(|e| wrong("/options/eta", e))?;
    if at > now_ms.saturating_add(MAX_DELAY_MS) {
        return Err(wrong("/options/eta", "at most a year from now"));
    }
    Ok(Start::At(at))
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
    fn times_are_read_in_any_zone() {
        assert_eq!(parse_time("2027-01-15T09:00:00.007+01:00"), Ok(1_800_000_000_007));
        assert!(parse_time("tomorrow").is_err());
    }
}
