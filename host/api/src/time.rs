//! Times as RFC 3339 in UTC with milliseconds, in both directions.

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::{Serialize, Serializer};
use umbel_model::UnixMs;

/// A time that is written for people and programs: `2026-11-22T12:00:00.000Z`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Time(pub(crate) UnixMs);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
        // Beyond the year 9999 there is no RFC 3339.
        let at = i64::try_from(self.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        match at {
            Some(at) => serializer.serialize_str(&PRINTER.timestamp_to_string(&at)),
            None => serializer.serialize_none(),
        }
    }
}

/// The time of an RFC 3339 text, milliseconds. Times before 1970 are 1970.
pub(crate) fn parse(text: &str) -> Result<UnixMs, String> {
    let at: Timestamp =
        text.parse().map_err(|_| "write a time as RFC 3339, such as 2026-11-22T12:00:00Z".to_owned())?;
    Ok(u64::try_from(at.as_millisecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_with_milliseconds() {
        let text = serde_json::to_string(&Time(1_800_000_000_007)).unwrap();
        assert_eq!(text, r#""2027-01-15T08:00:00.007Z""#);
        assert_eq!(parse("2027-01-15T09:00:00.007+01:00"), Ok(1_800_000_000_007));
        assert!(parse("tomorrow").is_err());
        assert_eq!(serde_json::to_string(&Time(u64::MAX)).unwrap(), "null");
    }
}
