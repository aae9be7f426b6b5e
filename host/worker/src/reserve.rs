//! The reserve: slots that long attempts may not fill, so that a short job of another tenant starts at once. Plain
//! decisions, no IO.
//!
//! A tenant whose guests hold threads (`guest_threads.rs`) counts as one with long attempts: others would wait for it as well.
//!
//! Invariants: a tenant whose attempts are short is never kept waiting; a worker with one slot has no reserve, nor one in an
//! installation of one tenant, unless it saw two in the last ten minutes; nothing that runs is stopped.
//!
//! Example: of eight slots one is the reserve. A tenant with attempts of 15 s beside others gets seven; the eighth waits for
//! whoever comes, and is busy for milliseconds if that tenant's attempts are short.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use umbel_broker::{LimitedTenants, MAX_LIMITED_TENANTS};
use umbel_model::TenantId;

/// A longer attempt is a long one.
const LONG: Duration = Duration::from_secs(1);
/// A tenant of which no attempt has ended counts as one with long attempts when its first one runs for longer than this.
const UNKNOWN: Duration = Duration::from_millis(100);
/// A tenant counts as one with long attempts for this time after its last one.
const LONG_FOR: Duration = Duration::from_secs(60);
/// A tenant counts as one whose guests hold threads when they held some for so long together…
const HELD: Duration = Duration::from_millis(250);
/// …not counting this part of the time that passes: now and then everybody's attempt computes for 20 ms.
const NOT_COUNTED: u32 = 10;
/// A worker counts as used by several tenants for this time after one that took turns with another.
const SHARED_FOR: Duration = Duration::from_secs(600);
/// One of so many slots is kept, and at least one.
const SLOTS_A_RESERVED: u32 = 8;
/// Tenants that are remembered while nothing of them runs.
const MAX_TENANTS: usize = 1_000;

/// See the top of the file.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    tenants: HashMap<TenantId, Seen>,
    last: Option<TenantId>,
    /// When an attempt of another tenant than the last one's began.
    shared_at: Option<Instant>,
    /// See `WorkerConfig::several_tenants`.
    several_tenants: Arc<AtomicBool>,
}

/// What is known of a tenant's attempts on this worker.
#[derive(Debug, Default)]
struct Seen {
    /// When they began, by the number of their delivery.
    running: BTreeMap<u64, Instant>,
    has_ended: bool,
    long_ended_at: Option<Instant>,
    /// For how long its guests held threads, without `NOT_COUNTED`, and when that was counted.
    held: Duration,
    held_counted_at: Option<Instant>,
    /// When that was last `HELD` or more.
    held_thread_at: Option<Instant>,
}

impl Seen {
    fn is_long(&self, now: Instant) -> bool {
        let limit = if self.has_ended { LONG } else { UNKNOWN };
        let runs_long = self.running.first_key_value().is_some_and(|(_, begun)| *begun + limit < now);
        runs_long || self.long_ended_at.is_some_and(|at| at + LONG_FOR > now) || self.holds_threads(now)
    }

    fn holds_threads(&self, now: Instant) -> bool {
        self.held_thread_at.is_some_and(|at| at + LONG_FOR > now)
    }

    fn is_short(&self, now: Instant) -> bool {
        self.has_ended && !self.is_long(now)
    }
}

impl Reserve {
    pub(crate) fn new(several_tenants: Arc<AtomicBool>) -> Self {
        Self { several_tenants, ..Self::default() }
    }

    /// An attempt begins.
    pub(crate) fn begin(&mut self, tenant: &TenantId, seq: u64, now: Instant) {
        if self.last.as_ref() != Some(tenant) {
            if self.last.replace(tenant.clone()).is_some() {
                self.shared_at = Some(now);
            }
            if self.tenants.len() >= MAX_TENANTS && !self.tenants.contains_key(tenant) {
                self.tenants.retain(|_, seen| !seen.running.is_empty());
            }
        }
        match self.tenants.get_mut(tenant) {
            Some(seen) => _ = seen.running.insert(seq, now),
            None => _ = self.tenants.entry(tenant.clone()).or_default().running.insert(seq, now),
        }
    }

