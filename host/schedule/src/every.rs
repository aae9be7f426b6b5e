//! Intervals: of a fixed length, or of days and months of the calendar.

use umbel_model::{UnixMs, human, nearest};

use crate::{
    calendar::{DAY, LocalSeconds, date_of, day_number, days_in_month},
    error::shown,
    zone::{Resolved, UnixSeconds, Zone},
};

/// Longest text of an interval, bytes.
const MAX_BYTES: usize = 64;
const LONGEST_YEARS: u64 = 10;
const SHORTEST_MS: u64 = 1_000;
const LONGEST_MS: u64 = LONGEST_YEARS * 366 * 86_400_000;

/// How long an interval is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Milliseconds of elapsed time: knows no zone.
    Fixed(u64),
    Days(u32),
    Months(u32),
}

/// Words of units; the length of one in its kind.
const FIXED: [(&str, &[&str]); 4] = [
    ("ms", &["millisecond", "milliseconds"]),
    ("s", &["sec", "secs", "second", "seconds"]),
    ("m", &["min", "mins", "minute", "minutes"]),
    ("h", &["hr", "hrs", "hour", "hours"]),
];
const DAYS: [(u32, &[&str]); 2] = [(1, &["d", "day", "days"]), (7, &["w", "week", "weeks"])];
const MONTHS: [(u32, &[&str]); 3] =
    [(1, &["mo", "month", "months"]), (3, &["q", "quarter", "quarters"]), (12, &["y", "year", "years"])];

impl Length {
    /// Reads `90s`, `2h`, `1.5 hours` (elapsed time), `3 days`, `1 week`, `1 month`, `2 quarters`, `1 year` (calendar).
    ///
    /// # Errors
    /// What is wrong and what to write instead.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let known =
            || format!("{} is no interval: write a number and s, m, h, days, weeks, months or years", shown(text));
        if text.len() > MAX_BYTES {
            return Err(known());
        }
        let text = text.trim();
        let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
        let (number, unit) = (&text[..at], text[at..].trim());
        if number.is_empty() || unit.is_empty() {
            return Err(known());
        }
        if let Some((short, _)) = FIXED.iter().find(|(short, long)| *short == unit || long.contains(&unit)) {
            return fixed(text, human::duration_ms(&format!("{number}{short}")).map_err(|_| known())?);
        }
        let count = |most: u64, factor: u32| whole_count(text, number, most / u64::from(factor)).map(|n| n * factor);
        if let Some((factor, _)) = DAYS.iter().find(|(_, words)| words.contains(&unit)) {
            return Ok(Self::Days(count(LONGEST_YEARS * 366, *factor)?));
        }
        if let Some((factor, _)) = MONTHS.iter().find(|(_, words)| words.contains(&unit)) {
            return Ok(Self::Months(count(LONGEST_YEARS * 12, *factor)?));
        }
        let words = FIXED.iter().flat_map(|(_, words)| words.iter());
        let words = words.chain(DAYS.iter().flat_map(|(_, words)| words.iter()));
        let words = words.chain(MONTHS.iter().flat_map(|(_, words)| words.iter())).copied();
        let meant = nearest(unit, words).map(|meant| format!(". Did you mean {number} {meant}?"));
        Err(format!("{}{}", known(), meant.unwrap_or_default()))
    }
}

fn fixed(text: &str, ms: u64) -> Result<Length, String> {
    match ms {
        0..SHORTEST_MS => Err(format!("{} is too short: write 1s or more", shown(text))),
        SHORTEST_MS..=LONGEST_MS => Ok(Length::Fixed(ms)),
        _ => Err(format!("{} is too long: write at most {LONGEST_YEARS} years", shown(text))),
    }
}

fn whole_count(text: &str, number: &str, most: u64) -> Result<u32, String> {
    match number.parse::<u64>() {
        Ok(0) => Err(format!("{} is too short: write 1 or more", shown(text))),
        Ok(count) if count <= most => Ok(count as u32),
        Ok(_) => Err(format!("{} is too long: write at most {LONGEST_YEARS} years", shown(text))),
        Err(_) if number.contains('.') => Err(format!(
            "{} is no whole number of a unit that the calendar decides: write a whole number, or hours",
            shown(text)
        )),
        Err(_) => Err(format!("{} is too long: write at most {LONGEST_YEARS} years", shown(text))),
    }
}

/// An interval with its phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Every {
    /// Milliseconds, and the remainder of every fire by them.
    Fixed { ms: u64, phase_ms: u64 },
    /// Local days from an anchor.
    Days { days: u32, anchor: LocalSeconds },
    /// Local months from an anchor; a day that a month does not have is its last one.
    Months { months: u32, anchor: LocalSeconds },
}

