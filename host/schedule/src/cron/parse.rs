//! From the text of an expression to its set of bits.

use crate::{
    cron::{
        Cron, CronSet, DayRule,
        days::{ALL_DAYS, ALL_WEEKDAYS, Days, MonthDays, WeekDays},
        field::{HOUR, MINUTE, MONTH, MONTH_DAY, Numbers, SECOND, WEEKDAY, YEAR, whole},
    },
    error::shown,
};

/// Longest expression, bytes.
pub(crate) const MAX_BYTES: usize = 256;

impl Cron {
    /// Reads an expression of 5 fields (minute, hour, day of the month, month, day of the week), 6 (a second before
    /// them) or 7 (a year behind them), or an alias. Days of the week are numbered as in POSIX whatever the number of
    /// fields: 0 or 7 is Sunday.
    ///
    /// # Errors
    /// What is wrong and what to write instead; also an expression that can never fire.
    pub(crate) fn parse(text: &str, rule: DayRule) -> Result<Self, String> {
        Self::checked(text, rule, "0")
    }

    /// As `parse`, for times that are left out: 5 fields match each second of their minutes.
    pub(crate) fn parse_exclusion(text: &str, rule: DayRule) -> Result<Self, String> {
        Self::checked(text, rule, "*")
    }

    fn checked(text: &str, rule: DayRule, second: &str) -> Result<Self, String> {
        let cron = Self::parse_any(text, rule, second)?;
        match cron.set.next_local(cron.set.begin()) {
            Some(_) => Ok(cron),
            None => Err(cron.never()),
        }
    }

    fn parse_any(text: &str, rule: DayRule, default_second: &str) -> Result<Self, String> {
        if text.len() > MAX_BYTES {
            return Err(format!("the expression has {} bytes: write at most {MAX_BYTES}", text.len()));
        }
        let trimmed = text.trim();
        if trimmed.starts_with("TZ=") || trimmed.starts_with("CRON_TZ=") {
            return Err(format!("{} names a zone: write it into the field \"zone\"", shown(trimmed)));
        }
        let fields: Vec<&str> = match trimmed.strip_prefix('@') {
            Some(alias) => of_alias(alias)?.split(' ').collect(),
            None => trimmed.split_whitespace().collect(),
        };
        let (second, fields, year) = match fields.as_slice() {
            [minute, hour, day, month, week] => (default_second, [minute, hour, day, month, week], "*"),
            [second, minute, hour, day, month, week] => (*second, [minute, hour, day, month, week], "*"),
            [second, minute, hour, day, month, week, year] => (*second, [minute, hour, day, month, week], *year),
            other => return Err(wrong_count(other, text)),
        };
        not_foreign(&fields.map(|field| *field))?;
        let [minute, hour, day, month, week] = fields;
        let (minutes, hours) = (MINUTE.numbers(minute)?, HOUR.numbers(hour)?);
        let years = YEAR.numbers(year)?;
        let set = CronSet {
            seconds: SECOND.numbers(second)?.low(),
            minutes: minutes.low(),
            hours: hours.low() as u32,
            days: Days::new(month_days(day)?, week_days(week)?, rule),
            months: (MONTH.numbers(month)?.low() << 1) as u16,
            years: (!years.any).then_some(years.bits),
            elapsed: minutes.spread || hours.spread,
        };
        // One space between fields, however it was written.
        let text = trimmed.split_whitespace().collect::<Vec<_>>().join(" ");
        Ok(Self { text: text.into(), set })
    }

    fn never(&self) -> String {
        let text = shown(self.text());
        match self.set.years {
            Some(_) => format!("{text} can never fire: no day of its years matches. Take the year or the day out"),
            None => format!(
                "{text} can never fire: no day of its months matches, as 31 February. For the last day of a month \
                 write L in place of the day"
            ),
        }
    }
}

fn of_alias(alias: &str) -> Result<&'static str, String> {
    let known = [
        ("yearly", "0 0 1 1 *"),
        ("annually", "0 0 1 1 *"),
        ("monthly", "0 0 1 * *"),
        ("weekly", "0 0 * * 0"),
        ("daily", "0 0 * * *"),
        ("midnight", "0 0 * * *"),
        ("hourly", "0 * * * *"),
    ];
    let lower = alias.to_ascii_lowercase();
    if let Some((_, fields)) = known.iter().find(|(name, _)| *name == lower) {
        return Ok(fields);
    }
    let name = shown(&format!("@{alias}"));
    if lower == "reboot" {
        return Err(format!(
            "{name} names no time: servers here start and stop on their own. Submit a job when your system starts"
        ));
    }
    if let Some(length) = lower.strip_prefix("every") {
        let length = if length.trim().is_empty() { "5m" } else { length.trim() };
        return Err(format!("{name} is no cron expression: write \"every\": {} in place of \"cron\"", shown(length)));
    }
    let names = known.iter().map(|(name, _)| *name);
    let meant = umbel_model::nearest(&lower, names.clone()).map(|meant| format!(": did you mean @{meant}?"));
    let all: Vec<String> = names.map(|name| format!("@{name}")).collect();
    Err(format!("there is no {name}{}", meant.unwrap_or_else(|| format!("; there are {}", all.join(" ")))))
}

