//! A slow reference for expressions: random fields, and what they match, minute by minute or second by second.
//!
//! Shares no code with the crate. Of jiff it uses the conversion from instants to local times, and its calendar.

use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};

/// A small generator of random numbers (splitmix64): the same cases for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: i64) -> i64 {
        (self.next() % end as u64) as i64
    }

    pub fn between(&mut self, first: i64, last: i64) -> i64 {
        first + self.below(last - first + 1)
    }

    pub fn one_in(&mut self, n: i64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Item {
    Any,
    One(i64),
    Range(i64, i64, i64),
    From(i64, i64),
    Last(i64),
    LastWeekday(i64),
    Nearest(i64),
    Nth(i64, i64),
    LastOf(i64),
}

#[derive(Debug, Clone)]
struct Field {
    first: i64,
    last: i64,
    items: Vec<Item>,
    text: String,
}

const MONTHS: [&str; 12] = ["jan", "Feb", "MAR", "april", "may", "jun", "jul", "aug", "September", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 8] = ["sun", "Mon", "TUE", "wednesday", "thu", "fri", "sat", "Sunday"];

impl Field {
    fn any(first: i64, last: i64) -> Self {
        Self { first, last, items: vec![Item::Any], text: "*".to_owned() }
    }

    /// A list of numbers, ranges and steps; numbers are near `near` half of the time.
    fn random(
        random: &mut Random,
        first: i64,
        last: i64,
        near: i64,
        special: fn(&mut Random) -> Option<(Item, String)>,
    ) -> Self {
        let (mut items, mut texts) = (Vec::new(), Vec::new());
        for _ in 0..[1, 1, 1, 2, 3][random.below(5) as usize] {
            let size = last - first + 1;
            let number = |random: &mut Random| match random.one_in(2) {
                true => first + (near - first + random.between(-1, 1)).rem_euclid(size),
                false => random.between(first, last),
            };
            let (a, b, step) = (number(random), number(random), random.between(1, size.min(1 + size / 2)));
            let name = |random: &mut Random, at: i64| match (first, last) {
                (1, 12) if random.one_in(2) => MONTHS[at as usize - 1].to_owned(),
                (0, 6) if random.one_in(2) => WEEKDAYS[at as usize].to_owned(),
                _ => at.to_string(),
            };
            let (item, text) = match random.below(7) {
                0 | 1 => (Item::One(a), name(random, a)),
                2 => (Item::Range(a, b, 1), format!("{}-{}", name(random, a), name(random, b))),
                3 => (Item::Range(a, b, step), format!("{}-{}/{step}", name(random, a), name(random, b))),
                4 => (Item::From(a, step), format!("{a}/{step}")),
                5 => (Item::From(first, step), format!("*/{step}")),
                _ => special(random).unwrap_or_else(|| (Item::One(b), b.to_string())),
            };
            items.push(item);
            texts.push(text);
        }
        Self { first, last, items, text: texts.join(",") }
    }

    /// Whether one of the items that are numbers is this number.
    fn has(&self, value: i64) -> bool {
        self.items.iter().any(|item| match *item {
            Item::Any => true,
            Item::One(number) => number == value,
            Item::From(from, step) => (from..=self.last).step_by(step as usize).any(|at| at == value),
            Item::Range(from, to, step) => {
                // Walks from one end to the other, over the end of the field if need be.
                let (mut at, mut count) = (from, 0);
                loop {
                    if at == value && count % step == 0 {
                        break true;
                    }
                    if at == to {
                        break false;
                    }
                    at = if at == self.last { self.first } else { at + 1 };
                    count += 1;
                }
            }
            _ => false,
        })
    }

    fn is_spread(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Any | Item::Range(..) | Item::From(..)))
    }

    fn restricts(&self) -> bool {
        !matches!(self.text.as_str(), "*" | "?" | "*/1")
    }
}

fn no_special(_: &mut Random) -> Option<(Item, String)> {
    None
}

fn special_month_day(random: &mut Random) -> Option<(Item, String)> {
    let n = random.between(1, 30);
    Some(match random.below(6) {
        0 => (Item::Last(0), "L".to_owned()),
        1 => (Item::Last(n), format!("L-{n}")),
        2 => (Item::LastWeekday(0), "LW".to_owned()),
        3 => (Item::LastWeekday(n), format!("l-{n}w")),
        _ => (Item::Nearest(n), format!("{n}W")),
    })
}

