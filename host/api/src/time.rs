//! The clock, and times as RFC 3339 in UTC with milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::fmt::temporal::DateTimePrinter;
use serde::{Serialize, Serializer};
use umbel_model::UnixMs;

/// This machine's clock, for ids and for people. It decides nothing.
pub(crate) fn now_ms() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as UnixMs)
}

/// A time that is written for people and programs: `2026-11-22T12:00:00.000Z`. The OpenAPI document knows it by its name, as
/// the `Timestamp` of jiff.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timestamp(pub(crate) UnixMs);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
        // Beyond the year 9999 there is no RFC 3339.
        let at = i64::try_from(self.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        match at {
            Some(at) => serializer.serialize_str(&PRINTER.timestamp_to_string(&at)),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        let text = serde_json::to_string(&Timestamp(1_800_000_000_007)).unwrap();
        assert_eq!(text, r#""2027-01-15T08:00:00.007Z""#);
        assert_eq!(serde_json::to_string(&Timestamp(u64::MAX)).unwrap(), "null");
    }
}