impl Every {
    /// The anchor sets the phase only: fires before it are fires, too, and `starts_at` says when they begin. Without
    /// an anchor: 1970-01-01T00:00, of UTC for a fixed length and of the zone for the calendar; for whole weeks the
    /// first Monday of 1970, so that they begin on Mondays.
    pub(crate) fn new(length: Length, anchor: Option<UnixMs>, zone: &Zone) -> Self {
        let local = |default: LocalSeconds| anchor.map_or(default, |at| zone.local((at / 1_000) as UnixSeconds));
        match length {
            Length::Fixed(ms) => Self::Fixed { ms, phase_ms: anchor.unwrap_or(0) % ms },
            Length::Days(days) => Self::Days { days, anchor: local(if days % 7 == 0 { 4 * DAY } else { 0 }) },
            Length::Months(months) => Self::Months { months, anchor: local(0) },
        }
    }

    /// The first fire at or after an instant. None beyond the year 9999.
    pub(crate) fn at_or_after(&self, from: UnixMs, zone: &Zone) -> Option<UnixMs> {
        if let Self::Fixed { ms, phase_ms } = *self {
            let past = (from % ms + ms - phase_ms) % ms;
            return from.checked_add(if past == 0 { 0 } else { ms - past });
        }
        let from = i64::try_from(from.div_ceil(1_000)).ok()?;
        let first = self.index_at_or_after(zone.local(from - 1) + 1);
        // The first may be the earlier of two that is over already; the one after it is not.
        let mut instants =
            (first..first + 3).map_while(|index| zone.resolve(self.local(index))).map(|resolved| match resolved {
                Resolved::Once(at) | Resolved::Twice { first: at, .. } | Resolved::Missing { after_gap: at } => at,
            });
        u64::try_from(instants.find(|at| *at >= from)?).ok()?.checked_mul(1_000)
    }

    /// Whether a fire at this instant was moved out of a gap of the zone.
    pub(crate) fn is_moved(&self, at: UnixSeconds, zone: &Zone) -> bool {
        let local = zone.local(at);
        !matches!(self, Self::Fixed { .. }) && self.local(self.index_at_or_after(local)) != local
    }

    /// The local time of a fire by its index from the anchor.
    fn local(&self, index: i64) -> LocalSeconds {
        match *self {
            Self::Fixed { ms, .. } => index * (ms / 1_000) as i64,
            Self::Days { days, anchor } => anchor + index * i64::from(days) * DAY,
            Self::Months { months, anchor } => {
                let (year, month, day) = date_of(anchor.div_euclid(DAY));
                let month = year * 12 + month - 1 + index * i64::from(months);
                let (year, month) = (month.div_euclid(12), month.rem_euclid(12) + 1);
                let day = day.min(days_in_month(year, month));
                day_number(year, month, day) * DAY + anchor.rem_euclid(DAY)
            }
        }
    }

    fn index_at_or_after(&self, from: LocalSeconds) -> i64 {
        let guess = match *self {
            Self::Fixed { ms, .. } => from.div_euclid((ms / 1_000) as i64),
            Self::Days { days, anchor } => (from - anchor).div_euclid(i64::from(days) * DAY),
            Self::Months { months, anchor } => {
                let months_of = |local: LocalSeconds| {
                    let (year, month, _) = date_of(local.div_euclid(DAY));
                    year * 12 + month
                };
                (months_of(from) - months_of(anchor)).div_euclid(i64::from(months))
            }
        };
        (guess..guess + 3).find(|index| self.local(*index) >= from).unwrap_or(guess + 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_as_people_write_them() {
        for (text, length) in [
            ("90s", Length::Fixed(90_000)),
            ("1.5 h", Length::Fixed(5_400_000)),
            ("2 hours", Length::Fixed(7_200_000)),
            ("1500ms", Length::Fixed(1_500)),
            ("5m", Length::Fixed(300_000)),
            ("1d", Length::Days(1)),
            ("2 weeks", Length::Days(14)),
            ("1 month", Length::Months(1)),
            ("2 quarters", Length::Months(6)),
            ("10 years", Length::Months(120)),
        ] {
            assert_eq!(Length::parse(text), Ok(length), "{text}");
        }
    }

    #[test]
    fn a_wrong_length_is_answered_with_what_to_write() {
        for (text, says) in [
            ("", "write a number and s, m, h"),
            ("5", "write a number and s, m, h"),
            ("hours", "write a number and s, m, h"),
            ("999ms", "write 1s or more"),
            ("0 days", "write 1 or more"),
            ("1.5 months", "a whole number, or hours"),
            ("11 years", "at most 10 years"),
            ("99999999999999999999 days", "at most 10 years"),
            ("9e99s", "write a number and s, m, h"),
            ("3 mnoths", "Did you mean 3 months?"),
            (&"9".repeat(10_000), "write a number and s, m, h"),
        ] {
            let error = Length::parse(text).unwrap_err();
            assert!(error.contains(says) && error.len() < 300, "{error}");
        }
    }
}
