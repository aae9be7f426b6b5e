//! When to claim, and which queues: by polls, and sooner by hints. Plain decisions, no IO.
//!
//! All idle workers hear every hint, but one job needs one worker. So a worker waits before it follows the hint of a queue
//! whose jobs others take: after three claims in a row that came back empty it waits a random time below 4 ms, then below
//! 8 ms, and so on up to 200 ms. A claim that brings a job of the queue ends that. A worker that is alone finds a job behind
//! each hint and never waits.
//!
//! Example: 16 idle workers, and a job every 10 ms. At first all 16 claim at each hint. After a few jobs one worker finds
//! each of them at once, and each of the others claims about ten times a second. When that one is busy or gone, the first of
//! the others comes about 12 ms after the hint.
//!
//! Invariants: a hint is a reason to look and never the truth; no time without a claim is longer than the poll interval,
//! while slots are free and the broker answers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use umbel_model::QueueName;

use crate::{backoff::Backoff, queues::QueueSet};

/// Empty claims in a row that do not delay the next one: two workers may be fast in turn.
const FREE_MISSES: u32 = 3;
/// The delay after the first miss beyond those is below this, milliseconds.
const FIRST_DELAY_MS: u64 = 4;
/// No delay is longer, milliseconds.
const MAX_DELAY_MS: u64 = 200;
/// Queues whose misses are counted at most.
const MAX_COUNTED: usize = 1_000;

/// See the top of the file.
#[derive(Debug)]
pub(super) struct ClaimSchedule {
    pub(super) queues: QueueSet,
    poll: Duration,
    next_poll: Instant,
    /// There may be work: claim as soon as a slot is free.
    is_due: bool,
    /// Hinted queues that no claim has asked since.
    hinted: Vec<QueueName>,
    /// When the hints are followed.
    follow_at: Option<Instant>,
    /// Hinted queues that the claim under way asks.
    asked: Vec<QueueName>,
    /// Claims in a row that followed a hint of the queue and came back empty.
    misses: HashMap<QueueName, u32>,
    /// Claims failed while settles did not: no claim before its end.
    pub(super) failures: Backoff,
}

impl ClaimSchedule {
    /// The first claim is due at once.
    pub(super) fn new(queues: QueueSet, poll: Duration, now: Instant) -> Self {
        Self {
            queues,
            poll,
            next_poll: now,
            is_due: true,
            hinted: Vec::new(),
            follow_at: None,
            asked: Vec::new(),
            misses: HashMap::new(),
            failures: Backoff::default(),
        }
    }

    /// There may be work, for another reason than a hint.
    pub(super) fn look(&mut self) {
        self.is_due = true;
    }

    /// A lookup found work in these queues.
    pub(super) fn found(&mut self, queues: &[QueueName]) {
        self.is_due |= self.queues.hear(queues);
    }

    /// Jobs became ready in these queues. `random` is uniform.
    pub(super) fn hint(&mut self, queues: &[QueueName], now: Instant, random: u64) {
        if !self.queues.hear(queues) {
            return;
        }
        let misses = queues.iter().map(|queue| self.misses.get(queue).copied().unwrap_or(0)).min();
        let delay = delay(misses.unwrap_or(0), random);
        if delay.is_zero() {
            self.is_due = true;
        } else {
            self.follow_at = self.follow_at.or(Some(now + delay));
        }
        for queue in queues {
            if self.hinted.len() < MAX_COUNTED && !self.hinted.contains(queue) {
                self.hinted.push(queue.clone());
            }
        }
    }

    /// Whether there may be work that nobody has claimed.
    pub(super) fn expects_work(&self) -> bool {
        self.is_due || self.follow_at.is_some()
    }

    /// Whether a claim should be sent now, if a slot is free.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let polls = self.next_poll <= now;
        if polls {
            self.next_poll = now + self.poll;
        }
        if self.follow_at.is_some_and(|at| at <= now) {
            self.follow_at = None;
            self.is_due = true;
        }
        polls || self.is_due
    }

    /// When a claim is due next if nothing happens.
    pub(super) fn next_wake(&self, now: Instant) -> Instant {
        let next = self.follow_at.map_or(self.next_poll, |at| at.min(self.next_poll));
        self.failures.until(now).unwrap_or(next)
    }

    /// Starts a claim: the queues that it asks, none when no queue is known yet.
    pub(super) fn start(&mut self, now: Instant) -> Vec<QueueName> {
        let queues = self.queues.next();
        self.is_due = self.queues.has_more();
        self.next_poll = now + self.poll;
        self.follow_at = None;
        self.asked = std::mem::take(&mut self.hinted);
        self.asked.retain(|queue| queues.contains(queue));
        queues
    }

    /// The claim was answered with deliveries of these queues; `is_full` if there were as many as it allowed.
    pub(super) fn answered<'a>(&mut self, deliveries: impl Iterator<Item = &'a QueueName>, is_full: bool) {
        self.is_due |= is_full;
        let asked = std::mem::take(&mut self.asked);
        let mut deliveries = deliveries.peekable();
        if deliveries.peek().is_none() {
            asked.into_iter().for_each(|queue| *self.misses.entry(queue).or_default() += 1);
        }
        for queue in deliveries {
            self.misses.remove(queue);
        }
        if self.misses.len() > MAX_COUNTED {
            self.misses.clear();
        }
    }
}

