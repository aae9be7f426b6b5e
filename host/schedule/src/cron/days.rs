//! Which days of a month match the two day fields.

use crate::{
    calendar::{day_number, days_in_month, weekday},
    cron::DayRule,
};

/// Both day fields, with how they go together.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Days {
    pub month: MonthDays,
    pub week: WeekDays,
    /// A day may match one of the fields; else it needs to match both.
    either: bool,
}

/// The day of the month.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct MonthDays {
    /// Bit `n` is day `n`.
    pub plain: u32,
    /// Bit `n` is the weekday (Monday to Friday) that is nearest to day `n`, within the month: `nW`.
    pub nearest_weekday: u32,
    /// Bit `n` is the day `n` days before the last one: `L-n`.
    pub before_last: u32,
    /// Bit `n` is the weekday that is nearest to that day: `LW`, `L-nW`.
    pub weekday_before_last: u32,
    /// Whether the field is `*` or `?`.
    pub any: bool,
}

/// The day of the week. Bit 0 is Sunday.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WeekDays {
    pub plain: u8,
    /// The first to the fifth of a month: `n#k`.
    pub nth: [u8; 5],
    /// The last of a month: `nL`.
    pub last: u8,
    pub any: bool,
}

/// Bits 1 to 31.
pub(super) const ALL_DAYS: u32 = !1;
pub(super) const ALL_WEEKDAYS: u8 = 0x7f;

impl Days {
    pub(super) fn new(month: MonthDays, week: WeekDays, rule: DayRule) -> Self {
        let either = rule == DayRule::Or && !month.any && !week.any;
        // From here on `any` says nothing that the bits do not say.
        Self { month: MonthDays { any: false, ..month }, week: WeekDays { any: false, ..week }, either }
    }

    pub(super) fn all() -> Self {
        let month = MonthDays { plain: ALL_DAYS, ..MonthDays::default() };
        Self { month, week: WeekDays { plain: ALL_WEEKDAYS, ..WeekDays::default() }, either: false }
    }

    /// Bit `n` is day `n`. No bit beyond the month's last day is set.
    pub(super) fn of_month(&self, year: i64, month: i64) -> u32 {
        let length = days_in_month(year, month);
        let first = weekday(day_number(year, month, 1));
        let by_month = self.month.bits(first, length);
        let by_week = self.week.bits(first, length);
        let days = if self.either { by_month | by_week } else { by_month & by_week };
        days & valid(length)
    }

    /// Whether every day of every month matches.
    pub(super) fn is_every_day(&self) -> bool {
        let (month, week) = (self.month.plain & ALL_DAYS == ALL_DAYS, self.week.plain == ALL_WEEKDAYS);
        if self.either { month || week } else { month && week }
    }

    pub(super) fn is_either(&self) -> bool {
        self.either
    }
}

impl MonthDays {
    fn bits(&self, first: u32, length: i64) -> u32 {
        let mut bits = self.plain;
        if self.nearest_weekday | self.before_last | self.weekday_before_last == 0 {
            return bits;
        }
        for day in 1..=length {
            let from_last = length - day;
            bits |= (self.before_last >> from_last & 1) << day;
            if (self.nearest_weekday >> day | self.weekday_before_last >> from_last) & 1 == 1 {
                bits |= 1 << nearest_weekday(day, first, length);
            }
        }
        bits
    }
}

/// The day from Monday to Friday of the same month that is nearest to this one.
fn nearest_weekday(day: i64, first: u32, length: i64) -> i64 {
    match (i64::from(first) + day - 1) % 7 {
        6 if day == 1 => 3,
        6 => day - 1,
        0 if day == length => day - 2,
        0 => day + 1,
        _ => day,
    }
}

impl WeekDays {
    fn bits(&self, first: u32, length: i64) -> u32 {
        let every_week = u64::from(from_weekday(self.plain, first)) * 0x1020_4081;
        let nth = (0..).zip(self.nth).map(|(week, days)| u64::from(from_weekday(days, first)) << (7 * week));
        let week_of_last = (u64::from(first) + length as u64 - 7) % 7;
        let last = u64::from(from_weekday(self.last, week_of_last as u32)) << (length - 7);
        let from_day_one = nth.fold(every_week | last, |bits, more| bits | more);
        (from_day_one << 1) as u32
    }
}

/// Bit 0 is the weekday `first`, bit 1 the one after it, and so on.
fn from_weekday(days: u8, first: u32) -> u8 {
    let days = u32::from(days);
    ((days >> first | days << (7 - first)) & 0x7f) as u8
}

fn valid(length: i64) -> u32 {
    ALL_DAYS & (u32::MAX >> (31 - length))
}
