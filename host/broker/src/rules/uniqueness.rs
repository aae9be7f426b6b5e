//! Which of two submissions that are alike stays, and since when a key is used.

use umbel_model::{JobId, JobState, QueueName, UnixMs};

use crate::{NewJob, Start, Unique, Wins};

/// Who holds a unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    pub id: JobId,
    /// 0: until it ends.
    pub until: UnixMs,
    /// Since when jobs superseded each other.
    pub since: UnixMs,
}

/// The unique key that a submission asks for.
pub fn unique_of(new: &NewJob) -> Option<&Unique> {
    new.broker_options.as_ref()?.unique.as_ref()
}

impl Holder {
    /// Whether it still holds its key.
    pub fn holds(&self, now: UnixMs) -> bool {
        self.until == 0 || self.until > now
    }

    /// A job that takes a key now; `since` when the one before it superseded others.
    pub fn new(id: JobId, unique: &Unique, now: UnixMs, since: UnixMs) -> Self {
        let until = if unique.for_ms > 0 { now.saturating_add(unique.for_ms) } else { 0 };
        Self { id, until, since }
    }
}

/// Whether a later submission supersedes a job in this state: one that waits.
pub fn can_be_superseded(state: JobState) -> bool {
    matches!(state, JobState::Scheduled | JobState::Queued | JobState::Retrying)
}

/// Whether a later submission lets a job in this state end, and keeps it from being run again: it would end last.
pub fn is_let_end(state: JobState, cancel_requested: bool) -> bool {
    state == JobState::Running && !cancel_requested
}

/// When a submission starts that supersedes others since a time: no later than its longest wait.
pub fn start_of(start: Start, unique: &Unique, now: UnixMs, since: UnixMs) -> Start {
    match start {
        Start::After(ms) if unique.wins == Wins::Latest && unique.max_wait_ms > 0 => {
            Start::At(now.saturating_add(ms).min(since.saturating_add(unique.max_wait_ms)))
        }
        start => start,
    }
}

/// The place in the queue that a submission takes over from the job that it supersedes. Always at the end of a long queue,
/// the latest of many would never run.
pub fn place_taken(new: &NewJob, queue: &QueueName, priority: u8, state: JobState, score: u64) -> Option<u64> {
    (state == JobState::Queued && *queue == new.queue && priority == new.priority).then_some(score)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debounced_job_starts_at_its_longest_wait_at_the_latest() {
        let unique = Unique { key: "k".into(), wins: Wins::Latest, for_ms: 0, max_wait_ms: 100 };
        assert_eq!(start_of(Start::After(30), &unique, 1_000, 950), Start::At(1_030));
        assert_eq!(start_of(Start::After(30), &unique, 1_040, 950), Start::At(1_050));
        assert_eq!(start_of(Start::Now, &unique, 1_040, 950), Start::Now);
    }
}
