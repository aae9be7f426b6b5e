//! Applies the commands of the worker's owner, the orders of an operator, and the limits of its process.

use std::time::Instant;

use umbel_broker::Shutdown;

use super::{End, PollLoop, capacity::Tick};

/// Jobs that are named in one log line about a shutdown.
const LOGGED_JOBS: usize = 3;

impl PollLoop {
    pub(super) fn apply_command(&mut self) {
        let command = *self.channels.commands.borrow_and_update();
        let (paused, shutdown) = self.applied.command(command);
        if let Some(paused) = paused {
            self.set_paused(paused);
        }
        if let Some(shutdown) = shutdown {
            self.shut_down(shutdown, End::Requested);
        }
    }

    pub(super) fn apply_order(&mut self) {
        let order = self.channels.orders.borrow_and_update().clone();
        let order = self.applied.order(order);
        tracing::info!(
            worker = %self.config.id, number = order.number, drain = ?order.drain, shutdown = ?order.shutdown,
            slots = ?order.slots, queues = ?order.queues, "an order arrived"
        );
        if let Some((least, most)) = order.slots {
            let slots = self.capacity.set_range(least, most);
            self.set_slots(slots);
        }
        if let Some(queues) = order.queues {
            self.claims.queues.replace(&queues);
            self.tell_queues();
        }
        if let Some(drain) = order.drain {
            self.set_paused(drain);
        }
        if let Some(shutdown) = order.shutdown {
            self.shut_down(shutdown, End::Ordered);
        }
        // Any change may allow it to take jobs that were there before.
        self.claims.expects_work = true;
        self.channels.vitals.announce(|info| info.order = order.number);
    }

    pub(super) fn set_slots(&mut self, slots: u32) {
        let given = self.capacity.resize(slots);
        if given < slots {
            tracing::warn!(worker = %self.config.id, slots, given, "the sandbox of this worker has fewer slots");
        }
        self.claims.expects_work = true;
        let scaler = &self.capacity.scaler;
        let (least, most) = (scaler.least, scaler.most);
        self.channels.vitals.set(|info| (info.slots, info.min_slots, info.max_slots) = (given, least, most));
    }

    /// Tells which queues are served.
    pub(super) fn tell_queues(&mut self) {
        self.channels.vitals.set(|info| info.queues = self.claims.queues.named().to_vec());
    }

    fn set_paused(&mut self, paused: bool) {
        if !self.lifecycle.set_paused(paused) {
            return;
        }
        tracing::info!(worker = %self.config.id, paused, running = self.leases.open, "claiming was paused or resumed");
        self.claims.expects_work = true;
        if paused {
            self.give_back();
        }
        self.channels.vitals.announce_draining(!self.lifecycle.claims());
    }

    /// Begins to shut down, or ends sooner than was requested before.
    fn shut_down(&mut self, shutdown: Shutdown, why: End) {
        if self.lifecycle.shut_down(shutdown, why, Instant::now()) {
            let (running, grace_ms) = (self.leases.open, self.config.grace_ms);
            tracing::info!(worker = %self.config.id, running, ?shutdown, ?why, grace_ms, "draining");
            self.channels.vitals.announce_draining(true);
            self.give_back();
        }
    }

    pub(super) fn continue_shutdown(&mut self, now: Instant) {
        let step = self.lifecycle.step(now, self.leases.open);
        if step.log {
            for (job, running_ms) in self.leases.longest_running(LOGGED_JOBS) {
                tracing::info!(worker = %self.config.id, %job, running_ms, "draining waits for a job to end");
            }
        }
        if step.release {
            let stopped = self.leases.release_all();
            if stopped > 0 {
                tracing::info!(worker = %self.config.id, stopped, "grace time is over, running jobs are handed back");
            }
        }
    }

    /// Changes the number of slots by the load, and ends a process that holds too much memory.
    pub(super) fn check_load(&mut self, now: Instant) {
        if self.lifecycle.shuts_down() || !self.capacity.is_due(now) {
            return;
        }
        // What waits for long attempts is not seen by claims, and the reserve is not for it.
        let (is_reached, slots) = (self.local_queue.is_reserve_reached(now), self.capacity.slots);
        let open = if is_reached { self.leases.open.max(slots) } else { self.leases.open };
        let work_waits = (self.claims.expects_work || is_reached) && self.lifecycle.claims();
        match self.capacity.tick(now, open, work_waits) {
            Tick::Unchanged => {}
            Tick::Resize(slots) => {
                let from = self.capacity.slots;
                tracing::info!(worker = %self.config.id, from, to = slots, "the number of slots changed");
                self.set_slots(slots);
            }
            Tick::OverMemory(rss) => {
                let max = self.config.max_memory_bytes;
                tracing::info!(worker = %self.config.id, rss, max, "the process holds more memory than it may");
                self.shut_down(Shutdown::Warm, End::MaxMemory);
            }
        }
    }

    /// Ends the worker after as many jobs as it may do.
    pub(super) fn check_job_count(&mut self) {
        let max = self.config.max_jobs;
        if max > 0 && !self.lifecycle.shuts_down() && self.channels.vitals.total_settled() >= max {
            self.shut_down(Shutdown::Warm, End::MaxJobs);
        }
    }
}
