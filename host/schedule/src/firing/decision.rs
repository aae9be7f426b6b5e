//! The decision about a schedule that is due: one nominal time, and what is left out before it.

use umbel_model::UnixMs;

use super::{
    FiringPolicy, FiringState, MAX_COUNTED, MAX_WAITING, ON_TIME_MS,
    policy::{CatchUp, Overlap},
    record::{FireRecord, Verdict, reason_of},
    state::{Backfill, Pause, Retry, Run},
};

/// The nominal times of a schedule, and how much later each is due.
pub trait Times {
    /// The first one after `after`.
    fn next_after(&self, after: UnixMs) -> Option<UnixMs>;

    /// How much later than at `nominal` its fire is due, milliseconds; the time after it is `next`.
    fn offset_ms(&self, nominal: UnixMs, next: Option<UnixMs>) -> u64;
}

/// What is to be stored and started in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub state: FiringState,
    /// When to look again; none: never by time.
    pub look_at: Option<UnixMs>,
    /// Entries of the history; that of a start follows when its run is known.
    pub records: Vec<FireRecord>,
    pub start: Option<Start>,
    /// Runs to cancel before the step.
    pub cancel: Vec<Run>,
}

impl Decision {
    /// Between two looks how a run has ended of which failures are counted, milliseconds, at most.
    pub const FOLLOWED_MS: u64 = 600_000;
}

/// A run to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub nominal_at: UnixMs,
    /// The backfill to which it belongs.
    pub backfill: Option<String>,
}

/// Between two tries to start a run: at first, and at most, milliseconds.
const FIRST_RETRY_MS: u64 = 1_000;
const LAST_RETRY_MS: u64 = 60_000;
/// Between two looks whether a run has ended for which others wait, milliseconds.
const LOOK_MS: std::ops::RangeInclusive<u64> = 250..=10_000;
/// Times that wait and are left out in one decision: a step records few.
const LEFT_OUT: usize = 8;
/// A backfill gives up a time after so many tries.
const BACKFILL_TRIES: u32 = 10;

/// Decides what is done at `now`. Ends of runs were told to `state` before.
pub fn decide(times: &impl Times, policy: &FiringPolicy, state: &FiringState, now: UnixMs) -> Decision {
    let mut decider = Decider::new(times, policy, state, now);
    let start = decider.next_start();
    decider.done(start)
}

/// What is stored instead when the run that [`decide`] wanted could not be started, because of `error`. `state` and `now` are those
/// of that decision.
pub fn could_not_start(
    times: &impl Times,
    policy: &FiringPolicy,
    state: &FiringState,
    start: &Start,
    error: &str,
    now: UnixMs,
) -> Decision {
    let mut decider = Decider::new(times, policy, state, now);
    match &start.backfill {
        Some(id) => decider.backfill_failed(id, start.nominal_at, error),
        None => decider.fire_failed(start.nominal_at, error),
    }
    decider.done(None)
}

/// Goes on after a pause.
pub fn resume(times: &impl Times, policy: &FiringPolicy, state: &FiringState, now: UnixMs) -> Decision {
    let mut decider = Decider::new(times, policy, state, now);
    decider.state.paused = None;
    decider.state.failures = 0;
    if !policy.keep_missed {
        decider.drop_until_now("the schedule was paused");
    }
    decider.find_next();
    decider.records.push(FireRecord::new(Verdict::Resumed, now));
    decider.done(None)
}

/// A decision in the making.
pub(super) struct Decider<'a, T> {
    times: &'a T,
    policy: &'a FiringPolicy,
    now: UnixMs,
    pub(super) state: FiringState,
    pub(super) records: Vec<FireRecord>,
    cancel: Vec<Run>,
}

impl<'a, T: Times> Decider<'a, T> {
    pub(super) fn new(times: &'a T, policy: &'a FiringPolicy, state: &FiringState, now: UnixMs) -> Self {
        Self { times, policy, now, state: state.clone(), records: Vec::new(), cancel: Vec::new() }
    }

