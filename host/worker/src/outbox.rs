//! Settles that wait for the broker.
//!
//! Invariants: a settle leaves only by an answer, when its lease can no longer be ours, or when it failed alone too often;
//! one that the broker cannot digest does not hold up the others for long, and neither does a claim that fails.

use std::{collections::VecDeque, sync::Arc};

use umbel_broker::{NewNode, NewWork, NewWorkflow, NodeTemplate, Settle};
use umbel_model::Resolution;

use crate::{active::Active, completion::Finished, leases::LeaseTable};

/// Settles of one round trip at most.
const BATCH: usize = 500;
/// Failures of a settle sent alone, for another reason than reach, before it is given up.
const MAX_FAILURES: u32 = 8;

/// What one round trip carries at most, bytes; one settle more may go beyond it.
const MAX_WEIGHT: usize = 8 << 20;
/// What a node that a guest adds counts for besides its arguments, bytes.
const NODE_WEIGHT: usize = 512;

/// About how large a settle is, bytes.
fn weight_of(settle: &Settle) -> usize {
    let result = match &settle.resolution {
        Resolution::Succeed { result: Some(result) } => result.get().len(),
        _ => 0,
    };
    let node = |node: &NewNode| match &node.work {
        NewWork::Job { arguments, .. } => NODE_WEIGHT + arguments.len(),
        NewWork::Join { .. } => NODE_WEIGHT,
    };
    let template = |template: &NodeTemplate| NODE_WEIGHT + template.spec.len();
    let grown = settle.growth.as_ref().map_or(0, |growth| {
        let of_workflow = |new: &NewWorkflow| {
            new.nodes.iter().map(node).sum::<usize>() + new.head.templates.iter().map(template).sum::<usize>()
        };
        let members = growth.members.as_ref().map_or(0, |members| {
            members.nodes.iter().map(node).sum::<usize>() + members.templates.iter().map(template).sum::<usize>()
        });
        growth.workflows.iter().map(of_workflow).sum::<usize>() + members
    });
    result + grown
}

/// One waiting settle.
#[derive(Debug)]
struct Waiting {
    active: Arc<Active>,
    settle: Settle,
    failures: u32,
}

/// Settles under way, and whose they are: two lists of the same order.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) settles: Vec<Settle>,
    whose: Vec<(Arc<Active>, u32)>,
}

impl Batch {
    pub(crate) fn actives(&self) -> impl Iterator<Item = &Arc<Active>> {
        self.whose.iter().map(|(active, _)| active)
    }

    fn into_waiting(self) -> impl DoubleEndedIterator<Item = Waiting> {
        let pairs = self.settles.into_iter().zip(self.whose);
        pairs.map(|(settle, (active, failures))| Waiting { active, settle, failures })
    }
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct Outbox {
    ready: VecDeque<Waiting>,
    /// Those that a renewal still speaks for.
    held_up: Vec<Waiting>,
    /// Shrinks to one after a failure that may be one settle's fault, and doubles with each success.
    batch: usize,
    /// A call with settles and a claim failed by the fault of one of them: none has both until a claim alone is answered.
    apart: bool,
}

impl Outbox {
    pub(crate) fn new() -> Self {
        Self { ready: VecDeque::new(), held_up: Vec::new(), batch: BATCH, apart: false }
    }

    /// Settles that could be sent now.
    pub(crate) fn ready(&self) -> usize {
        self.ready.len()
    }

    /// True if no claim may share the fate of the next settles.
    pub(crate) fn goes_alone(&self) -> bool {
        self.apart && !self.ready.is_empty()
    }

    pub(crate) fn push(&mut self, finished: Finished, telling: bool) {
        let waiting = Waiting { active: finished.active, settle: finished.settle, failures: 0 };
        if telling { self.held_up.push(waiting) } else { self.ready.push_back(waiting) }
    }

    /// The renewal that some waited for has ended.
    pub(crate) fn told(&mut self) {
        self.ready.extend(self.held_up.drain(..));
    }

