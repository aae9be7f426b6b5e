//! The conductor: claims, hands to the slots, renews and settles, on the caller's runtime.
//!
//! Invariants: at most one claim-or-settle and at most one renewal are under way; renewals never wait for guests, nor
//! for a settle; a hint is a reason to look and never the truth; when idle nothing waits for company.

mod renewal;
mod round_trip;

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use umbel_broker::{Broker, Signal, Topic};
use umbel_model::QueueName;

use crate::{
    WorkerConfig,
    active::Bells,
    attempt::Finished,
    heartbeat::Vitals,
    held::Book,
    hints::Hints,
    outbox::Outbox,
    pace::{Pace, Retries},
    queues::QueueSet,
    slots::Line,
    wishes::Rates,
};

use renewal::Renewal;
use round_trip::RoundTrip;

/// Deliveries of one claim at most.
const MAX_CLAIM: u32 = 500;
/// Reports wait at most this long before they are told.
const FLUSH: Duration = Duration::from_millis(250);
/// Claimed work that no slot took for so long is given back: five times what is claimed ahead.
const STALL: Duration = Duration::from_millis(100);
/// Between two looks at leases that nobody renewed.
const LEASE_LOOK: Duration = Duration::from_millis(250);
/// After the grace time and the stop of all guests, a drain waits so long for the broker to take the last settles.
const LAST_SETTLES: Duration = Duration::from_secs(10);

/// What the owner of a worker wants of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    Run,
    Drain,
    Stop,
}

/// What connects a conductor with the rest of its worker.
pub(crate) struct Wires {
    pub(crate) line: Arc<Line>,
    pub(crate) bells: Arc<Bells>,
    pub(crate) finished: mpsc::UnboundedReceiver<Finished>,
    pub(crate) wishes: watch::Receiver<Wish>,
    pub(crate) found: watch::Receiver<Vec<QueueName>>,
    pub(crate) vitals: Arc<Vitals>,
}

pub(crate) struct Conductor {
    broker: Arc<dyn Broker>,
    config: WorkerConfig,
    line: Arc<Line>,
    bells: Arc<Bells>,
    /// How fast guests add jobs.
    rates: Arc<Rates>,
    finished: mpsc::UnboundedReceiver<Finished>,
    wishes: watch::Receiver<Wish>,
    vitals: Arc<Vitals>,
    queues: QueueSet,
    found: watch::Receiver<Vec<QueueName>>,
    book: Book,
    outbox: Outbox,
    pace: Pace,
    /// Deliveries to hold beyond the free slots, as of the last round trip.
    ahead: u32,
    retries: Retries,
    next_seq: u64,
    /// There may be work: a hint, or the last claim was full.
    hinted: bool,
    next_poll: Instant,
    /// The broker failed: no round trip before this.
    blocked_until: Option<Instant>,
    /// While there is plenty to do, finished attempts gather until this.
    gather_until: Option<Instant>,
    next_renewal: Instant,
    renew_all_now: bool,
    renewals_fail: bool,
    flush_at: Option<Instant>,
    drain: Option<Drain>,
}

/// A warm shutdown under way.
struct Drain {
    grace_until: Instant,
    stopped: bool,
}

impl Conductor {
    pub(crate) fn new(broker: Arc<dyn Broker>, config: WorkerConfig, wires: Wires) -> Self {
        let Wires { line, bells, finished, wishes, found, vitals } = wires;
        let now = Instant::now();
        let lease = Duration::from_millis(config.lease_ms);
        Self {
            queues: QueueSet::new(&config.queues),
            book: Book::new(lease),
            outbox: Outbox::new(),
            pace: Pace::new(config.max_ahead),
            ahead: 0,
            retries: Retries::default(),
            next_seq: 0,
            hinted: true,
            next_poll: now,
            blocked_until: None,
            gather_until: None,
            next_renewal: now + lease / 3,
            renew_all_now: false,
            renewals_fail: false,
            flush_at: None,
            drain: None,
            broker,
            config,
            line,
            bells,
            rates: Arc::default(),
            finished,
            wishes,
            found,
            vitals,
        }
    }

