//! Tenants that somebody follows, and the events that are recorded for them.
//!
//! The table `followed` holds the same. While nobody follows, a change of state costs one comparison. Events of a group
//! are written at its end; what a group did can be undone.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::Connection;
use umbel_broker::{Event, MAX_EVENTS};
use umbel_model::{TenantId, UnixMs};

use crate::{
    error::Fault,
    rows::{all, first, get, insert, one, read, run},
    schema,
};

pub(crate) const TRIM: &str = "DELETE FROM event WHERE tenant = ? AND number <= ?";

/// Somebody follows a tenant, or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subscription {
    /// 0: it has ended, and is to be deleted.
    pub(crate) until: UnixMs,
    /// The number of the last event.
    pub(crate) last: u64,
}

#[derive(Debug)]
pub(crate) struct EventSubscriptions {
    pub(crate) all: HashMap<TenantId, Subscription>,
    /// When the first of them ends; `UnixMs::MAX`: nobody follows.
    first_end: UnixMs,
    /// The highest number that an event had.
    pub(crate) newest: u64,
    newest_before: u64,
    /// Events that are not yet written.
    pub(crate) pending: Vec<(TenantId, Event)>,
    /// Subscriptions that the group under way changed, with their values before it.
    before: HashMap<TenantId, Option<Subscription>>,
    /// Something is not yet written.
    changed: bool,
}

impl EventSubscriptions {
    pub(crate) fn load(conn: &Connection) -> Result<Self, Fault> {
        let sql = "SELECT until, last, tenant FROM followed";
        let all = all(conn, sql, &[], |row| Ok((get(row, 2)?, read!(row => Subscription { until, last }))))?;
        let all = all.into_iter().collect();
        let newest = one(conn, "SELECT event FROM meta", &[], first)?.unwrap_or(0);
        let (pending, before) = (Vec::new(), HashMap::new());
        let mut followed =
            Self { all, first_end: UnixMs::MAX, newest, newest_before: newest, pending, before, changed: false };
        followed.look_ahead();
        Ok(followed)
    }

    pub(crate) fn is_anybody(&self) -> bool {
        self.first_end < UnixMs::MAX
    }

    pub(crate) fn look_ahead(&mut self) {
        let ends = self.all.values().map(|following| following.until).filter(|until| *until > 0);
        self.first_end = ends.min().unwrap_or(UnixMs::MAX);
    }

    pub(crate) fn set(&mut self, tenant: &TenantId, following: Option<Subscription>) {
        let before = match following {
            Some(following) => self.all.insert(tenant.clone(), following),
            None => self.all.remove(tenant),
        };
        self.before.entry(tenant.clone()).or_insert(before);
        self.changed = true;
    }

    /// Ends the followings that nobody prolonged until `now`.
    pub(crate) fn end_until(&mut self, now: UnixMs) {
        if self.first_end > now {
            return;
        }
        let over = |(_, following): &(&TenantId, &Subscription)| (1..=now).contains(&following.until);
        let over: Vec<_> = self.all.iter().filter(over).map(|(tenant, of)| (tenant.clone(), of.last)).collect();
        for (tenant, last) in over {
            self.set(&tenant, Some(Subscription { until: 0, last }));
        }
        self.look_ahead();
    }

    /// The number of a tenant's next event; none when nobody follows it.
    pub(crate) fn next_number(&mut self, now: UnixMs, tenant: &TenantId) -> Option<u64> {
        self.end_until(now);
        let following = self.all.get_mut(tenant).filter(|following| following.until > 0)?;
        if !self.before.contains_key(tenant) {
            self.before.insert(tenant.clone(), Some(*following));
        }
        following.last += 1;
        self.newest = self.newest.max(following.last);
        self.changed = true;
        Some(following.last)
    }

    /// Writes what is not yet written. Without `keep` no events are: their numbers are used up.
    pub(crate) fn write(&mut self, conn: &Connection, keep: bool) -> Result<(), Fault> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let lost = !keep && self.has_pending();
        for (tenant, event) in self.pending.drain(..).filter(|_| keep) {
            insert!(conn, "INSERT INTO event" {
                tenant: tenant, number: event.number, at: event.at, job: event.job, task: event.task, state: event.state
            })?;
        }
        for tenant in self.before.keys() {
            let Some(following) = self.all.get(tenant) else {
                run(conn, "DELETE FROM followed WHERE tenant = ?", &[tenant])?;
                continue;
            };
            let Subscription { until, last } = *following;
            insert!(conn, "INSERT OR REPLACE INTO followed" { tenant: tenant, until: until, last: last })?;
            // There are no gaps in what is kept.
            let drop = if lost { last } else { last.saturating_sub(MAX_EVENTS) };
            run(conn, TRIM, &[tenant, &drop])?;
        }
        if self.newest != self.newest_before {
            run(conn, "UPDATE meta SET event = ?", &[&self.newest])?;
        }
        Ok(())
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The group was committed.
    pub(crate) fn keep(&mut self) {
        self.before.clear();
        self.newest_before = self.newest;
    }

    /// The group was rolled back.
    pub(crate) fn undo(&mut self) {
        for (tenant, following) in std::mem::take(&mut self.before) {
            match (self.all.entry(tenant), following) {
                (entry, Some(following)) => drop(entry.insert_entry(following)),
                (Entry::Occupied(entry), None) => drop(entry.remove()),
                (Entry::Vacant(_), None) => {}
            }
        }
        self.pending.clear();
        self.newest = self.newest_before;
        self.changed = false;
        self.look_ahead();
    }
}

/// Whether a group's events are kept: in a full file what is left is for finishing what was accepted.
pub(crate) fn keeps_events(
    conn: &Connection,
    subscriptions: &EventSubscriptions,
    max_pages: Option<u64>,
    has_room: bool,
) -> Result<bool, Fault> {
    Ok(!subscriptions.has_pending() || (has_room && !schema::fills(conn, max_pages, 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recording_events_costs_no_more_because_there_are_more() {
        crate::tests::assert_costs_what_it_finds(TRIM);
    }

    #[test]
    fn what_a_group_did_to_followings_is_undone_with_it() {
        let conn = crate::schema::open_in_memory().unwrap();
        let mut followed = EventSubscriptions::load(&conn).unwrap();
        let [old, new] = ["old", "new"].map(|name| TenantId::new(name).unwrap());
        followed.set(&old, Some(Subscription { until: 50, last: 7 }));
        followed.look_ahead();
        assert_eq!(followed.next_number(10, &old), Some(8));
        followed.write(&conn, true).unwrap();
        followed.keep();
        followed.set(&new, Some(Subscription { until: 90, last: 20 }));
        assert_eq!((followed.next_number(60, &old), followed.next_number(60, &new)), (None, Some(21)));
        assert_eq!(followed.first_end, 90);
        followed.undo();
        assert_eq!((followed.first_end, followed.newest, followed.all.len()), (50, 8, 1));
        let stored = EventSubscriptions::load(&conn).unwrap();
        assert_eq!((stored.all, stored.first_end, stored.newest), (followed.all, 50, 8));
    }
}
