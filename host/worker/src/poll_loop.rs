//! The poll loop: claims, hands deliveries to the slots, renews and settles, on the caller's runtime. Each concern is a
//! type of its own; the loop holds them, and waits for whatever happens next.
//!
//! Invariants: at most two round trips (settles, a claim, or both) and at most one renewal are under way; renewals never
//! wait for guests, nor for a round trip; when idle nothing waits for a batch to fill.

mod apply_commands;
mod capacity;
mod claims;
mod commands;
mod lifecycle;
mod outage;
mod renewals;
mod round_trip;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use umbel_broker::{Broker, Signal, Topic, WorkerOrder};

use crate::{
    WorkerConfig,
    active_delivery::Wakers,
    broker_failures::Backoff,
    completion::Finished,
    heartbeat::Vitals,
    hints::Hints,
    leases::LeaseTable,
    outbox::Outbox,
    prefetch::Prefetch,
    queues::QueueSet,
    slots::{LocalQueue, SlotPool},
    workflow_requests::NodeRates,
};

use capacity::Capacity;
use claims::ClaimSchedule;
use commands::Applied;
use lifecycle::Lifecycle;
use outage::Outage;
use renewals::Renewals;
use round_trip::RoundTrips;

pub(crate) use commands::Command;
pub use lifecycle::End;

/// Deliveries of one claim at most.
const MAX_CLAIM: u32 = 500;
/// Deliveries that no slot took for this time are given back: five times the work that is claimed ahead.
const STALL: Duration = Duration::from_millis(100);
/// Between two looks at leases that were not renewed; a tenth of a lease if that is less.
const LEASE_LOOK: Duration = Duration::from_millis(250);

/// The connections of a poll loop with the rest of its worker.
pub(crate) struct Channels {
    pub(crate) wakers: Arc<Wakers>,
    pub(crate) finished: mpsc::UnboundedReceiver<Finished>,
    pub(crate) commands: watch::Receiver<Command>,
    pub(crate) orders: watch::Receiver<WorkerOrder>,
    pub(crate) vitals: Arc<Vitals>,
}

pub(crate) struct PollLoop {
    broker: Arc<dyn Broker>,
    config: WorkerConfig,
    channels: Channels,
    applied: Applied,
    lifecycle: Lifecycle,
    capacity: Capacity,
    local_queue: Arc<LocalQueue>,
    prefetch: Prefetch,
    claims: ClaimSchedule,
    leases: LeaseTable,
    renewals: Renewals,
    outage: Outage,
    outbox: Outbox,
    round_trips: RoundTrips,
    /// The broker failed: no round trip before its end.
    failures: Backoff,
    node_rates: Arc<NodeRates>,
    last_seq: u64,
}

impl PollLoop {
    pub(crate) fn new(broker: Arc<dyn Broker>, config: WorkerConfig, pool: SlotPool, channels: Channels) -> Self {
        let (now, lease) = (Instant::now(), Duration::from_millis(config.lease_ms));
        let queues = QueueSet::new(&config.queues, &config.exclude);
        let slots = config.slots().2;
        let mut this = Self {
            applied: Applied::default(),
            lifecycle: Lifecycle::new(Duration::from_millis(config.grace_ms)),
            local_queue: pool.queue.clone(),
            capacity: Capacity::new(&config, pool, now),
            prefetch: Prefetch::new(config.max_ahead),
            claims: ClaimSchedule::new(queues, Duration::from_millis(config.poll_ms), now),
            leases: LeaseTable::new(lease),
            renewals: Renewals::new(lease, channels.wakers.clone(), now),
            outage: Outage::new(lease),
            outbox: Outbox::new(),
            round_trips: RoundTrips::default(),
            failures: Backoff::default(),
            node_rates: Arc::default(),
            last_seq: 0,
            broker,
            config,
            channels,
        };
        this.set_slots(slots);
        this.tell_queues();
        this
    }