    /// An attempt ended.
    pub(crate) fn end(&mut self, tenant: &TenantId, seq: u64, now: Instant) {
        let Some(seen) = self.tenants.get_mut(tenant) else { return };
        let Some(begun) = seen.running.remove(&seq) else { return };
        seen.has_ended = true;
        if begun + LONG < now {
            seen.long_ended_at = Some(now);
        }
    }

    /// A guest of a tenant held a thread for so long, while its attempt ran.
    pub(crate) fn held_thread(&mut self, tenant: &TenantId, held: Duration, now: Instant) {
        let Some(seen) = self.tenants.get_mut(tenant) else { return };
        let passed = seen.held_counted_at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        seen.held = (seen.held.saturating_sub(passed / NOT_COUNTED) + held).min(2 * HELD);
        if seen.held >= HELD {
            seen.held_thread_at = Some(now);
        }
    }

    /// Whether guests of this tenant hold threads, so that they should have others than the rest.
    pub(crate) fn holds_threads(&self, tenant: &TenantId, now: Instant) -> bool {
        self.tenants.get(tenant).is_some_and(|seen| seen.holds_threads(now))
    }

    /// Whether one of `slots` may take a delivery of a tenant. The first one of a tenant that is not known yet may always be
    /// taken: that tenant is the one that the reserve is for.
    pub(crate) fn admits(&self, tenant: &TenantId, slots: u32, now: Instant) -> bool {
        if !self.is_kept(slots, now) {
            return true;
        }
        match self.tenants.get(tenant) {
            None => true,
            Some(seen) if seen.is_short(now) => true,
            Some(seen) => {
                !(seen.has_ended || seen.is_long(now)) && seen.running.is_empty() || self.open(slots, now) > 0
            }
        }
    }

