//! Which queues the next claim asks, and how queues that nobody named are discovered.
//!
//! Invariants: queues that were named are asked in their order, or in turns by their weights. Discovered queues are asked in
//! turn, so that none starves another, and one with a recent hint is in the next claims, however many others there are.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use umbel_broker::Broker;
use umbel_model::QueueName;

use crate::Queues;

/// Queues of one claim at most: each costs the broker a read.
const MAX_PER_CLAIM: usize = 64;
/// Of them, those with a recent hint at most: the others keep their turns.
const MAX_HINTED_PER_CLAIM: usize = MAX_PER_CLAIM / 2;
/// Queues remembered at most. Beyond that a new one replaces the oldest, which a hint or a lookup brings back.
const MAX_KNOWN: usize = 1_000;
/// Between two lookups of all queues; a hint names a new one sooner.
const LOOKUP_EVERY: Duration = Duration::from_secs(5);

/// The rule for which queue is asked first.
#[derive(Debug)]
enum Order {
    /// Named: always in this order, and no other queue is served.
    Strict,
    /// Named: by their weights, and no other queue is served.
    Turns(Turns),
    /// Discovered by hints and lookups: all in turn.
    Discovered,
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct QueueSet {
    known: Vec<QueueName>,
    order: Order,
    /// Never asked.
    exclude: Vec<QueueName>,
    /// Hinted and in no claim since, the longest waiting first. Empty while all queues fit into one claim.
    hinted: VecDeque<QueueName>,
    /// Where the round of claims through all queues began. Moves by one a round, so that each queue is once in front.
    round: usize,
    /// Queues asked in this round.
    asked: usize,
    /// Where the oldest known queue is, once `MAX_KNOWN` are known.
    oldest: usize,
}

impl QueueSet {
    pub(crate) fn new(queues: &Queues, exclude: &[QueueName]) -> Self {
        let served = |queue: &&QueueName| !exclude.contains(queue);
        let (known, order) = match queues {
            Queues::Named(names) => (names.iter().filter(served).cloned().collect(), Order::Strict),
            Queues::Weighted(weighted) => {
                let (names, weights): (Vec<_>, Vec<_>) =
                    weighted.iter().filter(|(name, _)| served(&name)).cloned().unzip();
                (names, Order::Turns(Turns::new(weights)))
            }
            Queues::All => (Vec::new(), Order::Discovered),
        };
        let exclude = exclude.to_vec();
        Self { known, order, exclude, hinted: VecDeque::new(), round: 0, asked: 0, oldest: 0 }
    }

    /// From now on these queues are served: in this order if the order was strict, otherwise in turns, in which those that
    /// were served keep their weights. None at all: every queue.
    pub(crate) fn replace(&mut self, names: &[QueueName]) {
        let queues = match &self.order {
            _ if names.is_empty() => Queues::All,
            Order::Strict => Queues::Named(names.to_vec()),
            Order::Turns(turns) => {
                let weight = |name| self.known.iter().position(|known| known == name).map_or(1, |at| turns.weights[at]);
                Queues::Weighted(names.iter().map(|name| (name.clone(), weight(name))).collect())
            }
            Order::Discovered => Queues::Weighted(names.iter().map(|name| (name.clone(), 1)).collect()),
        };
        *self = Self::new(&queues, &self.exclude);
    }

    /// Whether queues are discovered and not named.
    pub(crate) fn is_discovered(&self) -> bool {
        matches!(self.order, Order::Discovered)
    }

    /// The queues that were named; empty when all are served.
    pub(crate) fn named(&self) -> Vec<QueueName> {
        if self.is_discovered() { Vec::new() } else { self.known.clone() }
    }

    /// Notes that these queues may have work. True if one of them is served here; new ones are remembered.
    pub(crate) fn hear(&mut self, queues: &[QueueName]) -> bool {
        if !self.is_discovered() {
            return queues.iter().any(|queue| self.known.contains(queue));
        }
        let served: Vec<_> = queues.iter().filter(|queue| !self.exclude.contains(queue)).collect();
        for queue in &served {
            if !self.known.contains(queue) {
                self.learn(queue);
            }
        }
        if self.known.len() > MAX_PER_CLAIM {
            for queue in &served {
                // All of them are known, but for those that were replaced meanwhile.
                if self.hinted.len() < MAX_KNOWN && !self.hinted.contains(queue) {
                    self.hinted.push_back((*queue).clone());
                }
            }
        }
        !served.is_empty()
    }