    fn next_start(&mut self) -> Option<Start> {
        self.pause_after_failures();
        if self.state.paused.is_some() {
            return None;
        }
        let nominal = self.retried().or_else(|| self.waited()).or_else(|| self.due());
        match nominal {
            Some(nominal_at) => {
                self.state.started += 1;
                Some(Start { nominal_at, backfill: None })
            }
            None => self.backfilled(),
        }
    }

    fn pause_after_failures(&mut self) {
        let most = self.policy.pause_after_failures;
        if most > 0 && self.state.failures >= most && self.state.paused.is_none() {
            let reason = format!("{} runs in a row failed", self.state.failures);
            self.records.push(FireRecord::new(Verdict::Paused, self.now).because(&reason));
            self.state.paused = Some(Pause { since: self.now, reason: Some(reason) });
        }
    }

    /// Finds the next time where there is none: what had ended goes on when it may.
    pub(super) fn find_next(&mut self) {
        if self.state.next.is_none() && !self.is_spent() {
            self.state.next = self.times.next_after(self.now);
        }
    }

    fn is_spent(&self) -> bool {
        self.policy.max_runs > 0 && self.state.started >= self.policy.max_runs
    }

    // ---- one that could not be started

    /// The time that could not be started, if it is to be tried now. It fails when it is too old or another takes its place.
    fn retried(&mut self) -> Option<UnixMs> {
        let retry = self.state.retry.clone()?;
        if self.is_given_up(&retry) {
            self.state.retry = None;
            self.failed(&retry);
            return None;
        }
        if retry.at > self.now {
            return None;
        }
        self.state.retry = None;
        Some(retry.nominal_at)
    }

    fn is_given_up(&self, retry: &Retry) -> bool {
        let is_old = retry.nominal_at.saturating_add(self.policy.catch_up_window_ms) < self.now;
        let is_passed = || self.policy.catch_up != CatchUp::All && self.next_due().is_some_and(|due| due <= self.now);
        is_old || is_passed()
    }

    fn failed(&mut self, retry: &Retry) {
        self.state.failures = self.state.failures.saturating_add(1);
        let reason = format!("given up after {} tries: {}", retry.tries, retry.error);
        self.records.push(FireRecord::of(Verdict::Failed, self.now, retry.nominal_at).because(reason));
    }

    fn fire_failed(&mut self, nominal: UnixMs, error: &str) {
        // What `decide` takes off the state, without the run: what it recorded with it is recorded now.
        let tries = match self.state.retry.take() {
            Some(retry) if retry.nominal_at == nominal => retry.tries,
            other => {
                self.state.retry = other;
                self.next_start();
                self.state.started = self.state.started.saturating_sub(1);
                self.cancel.clear();
                0
            }
        };
        let pause = FIRST_RETRY_MS.saturating_mul(1 << tries.min(10)).min(LAST_RETRY_MS);
        let retry = Retry {
            nominal_at: nominal,
            at: self.now.saturating_add(pause),
            tries: tries + 1,
            error: reason_of(error),
        };
        if self.is_given_up(&retry) {
            self.failed(&retry);
            return;
        }
        if tries == 0 {
            self.records.push(FireRecord::of(Verdict::Retrying, self.now, nominal).because(error));
        }
        self.state.retry = Some(retry);
    }

    // ---- those that wait

    fn waited(&mut self) -> Option<UnixMs> {
        if self.state.retry.is_some() || !self.state.runs.is_empty() || self.state.waiting.is_empty() {
            return None;
        }
        if self.is_spent() {
            self.waiting_left_out("the schedule has had all its runs");
            return None;
        }
        Some(self.state.waiting.remove(0))
    }

    /// Leaves out those that wait: at once only as many as a step records, the others the next time.
    fn waiting_left_out(&mut self, why: &str) {
        let count = self.state.waiting.len().min(LEFT_OUT);
        let first: Vec<UnixMs> = self.state.waiting.drain(..count).collect();
        first.into_iter().for_each(|nominal| self.left_out(nominal, why));
    }

    fn left_out(&mut self, nominal: UnixMs, why: &str) {
        self.records.push(FireRecord::of(Verdict::Skipped, self.now, nominal).because(why));
    }

    // ---- those that are due

