//! Settles that wait for the broker, and how they are batched.
//!
//! Invariants: a settle leaves only when it is answered, when its lease is lost, or when it failed alone too often while the
//! broker answered others; a settle
//! that the broker cannot take does not delay the others for long, and neither does a claim that fails. While there is plenty
//! of claimed work, settles are gathered for a few milliseconds to share a round trip; otherwise none waits for others.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use umbel_broker::{Growth, NewNode, NewWork, NodeTemplate, Settle};
use umbel_model::Resolution;

use crate::{active_delivery::ActiveDelivery, completion::Finished, leases::LeaseTable};

/// Settles of one round trip at most.
const BATCH: usize = 500;
/// Failures of a settle sent alone, for another reason than reach, each while the broker answered others, before it is given
/// up.
const MAX_FAILURES: u32 = 8;
/// The same while it answered nobody: then the fault is the broker's. Some three minutes.
const MAX_FAILURES_OF_ALL: u32 = 100;

/// Bytes of one round trip; the last settle may go beyond it.
const MAX_BATCH_BYTES: usize = 8 << 20;
/// Counted for a node that a guest adds, besides its arguments, bytes.
const NODE_BYTES: usize = 512;

/// About the size of a settle, bytes.
fn size_of(settle: &Settle) -> usize {
    let result = match &settle.resolution {
        Resolution::Succeed { result: Some(result) } => result.get().len(),
        _ => 0,
    };
    let node = |node: &NewNode| match &node.work {
        NewWork::Job { arguments, .. } => NODE_BYTES + arguments.len(),
        NewWork::Join { .. } => NODE_BYTES,
    };
    let size = |nodes: &[NewNode], templates: &[NodeTemplate]| -> usize {
        let templates = templates.iter().map(|template| NODE_BYTES + template.spec.len());
        nodes.iter().map(node).chain(templates).sum()
    };
    let growth = settle.growth.as_deref().map_or(0, |Growth { workflows, members }| {
        let workflows = workflows.iter().map(|new| size(&new.nodes, &new.head.templates));
        workflows.sum::<usize>() + members.as_ref().map_or(0, |new| size(&new.nodes, &new.templates))
    });
    result + growth
}

/// How often a settle failed alone.
#[derive(Debug, Clone, Copy, Default)]
struct Failures {
    all: u32,
    /// After those before, the broker had answered something else.
    own: u32,
    /// Answers of the broker at the last of them.
    answers: u64,
}

/// One waiting settle.
#[derive(Debug)]
struct Waiting {
    active: Arc<ActiveDelivery>,
    settle: Settle,
    failures: Failures,
}

/// Settles of one round trip, and the delivery of each with its failures so far: two lists of the same order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) settles: Vec<Settle>,
    deliveries: Vec<(Arc<ActiveDelivery>, Failures)>,
}

impl Batch {
    pub(crate) fn actives(&self) -> impl Iterator<Item = &Arc<ActiveDelivery>> {
        self.deliveries.iter().map(|(active, _)| active)
    }