    /// How many deliveries of which tenants a claim may take for `slots`, when `waiting` are claimed already.
    pub(crate) fn limited<'a>(
        &self,
        waiting: impl Iterator<Item = &'a TenantId>,
        slots: u32,
        now: Instant,
    ) -> LimitedTenants {
        if !self.is_kept(slots, now) {
            return LimitedTenants::default();
        }
        let long = self.tenants.iter().filter(|(_, seen)| seen.is_long(now));
        let tenants: Vec<_> = long.map(|(tenant, _)| tenant.clone()).take(MAX_LIMITED_TENANTS).collect();
        if tenants.is_empty() {
            return LimitedTenants::default();
        }
        let waiting = waiting.filter(|tenant| tenants.contains(tenant)).count();
        let max = self.open(slots, now).saturating_sub(u32::try_from(waiting).unwrap_or(u32::MAX));
        LimitedTenants { tenants, max }
    }

    /// Whether long attempts fill all slots but the reserve.
    pub(crate) fn is_reached(&self, slots: u32, now: Instant) -> bool {
        let runs_long = |seen: &Seen| !seen.running.is_empty() && seen.is_long(now);
        self.is_kept(slots, now) && self.tenants.values().any(runs_long) && self.open(slots, now) == 0
    }

    fn is_kept(&self, slots: u32, now: Instant) -> bool {
        let is_shared = || self.shared_at.is_some_and(|at| at + SHARED_FOR > now);
        slots > 1 && (self.several_tenants.load(Ordering::Relaxed) || is_shared())
    }

    /// Slots outside the reserve that are free for attempts that may be long.
    fn open(&self, slots: u32, now: Instant) -> u32 {
        let long = self.tenants.values().filter(|seen| !seen.running.is_empty() && !seen.is_short(now));
        let taken = long.map(|seen| seen.running.len()).sum::<usize>();
        (slots - slots.div_ceil(SLOTS_A_RESERVED)).saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    /// A worker on which "short" had an attempt of no time.
    fn with_short(now: Instant) -> Reserve {
        let mut reserve = Reserve::default();
        reserve.begin(&tenant("short"), 0, now);
        reserve.end(&tenant("short"), 0, now);
        reserve
    }

    /// As many attempts of a tenant as may begin.
    fn fill(reserve: &mut Reserve, name: &str, first: u64, slots: u32, now: Instant) -> u64 {
        let admitted = (0..100).take_while(|n| {
            let admits = reserve.admits(&tenant(name), slots, now);
            if admits {
                reserve.begin(&tenant(name), first + n, now);
            }
            admits
        });
        admitted.count() as u64
    }

    #[test]
    fn attempts_of_a_tenant_that_nobody_knows_leave_the_reserve_to_others() {
        for (slots, filled) in [(2, 1), (8, 7), (9, 7), (16, 14)] {
            let now = Instant::now();
            let mut reserve = with_short(now);
            assert_eq!(fill(&mut reserve, "long", 1, slots, now), filled);
            assert!(reserve.admits(&tenant("short"), slots, now) && reserve.admits(&tenant("new"), slots, now));
            // They are known to be long before the first one ends, and for a minute after.
            let later = now + LONG;
            let limited = LimitedTenants { tenants: vec![tenant("long")], max: 0 };
            assert_eq!(reserve.limited([].iter(), slots, later), limited);
            assert!(reserve.is_reached(slots, later) && !reserve.is_reached(2 * slots, later));
            reserve.end(&tenant("long"), 1, later + LONG);
            assert_eq!(reserve.limited([].iter(), slots, later + LONG).max, 1);
            assert_eq!(reserve.limited([tenant("short"), tenant("long")].iter(), slots, later + LONG).max, 0);
        }
    }

    #[test]
    fn one_slot_or_one_tenant_leaves_nothing_idle() {
        let now = Instant::now();
        assert_eq!(fill(&mut with_short(now), "long", 1, 1, now), 100);
        let (mut alone, later) = (Reserve::default(), now + 2 * LONG);
        assert_eq!(fill(&mut alone, "long", 1, 8, now), 100);
        assert_eq!(alone.limited([].iter(), 8, later), LimitedTenants::default());
        let mut quiet = with_short(now);
        quiet.begin(&tenant("long"), 1, now);
        assert_eq!(fill(&mut quiet, "long", 2, 8, now + SHARED_FOR), 100);
        assert_eq!(with_short(now).limited([].iter(), 8, now), LimitedTenants::default());
    }

    #[test]
    fn an_installation_of_several_tenants_has_a_reserve_before_the_second_one_comes() {
        let (now, several) = (Instant::now(), Arc::new(AtomicBool::new(true)));
        let mut reserve = Reserve::new(several.clone());
        assert_eq!(fill(&mut reserve, "long", 1, 8, now), 7);
        assert!(reserve.admits(&tenant("new"), 8, now + 2 * LONG));
        several.store(false, Ordering::Relaxed);
        assert_eq!(fill(&mut reserve, "long", 8, 8, now), 100);
    }

    #[test]
    fn short_attempts_fill_every_slot_once_the_first_has_ended() {
        let now = Instant::now();
        let mut reserve = with_short(now);
        assert_eq!(fill(&mut reserve, "other", 1, 8, now), 7);
        reserve.end(&tenant("other"), 1, now + UNKNOWN / 2);
        assert_eq!(fill(&mut reserve, "other", 200, 8, now), 100);
    }

    #[test]
    fn a_tenant_whose_guests_hold_threads_leaves_the_reserve_to_others_for_a_minute() {
        let now = Instant::now();
        let mut reserve = with_short(now);
        reserve.begin(&tenant("holds"), 1, now);
        for _ in 0..3 {
            assert!(!reserve.holds_threads(&tenant("holds"), now));
            reserve.held_thread(&tenant("holds"), HELD / 3 + Duration::from_millis(1), now);
        }
        reserve.end(&tenant("holds"), 1, now);
        assert!(reserve.holds_threads(&tenant("holds"), now) && !reserve.holds_threads(&tenant("short"), now));
        assert_eq!(fill(&mut reserve, "holds", 2, 8, now), 7);
        assert!(!reserve.holds_threads(&tenant("holds"), now + LONG_FOR));
    }

    #[test]
    fn a_tenant_whose_guests_hold_threads_now_and_then_is_as_others() {
        let mut now = Instant::now();
        let mut reserve = with_short(now);
        reserve.begin(&tenant("seldom"), 1, now);
        for _ in 0..1_000 {
            reserve.held_thread(&tenant("seldom"), Duration::from_millis(40), now);
            assert!(!reserve.holds_threads(&tenant("seldom"), now));
            now += Duration::from_millis(500);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut reserve = with_short(now);
        for n in 0..3 * MAX_TENANTS as u64 {
            let tenant = tenant(&format!("t{n}"));
            reserve.begin(&tenant, n, now);
            reserve.end(&tenant, n, now);
            assert!(reserve.tenants.len() <= MAX_TENANTS);
        }
    }
}
