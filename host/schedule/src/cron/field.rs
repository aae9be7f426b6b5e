//! One field of an expression: numbers, names, ranges, steps and lists, bounded before anything is expanded.

use umbel_model::nearest;

use crate::error::shown;

/// A field: what its numbers are.
pub(super) struct Field {
    pub name: &'static str,
    pub first: u16,
    pub last: u16,
    /// Names of the numbers from `first` on; three letters of each are enough.
    pub names: &'static [&'static str],
}

const MONTHS: &[&str] = &[
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: &[&str] = &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];

pub(super) const SECOND: Field = Field { name: "second", first: 0, last: 59, names: &[] };
pub(super) const MINUTE: Field = Field { name: "minute", first: 0, last: 59, names: &[] };
pub(super) const HOUR: Field = Field { name: "hour", first: 0, last: 23, names: &[] };
pub(super) const MONTH_DAY: Field = Field { name: "day of the month", first: 1, last: 31, names: &[] };
pub(super) const MONTH: Field = Field { name: "month", first: 1, last: 12, names: MONTHS };
pub(super) const WEEKDAY: Field = Field { name: "day of the week", first: 0, last: 6, names: WEEKDAYS };
pub(super) const YEAR: Field = Field { name: "year", first: 1970, last: 2199, names: &[] };

/// Numbers of a field: a bit for each, from its first one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub bits: [u64; 4],
    /// Whether it was written with `*`, a range or a step.
    pub spread: bool,
    /// Whether it says nothing: `*` or `*/1`.
    pub any: bool,
}

impl Numbers {
    fn add(&mut self, index: u16) {
        self.bits[usize::from(index / 64)] |= 1 << (index % 64);
    }

    /// The lowest 64 numbers.
    pub fn low(&self) -> u64 {
        self.bits[0]
    }
}

impl Field {
    /// A whole field of numbers.
    pub fn numbers(&self, text: &str) -> Result<Numbers, String> {
        let mut numbers = Numbers::default();
        for item in self.items(text)? {
            self.add_item(item, &mut numbers)?;
        }
        numbers.any = matches!(text, "*" | "*/1");
        Ok(numbers)
    }

    /// The items of a list.
    pub fn items<'a>(&self, text: &'a str) -> Result<std::str::Split<'a, char>, String> {
        match text.split(',').any(str::is_empty) {
            true => Err(format!("the {} {} has an empty item: take out a comma", self.name, shown(text))),
            false => Ok(text.split(',')),
        }
    }

    /// One item: `*`, a number, a range, with a step or without.
    pub fn add_item(&self, item: &str, numbers: &mut Numbers) -> Result<(), String> {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(self.step(item, step)?)),
            None => (item, None),
        };
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (self.number(from)?, self.end_of_range(to)?),
            None if range == "*" => (self.first, self.last),
            None if range.is_empty() => {
                return Err(format!("the {} {} has nothing before the step: write *{item}", self.name, shown(item)));
            }
            // As in Quartz: from this number to the end of the field.
            None if step.is_some() => (self.number(range)?, self.last),
            None => {
                numbers.add(self.number(range)? - self.first);
                return Ok(());
            }
        };
        numbers.spread = true;
        self.add_range(from, to, step.unwrap_or(1), numbers)
    }

    /// A range may go over the end of its field: `22-2`, `fri-mon`.
    fn add_range(&self, from: u16, to: u16, step: u16, numbers: &mut Numbers) -> Result<(), String> {
        let size = self.size();
        if from > to && self.first == YEAR.first {
            return Err(format!("the range of years {from}-{to} goes backwards: write {to}-{from}"));
        }
        let length = if to >= from { to - from } else { to + size - from };
        for at in (0..=length).step_by(step.into()) {
            numbers.add((from - self.first + at) % size);
        }
        Ok(())
    }

    fn step(&self, item: &str, step: &str) -> Result<u16, String> {
        let size = self.size();
        match whole(step) {
            Some(0) => Err(format!("the {} {} has a step of 0: write 1 or more", self.name, shown(item))),
            Some(step) if step <= size => Ok(step),
            Some(step) => Err(format!(
                "the {} {} has a step of {step}, but there are only {size} of them: it would not fire every {step}. \
                 Write a step up to {size}, or use \"every\" instead of \"cron\"",
                self.name,
                shown(item)
            )),
            None => Err(format!("the {} {} has a step that is no whole number", self.name, shown(item))),
        }
    }

    /// A number or a name.
    pub fn number(&self, text: &str) -> Result<u16, String> {
        match self.any_number(text)? {
            7 if self.is_weekday() => Ok(0),
            number => Ok(number),
        }
    }

    /// As `number`, but Sunday is 7 behind another day: `5-7`.
    fn end_of_range(&self, text: &str) -> Result<u16, String> {
        self.any_number(text)
    }

    fn any_number(&self, text: &str) -> Result<u16, String> {
        let last = if self.is_weekday() { 7 } else { self.last };
        if let Some(number) = whole(text) {
            let hint = match (self.last, number) {
                (23, 24) => ". Midnight is 0",
                (6, _) => ". 0 and 7 are Sunday, also where there are seconds",
                _ => "",
            };
            return match (self.first..=last).contains(&number) {
                true => Ok(number),
                false => Err(format!("the {} {number} is not from {} to {last}{hint}", self.name, self.first)),
            };
        }
        let lower = text.to_ascii_lowercase();
        let is_name = |name: &&str| lower == name[..3] || lower == **name;
        match (self.first..).zip(self.names).find(|(_, name)| is_name(name)) {
            Some((number, _)) => Ok(number),
            None => Err(self.no_number(text, last)),
        }
    }

    fn no_number(&self, text: &str, last: u16) -> String {
        let what = format!("the {} {} is not known", self.name, shown(text));
        if self.names.is_empty() {
            return format!("{what}: write numbers from {} to {last}, *, ranges 1-5, steps */2, lists 1,3", self.first);
        }
        let short = || self.names.iter().map(|name| &name[..3]);
        let meant = nearest(text, self.names.iter().copied().chain(short()));
        let meant = meant.map(|meant| format!("did you mean {meant}? ")).unwrap_or_default();
        let sample: Vec<&str> = short().collect();
        format!("{what}: {meant}write {} to {last}, or {}", self.first, sample.join(" "))
    }

    fn size(&self) -> u16 {
        self.last - self.first + 1
    }

    fn is_weekday(&self) -> bool {
        self.last == 6
    }
}

/// A whole number of digits only.
pub(super) fn whole(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // Ten thousand says "too large" as well as any number above it.
    digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX).min(10_000) as u16)
}