/// How long a hint is not followed after so many misses: zero, or a random part of a time that doubles with each of them.
fn delay(misses: u32, random: u64) -> Duration {
    let Some(doublings) = misses.checked_sub(FREE_MISSES + 1) else { return Duration::ZERO };
    let most_ms = (FIRST_DELAY_MS << doublings.min(16)).min(MAX_DELAY_MS);
    Duration::from_micros(1 + random % (most_ms * 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Queues;

    fn name(text: &str) -> QueueName {
        QueueName::new(text).unwrap()
    }

    fn schedule(now: Instant) -> ClaimSchedule {
        let queues = QueueSet::new(&Queues::Named(vec![name("a"), name("b")]), &[]);
        let mut schedule = ClaimSchedule::new(queues, Duration::from_secs(1), now);
        claim(&mut schedule, now, &[]);
        schedule
    }

    fn claim(schedule: &mut ClaimSchedule, now: Instant, delivered: &[&str]) {
        schedule.start(now);
        let queues: Vec<_> = delivered.iter().map(|queue| name(queue)).collect();
        schedule.answered(queues.iter(), false);
    }

    #[test]
    fn a_worker_that_finds_a_job_behind_its_hints_follows_each_at_once() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        for _ in 0..100 {
            schedule.hint(&[name("a")], now, u64::MAX);
            assert!(schedule.is_due(now));
            claim(&mut schedule, now, &["a"]);
            // The hint of a job that the claim before has brought already.
            schedule.hint(&[name("a")], now, u64::MAX);
            assert!(schedule.is_due(now));
            claim(&mut schedule, now, &[]);
        }
    }

    #[test]
    fn hints_behind_which_others_take_the_jobs_are_followed_later_and_a_job_ends_that() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        for _ in 0..20 {
            schedule.hint(&[name("a")], now, 0);
            claim(&mut schedule, now, &[]);
        }
        schedule.hint(&[name("a")], now, MAX_DELAY_MS * 1_000 - 1);
        assert!(!schedule.is_due(now) && schedule.expects_work());
        let follow = schedule.next_wake(now);
        assert_eq!(follow - now, Duration::from_millis(MAX_DELAY_MS));
        // A second hint does not put it off, and the queue of another hint is not delayed.
        schedule.hint(&[name("a")], now + Duration::from_millis(50), u64::MAX);
        assert_eq!(schedule.next_wake(now), follow);
        assert!(schedule.is_due(follow));
        claim(&mut schedule, follow, &[]);
        schedule.hint(&[name("b")], now, u64::MAX);
        assert!(schedule.is_due(follow));
        claim(&mut schedule, follow, &["a"]);
        schedule.hint(&[name("a")], now, u64::MAX);
        assert!(schedule.is_due(follow));
    }

    #[test]
    fn delays_double_from_four_to_two_hundred_milliseconds() {
        let most: Vec<_> = (3..12).map(|misses| delay(misses, u64::MAX).as_micros()).collect();
        let least: Vec<_> = (3..12).map(|misses| delay(misses, 0).as_micros()).collect();
        assert_eq!(least, [0, 1, 1, 1, 1, 1, 1, 1, 1]);
        assert!(
            most[0] == 0 && most[1..].iter().zip([4, 8, 16, 32, 64, 128, 200, 200]).all(|(us, ms)| *us <= ms * 1_000)
        );
    }

    #[test]
    fn without_hints_a_claim_is_due_once_in_a_poll_interval() {
        let now = Instant::now();
        let mut schedule = schedule(now);
        assert!(!schedule.is_due(now) && !schedule.is_due(now + Duration::from_millis(999)));
        assert_eq!(schedule.next_wake(now) - now, Duration::from_secs(1));
        assert!(schedule.is_due(now + Duration::from_secs(1)));
        schedule.hint(&[name("other")], now, 0);
        assert!(!schedule.is_due(now + Duration::from_secs(1)));
    }
}