    fn learn(&mut self, queue: &QueueName) {
        if self.known.len() < MAX_KNOWN {
            self.known.push(queue.clone());
        } else {
            self.known[self.oldest] = queue.clone();
            self.oldest = (self.oldest + 1) % MAX_KNOWN;
        }
    }

    /// Whether a queue was hinted that was in no claim since.
    pub(crate) fn has_more(&self) -> bool {
        !self.hinted.is_empty()
    }

    /// The queues of the next claim; empty when none is known yet.
    pub(crate) fn next(&mut self) -> Vec<QueueName> {
        match &mut self.order {
            Order::Turns(turns) => return turns.next().into_iter().map(|at| self.known[at].clone()).collect(),
            Order::Discovered if self.known.len() > 1 => {}
            _ => return self.known.clone(),
        }
        let count = self.known.len();
        let hinted: Vec<_> = self.hinted.drain(..self.hinted.len().min(MAX_HINTED_PER_CLAIM)).collect();
        let window = (MAX_PER_CLAIM - hinted.len()).min(count);
        let start = (self.round + self.asked) % count;
        let mut queues: Vec<_> = self.known.iter().cycle().skip(start).take(window).cloned().collect();
        // Behind the others: a queue that always has work always has a hint, and would always be served first.
        for queue in hinted {
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        self.asked += window;
        if self.asked >= count {
            self.asked = 0;
            self.round = (self.round + 1) % count;
        }
        queues
    }
}

/// Smooth weighted round robin: each queue is first as often as its weight says, and one with a large weight is not first
/// many times in a row.
#[derive(Debug)]
struct Turns {
    weights: Vec<u32>,
    credits: Vec<i64>,
}

impl Turns {
    fn new(weights: Vec<u32>) -> Self {
        Self { credits: vec![0; weights.len()], weights }
    }

    /// The order of the next turn, by number.
    fn next(&mut self) -> Vec<usize> {
        for (credit, weight) in self.credits.iter_mut().zip(&self.weights) {
            *credit += i64::from(*weight);
        }
        let mut order: Vec<usize> = (0..self.credits.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(self.credits[*at]));
        if let Some(first) = order.first() {
            self.credits[*first] -= self.weights.iter().map(|weight| i64::from(*weight)).sum::<i64>();
        }
        order
    }
}

/// Looks up the queues with work every few seconds, while it is switched on.
#[derive(Default)]
pub(crate) struct Discovery(Option<(AbortOnDropHandle<()>, watch::Receiver<Vec<QueueName>>)>);

impl Discovery {
    pub(crate) fn switch(&mut self, on: bool, broker: &Arc<dyn Broker>) {
        if on != self.0.is_some() {
            let (sender, found) = watch::channel(Vec::new());
            let start = || AbortOnDropHandle::new(tokio::spawn(look_up(broker.clone(), sender)));
            self.0 = on.then(|| (start(), found));
        }
    }

