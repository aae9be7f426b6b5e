//! Tenants that somebody follows, and the events that are recorded for them.
//!
//! The table `followed` holds the same. While nobody follows, a change of state costs one comparison. Events of a group are
//! written at its end; what a group did can be undone, as in `lines`.

use std::collections::{HashMap, hash_map::Entry};

use rusqlite::{Connection, params};
use umbel_broker::{Event, FOLLOW_MS, MAX_EVENTS};
use umbel_model::{TenantId, UnixMs};

use super::{
    head::Head,
    step::{FollowUp, Step},
    submit,
};
use crate::{
    error::Fault,
    rows::{int, name, number, state_number},
};

/// Events that one prune deletes at most.
const EVENT_SWEEP: u64 = 5_000;

const TRIM: &str = "DELETE FROM event WHERE tenant = ? AND number <= ?";
const SWEEP: &str = "DELETE FROM event WHERE tenant = ?1
    AND number IN (SELECT number FROM event WHERE tenant = ?1 ORDER BY number LIMIT ?2)";

/// Somebody follows a tenant, or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Following {
    /// 0: it has ended, and is to be deleted.
    until: UnixMs,
    /// The number of the last event.
    last: u64,
}

#[derive(Debug)]
pub(super) struct Followed {
    all: HashMap<TenantId, Following>,
    /// When the first of them ends; `UnixMs::MAX`: nobody follows.
    first_end: UnixMs,
    /// The highest number that an event had.
    newest: u64,
    newest_before: u64,
    /// Events that are not yet written.
    pending: Vec<(TenantId, Event)>,
    /// What the group under way changed, as it was.
    before: HashMap<TenantId, Option<Following>>,
    /// Something is not yet written.
    changed: bool,
}

