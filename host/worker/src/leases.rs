//! The book of all deliveries that this worker holds: which must be renewed, which are lost, which report.
//!
//! Invariant: a delivery is in the book from its claim until the broker answered its settle, or until it is given up.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use umbel_broker::{LeaseState, Renewal};
use umbel_model::JobId;
use umbel_sandbox::Stop;

use crate::{
    active::{Active, Reports},
    attempt::unix_ms,
};

/// Where a held delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In the line or on a slot.
    Open,
    /// Ended; its settle waits or is under way.
    Settling,
    /// Lost: its guest was told to stop, and what it leaves is dropped.
    Lost,
}

#[derive(Debug)]
struct Held {
    active: Arc<Active>,
    phase: Phase,
    /// When the lease ends at the latest, counted from before the request that got or renewed it.
    until: Instant,
    /// A renewal that carries its reports is under way: its settle must not overtake it.
    telling: bool,
}

/// A renewal under way: which deliveries, and what it tells of them.
#[derive(Debug)]
pub(crate) struct Renewing {
    pub(crate) seqs: Vec<u64>,
    pub(crate) renewals: Vec<Renewal>,
    pub(crate) started: Instant,
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct LeaseTable {
    held: HashMap<u64, Held>,
    lease: Duration,
    /// Deliveries that are not over for the job: in the line or on a slot.
    open: u32,
}

impl LeaseTable {
    pub(crate) fn new(lease: Duration) -> Self {
        Self { held: HashMap::new(), lease, open: 0 }
    }

