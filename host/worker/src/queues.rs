//! Which queues the next claim names.
//!
//! Invariant: queues that were named are asked in their order; queues that were found are asked in turn, so that none
//! starves another.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use umbel_broker::Broker;
use umbel_model::{QueueName, TenantId};

use crate::Queues;

/// Queues of one claim at most: each costs the broker a look.
const MAX_PER_CLAIM: usize = 64;
/// Queues remembered at most.
const MAX_KNOWN: usize = 1_000;
/// How often all queues are looked up; a hint names a new one sooner.
const LOOK: Duration = Duration::from_secs(5);

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct QueueSet {
    known: Vec<QueueName>,
    /// The queues were named: their order is kept and no other is served.
    named: bool,
    turn: usize,
}

impl QueueSet {
    pub(crate) fn new(queues: &Queues) -> Self {
        match queues {
            Queues::Named(names) => Self { known: names.clone(), named: true, turn: 0 },
            Queues::All(_) => Self { known: Vec::new(), named: false, turn: 0 },
        }
    }

    /// True if one of these queues is served here. New ones are remembered.
    pub(crate) fn heard(&mut self, queues: &[QueueName]) -> bool {
        let mut served = false;
        for queue in queues {
            let known = self.known.contains(queue);
            let learn = !known && !self.named && self.known.len() < MAX_KNOWN;
            if learn {
                self.known.push(queue.clone());
            }
            served |= known || learn;
        }
        served
    }

    /// The queues of the next claim; empty when none is known yet.
    pub(crate) fn next(&mut self) -> Vec<QueueName> {
        if self.named || self.known.len() < 2 {
            return self.known.clone();
        }
        self.turn = (self.turn + 1) % self.known.len();
        let turned = self.known[self.turn..].iter().chain(&self.known[..self.turn]);
        turned.take(MAX_PER_CLAIM).cloned().collect()
    }
}

/// Looks up the queues of some tenants now and then, for ever.
pub(crate) async fn look_out(broker: Arc<dyn Broker>, tenants: Vec<TenantId>, found: watch::Sender<Vec<QueueName>>) {
    loop {
        let mut all = Vec::new();
        for tenant in &tenants {
            // Whoever claims will say that the broker cannot be reached.
            let Ok(queues) = broker.queues(tenant).await else { continue };
            all.extend(queues.into_iter().map(|queue| queue.name).take(MAX_KNOWN));
        }
        found.send_if_modified(|known| {
            let new = all.iter().any(|queue| !known.contains(queue));
            if new {
                *known = all;
            }
            new
        });
        tokio::time::sleep(if found.borrow().is_empty() { LOOK / 5 } else { LOOK }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> QueueName {
        QueueName::new(text).unwrap()
    }

    #[test]
    fn named_queues_keep_their_order_and_others_are_not_served() {
        let mut set = QueueSet::new(&Queues::Named(vec![name("b"), name("a")]));
        for _ in 0..3 {
            assert_eq!(set.next(), [name("b"), name("a")]);
        }
        assert!(!set.heard(&[name("c")]) && set.heard(&[name("c"), name("a")]));
    }

    #[test]
    fn found_queues_take_turns_at_the_front() {
        let mut set = QueueSet::new(&Queues::All(vec![TenantId::new("default").unwrap()]));
        assert!(set.next().is_empty());
        assert!(set.heard(&[name("a"), name("b")]));
        let (first, second) = (set.next(), set.next());
        assert_eq!((first.len(), second.len()), (2, 2));
        assert_ne!(first[0], second[0]);
    }
}