    /// The nominal time that starts now, if any. What passed before it is missed.
    fn due(&mut self) -> Option<UnixMs> {
        if self.is_spent() {
            self.state.next = None;
            return None;
        }
        // With `all`, one that could not be started holds up those behind it.
        if self.state.retry.is_some() && self.policy.catch_up == CatchUp::All {
            return None;
        }
        let nominal = self.candidate()?;
        let is_free = self.state.runs.is_empty() && self.state.waiting.is_empty() && self.state.retry.is_none();
        if is_free || self.policy.overlap == Overlap::Allow {
            return Some(nominal);
        }
        self.overlaps(nominal);
        None
    }

    fn overlaps(&mut self, nominal: UnixMs) {
        const RUNS: &str = "the run before is not over";
        match self.policy.overlap {
            Overlap::Skip => self.left_out(nominal, RUNS),
            Overlap::BufferOne if !self.state.waiting.is_empty() => self.left_out(nominal, "another one waits already"),
            Overlap::BufferAll if self.state.waiting.len() >= MAX_WAITING => {
                self.left_out(nominal, "as many wait as may");
            }
            Overlap::BufferOne | Overlap::BufferAll => self.state.waiting.push(nominal),
            Overlap::Cancel => {
                self.waiting_left_out("a later one takes its place");
                self.state.waiting.push(nominal);
                self.cancel.clone_from(&self.state.runs);
            }
            Overlap::Allow => {}
        }
    }

    /// Takes the time that `catch_up` lets start, and those before it, off the state.
    fn candidate(&mut self) -> Option<UnixMs> {
        self.drop_older_than_window();
        let first = self.state.next?;
        let second = self.times.next_after(first);
        if self.due_at(first, second) > self.now {
            return None;
        }
        if self.policy.catch_up == CatchUp::All {
            self.state.next = second;
            return Some(first);
        }
        let (last, after) = self.last_due(first, second, self.now);
        if last > first {
            self.missed(first, last, "a later one is due, too");
        }
        self.state.next = after;
        let late = self.now.saturating_sub(self.due_at(last, after));
        if self.policy.catch_up == CatchUp::None && late > ON_TIME_MS {
            let reason = format!("it was due {} s ago", late / 1_000);
            self.records.push(FireRecord::of(Verdict::Missed, self.now, last).because(reason));
            return None;
        }
        Some(last)
    }

    fn due_at(&self, nominal: UnixMs, next: Option<UnixMs>) -> UnixMs {
        nominal.saturating_add(self.times.offset_ms(nominal, next))
    }

    fn next_due(&self) -> Option<UnixMs> {
        let first = self.state.next?;
        Some(self.due_at(first, self.times.next_after(first)))
    }

    /// The last time that is due at `until`, and the one after it. `first` is due then, `second` follows it.
    fn last_due(&self, first: UnixMs, second: Option<UnixMs>, until: UnixMs) -> (UnixMs, Option<UnixMs>) {
        let is_due = |nominal, next| self.due_at(nominal, next) <= until;
        let (mut last, mut after) = (first, second);
        match second {
            Some(second) if is_due(second, self.times.next_after(second)) => {}
            _ => return (last, after),
        }
        // Between `last`, which is due, and `end`, behind which none is.
        let mut end = until + 1;
        while end - last > 1 {
            let middle = last + (end - last) / 2;
            let near = self.times.next_after(middle);
            let next = near.and_then(|near| self.times.next_after(near));
            match near {
                Some(near) if is_due(near, next) => (last, after) = (near, next),
                _ => end = middle,
            }
        }
        // The halving ends at the last one, or just before the one that follows it.
        while let Some(next) = after.filter(|next| *next <= until) {
            let behind = self.times.next_after(next);
            if !is_due(next, behind) {
                break;
            }
            (last, after) = (next, behind);
        }
        (last, after)
    }

    fn drop_older_than_window(&mut self) {
        let Some(newest) = self.now.checked_sub(self.policy.catch_up_window_ms + 1) else { return };
        let Some(first) = self.state.next else { return };
        let second = self.times.next_after(first);
        if self.due_at(first, second) > newest {
            return;
        }
        let (_, after) = self.last_due(first, second, newest);
        self.missed(first, after.unwrap_or(UnixMs::MAX), "it is older than the schedule catches up with");
        self.state.next = after;
    }