    /// `since` is from before the claim was sent.
    pub(crate) fn add(&mut self, active: Arc<Active>, since: Instant) {
        self.open += 1;
        let held = Held { phase: Phase::Open, until: since + self.lease, telling: false, active };
        self.held.insert(held.active.seq, held);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Deliveries whose leases are held, those among them whose outcome is on its way.
    pub(crate) fn len(&self) -> u32 {
        self.held.len() as u32
    }

    /// Deliveries in the line or on a slot, lost ones included: their slots are not free yet.
    pub(crate) fn open(&self) -> u32 {
        self.open
    }

    /// Notes that a delivery ended here. False if it is lost and must not be settled.
    pub(crate) fn ended(&mut self, seq: u64) -> bool {
        let Some(held) = self.held.get_mut(&seq) else { return false };
        self.open = self.open.saturating_sub(1);
        if held.phase == Phase::Lost {
            self.held.remove(&seq);
            return false;
        }
        held.phase = Phase::Settling;
        true
    }

    pub(crate) fn is_telling(&self, seq: u64) -> bool {
        self.held.get(&seq).is_some_and(|held| held.telling)
    }

    /// Forgets a delivery whose settle was answered or given up.
    pub(crate) fn forget(&mut self, seq: u64) {
        self.held.remove(&seq);
    }

    /// True if one of these jobs is open here.
    pub(crate) fn has_any(&self, ids: &[JobId]) -> bool {
        self.held.values().any(|held| held.phase == Phase::Open && ids.contains(&held.active.delivery.id))
    }

    /// A renewal of what is `due`: everything whose lease is older than `age`, or with `all` everything; and of
    /// whatever has reports. None when there is nothing to renew.
    pub(crate) fn renewing(&mut self, now: Instant, age: Duration, all: bool) -> Option<Renewing> {
        let mut renewing = Renewing { seqs: Vec::new(), renewals: Vec::new(), started: now };
        let fresh = now + self.lease.saturating_sub(age);
        for (seq, held) in &mut self.held {
            let open = held.phase == Phase::Open;
            let reports = open && held.active.has_reports();
            if held.phase == Phase::Lost || !(all || reports || held.until <= fresh) {
                continue;
            }
            let Reports { progress, logs } = if reports { held.active.take() } else { Reports::default() };
            held.telling = progress.is_some() || !logs.is_empty();
            let delivery = &held.active.delivery;
            let (tenant, token) = (delivery.tenant.clone(), delivery.token.clone());
            renewing.seqs.push(*seq);
            renewing.renewals.push(Renewal { tenant, id: delivery.id, token, progress, logs });
        }
        (!renewing.seqs.is_empty()).then_some(renewing)
    }

    /// Takes the answers to a renewal; those without one were not renewed.
    pub(crate) fn renewed(&mut self, renewing: Renewing, answers: &[Option<LeaseState>]) {
        for ((seq, renewal), answer) in renewing.seqs.iter().zip(renewing.renewals).zip(answers) {
            let Some(held) = self.held.get_mut(seq) else { continue };
            held.telling = false;
            let Some(answer) = answer else {
                held.active.untake(Reports { progress: renewal.progress, logs: renewal.logs });
                continue;
            };
            match answer {
                LeaseState::Held => held.until = renewing.started + self.lease,
                LeaseState::Cancel => {
                    held.until = renewing.started + self.lease;
                    held.active.stop.stop(Stop::Cancel);
                }
                // A settle under way may have ended it; its own answer decides.
                LeaseState::Lost if held.phase == Phase::Open => {
                    let delivery = &held.active.delivery;
                    tracing::warn!(tenant = %delivery.tenant, job = %delivery.id, "lease lost, the guest is stopped");
                    lose(held);
                }
                LeaseState::Lost => {}
            }
        }
    }

    /// A renewal failed: what it should have told is told later.
    pub(crate) fn not_renewed(&mut self, renewing: Renewing) {
        for (seq, renewal) in renewing.seqs.into_iter().zip(renewing.renewals) {
            let Some(held) = self.held.get_mut(&seq) else { continue };
            held.telling = false;
            held.active.untake(Reports { progress: renewal.progress, logs: renewal.logs });
        }
    }

    /// Stops guests whose lease cannot be known to hold: it was not renewed until `margin` before its end.
    pub(crate) fn stop_expired(&mut self, now: Instant, margin: Duration) -> u32 {
        let mut stopped = 0;
        for held in self.held.values_mut() {
            if held.phase == Phase::Open && held.until <= now + margin {
                lose(held);
                stopped += 1;
            }
        }
        stopped
    }

    /// The jobs that run here for the longest time, and for how long, milliseconds by this machine's clock.
    pub(crate) fn longest(&self, count: usize) -> Vec<(JobId, u64)> {
        let now = unix_ms();
        let open = self.held.values().filter(|held| held.phase != Phase::Settling);
        let mut jobs: Vec<_> = open
            .filter_map(|held| Some((held.active.delivery.id, now.saturating_sub(held.active.started_at()?))))
            .collect();
        jobs.sort_unstable_by_key(|(id, ms)| (std::cmp::Reverse(*ms), *id));
        jobs.truncate(count);
        jobs
    }

    /// Stops every guest that still runs and gives its job back.
    pub(crate) fn release_all(&self) -> u32 {
        let open = self.held.values().filter(|held| held.phase == Phase::Open);
        open.inspect(|held| held.active.stop.stop(Stop::Release)).count() as u32
    }
}

fn lose(held: &mut Held) {
    held.phase = Phase::Lost;
    held.active.stop.stop(Stop::Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jobs_that_run_longest_are_named_first_and_those_that_ended_or_did_not_begin_are_not() {
        let mut book = LeaseTable::new(Duration::from_secs(30));
        for seq in 1..=5 {
            let active = Active::for_test(seq, "{}");
            if seq < 5 {
                active.start(unix_ms() - 1_000_000 * seq);
            }
            book.add(active, Instant::now());
        }
        assert!(book.ended(4));
        let named: Vec<_> = book.longest(2).into_iter().map(|(id, ms)| (id, ms / 1_000_000)).collect();
        assert_eq!(named, [(JobId::from_parts(1, 3), 3), (JobId::from_parts(1, 2), 2)]);
    }
}