    fn into_waiting(self) -> impl DoubleEndedIterator<Item = Waiting> {
        let pairs = self.settles.into_iter().zip(self.deliveries);
        pairs.map(|(settle, (active, failures))| Waiting { active, settle, failures })
    }
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Outbox {
    ready: VecDeque<Waiting>,
    /// Settles that must not overtake a renewal under way, which carries reports of the same delivery.
    after_renewal: Vec<Waiting>,
    /// Settles of the next batch at most. One after a failure that a single settle may have caused, then doubled with each
    /// success.
    max_batch: usize,
    /// A call with settles and a claim failed: no call has both until a claim alone is answered.
    without_claim: bool,
    /// Calls that the broker answered.
    answers: u64,
    /// Finished attempts are gathered until then; None: they are sent at once.
    pub(crate) gather_until: Option<Instant>,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            after_renewal: Vec::new(),
            max_batch: BATCH,
            without_claim: false,
            answers: 0,
            gather_until: None,
        }
    }

    /// Settles that could be sent now.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// Whether the next batch must go without a claim.
    pub(crate) fn is_without_claim(&self) -> bool {
        self.without_claim && !self.ready.is_empty()
    }

    /// `is_reporting`: a renewal under way carries reports of the delivery.
    pub(crate) fn push(&mut self, finished: Finished, is_reporting: bool) {
        let waiting = Waiting { active: finished.active, settle: finished.settle, failures: Failures::default() };
        if is_reporting { self.after_renewal.push(waiting) } else { self.ready.push_back(waiting) }
    }

    /// The renewal under way has ended: the settles behind it are ready.
    pub(crate) fn renewal_done(&mut self) {
        self.ready.extend(self.after_renewal.drain(..));
    }

    /// The next settles to send, each with the last reports of its guest.
    pub(crate) fn batch(&mut self) -> Batch {
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            let before = bytes;
            bytes += size_of(&waiting.settle);
            before < MAX_BATCH_BYTES
        };
        // A settle that failed alone would make the others fail, too.
        let count = match self.ready.front() {
            Some(first) if first.failures.all > 0 => 1,
            _ => {
                let unsuspected = self.ready.iter().take_while(|waiting| waiting.failures.all == 0);
                unsuspected.take(self.max_batch).take_while(fits).count()
            }
        };
        let mut batch = Batch { settles: Vec::with_capacity(count), deliveries: Vec::with_capacity(count) };
        for Waiting { active, mut settle, failures } in self.ready.drain(..count) {
            let reports = active.take_reports();
            settle.logs.extend(reports.logs);
            settle.progress = reports.progress.or(settle.progress);
            batch.settles.push(settle);
            batch.deliveries.push((active, failures));
        }
        batch
    }

    /// Whether batches are as large as they may be, and nothing failed of late.
    pub(crate) fn is_undisturbed(&self) -> bool {
        let suspects = self.ready.front().is_some_and(|first| first.failures.all > 0);
        self.max_batch == BATCH && !self.without_claim && !suspects
    }

    /// Until when finished attempts are gathered, if they are.
    pub(crate) fn gathers_until(&self, now: Instant) -> Option<Instant> {
        self.gather_until.filter(|until| *until > now)
    }

    /// The broker answered another call.
    pub(crate) fn answered(&mut self) {
        self.answers += 1;
    }

    pub(crate) fn succeeded(&mut self) {
        self.answered();
        self.max_batch = (self.max_batch * 2).min(BATCH);
    }

    /// A claim without settles was answered.
    pub(crate) fn claimed_alone(&mut self) {
        self.without_claim = false;
    }

    /// The broker failed on this batch with a claim: the settles go again without one. A damaged queue must not cost the
    /// outcome of a job of another queue.
    pub(crate) fn failed_with_claim(&mut self, batch: Batch) {
        self.without_claim = true;
        self.put_back(batch);
    }

    /// The broker could not be reached: all settles go again, fewer at a time, as the batch may have been too large.
    pub(crate) fn unreached(&mut self, batch: Batch) {
        self.max_batch = (self.max_batch / 2).max(1);
        self.put_back(batch);
    }

    fn put_back(&mut self, batch: Batch) {
        for waiting in batch.into_waiting().rev() {
            self.ready.push_front(waiting);
        }
    }

    /// The broker failed on this batch, which had no claim: its settles go again one by one. One that failed alone too often
    /// is given up; its lease will expire, and the job is delivered again.
    pub(crate) fn failed(&mut self, mut batch: Batch, leases: &mut LeaseTable) {
        self.max_batch = 1;
        if batch.deliveries.len() != 1 {
            return self.put_back(batch);
        }
        let (active, failures) = &mut batch.deliveries[0];
        let is_first = failures.all == 0;
        failures.all += 1;
        failures.own += u32::from(is_first || self.answers > failures.answers);
        failures.answers = self.answers;
        if failures.own >= MAX_FAILURES || failures.all >= MAX_FAILURES_OF_ALL {
            let delivery = &active.delivery;
            tracing::error!(tenant = %delivery.tenant, job = %delivery.id, "outcome dropped: the broker cannot take it");
            leases.remove(active.seq);
            return;
        }
        self.ready.extend(batch.into_waiting());
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An outbox with so many settles, and the lease table of the same deliveries.
    fn waiting(count: u64) -> (Outbox, LeaseTable) {
        let (mut outbox, mut leases) = (Outbox::new(), LeaseTable::new(Duration::from_secs(30)));
        for seq in 1..=count {
            let active = ActiveDelivery::for_test(seq, "{}");
            leases.add(active.clone(), Instant::now());
            assert!(leases.end(seq));
            outbox.push(Finished::released(active), false);
        }
        (outbox, leases)
    }

    fn seqs(batch: &Batch) -> Vec<u64> {
        batch.actives().map(|active| active.seq).collect()
    }

    #[test]
    fn settles_that_failed_with_a_claim_go_again_alone_and_nothing_counts_against_them() {
        let (mut outbox, _) = waiting(3);
        for _ in 0..2 * MAX_FAILURES {
            let batch = outbox.batch();
            assert_eq!((seqs(&batch), outbox.is_without_claim()), (vec![1, 2, 3], false));
            outbox.failed_with_claim(batch);
            assert!(outbox.is_without_claim());
            outbox.claimed_alone();
        }
    }

    #[test]
    fn a_settle_that_failed_alone_is_sent_alone_and_given_up_in_the_end_while_the_others_leave() {
        let (mut outbox, mut leases) = waiting(100);
        let (mut failures, mut left) = (0, Vec::new());
        while outbox.ready() > 0 {
            let batch = outbox.batch();
            if seqs(&batch).contains(&42) {
                failures += u32::from(batch.settles.len() == 1);
                // Once it is known, it goes alone.
                assert!(failures == 0 || batch.settles.len() == 1);
                outbox.failed(batch, &mut leases);
                // Leases are renewed.
                outbox.answered();
            } else {
                left.extend(seqs(&batch));
                outbox.succeeded();
            }
        }
        left.sort_unstable();
        assert_eq!(left, (1..=100).filter(|seq| *seq != 42).collect::<Vec<_>>());
        assert_eq!((failures, leases.len()), (MAX_FAILURES, 99));
    }

    #[test]
    fn a_broker_that_fails_on_everything_is_no_reason_to_give_up_an_outcome_soon() {
        let (mut outbox, mut leases) = waiting(1);
        let mut failures = 0;
        while outbox.ready() > 0 {
            let batch = outbox.batch();
            outbox.failed(batch, &mut leases);
            failures += 1;
            assert!(outbox.ready() == 1 || failures == MAX_FAILURES_OF_ALL);
        }
        assert_eq!((failures, leases.len()), (MAX_FAILURES_OF_ALL, 0));
    }
}
