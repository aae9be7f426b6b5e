//! A field of Celery's crontab as one of a cron expression here.
//!
//! Celery's ranges may go round the end (`22-6`, `sat-mon`), and a field may be a number, a list, a set or a `range`.

use super::literal::{Call, Node, Value, described};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Minute,
    Hour,
    MonthDay,
    Month,
    WeekDay,
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Field {
    /// Celery's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::MonthDay => "day_of_month",
            Self::Month => "month_of_year",
            Self::WeekDay => "day_of_week",
        }
    }

    fn first(self) -> i64 {
        i64::from(matches!(self, Self::MonthDay | Self::Month))
    }

    fn last(self) -> i64 {
        match self {
            Self::Minute => 59,
            Self::Hour => 23,
            Self::MonthDay => 31,
            Self::Month => 12,
            Self::WeekDay => 6,
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &MONTHS,
            Self::WeekDay => &WEEKDAYS,
            _ => &[],
        }
    }

    fn checked(self, number: i64) -> Result<i64, String> {
        let (first, last) = (self.first(), self.last());
        let range = || format!("{number} is not from {first} to {last}");
        (first..=last).contains(&number).then_some(number).ok_or_else(range)
    }

    /// The number of a word, and the word as it is written here.
    fn number(self, word: &str) -> Result<(i64, String), String> {
        if let Ok(number) = word.parse::<i64>() {
            return self.checked(number).map(|number| (number, number.to_string()));
        }
        // Celery looks at three letters.
        let short: String = word.chars().take(3).flat_map(char::to_lowercase).collect();
        let at = self.names().iter().position(|name| *name == short);
        match at.and_then(|at| i64::try_from(at).ok()) {
            Some(at) => Ok((at + self.first(), short)),
            None => Err(format!("{word:?} is no number and no name")),
        }
    }
}

/// The field as it is written here.
pub(super) fn cron_field(field: Field, node: &Node) -> Result<String, String> {
    match &node.value {
        Value::Int(number) => field.checked(*number).map(|number| number.to_string()),
        Value::Text(text) => {
            text.split(',').map(|part| part_of(field, part.trim())).collect::<Result<Vec<_>, _>>().map(|p| p.join(","))
        }
        Value::List(items) | Value::Set(items) => {
            let number = |item: &Node| match &item.value {
                Value::Int(number) => field.checked(*number),
                other => Err(format!("no whole number: {}", described(other))),
            };
            listed(items.iter().map(number).collect::<Result<_, _>>()?)
        }
        Value::Call(call) if call.name == "range" => listed(range(field, call)?),
        other => Err(described(other)),
    }
}

fn listed(mut numbers: Vec<i64>) -> Result<String, String> {
    if numbers.is_empty() {
        return Err("the list is empty".into());
    }
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
}

/// Python's `range`.
fn range(field: Field, call: &Call) -> Result<Vec<i64>, String> {
    let number = |node: &Node| match node.value {
        Value::Int(number) => Ok(number),
        ref other => Err(described(other)),
    };
    let numbers = call.args.iter().map(number).collect::<Result<Vec<_>, _>>()?;
    let (from, to, step) = match numbers[..] {
        [to] => (0, to, 1),
        [from, to] => (from, to, 1),
        [from, to, step] if step > 0 => (from, to, step),
        _ => return Err("a range with these arguments is not known".into()),
    };
    // One more than there may be is enough to refuse it.
    let step = usize::try_from(step).map_err(|_| "the step is too large")?;
    (from..to).step_by(step).take(62).map(|number| field.checked(number)).collect()
}

