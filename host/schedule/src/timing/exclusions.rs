//! What is left out of a timing.

use umbel_model::UnixMs;

use crate::{
    calendar::{DAY, LocalSeconds, date_of, days_in_month},
    cron::CronSet,
    zone::{UnixSeconds, Zone},
};

/// Expressions of local times that are left out, without doubles, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Exclusions(Vec<CronSet>);

impl Exclusions {
    pub(super) fn new(mut sets: Vec<CronSet>) -> Self {
        // Whether an expression follows elapsed time is a question of when it fires, and these do not fire.
        sets.iter_mut().for_each(|set| set.elapsed = false);
        sets.sort_unstable();
        sets.dedup();
        Self(sets)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// If a time is left out: a later instant up to which all local times of `fires` are left out, too.
    ///
    /// The clock is even up to the next transition. Times that are moved out of a gap are at a transition, so none
    /// is passed over.
    pub(super) fn end(&self, at: UnixMs, zone: &Zone, fires: &CronSet) -> Option<UnixMs> {
        if self.0.is_empty() {
            return None;
        }
        let second = (at / 1_000) as UnixSeconds;
        let end = second + self.stretch(zone.local(second), fires)?;
        let end = zone.next_transition(second).map_or(end, |transition| end.min(transition));
        Some(end as UnixMs * 1_000)
    }

    /// Seconds from a local time that is left out in which every time of `fires` is left out: to the next second,
    /// minute, hour or day, or to the end of the month.
    fn stretch(&self, local: LocalSeconds, fires: &CronSet) -> Option<i64> {
        if !self.0.iter().any(|set| set.contains(local)) {
            return None;
        }
        let (day, second) = (local.div_euclid(DAY), local.rem_euclid(DAY));
        let today: Vec<&CronSet> = self.0.iter().filter(|set| set.contains_day(day)).collect();
        if today.iter().any(|set| set.covers_months_of(fires)) {
            let (year, month, day) = date_of(day);
            return Some((days_in_month(year, month) - day + 1) * DAY - second);
        }
        let minute = (second / 3_600, second / 60 % 60);
        let this_minute = today.iter().filter(|set| set.has_minute(minute)).fold(0, |bits, set| bits | set.seconds);
        if fires.seconds & !this_minute != 0 {
            return Some(1);
        }
        let hour_is_covered = |hour: i64| {
            let (mut minutes, mut seconds) = (0, 0);
            for set in today.iter().filter(|set| set.hours >> hour & 1 == 1) {
                // Each minute is left out by an expression with all of the seconds, or all minutes by several.
                minutes |= if fires.seconds & !set.seconds == 0 { set.minutes } else { 0 };
                seconds |= if fires.minutes & !set.minutes == 0 { set.seconds } else { 0 };
            }
            fires.hours >> hour & 1 == 0 || fires.minutes & !minutes == 0 || fires.seconds & !seconds == 0
        };
        if !hour_is_covered(minute.0) {
            return Some(60 - second % 60);
        }
        let next = (minute.0 + 1..24).find(|hour| !hour_is_covered(*hour)).unwrap_or(24);
        Some(next * 3_600 - second)
    }
}