fn wrong_count(fields: &[&str], text: &str) -> String {
    let hint = match fields.len() {
        0..=4 => "write minute, hour, day of the month, month and day of the week, such as 0 3 * * *",
        _ => "write 5 fields, 6 with a second before them, or 7 with a year behind them, and no command",
    };
    format!("{} has {} fields: {hint}", shown(text), fields.len())
}

/// Refuses what other systems put into fields, with what it would mean here.
fn not_foreign(fields: &[&str; 5]) -> Result<(), String> {
    let is_hash = |field: &&&str| field.starts_with(['H', 'h']) && !field[1..].starts_with(|c: char| c.is_alphabetic());
    match fields.iter().find(is_hash) {
        Some(field) => Err(format!(
            "{} is Jenkins' spread by a hash: write a number, and give the schedule a window instead",
            shown(field)
        )),
        None => Ok(()),
    }
}

fn month_days(text: &str) -> Result<MonthDays, String> {
    if text == "?" {
        return Ok(MonthDays { plain: ALL_DAYS, any: true, ..MonthDays::default() });
    }
    let (mut days, mut numbers) = (MonthDays::default(), Numbers::default());
    for item in MONTH_DAY.items(text)? {
        if !add_special_month_day(item, &mut days)? {
            MONTH_DAY.add_item(item, &mut numbers)?;
        }
    }
    days.plain = (numbers.low() << 1) as u32;
    days.any = matches!(text, "*" | "*/1");
    Ok(days)
}

/// `L`, `L-3`, `LW`, `L-3W`, `15W`. Whether the item was one.
fn add_special_month_day(item: &str, days: &mut MonthDays) -> Result<bool, String> {
    let upper = item.to_ascii_uppercase();
    let (day, weekday) = match upper.strip_suffix('W') {
        Some(day) => (day, true),
        None => (upper.as_str(), false),
    };
    if let Some(before) = day.strip_prefix('L') {
        let before = match before.strip_prefix('-').map(whole) {
            None if before.is_empty() => 0,
            Some(Some(before @ 1..=30)) => before,
            _ => {
                return Err(format!(
                    "the day of the month {} is not known: write L for the last day, L-1 to L-30 before it, LW for \
                     the last weekday",
                    shown(item)
                ));
            }
        };
        let bits = if weekday { &mut days.weekday_before_last } else { &mut days.before_last };
        *bits |= 1 << before;
        return Ok(true);
    }
    if weekday {
        let day = whole(day).filter(|day| (1..=31).contains(day));
        let hint = || format!("the day of the month {} is not known: write 1W to 31W, or LW", shown(item));
        days.nearest_weekday |= 1 << day.ok_or_else(hint)?;
    }
    Ok(weekday)
}

fn week_days(text: &str) -> Result<WeekDays, String> {
    if text == "?" {
        return Ok(WeekDays { plain: ALL_WEEKDAYS, any: true, ..WeekDays::default() });
    }
    let (mut days, mut numbers) = (WeekDays::default(), Numbers::default());
    for item in WEEKDAY.items(text)? {
        if !add_special_week_day(item, &mut days)? {
            WEEKDAY.add_item(item, &mut numbers)?;
        }
    }
    days.plain = numbers.low() as u8;
    days.any = matches!(text, "*" | "*/1");
    Ok(days)
}

/// `5#2`, `fri#2`, `5L`, `friL`. Whether the item was one.
fn add_special_week_day(item: &str, days: &mut WeekDays) -> Result<bool, String> {
    if let Some((day, nth)) = item.split_once('#') {
        let day = WEEKDAY.number(day)?;
        let nth = whole(nth).filter(|nth| (1..=5).contains(nth));
        let hint = || format!("the day of the week {} is not known: write #1 to #5", shown(item));
        days.nth[usize::from(nth.ok_or_else(hint)?) - 1] |= 1 << day;
        return Ok(true);
    }
    match item.strip_suffix(['L', 'l']) {
        Some("") => Err(format!(
            "the day of the week {} does not say which: write 5L for the last Friday of the month, or 6 for Saturday",
            shown(item)
        )),
        // "April" and the like end in l, but no day of the week does.
        Some(day) => {
            days.last |= 1 << WEEKDAY.number(day)?;
            Ok(true)
        }
        None => Ok(false),
    }
}

impl CronSet {
    /// A local time before which it does not fire, for the question whether it ever does.
    fn begin(&self) -> i64 {
        let first = self.years.and_then(|years| super::next_year(&years, 0)).unwrap_or(2_000);
        crate::calendar::day_number(first, 1, 1) * crate::calendar::DAY
    }
}
