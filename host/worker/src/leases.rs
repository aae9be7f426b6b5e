//! The lease table: all deliveries that this worker holds, until when, and which of them must be renewed.
//!
//! Invariant: a delivery is in the table from its claim until the broker answered its settle, or until it is given up.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use umbel_broker::{LeaseState, Renewal};
use umbel_model::JobId;
use umbel_sandbox::Stop;

use crate::{
    active_delivery::{ActiveDelivery, Reports},
    operating_system::unix_ms,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// In the local queue or on a slot.
    Open,
    /// Ended; its settle waits or is under way.
    Settling,
    /// The lease was lost: the guest is stopped, and its outcome is dropped.
    Lost,
}

#[derive(Debug)]
struct Lease {
    active: Arc<ActiveDelivery>,
    phase: Phase,
    /// The end of the lease, counted from before the request that got or renewed it.
    until: Instant,
    /// A renewal under way carries reports of this delivery: its settle must not overtake them.
    is_reporting: bool,
}

/// A renewal of several leases.
#[derive(Debug)]
pub(crate) struct PendingRenewal {
    seqs: Vec<u64>,
    pub(crate) renewals: Vec<Renewal>,
    started: Instant,
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct LeaseTable {
    leases: HashMap<u64, Lease>,
    duration: Duration,
    /// Deliveries in the local queue or on a slot, including lost ones: their slots are not free yet.
    pub(crate) open: u32,
}

impl LeaseTable {
    pub(crate) fn new(duration: Duration) -> Self {
        Self { leases: HashMap::new(), duration, open: 0 }
    }

