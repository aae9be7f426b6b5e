//! Whose module is compiled next: tenants share the compiler equally, and a small module goes before a large one.
//!
//! Self-clocked fair queueing: a module's tag is the virtual time, or the last tag of its tenant if that is later, plus
//! its cost; the least tag goes first. So a tenant's modules queue up behind each other and not before those of others,
//! nobody waits for ever, and the order does not depend on how long a compilation takes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;
use umbel_model::TenantId;

/// The cost of any module besides its bytes: starting a compiler, and a small module that is expensive.
const BASE_COST: u64 = 256 << 10;
/// Tenants remembered before those without a claim on the past are forgotten.
const KEPT_TENANTS: usize = 1_024;

/// See the top of the file. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Compilations of large modules at once; one more of a small module.
    concurrency: usize,
    /// The largest small module, bytes.
    small_bytes: u64,
    running: usize,
    running_large: usize,
    /// The virtual time: the tag of the module whose turn came last.
    now: u64,
    last_tags: HashMap<TenantId, u64>,
    /// In no order: there are few.
    waiting: Vec<Waiting>,
    arrivals: u64,
}

#[derive(Debug)]
struct Waiting {
    tag: u64,
    /// Equal tags go in the order of their arrival.
    arrival: u64,
    is_large: bool,
    turn: oneshot::Sender<Turn>,
}

/// Ends when it is dropped.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    is_large: bool,
}

impl Turns {
    pub(crate) fn new(concurrency: usize, small_bytes: u64) -> Self {
        let (last_tags, waiting) = (HashMap::new(), Vec::new());
        let (running, running_large, now, arrivals) = (0, 0, 0, 0);
        let concurrency = concurrency.max(1);
        let state = State { concurrency, small_bytes, running, running_large, now, last_tags, waiting, arrivals };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// No panic can leave it half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a module of so many bytes. Safe to drop at any await.
    pub(crate) async fn take(&self, tenant: &TenantId, bytes: u64) -> Turn {
        let (turn, comes) = oneshot::channel();
        self.state().arrive(tenant, bytes, turn);
        self.go_on();
        comes.await.expect("a turn that waits is given or dropped with its receiver")
    }

    /// Gives all turns that are free.
    fn go_on(&self) {
        loop {
            let Some(next) = self.state().next() else { return };
            let turn = Turn { turns: self.clone(), is_large: next.is_large };
            // Nobody waits for it any more: it ends as it is dropped, without the lock.
            if let Err(turn) = next.turn.send(turn) {
                turn.end();
            }
        }
    }
}

impl State {
    fn arrive(&mut self, tenant: &TenantId, bytes: u64, turn: oneshot::Sender<Turn>) {
        if self.last_tags.len() >= KEPT_TENANTS {
            let now = self.now;
            self.last_tags.retain(|_, tag| *tag > now);
        }
        let last = self.last_tags.get(tenant).copied().unwrap_or(0);
        let tag = self.now.max(last).saturating_add(BASE_COST).saturating_add(bytes);
        self.last_tags.insert(tenant.clone(), tag);
        self.arrivals += 1;
        self.waiting.push(Waiting { tag, arrival: self.arrivals, is_large: bytes > self.small_bytes, turn });
    }

    /// Takes the next module whose turn it is from those that wait, and counts it as running.
    fn next(&mut self) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.turn.is_closed());
        let (large, small) = (
            self.running_large < self.concurrency && self.running < self.concurrency,
            self.running <= self.concurrency,
        );
        let may_run = |waiting: &Waiting| if waiting.is_large { large } else { small };
        let first = self.waiting.iter().enumerate().filter(|(_, waiting)| may_run(waiting));
        let (at, _) = first.min_by_key(|(_, waiting)| (waiting.tag, waiting.arrival))?;
        let next = self.waiting.swap_remove(at);
        self.now = self.now.max(next.tag);
        self.running += 1;
        self.running_large += usize::from(next.is_large);
        Some(next)
    }
}

impl Turn {
    /// Gives the turn back without giving it to another.
    fn end(self) {
        self.release();
        std::mem::forget(self);
    }

    fn release(&self) {
        let mut state = self.turns.state();
        state.running -= 1;
        state.running_large -= usize::from(self.is_large);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.release();
        self.turns.go_on();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const SMALL: u64 = 3 << 10;
    const LARGE: u64 = 5 << 20;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    /// Asks for turns of (tenant, bytes) while one of `a` runs, and answers the order in which they come.
    async fn order(running: u64, asked: &[(&str, u64)]) -> Vec<(String, u64)> {
        let turns = Turns::new(1, 1 << 20);
        let (came, mut comes) = tokio::sync::mpsc::unbounded_channel();
        let mut held = vec![turns.take(&tenant("a"), running).await];
        if running <= 1 << 20 {
            // The extra turn for small modules, too.
            held.push(turns.take(&tenant("a"), running).await);
        }
        for (name, bytes) in asked {
            let of_turns = &turns;
            let (turns, came, of) = (turns.clone(), came.clone(), ((*name).to_owned(), *bytes));
            let arrived = turns.state().arrivals;
            tokio::spawn(async move {
                let turn = turns.take(&tenant(&of.0), of.1).await;
                came.send((of, turn)).unwrap();
            });
            while of_turns.state().arrivals == arrived {
                tokio::task::yield_now().await;
            }
        }
        drop(held);
        let mut order = Vec::new();
        while order.len() < asked.len() {
            let (of, turn) = comes.recv().await.unwrap();
            order.push(of);
            drop(turn);
        }
        order
    }

    #[tokio::test]
    async fn a_quiet_tenant_does_not_wait_for_the_queues_of_others() {
        let asked = [("a", SMALL), ("a", SMALL), ("a", SMALL), ("c", SMALL), ("c", SMALL), ("b", SMALL)];
        let order = order(SMALL, &asked).await;
        let b = order.iter().position(|(name, _)| name == "b").unwrap();
        assert!(b <= 2, "more than one turn of each tenant came before: {order:?}");
    }

    #[tokio::test]
    async fn a_small_module_overtakes_large_ones_that_came_before() {
        let order = order(SMALL, &[("c", LARGE), ("d", LARGE), ("b", SMALL)]).await;
        assert_eq!(order[0], ("b".to_owned(), SMALL), "{order:?}");
    }

    #[tokio::test]
    async fn a_small_module_has_a_turn_while_a_large_one_is_compiled() {
        let turns = Turns::new(1, 1 << 20);
        let _large = turns.take(&tenant("a"), LARGE).await;
        assert!(turns.take(&tenant("c"), LARGE).now_or_never().is_none());
        let small = turns.take(&tenant("b"), SMALL).now_or_never();
        assert!(small.is_some());
        assert!(turns.take(&tenant("d"), SMALL).now_or_never().is_none(), "and no more than one");
    }

    #[tokio::test]
    async fn a_turn_that_nobody_waits_for_any_more_goes_to_the_next() {
        let turns = Turns::new(1, 0);
        let running = turns.take(&tenant("a"), LARGE).await;
        let gone = tokio::spawn({
            let turns = turns.clone();
            async move { turns.take(&tenant("b"), LARGE).await }
        });
        while turns.state().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        gone.abort();
        assert!(gone.await.is_err());
        drop(running);
        assert!(turns.take(&tenant("c"), LARGE).now_or_never().is_some());
        assert_eq!(turns.state().running, 0);
    }
}