fn special_week_day(random: &mut Random) -> Option<(Item, String)> {
    let (day, nth) = (random.between(0, 7), random.between(1, 5));
    Some(match random.below(6) {
        0 => (Item::One(0), "7".to_owned()),
        1 => (Item::LastOf(day % 7), format!("{day}L")),
        2 => (Item::LastOf(day % 7), format!("{}L", WEEKDAYS[day as usize])),
        3 => (Item::Nth(day % 7, nth), format!("{}#{nth}", WEEKDAYS[day as usize])),
        _ => (Item::Nth(day % 7, nth), format!("{day}#{nth}")),
    })
}

/// An expression: its fields, and whether a day needs to match both day fields.
#[derive(Debug, Clone)]
pub struct Expression {
    second: Option<Field>,
    minute: Field,
    hour: Field,
    month_day: Field,
    month: Field,
    week_day: Field,
    both_days: bool,
}

impl Expression {
    /// Half of the numbers are near those of a local time.
    pub fn random(random: &mut Random, near: DateTime, seconds: bool, both_days: bool) -> Self {
        let mut field = |first, last, near: i64, any, special| match random.one_in(any) {
            true => Field::any(first, last),
            false => Field::random(random, first, last, near, special),
        };
        let second = seconds.then(|| field(0, 59, 0, 4, no_special));
        let minute = field(0, 59, near.minute().into(), 6, no_special);
        let hour = field(0, 23, near.hour().into(), 4, no_special);
        let mut month_day = field(1, 31, near.day().into(), 2, special_month_day);
        let month = field(1, 12, near.month().into(), 2, no_special);
        let week_day = field(0, 6, near.weekday().to_sunday_zero_offset().into(), 2, special_week_day);
        if month_day.text == "*" && random.one_in(4) {
            month_day.text = "?".to_owned();
        }
        Self { second, minute, hour, month_day, month, week_day, both_days }
    }

    pub fn text(&self) -> String {
        let second = self.second.as_ref().map(|second| format!("{} ", second.text)).unwrap_or_default();
        let fields = [&self.minute, &self.hour, &self.month_day, &self.month, &self.week_day];
        second + &fields.map(|field| field.text.clone()).join(" ")
    }

    fn is_fixed(&self) -> bool {
        !self.minute.is_spread() && !self.hour.is_spread()
    }

    /// Whether the local clock shows a time of the expression. Without a field of seconds: at second 0.
    pub fn matches(&self, at: DateTime) -> bool {
        let second = i64::from(at.second());
        self.second.as_ref().map_or(second == 0, |field| field.has(second)) && self.matches_minute(at)
    }

    /// As `matches`, for what is left out: without a field of seconds each second of the minute.
    pub fn leaves_out(&self, at: DateTime) -> bool {
        self.second.as_ref().is_none_or(|field| field.has(at.second().into())) && self.matches_minute(at)
    }

    fn matches_minute(&self, at: DateTime) -> bool {
        self.minute.has(at.minute().into())
            && self.hour.has(at.hour().into())
            && self.month.has(at.month().into())
            && self.matches_day(at.date())
    }

    fn matches_day(&self, date: Date) -> bool {
        let month_day =
            self.month_day.has(date.day().into()) || self.month_day.items.iter().any(|item| is_month_day(*item, date));
        let week_day = self.week_day.has(date.weekday().to_sunday_zero_offset().into())
            || self.week_day.items.iter().any(|item| is_week_day(*item, date));
        let either = !self.both_days && self.month_day.restricts() && self.week_day.restricts();
        if either { month_day || week_day } else { month_day && week_day }
    }
}

fn is_month_day(item: Item, date: Date) -> bool {
    let length = i64::from(date.days_in_month());
    let day = i64::from(date.day());
    match item {
        Item::Last(before) => length - before == day,
        Item::LastWeekday(before) => nearest_weekday(date, length - before) == Some(date),
        Item::Nearest(day) => nearest_weekday(date, day) == Some(date),
        _ => false,
    }
}

