//! What the owner of a worker wants of it and what an operator orders: draining, ending, slots, queues; and what it
//! decides itself: how many slots it has, and when its process should be replaced.

use std::time::{Duration, Instant};

use tokio_util::task::AbortOnDropHandle;
use umbel_broker::Shutdown;

use super::PollLoop;
use crate::{
    autoscale::{Load, Scale},
    queues,
};

/// After the grace time and the stop of all guests, a shutdown waits so long for the broker to take the last settles.
const LAST_SETTLES: Duration = Duration::from_secs(10);
/// Between two lines about what a shutdown waits for, and how many jobs are named.
const WORD: Duration = Duration::from_secs(60);
const NAMED: usize = 3;
/// Between two looks at the load and the memory.
const TICK: Duration = Duration::from_secs(1);

/// What the owner of a worker wants of it. Each is only ever added to, but for the pause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Command {
    pub(crate) paused: bool,
    pub(crate) shutdown: Option<Shutdown>,
    /// At once: leases expire.
    pub(crate) stop: bool,
}

/// Why a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its owner wanted it.
    Requested,
    /// An operator ordered it.
    Ordered,
    /// It had done as many jobs as one process should: start another.
    MaxJobs,
    /// Its process held more memory than one should: start another.
    MaxMemory,
    /// It panicked.
    Died,
}

/// A shutdown under way.
pub(super) struct Drain {
    /// When what still runs is handed back. None: never.
    pub(super) grace_until: Option<Instant>,
    pub(super) stopped: bool,
    why: End,
    /// When it is said next whom it waits for.
    next_word: Instant,
}

impl PollLoop {
    pub(super) fn follow_command(&mut self) {
        let command = *self.commands.borrow_and_update();
        if command.paused != self.followed.paused {
            self.set_paused(command.paused);
        }
        if let Some(shutdown) = command.shutdown.filter(|_| command.shutdown != self.followed.shutdown) {
            self.shut_down(shutdown, End::Requested);
        }
        self.followed = command;
    }

    pub(super) fn follow_order(&mut self) {
        let order = self.orders.borrow_and_update().clone();
        let last = std::mem::replace(&mut self.last_order, order.clone());
        // An order stands until another one replaces that part of it: what was followed before is not done again.
        let number = order.number;
        let slots = order.slots.filter(|slots| last.slots != Some(*slots));
        let drain = order.drain.filter(|drain| last.drain != Some(*drain));
        let shutdown = order.shutdown.filter(|shutdown| last.shutdown != Some(*shutdown));
        let queues = order.queues.filter(|queues| last.queues.as_ref() != Some(queues));
        tracing::info!(worker = %self.config.id, number, ?drain, ?shutdown, ?slots, ?queues, "an order arrived");
        if let Some((least, most)) = slots {
            let least = least.clamp(1, self.pool.most);
            let most = most.clamp(least, self.pool.most);
            self.scale = Scale::new(least, most);
            self.set_slots(self.slots.clamp(least, most));
        }
        if let Some(queues) = queues {
            self.queues.replace(&queues);
            self.serve_queues();
        }
        if let Some(drain) = drain {
            self.set_paused(drain);
        }
        if let Some(shutdown) = shutdown {
            self.shut_down(shutdown, End::Ordered);
        }
        // Whatever changed may let it take work that was there before.
        self.hinted = true;
        self.vitals.followed(number);
    }

    pub(super) fn set_slots(&mut self, slots: u32) {
        let given = self.pool.resize(slots);
        if given < slots {
            tracing::warn!(worker = %self.config.id, slots, given, "the sandbox of this worker has fewer slots");
        }
        self.slots = given;
        self.hinted = true;
        let (least, most) = (self.scale.least.min(self.pool.most), self.scale.most.min(self.pool.most));
        self.vitals.set_slots(given, least, most);
    }

    /// Looks for queues if they were not named, and says which are served.
    pub(super) fn serve_queues(&mut self) {
        self.vitals.set_queues(self.queues.named());
        if !self.queues.is_found() {
            self.look_out = None;
        } else if self.look_out.is_none() {
            let looking = queues::look_out(self.broker.clone(), self.found.0.clone());
            self.look_out = Some(AbortOnDropHandle::new(tokio::spawn(looking)));
        }
    }