    /// Drops what has passed.
    pub(super) fn drop_until_now(&mut self, why: &str) {
        let Some(first) = self.state.next.filter(|first| *first <= self.now) else { return };
        let end = self.times.next_after(self.now);
        self.missed(first, end.unwrap_or(UnixMs::MAX), why);
        self.state.next = end;
    }

    /// Records the times from `first` up to and without `end`.
    fn missed(&mut self, first: UnixMs, end: UnixMs, why: &str) {
        let (mut count, mut last) = (1, first);
        while count < MAX_COUNTED
            && let Some(next) = self.times.next_after(last).filter(|next| *next < end)
        {
            (count, last) = (count + 1, next);
        }
        let mut record = FireRecord::of(Verdict::Missed, self.now, first).because(why);
        record.count = Some(count);
        record.through = (count > 1).then_some(last);
        self.records.push(record);
    }

    // ---- backfills

    fn backfilled(&mut self) -> Option<Start> {
        let now = self.now;
        let backfill = self.state.backfills.iter_mut().find(|backfill| backfill.at <= now)?;
        let start = Start { nominal_at: backfill.next, backfill: Some(backfill.id.clone()) };
        backfill.started += 1;
        Self::advance(self.times, backfill, now);
        self.state.backfills.retain(|backfill| backfill.next <= backfill.to);
        Some(start)
    }

    fn advance(times: &T, backfill: &mut Backfill, now: UnixMs) {
        backfill.tries = 0;
        backfill.next = times.next_after(backfill.next).unwrap_or(UnixMs::MAX);
        // Its pace counts from when the last one was due, unless that is long ago.
        backfill.at = backfill.at.saturating_add(backfill.pace_ms).max(now.saturating_sub(1_000));
    }

    fn backfill_failed(&mut self, id: &str, nominal: UnixMs, error: &str) {
        let (now, times) = (self.now, self.times);
        let Some(backfill) = self.state.backfills.iter_mut().find(|backfill| backfill.id == id) else { return };
        let mut record = FireRecord::of(Verdict::Retrying, now, nominal).because(error);
        record.backfill = Some(id.to_owned());
        backfill.tries += 1;
        if backfill.tries >= BACKFILL_TRIES {
            record.verdict = Verdict::Failed;
            Self::advance(times, backfill, now);
        } else {
            let pause = FIRST_RETRY_MS.saturating_mul(1 << backfill.tries.min(10)).min(LAST_RETRY_MS);
            backfill.at = now.saturating_add(pause);
        }
        if backfill.tries <= 1 {
            self.records.push(record);
        }
        self.state.backfills.retain(|backfill| backfill.next <= backfill.to);
    }

    // ---- what follows

    pub(super) fn done(mut self, start: Option<Start>) -> Decision {
        if self.is_spent() {
            self.state.next = None;
        }
        let look_at = self.look_at();
        Decision { state: self.state, look_at, records: self.records, start, cancel: self.cancel }
    }

    /// When the state has to be looked at again by itself.
    fn look_at(&self) -> Option<UnixMs> {
        if self.state.paused.is_some() {
            return None;
        }
        let waits = self.state.waiting.first().map(|first| {
            let waited = self.now.saturating_sub(*first);
            self.now + (waited / 10).clamp(*LOOK_MS.start(), *LOOK_MS.end())
        });
        let retry = self.state.retry.as_ref().map(|retry| retry.at);
        let backfill = self.state.backfills.iter().map(|backfill| backfill.at).min();
        // With `all`, one that could not be started holds up those behind it.
        let is_held_up = retry.is_some() && self.policy.catch_up == CatchUp::All;
        let due = if is_held_up { None } else { self.next_due() };
        // How a run ended can be read only as long as the run is kept.
        let counts = self.policy.pause_after_failures > 0 && !self.state.runs.is_empty();
        let followed = counts.then(|| self.now.saturating_add(Decision::FOLLOWED_MS));
        [waits, retry, backfill, due, followed].into_iter().flatten().min()
    }
}
