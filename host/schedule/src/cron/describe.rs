//! An expression in English, made of its set of bits: it says what fires, not what was written.

use crate::cron::{
    Cron, CronSet, YEARS,
    days::{ALL_DAYS, ALL_WEEKDAYS, MonthDays, WeekDays},
};

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const NTH: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];

/// As many times of the day are listed one by one.
const MAX_LISTED: u32 = 6;

impl Cron {
    /// Such as "at 03:00 on Monday to Friday".
    pub(crate) fn describe(&self) -> String {
        let set = &self.set;
        let mut text = set.clock();
        let days = set.days();
        if !days.is_empty() {
            text += &format!(" on {days}");
        }
        if set.months != 0x1ffe {
            text += &format!(" in {}", list(u64::from(set.months >> 1), 12, |at| MONTHS[at].to_owned(), " to "));
        }
        if let Some(years) = set.years {
            let mut bits = (0..YEARS.count()).filter(|at| years[at / 64] >> (at % 64) & 1 == 1);
            let (first, count) = (bits.next().unwrap_or(0), bits.clone().count() + 1);
            let last = bits.next_back().unwrap_or(first);
            let name = |at: usize| *YEARS.start() as usize + at;
            text += &match count {
                1 => format!(" in {}", name(first)),
                _ if last - first + 1 == count => format!(" in {} to {}", name(first), name(last)),
                _ => format!(" in {count} of the years {} to {}", name(first), name(last)),
            };
        }
        text
    }
}

impl CronSet {
    fn clock(&self) -> String {
        let times = self.hours.count_ones() * self.minutes.count_ones() * self.seconds.count_ones();
        if times <= MAX_LISTED {
            return format!("at {}", self.listed().join(", "));
        }
        let mut parts = Vec::new();
        if self.seconds != 1 {
            parts.push(unit(self.seconds, 60, "second"));
        }
        if self.minutes != Self::MINUTES || self.seconds == 1 {
            parts.push(unit(self.minutes, 60, "minute"));
        }
        if self.hours != Self::HOURS {
            parts.push(format!("in the hours {}", list(self.hours.into(), 24, |at| at.to_string(), " to ")));
        } else if parts.last().is_some_and(|part| part.starts_with("at minute")) {
            parts.push("of every hour".to_owned());
        }
        parts.join(" ")
    }

    /// The times of the day, `03:00` or `03:00:30`.
    fn listed(&self) -> Vec<String> {
        let mut from = 0;
        let mut times = Vec::new();
        while let Some(at) = (from < 86_400).then(|| self.next_second_of_day(from)).flatten() {
            let second = if at % 60 == 0 { String::new() } else { format!(":{:02}", at % 60) };
            times.push(format!("{:02}:{:02}{second}", at / 3_600, at / 60 % 60));
            from = at + 1;
        }
        times
    }

    fn days(&self) -> String {
        let days = &self.days;
        let every_week_day = days.week.plain == ALL_WEEKDAYS;
        let every_month_day = days.month.plain & ALL_DAYS == ALL_DAYS;
        match (every_month_day, every_week_day) {
            _ if days.is_every_day() => String::new(),
            (true, false) if !days.is_either() => week_days(&days.week),
            (false, true) if !days.is_either() => month_days(&days.month),
            _ if days.is_either() => format!("{}, or on {}", month_days(&days.month), week_days(&days.week)),
            _ => format!("{} if it is also {}", month_days(&days.month), week_days(&days.week)),
        }
    }
}

/// "every minute", "every 15 minutes", "at minute 5, 10".
fn unit(bits: u64, size: u32, name: &str) -> String {
    let all = (1 << size) - 1;
    if bits == all {
        return format!("every {name}");
    }
    let step = (2..=size / 2).filter(|step| size.is_multiple_of(*step));
    let mut even = step.filter(|step| bits == (0..size).step_by(*step as usize).fold(0, |bits, at| bits | 1 << at));
    match even.next() {
        Some(step) => format!("every {step} {name}s"),
        None => format!("at {name} {}", list(bits, size as usize, |at| at.to_string(), " to ")),
    }
}

fn week_days(days: &WeekDays) -> String {
    let mut parts = Vec::new();
    if days.plain != 0 {
        parts.push(weekday_list(days.plain));
    }
    for (nth, days) in NTH.iter().zip(days.nth).filter(|(_, days)| *days != 0) {
        parts.push(format!("the {nth} {} of the month", weekday_list(days)));
    }
    if days.last != 0 {
        parts.push(format!("the last {} of the month", weekday_list(days.last)));
    }
    parts.join(", ")
}

/// From Monday on, so that a weekend is one range.
fn weekday_list(days: u8) -> String {
    let days = u64::from(days);
    list(days >> 1 | days << 6 & 0x40, 7, |at| WEEKDAYS[(at + 1) % 7].to_owned(), " to ")
}

fn month_days(days: &MonthDays) -> String {
    let mut parts = Vec::new();
    if days.plain & ALL_DAYS != 0 {
        parts.push(format!("day {}", list(u64::from(days.plain), 32, |at| at.to_string(), " to ")));
    }
    let each = |bits: u32| (0..32).filter(move |bit| bits >> bit & 1 == 1);
    parts.extend(each(days.before_last).map(|before| before_last(before, "day")));
    parts.extend(each(days.nearest_weekday).map(|day| format!("the weekday nearest to day {day}")));
    parts.extend(each(days.weekday_before_last).map(|before| before_last(before, "weekday")));
    format!("{} of the month", parts.join(", "))
}

fn before_last(before: u32, what: &str) -> String {
    match (before, what) {
        (0, _) => format!("the last {what}"),
        (_, "day") => format!("the day {before} before the last"),
        _ => format!("the weekday nearest to the day {before} before the last"),
    }
}

/// Set bits, runs of three and more as ranges.
fn list(bits: u64, size: usize, name: impl Fn(usize) -> String, to: &str) -> String {
    let set = |at: usize| at < size && bits >> at & 1 == 1;
    let mut parts = Vec::new();
    let mut at = 0;
    while at < size {
        let length = (at..).take_while(|at| set(*at)).count();
        match length {
            0 => {}
            1 | 2 => parts.extend((at..at + length).map(&name)),
            _ => parts.push(format!("{}{to}{}", name(at), name(at + length - 1))),
        }
        at += length.max(1);
    }
    parts.join(", ")
}