    fn set_paused(&mut self, paused: bool) {
        if std::mem::replace(&mut self.paused, paused) == paused {
            return;
        }
        tracing::info!(worker = %self.config.id, paused, running = self.book.open(), "claiming was paused or resumed");
        self.hinted = true;
        if paused {
            self.give_back();
        }
        self.vitals.set_draining(paused || self.drain.is_some());
    }

    /// Begins to end, or ends sooner than was said before.
    pub(super) fn shut_down(&mut self, shutdown: Shutdown, why: End) {
        let now = Instant::now();
        let grace_until = match shutdown {
            Shutdown::Warm => None,
            Shutdown::Soft => Some(now + Duration::from_millis(self.config.grace_ms)),
            Shutdown::Cold => Some(now),
        };
        if let Some(drain) = &mut self.drain {
            drain.grace_until = drain.grace_until.into_iter().chain(grace_until).min();
            // Somebody wants it gone: it must not be started anew.
            if matches!(drain.why, End::MaxJobs | End::MaxMemory) {
                drain.why = why;
            }
            return;
        }
        let running = self.book.open();
        tracing::info!(worker = %self.config.id, running, ?shutdown, ?why, grace_ms = self.config.grace_ms, "draining");
        self.drain = Some(Drain { grace_until, stopped: false, why, next_word: now + WORD });
        self.vitals.set_draining(true);
        self.give_back();
    }

    /// Hands back what runs when its time is over.
    pub(super) fn keep_drain(&mut self, now: Instant) {
        let Some(drain) = &mut self.drain else { return };
        if drain.grace_until.is_none() && self.book.open() == 0 {
            // What is left are settles: for these nobody waits for ever.
            drain.grace_until = Some(now);
        }
        if drain.next_word <= now {
            drain.next_word = now + WORD;
            for (job, running_ms) in self.book.longest(NAMED) {
                tracing::info!(worker = %self.config.id, %job, running_ms, "draining waits for a job to end");
            }
        }
        if !drain.stopped && drain.grace_until.is_some_and(|until| until <= now) {
            drain.stopped = true;
            let stopped = self.book.release_all();
            if stopped > 0 {
                tracing::info!(worker = %self.config.id, stopped, "grace time is over, running jobs are handed back");
            }
        }
    }

    /// Why it ends now, if it does.
    pub(super) fn drained(&self, under_way: bool) -> Option<End> {
        let drain = self.drain.as_ref()?;
        if self.book.is_empty() && !under_way {
            return Some(drain.why);
        }
        let given_up = drain.grace_until.is_some_and(|until| until + LAST_SETTLES <= Instant::now());
        if given_up {
            tracing::warn!(worker = %self.config.id, "the broker did not take the last outcomes; leases will expire");
        }
        given_up.then_some(drain.why)
    }

    /// For the next heartbeat.
    pub(super) fn note_held(&self) {
        self.vitals.set_held(self.book.open().saturating_sub(self.local_queue.len() as u32), self.book.len());
    }

    // ---- what it decides itself

    /// Whether there is anything to look at now and then.
    pub(super) fn ticks(&self) -> bool {
        self.drain.is_none() && (!self.scale.is_fixed() || self.config.max_memory_bytes > 0)
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.next_tick = now + TICK;
        if !self.ticks() {
            return;
        }
        let max = self.config.max_memory_bytes;
        let rss = if max > 0 { (self.config.memory_bytes)() } else { 0 };
        if max > 0 && rss > max {
            tracing::info!(worker = %self.config.id, rss, max, "the process holds more memory than it may");
            return self.shut_down(Shutdown::Warm, End::MaxMemory);
        }
        let room = max == 0 || rss < max / 5 * 4;
        let more = self.hinted && !self.paused;
        let slots = self.scale.tick(Load { slots: self.slots, open: self.book.open(), more, room });
        if slots != self.slots {
            tracing::info!(worker = %self.config.id, from = self.slots, to = slots, "the number of slots changed");
            self.set_slots(slots);
        }
    }

    /// Ends it after as many jobs as it may do.
    pub(super) fn count_jobs(&mut self) {
        let max = self.config.max_jobs;
        if max > 0 && self.drain.is_none() && self.vitals.total_settled() >= max {
            self.shut_down(Shutdown::Warm, End::MaxJobs);
        }
    }
}