    /// The next settles to send, with the last reports of their guests.
    pub(crate) fn batch(&mut self) -> Batch {
        let mut weight = 0;
        let light = |waiting: &&Waiting| {
            let before = weight;
            weight += weight_of(&waiting.settle);
            before < MAX_WEIGHT
        };
        // One that failed alone would take the others with it.
        let count = match self.ready.front() {
            Some(first) if first.failures > 0 => 1,
            _ => {
                let unsuspected = self.ready.iter().take_while(|waiting| waiting.failures == 0);
                unsuspected.take(self.batch).take_while(light).count()
            }
        };
        let mut batch = Batch { settles: Vec::with_capacity(count), whose: Vec::with_capacity(count) };
        for Waiting { active, mut settle, failures } in self.ready.drain(..count) {
            if active.has_reports() {
                let reports = active.take();
                settle.logs.extend(reports.logs);
                settle.progress = reports.progress.or(settle.progress);
            }
            batch.settles.push(settle);
            batch.whose.push((active, failures));
        }
        batch
    }

    pub(crate) fn succeeded(&mut self) {
        self.batch = (self.batch * 2).min(BATCH);
    }

    /// A claim alone was answered.
    pub(crate) fn claimed_alone(&mut self) {
        self.apart = false;
    }

    /// The broker failed on this batch with a claim, whichever of them it was: the settles go again alone. A damaged queue
    /// must not cost the outcome of a job of another.
    pub(crate) fn failed_with_claim(&mut self, batch: Batch) {
        self.apart = true;
        self.put_back(batch);
    }

    /// The broker could not be reached: all of them go again, fewer at a time, in case they were too much for one answer.
    pub(crate) fn unreached(&mut self, batch: Batch) {
        self.batch = (self.batch / 2).max(1);
        self.put_back(batch);
    }

    fn put_back(&mut self, batch: Batch) {
        for waiting in batch.into_waiting().rev() {
            self.ready.push_front(waiting);
        }
    }

    /// The broker failed on this batch, which had no claim: they go again one by one. One that failed alone too often is
    /// given up; its lease will expire and the job is delivered again.
    pub(crate) fn failed(&mut self, mut batch: Batch, book: &mut LeaseTable) {
        self.batch = 1;
        if batch.whose.len() != 1 {
            return self.put_back(batch);
        }
        batch.whose[0].1 += 1;
        let (active, failures) = &batch.whose[0];
        if *failures >= MAX_FAILURES {
            let delivery = &active.delivery;
            tracing::error!(tenant = %delivery.tenant, job = %delivery.id, "outcome dropped: the broker cannot take it");
            book.forget(active.seq);
            return;
        }
        self.ready.extend(batch.into_waiting());
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// A full outbox, and the book of the same deliveries.
    fn waiting(count: u64) -> (Outbox, LeaseTable) {
        let (mut outbox, mut book) = (Outbox::new(), LeaseTable::new(Duration::from_secs(30)));
        for seq in 1..=count {
            let active = Active::for_test(seq, "{}");
            book.add(active.clone(), Instant::now());
            assert!(book.ended(seq));
            outbox.push(Finished::released(active), false);
        }
        (outbox, book)
    }

    fn seqs(batch: &Batch) -> Vec<u64> {
        batch.actives().map(|active| active.seq).collect()
    }

    #[test]
    fn settles_that_failed_with_a_claim_go_again_alone_and_nothing_counts_against_them() {
        let (mut outbox, _) = waiting(3);
        for _ in 0..2 * MAX_FAILURES {
            let batch = outbox.batch();
            assert_eq!((seqs(&batch), outbox.goes_alone()), (vec![1, 2, 3], false));
            outbox.failed_with_claim(batch);
            assert!(outbox.goes_alone());
            outbox.claimed_alone();
        }
    }

    #[test]
    fn a_settle_that_failed_alone_is_sent_alone_and_given_up_in_the_end_while_the_others_leave() {
        let (mut outbox, mut book) = waiting(100);
        let (mut failures, mut left) = (0, Vec::new());
        while outbox.ready() > 0 {
            let batch = outbox.batch();
            if seqs(&batch).contains(&42) {
                failures += u32::from(batch.settles.len() == 1);
                // Once it is known it takes nobody with it.
                assert!(failures == 0 || batch.settles.len() == 1);
                outbox.failed(batch, &mut book);
            } else {
                left.extend(seqs(&batch));
                outbox.succeeded();
            }
        }
        left.sort_unstable();
        assert_eq!(left, (1..=100).filter(|seq| *seq != 42).collect::<Vec<_>>());
        assert_eq!((failures, book.len()), (MAX_FAILURES, 99));
    }
}