    /// Waits for the next lookup that finds work: its queues. Safe to drop at any await.
    pub(crate) async fn next(&mut self) -> Vec<QueueName> {
        if let Some((_, found)) = &mut self.0
            && found.changed().await.is_ok()
        {
            return found.borrow_and_update().clone();
        }
        std::future::pending().await
    }
}

async fn look_up(broker: Arc<dyn Broker>, found: watch::Sender<Vec<QueueName>>) {
    loop {
        // An error is not reported here: the claims report a broker that cannot be reached.
        if let Ok(mut queues) = broker.ready_queues().await
            && !queues.is_empty()
        {
            queues.truncate(MAX_KNOWN);
            // Sent even if nothing changed: a hint may have been lost, or a queue replaced by another.
            found.send_replace(queues);
        }
        tokio::time::sleep(if found.borrow().is_empty() { LOOKUP_EVERY / 5 } else { LOOKUP_EVERY }).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(text: &str) -> QueueName {
        QueueName::new(text).unwrap()
    }

    /// A set that knows so many queues, none of them hinted.
    fn knowing(count: usize) -> QueueSet {
        let mut set = QueueSet::new(&Queues::All, &[]);
        let names: Vec<_> = (0..count).map(|n| name(&format!("q{n}"))).collect();
        assert!(set.hear(&names));
        set.hinted.clear();
        set
    }

    #[test]
    fn named_queues_keep_their_order_and_others_are_not_served() {
        let mut set = QueueSet::new(&Queues::Named(vec![name("b"), name("a")]), &[]);
        for _ in 0..3 {
            assert_eq!(set.next(), [name("b"), name("a")]);
        }
        assert!(!set.hear(&[name("c")]) && set.hear(&[name("c"), name("a")]));
    }

    fn weighted(queues: &[(&str, u32)]) -> Queues {
        Queues::Weighted(queues.iter().map(|(queue, weight)| (name(queue), *weight)).collect())
    }

    fn firsts(set: &mut QueueSet, count: usize) -> String {
        (0..count).map(|_| set.next()[0].to_string()).collect()
    }

    #[test]
    fn weighted_queues_are_first_as_often_as_their_weights_say() {
        let mut set = QueueSet::new(&weighted(&[("a", 5), ("b", 1), ("c", 1)]), &[]);
        assert_eq!(firsts(&mut set, 14), "aabacaaaabacaa");
        let mut all = set.next();
        all.sort();
        assert_eq!(all, [name("a"), name("b"), name("c")]);
        assert!(set.hear(&[name("c")]) && !set.hear(&[name("d")]));
    }

    #[test]
    fn a_queue_of_weight_one_is_first_once_in_every_ten_turns_beside_one_of_weight_nine() {
        let mut set = QueueSet::new(&weighted(&[("a", 9), ("b", 1)]), &[]);
        for _ in 0..100 {
            assert_eq!(firsts(&mut set, 10).matches('b').count(), 1);
        }
    }

    #[test]
    fn excluded_queues_are_never_asked_and_their_hints_mean_nothing() {
        let mut set = QueueSet::new(&Queues::All, &[name("x")]);
        assert!(!set.hear(&[name("x")]) && set.hear(&[name("x"), name("a")]));
        assert_eq!(set.next(), [name("a")]);
        let mut set = QueueSet::new(&weighted(&[("a", 1), ("x", 9)]), &[name("x")]);
        assert_eq!(firsts(&mut set, 2), "aa");
        set.replace(&[name("x"), name("b")]);
        assert_eq!(set.next(), [name("b")]);
    }

    #[test]
    fn replaced_queues_keep_their_kind_of_order_and_their_weights() {
        let mut strict = QueueSet::new(&Queues::Named(vec![name("a")]), &[]);
        strict.replace(&[name("c"), name("b")]);
        assert_eq!(firsts(&mut strict, 3), "ccc");
        let mut turns = QueueSet::new(&weighted(&[("a", 3)]), &[]);
        turns.replace(&[name("b"), name("a")]);
        assert_eq!(firsts(&mut turns, 8).matches('a').count(), 6);
        turns.replace(&[]);
        assert!(turns.is_discovered() && turns.named().is_empty() && turns.hear(&[name("z")]));
        turns.replace(&[name("a"), name("b")]);
        assert_eq!(firsts(&mut turns, 4).matches('a').count(), 2);
    }

    #[test]
    fn found_queues_take_turns_at_the_front() {
        let mut set = QueueSet::new(&Queues::All, &[]);
        assert!(set.next().is_empty());
        assert!(set.hear(&[name("a"), name("b")]));
        let (first, second) = (set.next(), set.next());
        assert_eq!((first.len(), second.len()), (2, 2));
        assert_ne!(first[0], second[0]);
    }

    #[test]
    fn a_queue_that_was_heard_of_is_in_the_next_claim_among_a_thousand() {
        let mut set = knowing(1_000);
        for n in [999, 3, 500] {
            let queue = name(&format!("q{n}"));
            assert!(set.hear(std::slice::from_ref(&queue)) && set.has_more());
            assert!(set.next().contains(&queue) && !set.has_more());
        }
        // One too many replaces the oldest and is served at once.
        assert!(set.hear(&[name("new")]));
        assert!(set.next().contains(&name("new")));
        assert_eq!(set.known.len(), 1_000);
        assert!(!set.known.contains(&name("q0")));
    }

    #[test]
    fn a_round_asks_every_queue_once_and_every_queue_comes_to_the_front() {
        let mut set = knowing(128);
        let round: HashSet<_> = (0..2).flat_map(|_| set.next()).collect();
        assert_eq!(round.len(), 128);
        let front: HashSet<_> = (0..2 * 128).map(|_| set.next().swap_remove(0)).collect();
        assert_eq!(front.len(), 128);
    }

    #[test]
    fn queues_that_are_always_heard_of_do_not_stop_the_turn_of_the_others() {
        let mut set = knowing(200);
        let loud: Vec<_> = (0..100).map(|n| name(&format!("q{n}"))).collect();
        let mut asked = HashSet::new();
        for _ in 0..20 {
            set.hear(&loud);
            let queues = set.next();
            assert!(queues.len() <= MAX_PER_CLAIM);
            asked.extend(queues);
        }
        assert_eq!(asked.len(), 200);
    }
}