impl Followed {
    pub(super) fn load(conn: &Connection) -> Result<Self, Fault> {
        let mut all = HashMap::new();
        let mut statement = conn.prepare("SELECT tenant, until, last FROM followed")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            all.insert(name(row, 0)?, Following { until: number(row, 1)?, last: number(row, 2)? });
        }
        let newest: i64 = conn.query_row("SELECT event FROM meta", [], |row| row.get(0))?;
        let newest = newest.unsigned_abs();
        let (pending, before) = (Vec::new(), HashMap::new());
        let mut followed =
            Self { all, first_end: UnixMs::MAX, newest, newest_before: newest, pending, before, changed: false };
        followed.look_ahead();
        Ok(followed)
    }

    fn is_anybody(&self) -> bool {
        self.first_end < UnixMs::MAX
    }

    fn look_ahead(&mut self) {
        let ends = self.all.values().map(|following| following.until).filter(|until| *until > 0);
        self.first_end = ends.min().unwrap_or(UnixMs::MAX);
    }

    fn set(&mut self, tenant: &TenantId, following: Option<Following>) {
        let before = match following {
            Some(following) => self.all.insert(tenant.clone(), following),
            None => self.all.remove(tenant),
        };
        self.before.entry(tenant.clone()).or_insert(before);
        self.changed = true;
    }

    /// Ends the followings that nobody prolonged until `now`.
    fn end_until(&mut self, now: UnixMs) {
        if self.first_end > now {
            return;
        }
        let over = |(_, following): &(&TenantId, &Following)| (1..=now).contains(&following.until);
        let over: Vec<_> = self.all.iter().filter(over).map(|(tenant, of)| (tenant.clone(), of.last)).collect();
        for (tenant, last) in over {
            self.set(&tenant, Some(Following { until: 0, last }));
        }
        self.look_ahead();
    }

    /// The number of a tenant's next event; none when nobody follows it.
    fn next_number(&mut self, now: UnixMs, tenant: &TenantId) -> Option<u64> {
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
    pub(super) fn write(&mut self, conn: &Connection, keep: bool) -> Result<(), Fault> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        let sql = "INSERT INTO event (tenant, number, at, job, task, state) VALUES (?, ?, ?, ?, ?, ?)";
        let lost = !keep && self.has_pending();
        for (tenant, event) in self.pending.drain(..).filter(|_| keep) {
            let (number, at, state) = (int(event.number), int(event.at), state_number(event.state));
            let row = params![tenant.as_str(), number, at, event.job.to_bytes(), event.task.as_str(), state];
            conn.prepare_cached(sql)?.execute(row)?;
        }
        for tenant in self.before.keys() {
            let Some(following) = self.all.get(tenant) else {
                conn.prepare_cached("DELETE FROM followed WHERE tenant = ?")?.execute([tenant.as_str()])?;
                continue;
            };
            let sql = "INSERT OR REPLACE INTO followed (tenant, until, last) VALUES (?, ?, ?)";
            let (until, last) = (int(following.until), int(following.last));
            conn.prepare_cached(sql)?.execute(params![tenant.as_str(), until, last])?;
            // There are no gaps in what is kept.
            let drop = if lost { last } else { int(following.last.saturating_sub(MAX_EVENTS)) };
            conn.prepare_cached(TRIM)?.execute(params![tenant.as_str(), drop])?;
        }
        if self.newest != self.newest_before {
            conn.prepare_cached("UPDATE meta SET event = ?")?.execute([int(self.newest)])?;
        }
        Ok(())
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The group was committed.
    pub(super) fn keep(&mut self) {
        self.before.clear();
        self.newest_before = self.newest;
    }

    /// The group was rolled back.
    pub(super) fn undo(&mut self) {
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
pub(super) fn keeps_events(
    conn: &Connection,
    followed: &Followed,
    max_pages: Option<u64>,
    follow_up: FollowUp,
) -> Result<bool, Fault> {
    Ok(!followed.has_pending() || (follow_up == FollowUp::All && !submit::fills(conn, max_pages, 0)?))
}

impl Step<'_> {
    pub(crate) fn follow(&mut self, tenant: &TenantId) -> Result<u64, Fault> {
        self.followed.end_until(self.now);
        let known = self.followed.all.get(tenant).copied();
        let last = match known {
            Some(following) if following.until > 0 => following.last,
            ended => {
                if let Some(ended) = ended {
                    self.write_followed()?;
                    self.conn.prepare_cached(TRIM)?.execute(params![tenant.as_str(), int(ended.last)])?;
                }
                self.now.saturating_mul(1_000).max(self.followed.newest + 1) - 1
            }
        };
        let until = self.now.saturating_add(FOLLOW_MS);
        self.followed.set(tenant, Some(Following { until, last }));
        self.followed.look_ahead();
        Ok(last)
    }

    /// The job's state was changed.
    pub(super) fn tell_state(&mut self, head: &Head) -> Result<(), Fault> {
        if !self.followed.is_anybody() {
            return Ok(());
        }
        let tenant = self.scheduler.tenant(head.line);
        if let Some(number) = self.followed.next_number(self.now, tenant) {
            let event = Event { number, at: self.now, job: head.id, task: head.task(self.conn)?, state: head.state };
            self.followed.pending.push((tenant.clone(), event));
        }
        Ok(())
    }

    /// Whether somebody may follow a tenant: what is not yet stored must then know its task.
    pub(super) fn is_followed(&self, tenant: &TenantId) -> bool {
        self.followed.is_anybody() && self.followed.all.contains_key(tenant)
    }

    pub(super) fn write_followed(&mut self) -> Result<(), Fault> {
        let keep = keeps_events(self.conn, self.followed, self.max_pages, self.follow_up)?;
        self.followed.write(self.conn, keep)
    }

    /// Deletes the events of followings that have ended.
    pub(super) fn sweep_events(&mut self) -> Result<(), Fault> {
        // Those that nobody missed, later: as long as that a clock may be set back, and all brokers agree.
        self.followed.end_until(self.now.saturating_sub(FOLLOW_MS));
        let over = self.followed.all.iter().filter(|(_, following)| following.until == 0);
        let over: Vec<TenantId> = over.map(|(tenant, _)| tenant.clone()).collect();
        if over.is_empty() {
            return Ok(());
        }
        self.write_followed()?;
        let mut budget = EVENT_SWEEP;
        for tenant in over {
            let deleted = self.conn.prepare_cached(SWEEP)?.execute(params![tenant.as_str(), int(budget)])? as u64;
            budget = budget.saturating_sub(deleted);
            if budget == 0 {
                break;
            }
            self.followed.set(&tenant, None);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recording_events_costs_no_more_because_there_are_more() {
        for sql in [TRIM, SWEEP] {
            crate::tests::assert_costs_what_it_finds(sql);
        }
    }

    #[test]
    fn what_a_group_did_to_followings_is_undone_with_it() {
        let conn = crate::schema::open_in_memory().unwrap();
        let mut followed = Followed::load(&conn).unwrap();
        let [old, new] = ["old", "new"].map(|name| TenantId::new(name).unwrap());
        followed.set(&old, Some(Following { until: 50, last: 7 }));
        followed.look_ahead();
        assert_eq!(followed.next_number(10, &old), Some(8));
        followed.write(&conn, true).unwrap();
        followed.keep();
        followed.set(&new, Some(Following { until: 90, last: 20 }));
        assert_eq!((followed.next_number(60, &old), followed.next_number(60, &new)), (None, Some(21)));
        assert_eq!(followed.first_end, 90);
        followed.undo();
        assert_eq!((followed.first_end, followed.newest, followed.all.len()), (50, 8, 1));
        let stored = Followed::load(&conn).unwrap();
        assert_eq!((stored.all, stored.first_end, stored.newest), (followed.all, 50, 8));
    }
}
