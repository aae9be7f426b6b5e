//! Times as the options of a call hold them.

/// Milliseconds since 1970 of an RFC 3339 text; times before are 1970. None for any other text.
pub(super) fn unix_ms(text: &str) -> Option<u64> {
    let (date, clock) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-')?;
    let zone_at = clock.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = clock.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':')?;
    let fine = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !fine || fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let offset_minutes = match zone {
        "Z" | "z" => 0,
        _ => {
            let [hours, minutes] = numbers(&zone[1..], ':')?;
            (hours * 60 + minutes) * if zone.starts_with('-') { -1 } else { 1 }
        }
    };
    let minutes = days(year, month, day) * 1_440 + hour * 60 + minute - offset_minutes;
    u64::try_from(((minutes * 60 + second) * 1_000 + millis).max(0)).ok()
}

fn numbers<const N: usize>(text: &str, separator: char) -> Option<[i64; N]> {
    let digits = |part: &str| (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok());
    let parts: Option<Vec<i64>> = text.split(separator).map(|part| digits(part).flatten()).collect();
    parts?.try_into().ok()
}

/// Days since 1970 of a date in the Gregorian calendar, whose years are taken to begin in March: leap days come last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_month = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_month - 719_468
}

#[cfg(test)]
mod tests {
    use super::unix_ms;

    #[test]
    fn times_are_read_in_any_zone() {
        assert_eq!(unix_ms("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_ms("2026-01-01T00:00:00Z"), Some(1_767_225_600_000));
        assert_eq!(unix_ms("2027-01-15T09:00:00.007+01:00"), Some(1_800_000_000_007));
        assert_eq!(unix_ms("2024-02-29T23:59:59.5-00:30"), Some(1_709_252_999_500));
        for bad in ["tomorrow", "2026-01-01", "2026-13-01T00:00:00Z", "2026-01-01T00:00:00", "2026-01-01T00:00Z", ""] {
            assert_eq!(unix_ms(bad), None, "{bad}");
        }
    }
}
