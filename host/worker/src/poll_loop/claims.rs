//! When to claim, and which queues: by polls, and sooner by hints. Plain decisions, no IO.
//!
//! A broker with many workers sends the hint of a job to few of them, so a hint is applied at once.
//!
//! Invariants: a hint is a reason to look and never the truth; no time without a claim is longer than the poll interval,
//! while slots are free and the broker answers.

use std::time::{Duration, Instant};

use umbel_broker::ClaimQueues;
use umbel_model::QueueName;

use crate::{broker_failures::Backoff, queues::QueueSet};

/// See the top of the file.
#[derive(Debug)]
pub(super) struct ClaimSchedule {
    pub(super) queues: QueueSet,
    poll: Duration,
    next_poll: Instant,
    /// There may be work that nobody has claimed: claim as soon as a slot is free.
    pub(super) expects_work: bool,
    /// Claims failed while settles did not: no claim before its end.
    pub(super) failures: Backoff,
}

impl ClaimSchedule {
    /// The first claim is due at once.
    pub(super) fn new(queues: QueueSet, poll: Duration, now: Instant) -> Self {
        Self { queues, poll, next_poll: now, expects_work: true, failures: Backoff::default() }
    }

    /// A hint says that there is work in these queues.
    pub(super) fn found(&mut self, queues: &[QueueName]) {
        self.expects_work |= self.queues.serves_any(queues);
    }

    /// Whether a claim should be sent now, if a slot is free.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let polls = self.next_poll <= now;
        if polls {
            self.next_poll = now + self.poll;
        }
        polls || self.expects_work
    }

    /// When a claim is due next if nothing happens.
    pub(super) fn next_wake(&self, now: Instant) -> Instant {
        self.failures.until(now).unwrap_or(self.next_poll)
    }

    /// Starts a claim: the queues that it asks, none when no queue is served.
    pub(super) fn start(&mut self, now: Instant) -> Option<ClaimQueues> {
        self.expects_work = false;
        self.next_poll = now + self.poll;
        self.queues.next()
    }

    /// The claim was answered; `is_full` if there were as many deliveries as it allowed.
    pub(super) fn answered(&mut self, is_full: bool) {
        self.expects_work |= is_full;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Queues;

    #[test]
    fn a_claim_is_due_after_a_hint_of_an_own_queue_and_else_once_in_a_poll_interval() {
        let now = Instant::now();
        let name = |text: &str| QueueName::new(text).unwrap();
        let queues = QueueSet::new(&Queues::Named(vec![name("a"), name("b")]), &[]);
        let mut schedule = ClaimSchedule::new(queues, Duration::from_secs(1), now);
        schedule.start(now);
        schedule.answered(false);
        assert!(!schedule.is_due(now) && !schedule.is_due(now + Duration::from_millis(999)));
        assert_eq!(schedule.next_wake(now) - now, Duration::from_secs(1));
        assert!(schedule.is_due(now + Duration::from_secs(1)));
        schedule.found(&[name("other")]);
        assert!(!schedule.is_due(now + Duration::from_secs(1)));
        schedule.found(&[name("a")]);
        assert!(schedule.is_due(now + Duration::from_secs(1)));
    }
}
