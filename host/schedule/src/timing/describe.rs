//! A timing in English.

use jiff::Timestamp;
use umbel_model::UnixMs;

use crate::{
    cron::Cron,
    every::Every,
    spec::Time,
    timing::{Timing, source::Source},
};

/// As many expressions and times are described one by one.
const MAX_DESCRIBED: usize = 4;

impl Timing {
    /// Such as "At 03:00 on Monday to Friday, Europe/Berlin".
    pub fn describe(&self) -> String {
        let checked = &*self.0;
        let zone = checked.zone.name();
        let mut text = match &checked.source {
            Source::Cron(crons) => {
                format!("{}, {zone}", joined(crons.iter().map(Cron::describe).collect(), "expressions"))
            }
            Source::Every(Every::Fixed { ms, .. }) => format!("every {}", elapsed(*ms)),
            Source::Every(every) => format!("{}, {zone}", calendar(every)),
            Source::Solar(solar) => {
                let event = solar.event.as_str().replace('_', " ");
                format!("at {event} at latitude {}, longitude {}", solar.latitude, solar.longitude)
            }
            Source::At(times) => {
                joined(times.iter().map(|at| format!("at {}", self.local_text(*at))).collect(), "times")
            }
        };
        if let Some(texts) = &checked.spec.when.exclude {
            text += &format!(", except when the clock of {zone} matches {}", texts.as_slice().join(" or "));
        }
        if checked.starts_at > 0 {
            text += &format!(", from {}", Time(checked.starts_at));
        }
        if checked.ends_at < UnixMs::MAX {
            text += &format!(", until {}", Time(checked.ends_at));
        }
        let mut letters = text.chars();
        letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
    }

    fn local_text(&self, at: UnixMs) -> String {
        let at = i64::try_from(at).ok().and_then(|at| Timestamp::from_millisecond(at).ok()).unwrap_or_default();
        let local = self.0.zone.jiff().to_datetime(at);
        format!("{} {} {}", local.date(), local.time(), self.0.zone.name())
    }
}

fn joined(parts: Vec<String>, what: &str) -> String {
    let more = parts.len().saturating_sub(MAX_DESCRIBED);
    let mut text = parts.into_iter().take(MAX_DESCRIBED).collect::<Vec<_>>().join("; ");
    if more > 0 {
        text += &format!("; and {more} more {what}");
    }
    text
}

fn elapsed(ms: u64) -> String {
    let units = [(3_600_000, "hour"), (60_000, "minute"), (1_000, "second"), (1, "millisecond")];
    let (length, name) = units.into_iter().find(|(length, _)| ms.is_multiple_of(*length)).unwrap_or((1, "millisecond"));
    counted(ms / length, name)
}

fn counted(count: u64, name: &str) -> String {
    if count == 1 { name.to_owned() } else { format!("{count} {name}s") }
}

fn calendar(every: &Every) -> String {
    let (length, at) = match *every {
        Every::Fixed { ms, .. } => return elapsed(ms),
        Every::Days { days, anchor } if days % 7 == 0 => {
            let day = crate::calendar::weekday(anchor.div_euclid(crate::calendar::DAY));
            let names = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
            (counted((days / 7).into(), "week"), format!("on {} {}", names[day as usize], clock(anchor)))
        }
        Every::Days { days, anchor } => (counted(days.into(), "day"), clock(anchor)),
        Every::Months { months, anchor } => {
            let (_, month, day) = crate::calendar::date_of(anchor.div_euclid(crate::calendar::DAY));
            let last = if day > 28 { ", or the last day of a shorter month" } else { "" };
            let unit = match months {
                months if months % 12 == 0 => counted((months / 12).into(), "year"),
                months if months % 3 == 0 => counted((months / 3).into(), "quarter"),
                months => counted(months.into(), "month"),
            };
            let of_month = if months % 12 == 0 { format!(" of month {month}") } else { String::new() };
            (unit, format!("on day {day}{of_month} {}{last}", clock(anchor)))
        }
    };
    format!("every {length} {at}")
}

fn clock(local: i64) -> String {
    let second = local.rem_euclid(crate::calendar::DAY);
    let rest = if second % 60 == 0 { String::new() } else { format!(":{:02}", second % 60) };
    format!("at {:02}:{:02}{rest}", second / 3_600, second / 60 % 60)
}