    /// Conducts until drained or stopped.
    pub(crate) async fn run(mut self) {
        // Listening starts before the first claim: what comes between the two is not missed.
        let mut work = Hints::new(self.broker.clone(), Topic::Work);
        let mut cancels = Hints::new(self.broker.clone(), Topic::Cancel);
        work.connect().await;
        cancels.connect().await;
        let mut round_trip: Option<RoundTrip> = None;
        let mut renewal: Option<Renewal> = None;
        let mut arrived: Vec<Finished> = Vec::new();
        loop {
            if *self.wishes.borrow() == Wish::Stop || self.is_drained(round_trip.is_some()) {
                return;
            }
            let now = Instant::now();
            self.keep_time(now);
            if renewal.is_none() {
                renewal = self.start_renewal(now);
            }
            if round_trip.is_none() && !self.is_gathering(now) {
                self.collect(&mut arrived);
                round_trip = self.start_round_trip(now);
            }
            let gathering = self.gather_until.is_some();
            let wake = tokio::time::sleep_until(self.next_wake(now, round_trip.is_some(), renewal.is_some()).into());
            tokio::select! {
                biased;
                wish = self.wishes.changed() => match wish {
                    Ok(()) => self.follow_wish(),
                    // Nobody could ever wait for this worker or end it.
                    Err(_) => return,
                },
                done = poll_some(&mut round_trip) => {
                    round_trip = None;
                    self.round_trip_done(done);
                }
                (renewing, answer) = poll_some(&mut renewal) => {
                    renewal = None;
                    self.renewal_done(renewing, answer);
                }
                // Not while a round trip is under way: then what finishes makes the next batch, and wakes nobody.
                n = self.finished.recv_many(&mut arrived, MAX_CLAIM as usize),
                    if round_trip.is_none() && !gathering => if n == 0 { return },
                () = self.bells.refill.notified(), if gathering => self.gather_until = None,
                () = self.bells.report.notified() => self.flush_at = self.flush_at.or(Some(now + FLUSH)),
                // Nobody looks for queues when they were named: then this never happens.
                Ok(()) = self.found.changed() => self.learn_queues(),
                signal = work.next() => self.work_hint(&signal),
                signal = cancels.next() => self.cancel_hint(&signal),
                () = wake => {}
            }
        }
    }

    // ---- time

    /// What is due by the clock alone.
    fn keep_time(&mut self, now: Instant) {
        if self.blocked_until.is_some_and(|until| until <= now) {
            self.blocked_until = None;
        }
        let stopped = self.book.stop_expired(now, self.margin());
        if stopped > 0 {
            tracing::warn!(worker = %self.config.id, stopped, "leases were not renewed in time, their guests are stopped");
        }
        if self.line.still_since().is_some_and(|since| since + STALL <= now) {
            self.pace.stalled();
            self.give_back();
        }
        if let Some(drain) = &mut self.drain
            && !drain.stopped
            && drain.grace_until <= now
        {
            drain.stopped = true;
            let stopped = self.book.release_all();
            if stopped > 0 {
                tracing::info!(worker = %self.config.id, stopped, "grace time is over, running jobs are handed back");
            }
        }
    }

    /// A guest is stopped so long before its lease ends: two epoch ticks and a slow scheduler.
    fn margin(&self) -> Duration {
        Duration::from_millis((self.config.lease_ms / 10).clamp(100, 1_500))
    }

    /// When to look again if nothing happens. Idle, that is the poll and nothing else.
    fn next_wake(&self, now: Instant, round_trip: bool, renewal: bool) -> Instant {
        let poll = if round_trip || self.drain.is_some() { now + Duration::from_secs(1) } else { self.next_poll };
        // Blocked or gathering, a poll that is due does not happen before that ends.
        let mut wake = self.blocked_until.or(self.gather_until).unwrap_or(poll);
        let mut sooner = |at: Instant| wake = wake.min(at);
        if !self.book.is_empty() {
            if !renewal {
                sooner(self.next_renewal);
            }
            sooner(now + LEASE_LOOK);
        }
        if let Some(since) = self.line.still_since() {
            sooner(since + STALL);
        }
        if let (Some(at), false) = (self.flush_at, renewal) {
            sooner(at);
        }
        if let Some(Drain { grace_until, stopped: false }) = self.drain {
            sooner(grace_until);
        }
        wake.max(now)
    }

    // ---- hints and wishes

    fn work_hint(&mut self, signal: &Signal) {
        match signal {
            Signal::Work(queues) => self.hinted |= self.queues.heard(queues),
            _ => self.hinted = true,
        }
    }

    fn learn_queues(&mut self) {
        let found = self.found.borrow_and_update().clone();
        self.hinted |= self.queues.heard(&found);
    }

    fn cancel_hint(&mut self, signal: &Signal) {
        self.renew_all_now |= match signal {
            Signal::Cancel(ids) => self.book.has_any(ids),
            _ => !self.book.is_empty(),
        };
    }

    fn follow_wish(&mut self) {
        if *self.wishes.borrow_and_update() == Wish::Drain && self.drain.is_none() {
            let grace = Duration::from_millis(self.config.grace_ms);
            let running = self.book.open();
            tracing::info!(worker = %self.config.id, running, grace_ms = self.config.grace_ms, "draining");
            self.vitals.set_draining();
            self.drain = Some(Drain { grace_until: Instant::now() + grace, stopped: false });
            self.give_back();
        }
    }

    fn is_drained(&self, under_way: bool) -> bool {
        let Some(drain) = &self.drain else { return false };
        if self.book.is_empty() && !under_way {
            return true;
        }
        let given_up = drain.grace_until + LAST_SETTLES <= Instant::now();
        if given_up {
            tracing::warn!(worker = %self.config.id, "the broker did not take the last outcomes; leases will expire");
        }
        given_up
    }
}

/// Polls the future that is there; waits for ever for one that is not.
async fn poll_some<T>(slot: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
