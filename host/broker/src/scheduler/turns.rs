//! Whose turn it is among the tenants: start-time fair queueing over all of their queues.
//!
//! Example: `a` has jobs in 1,000 queues and was served often, virtual time is 40. `b` submits its first job and gets the
//! finish time 39: it is next, whatever `a` has. Served once a round, it is level with the others from then on.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Bound::{Included, Unbounded},
};

use umbel_model::{QueueName, TenantId};

use super::branch::QueueId;

/// An open tenant queue among those of its tenant: its virtual finish time there, its name and number.
pub(super) type OpenQueue = (u64, QueueName, QueueId);

/// A tenant that has something to hand out, or was served a short time ago.
#[derive(Debug, Default)]
struct InTurn {
    finish: Option<u64>,
    open: BTreeSet<OpenQueue>,
}

impl InTurn {
    /// Whether it waits for its turn, and its virtual finish time.
    fn place(&self) -> Option<(bool, u64)> {
        let waits = !self.open.is_empty();
        (waits || self.finish.is_some()).then(|| (waits, self.finish.unwrap_or(0)))
    }
}

/// The turns of all tenants.
#[derive(Debug)]
pub(super) struct Turns {
    /// Virtual time: the highest virtual finish time of those that were served.
    pub(super) time: u64,
    tenants: HashMap<TenantId, InTurn>,
    /// Tenants with an open tenant queue: the least virtual finish time first, by name when level.
    waiting: BTreeSet<(u64, TenantId)>,
    /// The others, in the same order.
    pub(super) rested: BTreeSet<(u64, TenantId)>,
}

impl Default for Turns {
    fn default() -> Self {
        Self { time: 1, tenants: HashMap::new(), waiting: BTreeSet::new(), rested: BTreeSet::new() }
    }
}

impl Turns {
    /// Tenants with an open tenant queue, in turn, beginning with one.
    pub(super) fn waiting(&self, from: Option<&(u64, TenantId)>) -> impl Iterator<Item = &(u64, TenantId)> {
        self.waiting.range((from.map_or(Unbounded, Included), Unbounded))
    }

    /// The open tenant queues of a tenant, in turn.
    pub(super) fn open_of(&self, tenant: &TenantId) -> impl ExactSizeIterator<Item = &OpenQueue> {
        static NONE: BTreeSet<OpenQueue> = BTreeSet::new();
        self.tenants.get(tenant).map_or(&NONE, |of| &of.open).iter()
    }

    pub(super) fn finish_of(&self, tenant: &TenantId) -> Option<u64> {
        self.tenants.get(tenant)?.finish
    }

    /// The virtual finish time of a tenant of which a queue opens: before all others, but for those of which that is true, too;
    /// if it was served a short time ago, it goes on where it was. What it has in queues that nobody serves earns no turns.
    pub(super) fn finish_of_newcomer(&self, tenant: &TenantId) -> u64 {
        self.finish_of(tenant).unwrap_or(0).max(self.time - 1)
    }

    /// The first tenant without an open tenant queue that is remembered for nothing: virtual time has passed it, or nobody
    /// waits whom it could get ahead of.
    pub(super) fn passed(&self) -> Option<&TenantId> {
        let is_passed = |finish| finish < self.time || self.waiting.is_empty();
        self.rested.first().filter(|(finish, _)| is_passed(*finish)).map(|(_, tenant)| tenant)
    }

    /// Sets or forgets the virtual finish time of a tenant; the one before.
    pub(super) fn set_finish(&mut self, tenant: &TenantId, finish: Option<u64>) -> Option<u64> {
        self.change(tenant, |of| std::mem::replace(&mut of.finish, finish))
    }

    /// Changes the place of a tenant queue among those of its tenant. None: it is not open.
    pub(super) fn set_open(&mut self, tenant: &TenantId, old: Option<OpenQueue>, new: Option<OpenQueue>) {
        self.change(tenant, |of| {
            old.map(|old| of.open.remove(&old));
            new.map(|new| of.open.insert(new));
        });
    }

    fn change<T>(&mut self, tenant: &TenantId, change: impl FnOnce(&mut InTurn) -> T) -> T {
        if !self.tenants.contains_key(tenant) {
            self.tenants.insert(tenant.clone(), InTurn::default());
        }
        let of = self.tenants.get_mut(tenant).expect("it was just looked up");
        let before = of.place();
        let answer = change(of);
        let after = of.place();
        if before != after {
            for (place, adds) in [(before, false), (after, true)] {
                let Some((waits, finish)) = place else { continue };
                let set = if waits { &mut self.waiting } else { &mut self.rested };
                let entry = (finish, tenant.clone());
                if adds {
                    set.insert(entry)
                } else {
                    set.remove(&entry)
                };
            }
        }
        if after.is_none() {
            self.tenants.remove(tenant);
        }
        answer
    }
}