/// A part between commas.
fn part_of(field: Field, part: &str) -> Result<String, String> {
    let (range, step) = match part.split_once('/') {
        None => (part, None),
        Some((range, step)) => {
            let number = step.trim().parse::<usize>().ok().filter(|step| *step > 0);
            (range.trim(), Some(number.ok_or_else(|| format!("the step {step:?} is no number from 1 on"))?))
        }
    };
    let (first, last) = (field.first(), field.last());
    let is_long = |step: usize, length: i64| i64::try_from(step).map_or(true, |step| step > length);
    match (range, step, range.split_once('-')) {
        ("", ..) => Err("a part is empty".into()),
        ("*", None, _) => Ok("*".into()),
        ("*", Some(step), _) if is_long(step, last - first) => Ok(first.to_string()),
        ("*", Some(step), _) => Ok(format!("*/{step}")),
        (_, None, None) => field.number(range).map(|(_, word)| word),
        (_, Some(_), None) => Err(format!("{part:?} has a step without a range: write {range}-{last}/…")),
        (_, step, Some((from, to))) => {
            let ((from, from_word), (to, to_word)) = (field.number(from.trim())?, field.number(to.trim())?);
            match step {
                _ if from == to => Ok(from_word),
                None if from < to => Ok(format!("{from_word}-{to_word}")),
                None => Ok(format!("{},{}", span(from, last), span(first, to))),
                Some(step) => {
                    let all: Vec<i64> =
                        if from < to { (from..=to).collect() } else { (from..=last).chain(first..=to).collect() };
                    match from < to && !is_long(step, to - from) {
                        true => Ok(format!("{from_word}-{to_word}/{step}")),
                        false => listed(all.into_iter().step_by(step).collect()),
                    }
                }
            }
        }
    }
}

fn span(from: i64, to: i64) -> String {
    if from == to { from.to_string() } else { format!("{from}-{to}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(field: Field, text: &str) -> Result<String, String> {
        cron_field(field, &Node { line: 1, value: Value::Text(text.into()) })
    }

    #[test]
    fn parts_are_written_as_they_are_and_ranges_that_go_round_are_split() {
        let cases = [
            (Field::Minute, "*/15", "*/15"),
            (Field::Minute, "1,13,30-45,50-59/2", "1,13,30-45,50-59/2"),
            (Field::Minute, "*/70", "0"),
            (Field::Hour, "22-6", "22-23,0-6"),
            (Field::Hour, "22-6/3", "1,4,22"),
            (Field::Hour, "23-0", "23,0"),
            (Field::Hour, "8-10/7", "8"),
            (Field::WeekDay, "Mon-Friday", "mon-fri"),
            (Field::WeekDay, "sat-mon", "6,0-1"),
            (Field::WeekDay, "sunday, wed", "sun,wed"),
            (Field::Month, "jan,6-DEC/2", "jan,6-dec/2"),
            (Field::MonthDay, " 1-7 , 15", "1-7,15"),
        ];
        for (field, text, expected) in cases {
            assert_eq!(of(field, text).as_deref(), Ok(expected), "{text}");
        }
        for (field, text) in [
            (Field::Minute, "60"),
            (Field::WeekDay, "7"),
            (Field::MonthDay, "0"),
            (Field::Minute, "5/10"),
            (Field::Minute, "*/0"),
            (Field::Minute, ""),
            (Field::Minute, "1,,2"),
            (Field::Hour, "mon"),
            (Field::Minute, "-5"),
            (Field::WeekDay, "L"),
        ] {
            assert!(of(field, text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_are_sorted_and_ranges_counted() {
        let node = |value| Node { line: 1, value };
        let ints = |numbers: &[i64]| numbers.iter().map(|n| node(Value::Int(*n))).collect::<Vec<_>>();
        let field = |value| cron_field(Field::Hour, &node(value));
        assert_eq!(field(Value::List(ints(&[17, 8, 8]))).as_deref(), Ok("8,17"));
        let range =
            |numbers: &[i64]| Value::Call(Call { name: "range".into(), args: ints(numbers), kwargs: Vec::new() });
        assert_eq!(field(range(&[8, 18, 4])).as_deref(), Ok("8,12,16"));
        assert_eq!(field(range(&[3])).as_deref(), Ok("0,1,2"));
        for bad in
            [range(&[i64::MIN, i64::MAX]), range(&[0, 5, 0]), range(&[5, 5]), range(&[0, 25]), Value::List(Vec::new())]
        {
            assert!(field(bad).is_err());
        }
    }
}