    /// Runs until the worker is shut down or stopped.
    pub(crate) async fn run(mut self) -> End {
        // Subscribed before the first claim: no hint between the two is missed.
        let mut work = Hints::subscribe(self.broker.clone(), Topic::Work).await;
        let mut cancels = Hints::subscribe(self.broker.clone(), Topic::Cancel).await;
        let (mut renewal, mut asking) = (None, None);
        let mut arrived: Vec<Finished> = Vec::new();
        loop {
            let now = Instant::now();
            if self.channels.commands.borrow().stop {
                return End::Requested;
            }
            if let Some(end) = self.lifecycle.end(now, self.leases.is_empty() && self.round_trips.is_empty()) {
                return end;
            }
            self.follow_clock(now);
            if asking.is_none() {
                asking = self.outage.ask(now, self.leases.soonest_end(), &self.broker);
            }
            if renewal.is_none() {
                renewal = self.start_renewal(now);
            }
            self.start_round_trips(now, &mut arrived);
            let (gathers, idle) = (self.outbox.gathers_until(now).is_some(), self.round_trips.is_empty());
            let wake = tokio::time::sleep_until(self.next_wake(now, renewal.is_some()).into());
            tokio::select! {
                biased;
                command = self.channels.commands.changed() => match command {
                    Ok(()) => self.apply_command(),
                    // Nobody could ever wait for this worker or end it.
                    Err(_) => return End::Requested,
                },
                Ok(()) = self.channels.orders.changed() => self.apply_order(),
                Some(done) = self.round_trips.next() => self.round_trip_done(done),
                sent = poll_some(&mut renewal) => {
                    renewal = None;
                    if sent.1.is_ok() {
                        self.outbox.answered();
                    }
                    self.renewals.done(Instant::now(), &mut self.leases, sent);
                    self.outbox.renewal_done();
                }
                is_away = poll_some(&mut asking) => {
                    asking = None;
                    self.outage_answered(Instant::now(), is_away);
                }
                // Not during a round trip: the attempts that end meanwhile are the next batch, and need not wake the loop.
                n = self.channels.finished.recv_many(&mut arrived, MAX_CLAIM as usize),
                    if idle && !gathers => if n == 0 { return End::Died },
                () = self.channels.wakers.refill.notified(), if gathers || !idle => self.outbox.gather_until = None,
                () = self.channels.wakers.report.notified() => self.renewals.flush_soon(now),
                signal = work.next() => self.follow_work_hint(&signal),
                signal = cancels.next() => self.follow_cancel_hint(&signal),
                () = wake => {}
            }
        }
    }

    /// Does what is due by the clock alone.
    fn follow_clock(&mut self, now: Instant) {
        if !self.outage.keeps(now) {
            let stopped = self.leases.stop_expired(now, self.lease_margin());
            if stopped > 0 {
                tracing::warn!(worker = %self.config.id, stopped, "leases were not renewed in time, their guests are stopped");
            }
        }
        if self.local_queue.stalled_since().is_some_and(|since| since + STALL <= now) {
            self.prefetch.stalled();
            self.give_back();
        }
        self.continue_shutdown(now);
        let (open, waiting) = (self.leases.open, self.local_queue.len() as u32);
        let held = (open.saturating_sub(waiting), self.leases.len());
        self.channels.vitals.set(|info| (info.running, info.leases) = held);
        self.check_load(now);
    }

    fn outage_answered(&mut self, now: Instant, is_away: bool) {
        if is_away && !self.outage.is_away() {
            let running = self.leases.open;
            tracing::warn!(worker = %self.config.id, running, "the broker serves nobody; guests go on, their leases are kept");
        }
        self.outage.answered(now, is_away);
    }

    /// A guest is stopped this time before its lease ends: two epoch ticks and a slow scheduler.
    fn lease_margin(&self) -> Duration {
        Duration::from_millis((self.config.lease_ms / 10).clamp(100, 1_500))
    }

    /// When to look again if nothing happens. Of an idle worker that is the next claim.
    fn next_wake(&self, now: Instant, renewal: bool) -> Instant {
        let claims = self.lifecycle.claims() && self.round_trips.is_empty();
        let claim = if claims { self.claims.next_wake(now) } else { now + Duration::from_secs(1) };
        // A claim that is due waits while the broker fails, and while settles are gathered.
        let wake = self.failures.until(now).or(self.outbox.gathers_until(now)).unwrap_or(claim);
        let look = LEASE_LOOK.min(Duration::from_millis(self.config.lease_ms / 10));
        let lease_look = (!self.leases.is_empty()).then_some(now + look);
        let renew = if renewal { None } else { self.renewals.next_wake(&self.leases) };
        let stall = self.local_queue.stalled_since().map(|since| since + STALL);
        let load = if self.lifecycle.shuts_down() { None } else { self.capacity.next_wake() };
        let others = [lease_look, renew, stall, self.lifecycle.next_wake(), load];
        others.into_iter().flatten().fold(wake, Instant::min).max(now)
    }

    fn follow_work_hint(&mut self, signal: &Signal) {
        match signal {
            Signal::Work(queues) => self.claims.found(queues),
            _ => self.claims.expects_work = true,
        }
    }

    fn follow_cancel_hint(&mut self, signal: &Signal) {
        let concerns_us = match signal {
            Signal::Cancel(ids) => self.leases.has_any(ids),
            _ => !self.leases.is_empty(),
        };
        if concerns_us {
            self.renewals.all_now = true;
        }
    }
}

/// Polls the future that is there; waits for ever for one that is not.
async fn poll_some<T>(slot: &mut Option<BoxFuture<'static, T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
