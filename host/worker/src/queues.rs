//! Which queues the next claim asks.
//!
//! Invariants: queues that were named are asked in their order, or in turns by their weights. If none was named, a claim asks
//! all, however many there are: then the broker lets the queues of a tenant take turns.

use umbel_broker::ClaimQueues;
use umbel_model::QueueName;

use crate::Queues;

/// The rule for which queue of a tenant is asked first.
#[derive(Debug)]
enum Order {
    /// Named: always in this order, and no other queue is served.
    Strict,
    /// Named: by their weights, and no other queue is served.
    Turns(Turns),
    /// Not named.
    All,
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct QueueSet {
    /// Empty when all are served.
    named: Vec<QueueName>,
    order: Order,
    /// Never asked.
    exclude: Vec<QueueName>,
}

impl QueueSet {
    pub(crate) fn new(queues: &Queues, exclude: &[QueueName]) -> Self {
        let served = |queue: &&QueueName| !exclude.contains(queue);
        let (named, order) = match queues {
            Queues::Named(names) => (names.iter().filter(served).cloned().collect(), Order::Strict),
            Queues::Weighted(weighted) => {
                let (names, weights): (Vec<_>, Vec<_>) =
                    weighted.iter().filter(|(name, _)| served(&name)).cloned().unzip();
                (names, Order::Turns(Turns::new(weights)))
            }
            Queues::All => (Vec::new(), Order::All),
        };
        Self { named, order, exclude: exclude.to_vec() }
    }

    /// From now on these queues are served: in this order if the order was strict, otherwise in turns, in which those that
    /// were served keep their weights. None at all: every queue.
    pub(crate) fn replace(&mut self, names: &[QueueName]) {
        let queues = match &self.order {
            _ if names.is_empty() => Queues::All,
            Order::Strict => Queues::Named(names.to_vec()),
            Order::Turns(turns) => {
                let weight = |name| self.named.iter().position(|named| named == name).map_or(1, |at| turns.weights[at]);
                Queues::Weighted(names.iter().map(|name| (name.clone(), weight(name))).collect())
            }
            Order::All => Queues::Weighted(names.iter().map(|name| (name.clone(), 1)).collect()),
        };
        *self = Self::new(&queues, &self.exclude);
    }

    /// The queues that were named; empty when all are served.
    pub(crate) fn named(&self) -> &[QueueName] {
        &self.named
    }

    /// Whether one of these queues is served.
    pub(crate) fn serves_any(&self, queues: &[QueueName]) -> bool {
        let named = |queue| match self.order {
            Order::All => !self.exclude.contains(queue),
            Order::Strict | Order::Turns(_) => self.named.contains(queue),
        };
        queues.iter().any(named)
    }

    /// The queues of the next claim; none when no queue is served.
    pub(crate) fn next(&mut self) -> Option<ClaimQueues> {
        let names: Vec<_> = match &mut self.order {
            Order::All => return Some(ClaimQueues::AllBut(self.exclude.clone())),
            Order::Strict => self.named.clone(),
            Order::Turns(turns) => turns.next().into_iter().map(|at| self.named[at].clone()).collect(),
        };
        (!names.is_empty()).then(|| names.into())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> QueueName {
        QueueName::new(text).unwrap()
    }

    /// The queues that the next claim names.
    fn next(set: &mut QueueSet) -> Vec<QueueName> {
        match set.next() {
            Some(ClaimQueues::Named(names)) => names,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn named_queues_keep_their_order_and_others_are_not_served() {
        let mut set = QueueSet::new(&Queues::Named(vec![name("b"), name("a")]), &[]);
        for _ in 0..3 {
            assert_eq!(next(&mut set), [name("b"), name("a")]);
        }
        assert!(!set.serves_any(&[name("c")]) && set.serves_any(&[name("c"), name("a")]));
    }

    fn weighted(queues: &[(&str, u32)]) -> Queues {
        Queues::Weighted(queues.iter().map(|(queue, weight)| (name(queue), *weight)).collect())
    }

    fn firsts(set: &mut QueueSet, count: usize) -> String {
        (0..count).map(|_| next(set)[0].to_string()).collect()
    }

    #[test]
    fn weighted_queues_are_first_as_often_as_their_weights_say() {
        let mut set = QueueSet::new(&weighted(&[("a", 5), ("b", 1), ("c", 1)]), &[]);
        assert_eq!(firsts(&mut set, 14), "aabacaaaabacaa");
        let mut all = next(&mut set);
        all.sort();
        assert_eq!(all, [name("a"), name("b"), name("c")]);
        assert!(set.serves_any(&[name("c")]) && !set.serves_any(&[name("d")]));
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
        assert!(!set.serves_any(&[name("x")]) && set.serves_any(&[name("x"), name("a")]));
        assert_eq!(set.next(), Some(ClaimQueues::AllBut(vec![name("x")])));
        let mut set = QueueSet::new(&weighted(&[("a", 1), ("x", 9)]), &[name("x")]);
        assert_eq!(firsts(&mut set, 2), "aa");
        set.replace(&[name("x"), name("b")]);
        assert_eq!(next(&mut set), [name("b")]);
        set.replace(&[name("x")]);
        assert_eq!(set.next(), None);
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
        assert_eq!((turns.next(), turns.named()), (Some(ClaimQueues::AllBut(Vec::new())), &[][..]));
        turns.replace(&[name("a"), name("b")]);
        assert_eq!(firsts(&mut turns, 4).matches('a').count(), 2);
    }
}