    /// `since` is a moment before the claim was sent.
    pub(crate) fn add(&mut self, active: Arc<ActiveDelivery>, since: Instant) {
        self.open += 1;
        let lease = Lease { phase: Phase::Open, until: since + self.duration, is_reporting: false, active };
        self.leases.insert(lease.active.seq, lease);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// All deliveries, including those whose settle is not answered yet.
    pub(crate) fn len(&self) -> u32 {
        self.leases.len() as u32
    }

    /// Notes that a delivery ended here. False if its lease was lost: then it must not be settled.
    pub(crate) fn end(&mut self, seq: u64) -> bool {
        let Some(lease) = self.leases.get_mut(&seq) else { return false };
        self.open = self.open.saturating_sub(1);
        if lease.phase == Phase::Lost {
            self.leases.remove(&seq);
            return false;
        }
        lease.phase = Phase::Settling;
        true
    }

    /// Whether a renewal under way carries reports of this delivery.
    pub(crate) fn is_reporting(&self, seq: u64) -> bool {
        self.leases.get(&seq).is_some_and(|lease| lease.is_reporting)
    }

    /// Removes a delivery whose settle was answered or given up.
    pub(crate) fn remove(&mut self, seq: u64) {
        self.leases.remove(&seq);
    }

    /// Whether one of these jobs is in the local queue or on a slot.
    pub(crate) fn has_any(&self, ids: &[JobId]) -> bool {
        self.leases.values().any(|lease| lease.phase == Phase::Open && ids.contains(&lease.active.delivery.id))
    }

    /// A renewal of every lease that is older than `age` or has reports; with `all`, of every lease. None when there is
    /// nothing to renew.
    pub(crate) fn renewal(&mut self, now: Instant, age: Duration, all: bool) -> Option<PendingRenewal> {
        let mut pending = PendingRenewal { seqs: Vec::new(), renewals: Vec::new(), started: now };
        let young = now + self.duration.saturating_sub(age);
        for (seq, lease) in &mut self.leases {
            let has_reports = lease.phase == Phase::Open && lease.active.has_reports();
            if lease.phase == Phase::Lost || !(all || has_reports || lease.until <= young) {
                continue;
            }
            let Reports { progress, logs } = if has_reports { lease.active.take_reports() } else { Reports::default() };
            lease.is_reporting = progress.is_some() || !logs.is_empty();
            let delivery = &lease.active.delivery;
            let (tenant, token) = (delivery.tenant.clone(), delivery.token.clone());
            pending.seqs.push(*seq);
            pending.renewals.push(Renewal { tenant, id: delivery.id, token, progress, logs });
        }
        (!pending.seqs.is_empty()).then_some(pending)
    }

    /// Takes the answers to a renewal, one for each lease; a lease without an answer was not renewed, and its reports go
    /// with a later renewal.
    pub(crate) fn renewed(&mut self, pending: PendingRenewal, answers: &[Option<LeaseState>]) {
        for ((seq, renewal), answer) in pending.seqs.iter().zip(pending.renewals).zip(answers) {
            let Some(lease) = self.leases.get_mut(seq) else { continue };
            lease.is_reporting = false;
            match answer {
                None => lease.active.put_back(Reports { progress: renewal.progress, logs: renewal.logs }),
                Some(LeaseState::Held) => lease.until = pending.started + self.duration,
                Some(LeaseState::Cancel) => {
                    lease.until = pending.started + self.duration;
                    lease.active.stop.stop(Stop::Cancel);
                }
                Some(LeaseState::Lost) if lease.phase == Phase::Open => {
                    let delivery = &lease.active.delivery;
                    tracing::warn!(tenant = %delivery.tenant, job = %delivery.id, "lease lost, the guest is stopped");
                    lease.lose();
                }
                // A settle under way may have ended the delivery; the answer to the settle decides.
                Some(LeaseState::Lost) => {}
            }
        }
    }

    /// When the first lease of a guest ends.
    pub(crate) fn soonest_end(&self) -> Option<Instant> {
        let open = self.leases.values().filter(|lease| lease.phase == Phase::Open);
        open.map(|lease| lease.until).min()
    }

    /// Stops guests whose lease was not renewed until `margin` before its end: it may be lost already.
    pub(crate) fn stop_expired(&mut self, now: Instant, margin: Duration) -> u32 {
        let expired = |lease: &&mut Lease| lease.phase == Phase::Open && lease.until <= now + margin;
        self.leases.values_mut().filter(expired).map(Lease::lose).count() as u32
    }

    /// The `count` jobs that run here longest, and for how long, milliseconds by this machine's clock.
    pub(crate) fn longest_running(&self, count: usize) -> Vec<(JobId, u64)> {
        let now = unix_ms();
        let running = self.leases.values().filter(|lease| lease.phase != Phase::Settling);
        let mut jobs: Vec<_> = running
            .filter_map(|lease| Some((lease.active.delivery.id, now.saturating_sub(lease.active.started_at()?))))
            .collect();
        jobs.sort_unstable_by_key(|(id, ms)| (std::cmp::Reverse(*ms), *id));
        jobs.truncate(count);
        jobs
    }

    /// Stops every guest that still runs, so that its job is given back. Answers how many.
    pub(crate) fn release_all(&self) -> u32 {
        let open = self.leases.values().filter(|lease| lease.phase == Phase::Open);
        open.inspect(|lease| lease.active.stop.stop(Stop::Release)).count() as u32
    }
}

impl Lease {
    fn lose(&mut self) {
        self.phase = Phase::Lost;
        self.active.stop.stop(Stop::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jobs_that_run_longest_are_named_first_and_those_that_ended_or_did_not_begin_are_not() {
        let mut leases = LeaseTable::new(Duration::from_secs(30));
        for seq in 1..=5 {
            let active = ActiveDelivery::for_test(seq, "{}");
            if seq < 5 {
                active.start(unix_ms() - 1_000_000 * seq);
            }
            leases.add(active, Instant::now());
        }
        assert!(leases.end(4));
        let named: Vec<_> = leases.longest_running(2).into_iter().map(|(id, ms)| (id, ms / 1_000_000)).collect();
        assert_eq!(named, [(JobId::from_parts(1, 3), 3), (JobId::from_parts(1, 2), 2)]);
    }

    #[test]
    fn a_lease_is_renewed_when_it_is_old_and_lost_when_the_broker_says_so_or_its_time_is_over() {
        let (lease, start) = (Duration::from_secs(30), Instant::now());
        let mut leases = LeaseTable::new(lease);
        (1..=3).for_each(|seq| leases.add(ActiveDelivery::for_test(seq, "{}"), start));
        assert!(leases.renewal(start, lease / 3, false).is_none());
        assert!(leases.end(3) && leases.open == 2);
        let later = start + lease / 2;
        let pending = leases.renewal(later, lease / 3, false).unwrap();
        let answer = |seq: &u64| Some(if *seq == 2 { LeaseState::Lost } else { LeaseState::Held });
        let answers: Vec<_> = pending.seqs.iter().map(answer).collect();
        leases.renewed(pending, &answers);
        // A lost delivery is not settled, and its slot is free only when it ends.
        assert!((leases.open, leases.end(2), leases.open) == (2, false, 1));
        assert_eq!(leases.stop_expired(start + lease, Duration::ZERO), 0);
        assert_eq!(leases.stop_expired(later + lease, Duration::ZERO), 1);
    }

    #[test]
    fn reports_of_a_failed_renewal_are_kept_for_the_next_one() {
        use umbel_model::Progress;
        use umbel_sandbox::Host as _;

        let (start, active) = (Instant::now(), ActiveDelivery::for_test(1, "{}"));
        let mut leases = LeaseTable::new(Duration::from_secs(30));
        leases.add(active.clone(), start);
        active.progress(Progress::default());
        let pending = leases.renewal(start, Duration::ZERO, false).unwrap();
        assert!(leases.is_reporting(1) && pending.renewals[0].progress.is_some() && !active.has_reports());
        leases.renewed(pending, &[None]);
        assert!(!leases.is_reporting(1) && active.has_reports());
    }
}
