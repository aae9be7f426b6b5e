//! Cron expressions as sets of bits, and the next local time that is in such a set.
//!
//! Everything here is about a local clock; `timing/walk.rs` turns local times into instants. A search looks at months
//! that match, at most `HORIZON_YEARS` of them ahead, and at one set of bits for each: its work is bounded.

mod days;
mod describe;
mod field;
mod parse;

use crate::calendar::{DAY, LocalSeconds, date_of, day_number};
use days::Days;

/// How far a search looks, years. The longest wait of an expression that fires at all is 40 years (29 February on one
/// day of the week, around the year 2100).
pub(crate) const HORIZON_YEARS: i64 = 100;

/// Years that a year field can name.
pub(crate) const YEARS: std::ops::RangeInclusive<i64> = 1970..=2199;

umbel_model::named_enum! {
    /// How the day of the month and the day of the week go together.
    #[derive(Default)]
    pub enum DayRule {
        /// POSIX: where both say something, a day needs to match one of them.
        #[default]
        Or = "or",
        /// Celery: a day needs to match both.
        And = "and",
    }
}

/// An expression: its text, and what it means.
#[derive(Debug, Clone)]
pub(crate) struct Cron {
    text: Box<str>,
    pub set: CronSet,
}

/// What an expression means. Two texts with one meaning have one set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CronSet {
    pub seconds: u64,
    pub minutes: u64,
    pub hours: u32,
    days: Days,
    /// Bit `n` is month `n`.
    months: u16,
    years: Option<[u64; 4]>,
    /// Whether the minute or the hour has `*`, a range or a step: then it follows elapsed time (see the crate's docs).
    pub elapsed: bool,
}

impl Cron {
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

impl CronSet {
    /// Every second.
    pub(crate) const SECONDS: u64 = (1 << 60) - 1;
    pub(crate) const MINUTES: u64 = (1 << 60) - 1;
    pub(crate) const HOURS: u32 = (1 << 24) - 1;

    /// The set of all local times.
    pub(crate) fn all() -> Self {
        Self {
            seconds: Self::SECONDS,
            minutes: Self::MINUTES,
            hours: Self::HOURS,
            days: Days::all(),
            months: 0x1ffe,
            years: None,
            elapsed: true,
        }
    }

    /// Whether it has all of the other's times in each month that it has at all.
    pub(crate) fn covers_months_of(&self, other: &Self) -> bool {
        other.seconds & !self.seconds == 0
            && other.minutes & !self.minutes == 0
            && other.hours & !self.hours == 0
            && (self.days.is_every_day() || self.days == other.days)
    }

    pub(crate) fn has_minute(&self, (hour, minute): (i64, i64)) -> bool {
        self.hours >> hour & 1 == 1 && self.minutes >> minute & 1 == 1
    }

    /// The first local time at or after `from`, within the horizon.
    pub(crate) fn next_local(&self, from: LocalSeconds) -> Option<LocalSeconds> {
        let today = from.div_euclid(DAY);
        let (mut year, mut month, day) = date_of(today);
        let last_year = year + HORIZON_YEARS;
        let mut days = self.days_of(year, month) >> day << day;
        if days & (1 << day) != 0 {
            if let Some(second) = self.next_second_of_day(from.rem_euclid(DAY)) {
                return Some(today * DAY + second);
            }
            days &= !(1 << day);
        }
        let first_second = self.next_second_of_day(0)?;
        while days == 0 {
            (year, month) = self.next_month(year, month)?;
            if year > last_year && self.years.is_none() {
                return None;
            }
            days = self.days_of(year, month);
        }
        Some(day_number(year, month, days.trailing_zeros().into()) * DAY + first_second)
    }

    /// Whether it fires in no year after some.
    pub(crate) fn has_last_year(&self) -> bool {
        self.years.is_some()
    }

    /// Whether a local time is in the set.
    pub(crate) fn contains(&self, local: LocalSeconds) -> bool {
        let second = local.rem_euclid(DAY);
        self.hours >> (second / 3_600) & 1 == 1
            && self.minutes >> (second / 60 % 60) & 1 == 1
            && self.seconds >> (second % 60) & 1 == 1
            && self.contains_day(local.div_euclid(DAY))
    }

    pub(crate) fn contains_day(&self, day_number: i64) -> bool {
        let (year, month, day) = date_of(day_number);
        self.days_of(year, month) >> day & 1 == 1
    }

    /// The first of its seconds of a day at or after one.
    pub(crate) fn next_second_of_day(&self, from: i64) -> Option<i64> {
        let (hour, minute, second) = (from / 3_600, from / 60 % 60, from % 60);
        if self.hours >> hour & 1 == 1 {
            let here = self.minutes >> minute & 1 == 1;
            if let Some(second) = here.then(|| next_bit(self.seconds, second)).flatten() {
                return Some(hour * 3_600 + minute * 60 + second);
            }
            if let Some(minute) = next_bit(self.minutes, minute + 1) {
                return Some(hour * 3_600 + minute * 60 + next_bit(self.seconds, 0)?);
            }
        }
        let hour = next_bit(self.hours.into(), hour + 1)?;
        Some(hour * 3_600 + next_bit(self.minutes, 0)? * 60 + next_bit(self.seconds, 0)?)
    }

    /// The days of a month, bit `n` for day `n`.
    fn days_of(&self, year: i64, month: i64) -> u32 {
        if self.months >> month & 1 == 1 && self.has_year(year) { self.days.of_month(year, month) } else { 0 }
    }

    fn has_year(&self, year: i64) -> bool {
        let index = year - YEARS.start();
        self.years.is_none_or(|years| YEARS.contains(&year) && years[(index / 64) as usize] >> (index % 64) & 1 == 1)
    }

    /// The month after this one that matches.
    fn next_month(&self, year: i64, month: i64) -> Option<(i64, i64)> {
        match next_bit(self.months.into(), month + 1) {
            Some(month) if self.has_year(year) => Some((year, month)),
            _ => {
                let next = self.years.as_ref().map_or(Some(year + 1), |years| next_year(years, year + 1));
                Some((next?, next_bit(self.months.into(), 0)?))
            }
        }
    }
}

fn next_year(years: &[u64; 4], from: i64) -> Option<i64> {
    let from = from.max(*YEARS.start());
    (from..=*YEARS.end()).find(|year| {
        let index = year - YEARS.start();
        years[(index / 64) as usize] >> (index % 64) & 1 == 1
    })
}

/// The lowest bit at or above `from`.
fn next_bit(bits: u64, from: i64) -> Option<i64> {
    let above = bits.checked_shr(u32::try_from(from).ok()?)?;
    (above != 0).then(|| from + i64::from(above.trailing_zeros()))
}
