//! Times as the API gives them.

use anyhow::{Context, Result};
use serde_json::Value;

/// A time of a job, such as `started_at`, in milliseconds since 1970.
pub fn time_ms(job: &Value, field: &str) -> Result<u64> {
    let text = job[field].as_str().with_context(|| format!("no {field}: {job}"))?;
    parsed(text).with_context(|| format!("{field} {text:?} is no time in UTC"))
}

/// RFC 3339 in UTC.
fn parsed(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut parts = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let mut parts = time.split(':');
    let (hours, minutes): (u64, u64) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let seconds: f64 = parts.next()?.parse().ok()?;
    // Days from the civil calendar, whose years begin in March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let minutes = (u64::try_from(days).ok()? * 24 + hours) * 60 + minutes;
    Some(minutes * 60_000 + (seconds * 1_000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_since_1970() {
        assert_eq!(parsed("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parsed("2000-02-29T12:00:00.5Z"), Some(951_825_600_500));
        assert_eq!(parsed("2026-11-22T19:21:27.321Z"), Some(1_795_375_287_321));
        assert_eq!(parsed("2026-11-22"), None);
    }
}
