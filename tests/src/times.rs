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
    let minutes = (u64::try_from(days_to(year, month, day)).ok()? * 24 + hours) * 60 + minutes;
    Some(minutes * 60_000 + (seconds * 1_000.0).round() as u64)
}

/// Days from 1970 to a date, by the civil calendar, whose years begin in March.
fn days_to(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The date so many days after 1970-01-01.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    (year + era * 400, month, day)
}

/// A time after 1970 as RFC 3339, as a clock shows it that is so many minutes before UTC.
pub fn written(ms: u64, offset_minutes: i64) -> String {
    let local = ms as i64 + offset_minutes * 60_000;
    let (year, month, day) = date_of(local / 86_400_000);
    let (hours, minutes) = (local / 3_600_000 % 24, local / 60_000 % 60);
    let sign = if offset_minutes < 0 { '-' } else { '+' };
    let (away, seconds) = (offset_minutes.abs(), local / 1_000 % 60);
    let time = format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}", local % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{time}{sign}{:02}:{:02}", away / 60, away % 60)
}

/// Midnight, UTC, of the next first Sunday on or after this day of a year, milliseconds since 1970: the days on which
/// zones change their clocks.
pub fn next_sunday_from(month: i64, day: i64, now_ms: u64) -> u64 {
    let (this_year, ..) = date_of((now_ms / 86_400_000) as i64);
    let sunday = |year| {
        let first = days_to(year, month, day);
        // 1970 began with a Thursday.
        (first + (7 - (first + 4) % 7) % 7) as u64 * 86_400_000
    };
    let this = sunday(this_year);
    if this > now_ms { this } else { sunday(this_year + 1) }
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

    #[test]
    fn times_are_written_as_the_clocks_of_zones_show_them() {
        assert_eq!(written(1_800_000_000_007, 345), "2027-01-15T13:45:00.007+05:45");
        assert_eq!(written(951_782_400_000, -300), "2000-02-28T19:00:00.000-05:00");
        for days in (0..40_000).step_by(13) {
            let (year, month, day) = date_of(days);
            assert_eq!(days_to(year, month, day), days);
        }
    }

    #[test]
    fn clocks_change_on_sundays() {
        let of = |text| parsed(text).unwrap();
        assert_eq!(next_sunday_from(10, 25, of("2026-10-24T00:00:00Z")), of("2026-10-25T00:00:00Z"));
        assert_eq!(next_sunday_from(10, 25, of("2026-11-22T00:00:00Z")), of("2027-10-31T00:00:00Z"));
        assert_eq!(next_sunday_from(4, 1, of("2026-11-22T00:00:00Z")), of("2027-04-04T00:00:00Z"));
    }
}
