//! From local times of an expression to instants: the rule of gaps and overlaps, which the crate's docs state.

use crate::{
    calendar::DAY,
    cron::{CronSet, HORIZON_YEARS},
    zone::{Resolved, UnixSeconds, Zone},
};

/// The first instant at or after `from` at which an expression fires. None if there is none within the horizon.
pub(crate) fn at_or_after(set: &CronSet, zone: &Zone, from: UnixSeconds) -> Option<UnixSeconds> {
    if set.elapsed { elapsed(set, zone, from) } else { fixed(set, zone, from) }
}

/// A fixed local time fires at its instant, at the earlier of two, or at the end of its gap.
///
/// Later local times never have earlier instants, so the first local time that is not over is the answer.
fn fixed(set: &CronSet, zone: &Zone, from: UnixSeconds) -> Option<UnixSeconds> {
    let mut local = set.next_local(zone.local(from - 1) + 1)?;
    loop {
        match zone.resolve(local)? {
            Resolved::Once(at) | Resolved::Missing { after_gap: at } => return Some(at),
            Resolved::Twice { first, .. } if first >= from => return Some(first),
            Resolved::Twice { second, .. } => local = set.next_local(zone.end_of_fold(second)?)?,
        }
    }
}

/// Fires whenever the clock shows a local time: not in a gap, and twice in an overlap.
///
/// The clock is even between two transitions, so each stretch is searched on its own. A stretch of which the search
/// says that nothing is near is passed over: offsets are less than a day, so nothing that it passed shows up again
/// two days later.
fn elapsed(set: &CronSet, zone: &Zone, from: UnixSeconds) -> Option<UnixSeconds> {
    let last = if set.has_last_year() { i64::MAX } else { from + HORIZON_YEARS * 366 * DAY };
    let mut at = from;
    loop {
        let offset = zone.offset(at);
        let local = set.next_local(at + offset)?;
        let end = zone.next_transition(at).unwrap_or(i64::MAX);
        if local - offset < end {
            return Some(local - offset);
        }
        if end > last {
            return None;
        }
        at = if end - at < 3 * DAY { end } else { end.max(local - 2 * DAY) };
    }
}
