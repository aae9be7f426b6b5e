//! Pauses and the shutdown of a worker: whether it claims, when it hands back what still runs, and when it has ended.
//! Plain decisions, no IO.

use std::time::{Duration, Instant};

use umbel_broker::Shutdown;

/// How long a shutdown waits for the broker to take the last settles, after the grace time.
const LAST_SETTLES: Duration = Duration::from_secs(10);
/// Between two log lines about the jobs that a shutdown waits for.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its owner in this process requested it.
    Requested,
    /// An operator ordered it.
    Ordered,
    /// It had done as many jobs as one process should: start another.
    MaxJobs,
    /// Its process held more memory than one should: start another.
    MaxMemory,
    /// It panicked.
    Died,
}

#[derive(Debug)]
struct Draining {
    /// When jobs that still run are handed back. None: never.
    grace_until: Option<Instant>,
    /// They were handed back.
    is_over: bool,
    why: End,
    next_log: Instant,
}

/// See the top of the file.
#[derive(Debug)]
pub(super) struct Lifecycle {
    grace: Duration,
    is_paused: bool,
    shutdown: Option<Draining>,
}

/// The actions that a shutdown needs now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ShutdownStep {
    /// Log the jobs that it waits for.
    pub(super) log: bool,
    /// Stop all guests and hand their jobs back.
    pub(super) release: bool,
}

impl Lifecycle {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, is_paused: false, shutdown: None }
    }

    /// False while it is paused or shuts down. Deliveries of a claim that is answered then are given back.
    pub(super) fn claims(&self) -> bool {
        !self.is_paused && self.shutdown.is_none()
    }

    pub(super) fn shuts_down(&self) -> bool {
        self.shutdown.is_some()
    }

    /// Whether that changes anything.
    pub(super) fn set_paused(&mut self, paused: bool) -> bool {
        std::mem::replace(&mut self.is_paused, paused) != paused
    }

    /// Begins to shut down, or ends sooner than was requested before. Answers whether it begins.
    pub(super) fn shut_down(&mut self, shutdown: Shutdown, why: End, now: Instant) -> bool {
        let grace_until = match shutdown {
            Shutdown::Warm => None,
            Shutdown::Soft => Some(now + self.grace),
            Shutdown::Cold => Some(now),
        };
        if let Some(draining) = &mut self.shutdown {
            draining.grace_until = draining.grace_until.into_iter().chain(grace_until).min();
            // A worker that somebody shuts down must not be replaced by a new one.
            if matches!(draining.why, End::MaxJobs | End::MaxMemory) {
                draining.why = why;
            }
            return false;
        }
        self.shutdown = Some(Draining { grace_until, is_over: false, why, next_log: now + LOG_EVERY });
        true
    }

    /// The actions that are due. `open` deliveries are in the local queue or on a slot.
    pub(super) fn step(&mut self, now: Instant, open: u32) -> ShutdownStep {
        let Some(draining) = &mut self.shutdown else { return ShutdownStep::default() };
        if open == 0 {
            // Only settles are left, which must not be waited for without end.
            draining.grace_until = draining.grace_until.or(Some(now));
        }
        let log = draining.next_log <= now;
        if log {
            draining.next_log = now + LOG_EVERY;
        }
        let release = !draining.is_over && draining.grace_until.is_some_and(|until| until <= now);
        draining.is_over |= release;
        ShutdownStep { log, release }
    }

    /// When the grace time ends.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.shutdown.as_ref().filter(|draining| !draining.is_over)?.grace_until
    }

    /// Why it ends now, if it does; `is_idle` if it holds no delivery and no round trip is under way.
    pub(super) fn end(&self, now: Instant, is_idle: bool) -> Option<End> {
        let draining = self.shutdown.as_ref()?;
        if is_idle {
            return Some(draining.why);
        }
        let gives_up = draining.grace_until.is_some_and(|until| until + LAST_SETTLES <= now);
        if gives_up {
            tracing::warn!("the broker did not take the last outcomes; leases will expire");
        }
        gives_up.then_some(draining.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(30);

    #[test]
    fn a_soft_shutdown_hands_back_after_its_grace_time_and_gives_up_on_a_broker_that_does_not_answer() {
        let (mut lifecycle, now) = (Lifecycle::new(GRACE), Instant::now());
        assert!(lifecycle.claims() && lifecycle.shut_down(Shutdown::Soft, End::Ordered, now) && !lifecycle.claims());
        assert_eq!(lifecycle.step(now, 1), ShutdownStep::default());
        assert_eq!(lifecycle.next_wake(), Some(now + GRACE));
        let over = now + GRACE;
        assert!(lifecycle.step(over, 1).release && !lifecycle.step(over, 1).release && lifecycle.next_wake().is_none());
        assert_eq!((lifecycle.end(over, false), lifecycle.end(over, true)), (None, Some(End::Ordered)));
        assert_eq!(lifecycle.end(over + LAST_SETTLES, false), Some(End::Ordered));
    }

    #[test]
    fn a_warm_shutdown_waits_for_jobs_but_not_for_settles_and_a_colder_one_ends_it() {
        let (mut lifecycle, now) = (Lifecycle::new(GRACE), Instant::now());
        assert!(lifecycle.shut_down(Shutdown::Warm, End::MaxJobs, now));
        assert_eq!(lifecycle.step(now + LOG_EVERY, 1), ShutdownStep { log: true, release: false });
        assert!(lifecycle.next_wake().is_none() && lifecycle.end(now + LOG_EVERY * 60, false).is_none());
        // Its owner wants it gone: it is not replaced.
        assert!(!lifecycle.shut_down(Shutdown::Cold, End::Requested, now));
        assert!(lifecycle.step(now, 1).release);
        assert_eq!(lifecycle.end(now, true), Some(End::Requested));

        let mut idle = Lifecycle::new(GRACE);
        assert!(idle.shut_down(Shutdown::Warm, End::MaxJobs, now));
        assert!(idle.step(now, 0).release && idle.end(now + LAST_SETTLES, false).is_some());
    }

    #[test]
    fn a_pause_ends_when_it_is_taken_back() {
        let mut lifecycle = Lifecycle::new(GRACE);
        assert!(lifecycle.set_paused(true) && !lifecycle.set_paused(true) && !lifecycle.claims());
        assert!(lifecycle.set_paused(false) && lifecycle.claims() && lifecycle.end(Instant::now(), true).is_none());
    }
}
