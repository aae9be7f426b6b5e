//! What gives a timing its times.

use std::sync::LazyLock;

use umbel_model::UnixMs;

use crate::{
    calendar::DAY,
    cron::{Cron, CronSet, HORIZON_YEARS},
    every::Every,
    solar::{HORIZON_DAYS, Solar},
    timing::exclusions::Exclusions,
    walk,
    zone::{UnixSeconds, Zone},
};

/// Steps of one search: a time that is left out is one, and one more for each eight exclusions. A search that is not
/// done by then says how far it came.
const MAX_STEPS: usize = 1_000;

static ALL: LazyLock<CronSet> = LazyLock::new(CronSet::all);

#[derive(Debug)]
pub(super) enum Source {
    /// A union.
    Cron(Vec<Cron>),
    Every(Every),
    Solar(Solar),
    /// In order, without doubles.
    At(Vec<UnixMs>),
}

/// What a search of a source found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    At(UnixMs),
    Never,
    /// Nothing before this time, and not searched further.
    NoneBefore(UnixMs),
}

impl Source {
    /// Whether the zone decides about its times.
    pub(super) fn needs_zone(&self) -> bool {
        match self {
            Self::Cron(_) => true,
            Self::Every(every) => !matches!(every, Every::Fixed { .. }),
            Self::Solar(_) | Self::At(_) => false,
        }
    }

    pub(super) fn means_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Cron(this), Self::Cron(other)) => sets(this) == sets(other),
            (Self::Every(this), Self::Every(other)) => this == other,
            (Self::Solar(this), Self::Solar(other)) => this == other,
            (Self::At(this), Self::At(other)) => this == other,
            _ => false,
        }
    }

    /// Whether a fire at this instant was moved out of a gap of the zone.
    pub(super) fn is_moved(&self, at: UnixSeconds, zone: &Zone) -> bool {
        match self {
            Self::Cron(crons) => !crons.iter().any(|cron| cron.set.contains(zone.local(at))),
            Self::Every(every) => every.is_moved(at, zone),
            Self::Solar(_) | Self::At(_) => false,
        }
    }
}

fn sets(crons: &[Cron]) -> Vec<&CronSet> {
    let mut sets: Vec<_> = crons.iter().map(|cron| &cron.set).collect();
    sets.sort_unstable();
    sets.dedup();
    sets
}

/// What is searched on its own: an expression of a union, or the whole source.
enum Part<'a> {
    Cron(&'a Cron),
    Every(&'a Every),
    Solar(&'a Solar),
    At(&'a [UnixMs]),
}

impl Part<'_> {
    /// The first time at or after `from`, also one that is left out.
    fn at_or_after(&self, from: UnixMs, zone: &Zone) -> Found {
        match self {
            Self::Cron(cron) => search(cron, zone, from),
            Self::Every(every) => every.at_or_after(from, zone).map_or(Found::Never, Found::At),
            Self::Solar(solar) => event(solar, from),
            Self::At(times) => {
                times.get(times.partition_point(|at| *at < from)).map_or(Found::Never, |at| Found::At(*at))
            }
        }
    }

    /// The local times that it is made of, as far as it is made of some.
    fn local_times(&self) -> &CronSet {
        match self {
            Self::Cron(cron) => &cron.set,
            Self::Every(_) | Self::Solar(_) | Self::At(_) => &ALL,
        }
    }
}

impl Source {
    /// The first time at or after `from` that is not left out. The work is bounded by `MAX_STEPS`.
    ///
    /// Of all parts the one with the earliest time goes on, until that time is not left out. So a part that is left
    /// out for long costs nothing while another one fires before.
    pub(super) fn at_or_after(&self, from: UnixMs, zone: &Zone, exclusions: &Exclusions) -> Found {
        match self {
            Self::Cron(crons) if crons.len() > 1 => {
                let parts: Vec<_> = crons.iter().map(Part::Cron).collect();
                let mut found: Vec<_> = parts.iter().map(|part| part.at_or_after(from, zone)).collect();
                first(&parts, &mut found, zone, exclusions)
            }
            Self::Cron(crons) => {
                crons.first().map_or(Found::Never, |cron| only(&Part::Cron(cron), from, zone, exclusions))
            }
            Self::Every(every) => only(&Part::Every(every), from, zone, exclusions),
            Self::Solar(solar) => only(&Part::Solar(solar), from, zone, exclusions),
            Self::At(times) => only(&Part::At(times), from, zone, exclusions),
        }
    }
}

fn only(part: &Part<'_>, from: UnixMs, zone: &Zone, exclusions: &Exclusions) -> Found {
    first(std::slice::from_ref(part), &mut [part.at_or_after(from, zone)], zone, exclusions)
}

/// The first time of the parts that is not left out, from what each of them found first.
fn first(parts: &[Part<'_>], found: &mut [Found], zone: &Zone, exclusions: &Exclusions) -> Found {
    let mut steps = 0;
    loop {
        let earliest = parts.iter().zip(&mut *found).min_by_key(|(_, found)| found.rank());
        let Some((part, earliest)) = earliest else { return Found::Never };
        let Found::At(at) = *earliest else { return *earliest };
        let Some(end) = exclusions.end(at, zone, part.local_times()) else { return *earliest };
        steps += 1 + exclusions.len() / 8;
        *earliest = if steps < MAX_STEPS { part.at_or_after(end, zone) } else { Found::NoneBefore(end) };
    }
}

impl Found {
    /// For the first of several: where a search gave up, an earlier time may have been missed.
    fn rank(&self) -> (UnixMs, u8) {
        match *self {
            Self::NoneBefore(at) => (at, 0),
            Self::At(at) => (at, 1),
            Self::Never => (UnixMs::MAX, 2),
        }
    }
}

fn search(cron: &Cron, zone: &Zone, from: UnixMs) -> Found {
    let Some(second) = second_at_or_after(from) else { return Found::Never };
    match walk::at_or_after(&cron.set, zone, second) {
        Some(at) => Found::At(at as UnixMs * 1_000),
        None if cron.set.has_last_year() => Found::Never,
        None => Found::NoneBefore((second + HORIZON_YEARS * 365 * DAY) as UnixMs * 1_000),
    }
}

fn event(solar: &Solar, from: UnixMs) -> Found {
    let Some(second) = second_at_or_after(from) else { return Found::Never };
    match solar.at_or_after(second) {
        Some(at) => Found::At(at as UnixMs * 1_000),
        None => Found::NoneBefore(from.saturating_add((HORIZON_DAYS * DAY) as UnixMs * 1_000)),
    }
}

/// The first whole second at or after a time. None beyond the year 9999: no local clock goes there.
fn second_at_or_after(from: UnixMs) -> Option<UnixSeconds> {
    const LAST: UnixSeconds = 253_370_764_800;
    i64::try_from(from.div_ceil(1_000)).ok().filter(|second| *second < LAST)
}