/// Of all weekdays of the month the one with the least distance to a day of it.
fn nearest_weekday(month: Date, day: i64) -> Option<Date> {
    let target = Date::new(month.year(), month.month(), i8::try_from(day).ok()?).ok()?;
    let days = (1..=month.days_in_month()).map(|day| Date::new(month.year(), month.month(), day).unwrap());
    let weekdays = days.filter(|date| !matches!(date.weekday().to_sunday_zero_offset(), 0 | 6));
    weekdays.min_by_key(|date| (i64::from(date.day()) - i64::from(target.day())).abs())
}

fn is_week_day(item: Item, date: Date) -> bool {
    let day = |day: i64| i64::from(date.weekday().to_sunday_zero_offset()) == day;
    match item {
        Item::Nth(of_week, nth) => day(of_week) && (i64::from(date.day()) - 1) / 7 + 1 == nth,
        Item::LastOf(of_week) => day(of_week) && date.day() + 7 > date.days_in_month(),
        _ => false,
    }
}

/// What a timing is made of.
pub enum Source {
    Union(Vec<Expression>),
    /// Days or months of the calendar from a local time.
    Every {
        days: Option<i64>,
        months: Option<i64>,
        anchor: DateTime,
    },
}

type Matches<'a> = Box<dyn Fn(DateTime) -> bool + 'a>;

impl Source {
    /// The parts, each with whether its times are fixed.
    fn parts(&self) -> Vec<(bool, Matches<'_>)> {
        match self {
            Self::Union(expressions) => expressions
                .iter()
                .map(|expression| (expression.is_fixed(), Box::new(|at| expression.matches(at)) as Matches<'_>))
                .collect(),
            Self::Every { days, months, anchor } => {
                vec![(true, Box::new(|at| is_from_anchor(at, *days, *months, *anchor)))]
            }
        }
    }
}

fn is_from_anchor(at: DateTime, days: Option<i64>, months: Option<i64>, anchor: DateTime) -> bool {
    if at.time() != anchor.time() {
        return false;
    }
    if let Some(days) = days {
        let between = i64::from((at.date() - anchor.date()).get_days());
        return between.rem_euclid(days) == 0;
    }
    let month = |date: DateTime| i64::from(date.year()) * 12 + i64::from(date.month());
    (month(at) - month(anchor)).rem_euclid(months.unwrap()) == 0
        && at.day() == anchor.day().min(at.date().days_in_month())
}

/// A stretch of time, instant by instant, as the clock of a zone shows it.
pub struct Table {
    step: i64,
    /// Unix seconds and local times.
    rows: Vec<(i64, DateTime)>,
}

impl Table {
    /// One row for each `step` seconds.
    pub fn new(zone: &TimeZone, from: i64, to: i64, step: i64) -> Self {
        let rows = (from..to).step_by(step as usize);
        let rows = rows.map(|at| (at, zone.to_datetime(Timestamp::from_second(at).unwrap())));
        Self { step, rows: rows.collect() }
    }

    /// The instants at which a source fires, by the rule of gaps and overlaps, without those that are left out.
    pub fn fires(&self, source: &Source, exclude: &[Expression]) -> Vec<i64> {
        let mut fires = Vec::new();
        for (fixed, matches) in source.parts() {
            for (index, (at, local)) in self.rows.iter().enumerate() {
                // Local times that no row shows: those between this row and the one before it.
                let before = index.checked_sub(1).map(|index| self.rows[index].1);
                if fixed {
                    let mut missing = before.and_then(|before| self.after(before));
                    while let Some(skipped) = missing.filter(|skipped| skipped < local) {
                        if matches(skipped) {
                            fires.push(*at);
                        }
                        missing = self.after(skipped);
                    }
                }
                // No clock goes back by more than a day.
                let day = 86_400 / self.step as usize;
                let again = || self.rows[..index].iter().rev().take(day).any(|(_, earlier)| earlier == local);
                if matches(*local) && !(fixed && again()) {
                    fires.push(*at);
                }
            }
        }
        fires.sort_unstable();
        fires.dedup();
        fires.retain(|at| {
            let row = (at - self.rows[0].0) / self.step;
            !exclude.iter().any(|expression| expression.leaves_out(self.rows[row as usize].1))
        });
        fires
    }

    fn after(&self, local: DateTime) -> Option<DateTime> {
        local.checked_add(jiff::SignedDuration::from_secs(self.step)).ok()
    }
}
