//! The tenant queues with their ready jobs and counts, how they open and close, and commit and rollback of all that.

use std::collections::{BTreeSet, HashMap};

use umbel_model::{JobState, QueueName, TenantId, UnixMs};

use super::{
    branch::{Block, Branch, Counts, LimitName, Place, QueueId, Ready, SubQueueName, limits_of},
    controls::Controls,
    turns::Turns,
    undo::{Change, Undo},
};
use crate::Scope;

/// Orders ready jobs: priority 9 first, then the order of arrival.
pub fn ready_score(priority: u8, seq: u64) -> u64 {
    (u64::from(9 - priority.min(9)) << 48) | seq
}

#[derive(Debug)]
pub(super) struct TenantQueue<J> {
    pub(super) tenant: TenantId,
    pub(super) queue: QueueName,
    pub(super) counts: Counts,
    pub(super) ready: Ready<J>,
    /// Its counts of before are in `Undo::counts`.
    touched: bool,
}

/// The ready jobs of all tenants, and who is next.
#[derive(Debug)]
pub struct Scheduler<J> {
    pub(super) queues: Vec<TenantQueue<J>>,
    by_name: HashMap<TenantId, HashMap<QueueName, QueueId>>,
    pub controls: Controls,
    pub(super) turns: Turns,
    /// How many tenants have something to hand out, by queue.
    pub(super) open: HashMap<QueueName, u64>,
    /// Branches that a rate blocks, in the order in which they are opened.
    pub(super) by_time: BTreeSet<(UnixMs, TenantId, QueueName, Branch, QueueId)>,
    /// Branches that a cap blocks.
    pub(super) full: HashMap<LimitName, BTreeSet<(QueueId, Branch)>>,
    /// Jobs of sub-queues that run, by the limit of their task and of their key.
    pub(super) running: HashMap<LimitName, u64>,
    /// The place of the last job that came.
    pub seq: u64,
    /// The time of the step under way.
    pub now: UnixMs,
    /// Queues that got something to hand out. The store takes them.
    pub ready_in: BTreeSet<QueueName>,
    pub(super) undo: Undo<J>,
}

impl<J: Ord + Copy> Default for Scheduler<J> {
    fn default() -> Self {
        Self {
            queues: Vec::new(),
            by_name: HashMap::new(),
            controls: Controls::default(),
            turns: Turns::default(),
            open: HashMap::new(),
            by_time: BTreeSet::new(),
            full: HashMap::new(),
            running: HashMap::new(),
            seq: 0,
            now: 0,
            ready_in: BTreeSet::new(),
            undo: Undo::default(),
        }
    }
}

impl<J: Ord + Copy> Scheduler<J> {
    // ---- tenant queues

    pub fn find(&self, tenant: &TenantId, queue: &QueueName) -> Option<QueueId> {
        self.find_any(tenant, queue).filter(|id| self.is_known(*id))
    }

    /// As `find`, and also one that is forgotten.
    pub fn find_any(&self, tenant: &TenantId, queue: &QueueName) -> Option<QueueId> {
        self.by_name.get(tenant)?.get(queue).copied()
    }

    /// The number of a tenant queue, made or remembered if there is none.
    pub fn queue_id(&mut self, tenant: &TenantId, queue: &QueueName) -> QueueId {
        let used_at = Some(self.now);
        if let Some(id) = self.find_any(tenant, queue) {
            if !self.is_known(id) {
                self.change(id, |counts| counts.used_at = used_at);
            }
            return id;
        }
        let id = self.queues.len();
        let tenant_paused = self.controls.get(tenant, &Scope::Tenant).paused;
        let counts = Counts { tenant_paused, used_at, ..Counts::default() };
        let (tenant, queue) = (tenant.clone(), queue.clone());
        self.by_name.entry(tenant.clone()).or_default().insert(queue.clone(), id);
        self.queues.push(TenantQueue { tenant, queue, counts, ready: Ready::default(), touched: false });
        id
    }

    /// How many tenant queues there are: their numbers are below it.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    pub fn tenant(&self, id: QueueId) -> &TenantId {
        &self.queues[id].tenant
    }

    pub fn queue(&self, id: QueueId) -> &QueueName {
        &self.queues[id].queue
    }

    pub fn counts(&self, id: QueueId) -> &Counts {
        &self.queues[id].counts
    }

    /// The tenant queues of a tenant, by name, also those that are forgotten.
    pub fn of_tenant(&self, tenant: &TenantId) -> Vec<QueueId> {
        let mut mine: Vec<_> = self.by_name.get(tenant).into_iter().flatten().collect();
        mine.sort();
        mine.into_iter().map(|(_, id)| *id).collect()
    }

    pub fn queues_of(&self, tenant: &TenantId) -> u64 {
        self.sum(tenant, |counts| counts.used_at.is_some().into())
    }

    /// The sum of a count over the tenant's queues.
    pub fn sum(&self, tenant: &TenantId, count: impl Fn(&Counts) -> u64) -> u64 {
        let mine = self.by_name.get(tenant).into_iter().flat_map(HashMap::values);
        mine.map(|id| count(&self.queues[*id].counts)).sum()
    }

    /// Queues in which jobs of any tenant can be handed out, by name.
    pub fn ready_queues(&self) -> BTreeSet<QueueName> {
        self.open.keys().cloned().collect()
    }

    /// Whether no job of a limit runs, and no tenant queue has a sub-queue.
    pub fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queues.iter().all(|queue| queue.ready.tasks.by_name.is_empty())
    }

    /// Jobs that count as running for a limit of a task or key.
    pub fn running(&self) -> impl Iterator<Item = (&LimitName, u64)> {
        self.running.iter().map(|(name, count)| (name, *count))
    }

    // ---- jobs

    /// A place behind all others of its priority.
    pub fn next_score(&mut self, priority: u8) -> u64 {
        self.seq += 1;
        ready_score(priority, self.seq)
    }

    /// Queues a job, by score, in a sub-queue or (without) as a plain one.
    pub fn insert(&mut self, id: QueueId, sub: Option<&SubQueueName>, job: (u64, J)) {
        self.put_job(id, sub, job);
        self.change(id, |counts| counts.ready += 1);
        let queue = &self.queues[id].queue;
        if !self.ready_in.contains(queue) {
            self.ready_in.insert(queue.clone());
        }
    }

    /// Takes a job out of what it waits in, or counts its delivery as ended.
    pub fn leave(&mut self, id: QueueId, state: JobState, sub: Option<&SubQueueName>, job: (u64, J)) {
        match state {
            JobState::Queued => self.remove(id, sub, job),
            JobState::Running => self.release_capacity(id, sub),
            JobState::Scheduled | JobState::Retrying => {
                self.change(id, |counts| counts.delayed = counts.delayed.saturating_sub(1));
            }
            _ => {}
        }
    }

    /// Takes a queued job out.
    pub(super) fn remove(&mut self, id: QueueId, sub: Option<&SubQueueName>, job: (u64, J)) {
        if self.take_job(id, sub, job) {
            self.change(id, |counts| counts.ready = counts.ready.saturating_sub(1));
        }
    }

    /// Changes the counts of a tenant queue, and lets it open or close. True if that opened it.
    ///
    /// Among the queues of its tenant, one that opens is served after the one that was served least: level with it, one that
    /// opens again after each of its jobs would always be first.
    pub fn change(&mut self, id: QueueId, change: impl FnOnce(&mut Counts)) -> bool {
        self.remember_counts(id);
        let of = &mut self.queues[id];
        let (old_finish, old_block, held) = (of.counts.finish, of.counts.blocked.clone(), of.counts.held());
        change(&mut of.counts);
        if of.counts.held().iter().zip(held).any(|(after, before)| *after > before) {
            of.counts.used_at = Some(self.now);
        }
        if of.ready.tasks.by_name.is_empty() {
            (of.counts.time, of.counts.plain_finish) = (0, 0);
            if of.ready.plain.is_empty() {
                of.counts.blocked = None;
            }
        }
        let has = !of.ready.plain.is_empty() || !of.ready.tasks.open.is_empty();
        let is_open = has && !of.counts.paused && !of.counts.tenant_paused && of.counts.blocked.is_none();
        let least = || self.turns.open_of(&of.tenant).next().map_or(0, |(least, ..)| least + 1);
        of.counts.finish =
            is_open.then(|| if old_finish.is_some() { of.counts.finish } else { None }.unwrap_or_else(least));
        let (finish, block) = (of.counts.finish, of.counts.blocked.clone());
        if finish.is_some() && old_finish.is_none() {
            let tenant = of.tenant.clone();
            let turn = Some(self.turns.finish_of_newcomer(&tenant));
            if turn != self.turns.finish_of(&tenant) {
                self.set_finish(&tenant, turn);
            }
        }
        self.index_finish(id, old_finish, finish);
        if finish.is_none() && old_finish.is_some() {
            self.forget_turns();
        }
        self.index_block(id, &Branch::QUEUE, old_block.as_ref(), block.as_ref());
        old_finish.is_none() && finish.is_some()
    }

    fn index_finish(&mut self, id: QueueId, old: Option<u64>, new: Option<u64>) {
        if old == new {
            return;
        }
        let TenantQueue { tenant, queue, .. } = &self.queues[id];
        let place = |finish| (finish, queue.clone(), id);
        self.turns.set_open(tenant, old.map(place), new.map(place));
        if old.is_none() {
            *self.open.entry(queue.clone()).or_default() += 1;
        } else if new.is_none()
            && let Some(open) = self.open.get_mut(queue)
        {
            *open -= 1;
            if *open == 0 {
                self.open.remove(queue);
            }
        }
    }

    fn set_finish(&mut self, tenant: &TenantId, finish: Option<u64>) {
        let before = self.turns.set_finish(tenant, finish);
        self.undo.changes.push(Change::Finish { tenant: tenant.clone(), before });
    }

    /// A tenant was served: counts its turn.
    pub(super) fn count_turn(&mut self, tenant: &TenantId) {
        let finish = self.turns.finish_of(tenant).unwrap_or(0);
        self.set_finish(tenant, Some(finish + 1));
        if finish > self.turns.time {
            self.turns.time = finish;
            self.forget_turns();
        }
    }

    fn forget_turns(&mut self) {
        while let Some(passed) = self.turns.passed().cloned() {
            self.set_finish(&passed, None);
        }
    }

    pub(super) fn put_job(&mut self, id: QueueId, sub: Option<&SubQueueName>, job: (u64, J)) {
        if let Some(name) = sub {
            for branch in [Branch::task(&name.task), Branch::key(name)] {
                if self.queues[id].ready.place(&branch).is_none() {
                    self.set_place(id, &branch, Some(Place::default()));
                }
            }
        }
        self.change_job(id, sub, job, true);
    }

    pub(super) fn take_job(&mut self, id: QueueId, sub: Option<&SubQueueName>, job: (u64, J)) -> bool {
        self.change_job(id, sub, job, false)
    }

    /// Adds a job or takes it out; false if nothing changed.
    fn change_job(&mut self, id: QueueId, sub: Option<&SubQueueName>, job: (u64, J), added: bool) -> bool {
        let changed = self.queues[id].ready.change(sub, job, added);
        if changed {
            self.undo.changes.push(Change::Job { id, sub: sub.cloned(), job, added });
        }
        self.settle_sub_queue(id, sub);
        changed
    }

    /// Opens, closes or forgets the sub-queues of a key and its task whose jobs or block changed.
    pub(super) fn settle_sub_queue(&mut self, id: QueueId, sub: Option<&SubQueueName>) {
        let Some(name) = sub else { return };
        let task = self.queues[id].ready.tasks.by_name.get(&name.task);
        let key = task.and_then(|task| task.holds.by_name.get(&name.key)?.settled(task.place.time));
        if let Some(place) = key {
            self.set_place(id, &Branch::key(name), place);
        }
        let of = &self.queues[id];
        let task = of.ready.tasks.by_name.get(&name.task).and_then(|task| task.settled(of.counts.time));
        if let Some(place) = task {
            self.set_place(id, &Branch::task(&name.task), place);
        }
    }

    pub(super) fn set_place(&mut self, id: QueueId, branch: &Branch, place: Option<Place>) {
        let before = self.put_place(id, branch, place);
        self.undo.changes.push(Change::Place { id, branch: branch.clone(), before });
    }

    fn put_place(&mut self, id: QueueId, branch: &Branch, place: Option<Place>) -> Option<Place> {
        let block = place.as_ref().and_then(|place| place.blocked.clone());
        let before = self.queues[id].ready.put(branch, place);
        let old = before.as_ref().and_then(|place| place.blocked.as_ref());
        self.index_block(id, branch, old, block.as_ref());
        before
    }

    pub(super) fn index_block(&mut self, id: QueueId, branch: &Branch, old: Option<&Block>, new: Option<&Block>) {
        if old == new {
            return;
        }
        let TenantQueue { tenant, queue, .. } = &self.queues[id];
        let timed = |at: &UnixMs| (*at, tenant.clone(), queue.clone(), branch.clone(), id);
        match old {
            Some(Block::Until(at)) => drop(self.by_time.remove(&timed(at))),
            Some(Block::Full(limit)) => {
                let name = (tenant.clone(), limit.clone());
                if let Some(blocked) = self.full.get_mut(&name) {
                    blocked.remove(&(id, branch.clone()));
                    if blocked.is_empty() {
                        self.full.remove(&name);
                    }
                }
            }
            Some(Block::Paused) | None => {}
        }
        match new {
            Some(Block::Until(at)) => drop(self.by_time.insert(timed(at))),
            Some(Block::Full(limit)) => {
                let blocked = self.full.entry((tenant.clone(), limit.clone())).or_default();
                blocked.insert((id, branch.clone()));
            }
            Some(Block::Paused) | None => {}
        }
    }

    pub(super) fn count_running(&mut self, name: &LimitName, more: i64) {
        let before = self.running.get(name).copied().unwrap_or(0);
        self.undo.changes.push(Change::Running { name: name.clone(), before });
        self.put_running(name, before.saturating_add_signed(more));
    }

    fn put_running(&mut self, name: &LimitName, count: u64) {
        if count == 0 {
            self.running.remove(name);
        } else {
            self.running.insert(name.clone(), count);
        }
    }

    // ---- commit and rollback

    pub(super) fn remember_counts(&mut self, id: QueueId) {
        let of = &mut self.queues[id];
        if !of.touched {
            of.touched = true;
            self.undo.counts.push((id, of.counts.clone()));
        }
    }

    /// Tenant queues whose counts may have changed since the last `keep`, with the counts of then.
    pub fn changed(&self) -> &[(QueueId, Counts)] {
        &self.undo.counts
    }

    /// The last score's number of the last `keep`.
    pub fn seq_kept(&self) -> u64 {
        self.undo.seq
    }

    /// Commits: all changes stay.
    pub fn keep(&mut self) {
        for (id, _) in self.undo.counts.drain(..) {
            self.queues[id].touched = false;
        }
        self.undo.changes.clear();
        (self.undo.queues, self.undo.seq, self.undo.time) = (self.queues.len(), self.seq, self.turns.time);
    }

    /// Rolls back: all is as it was at the last `keep`.
    pub fn undo(&mut self) {
        for change in std::mem::take(&mut self.undo.changes).into_iter().rev() {
            match change {
                Change::Job { id, sub, job, added } => {
                    self.queues[id].ready.change(sub.as_ref(), job, !added);
                }
                Change::Place { id, branch, before } => {
                    self.put_place(id, &branch, before);
                }
                Change::Running { name, before } => self.put_running(&name, before),
                Change::Control { tenant, scope, before } => self.controls.put(&tenant, &scope, before),
                Change::Finish { tenant, before } => drop(self.turns.set_finish(&tenant, before)),
            }
        }
        for (id, counts) in std::mem::take(&mut self.undo.counts) {
            let of = &mut self.queues[id];
            of.touched = false;
            let old = std::mem::replace(&mut of.counts, counts);
            let (finish, block) = (of.counts.finish, of.counts.blocked.clone());
            self.index_finish(id, old.finish, finish);
            self.index_block(id, &Branch::QUEUE, old.blocked.as_ref(), block.as_ref());
        }
        for of in self.queues.drain(self.undo.queues..) {
            if let Some(queues) = self.by_name.get_mut(&of.tenant) {
                queues.remove(&of.queue);
                if queues.is_empty() {
                    self.by_name.remove(&of.tenant);
                }
            }
        }
        (self.seq, self.turns.time) = (self.undo.seq, self.undo.time);
        self.ready_in.clear();
    }

    // ---- after a restart

    /// The same tenant queues and controls, without their jobs.
    #[must_use]
    pub fn reopened(self) -> Self {
        let mut new = Self { controls: self.controls, seq: self.seq, now: self.now, ..Self::default() };
        for of in self.queues {
            let id = new.queue_id(&of.tenant, &of.queue);
            new.restore_counts(id, of.counts);
        }
        new
    }

    /// Gives a tenant queue the counts that were stored. Those of ready and running jobs come from `restore`.
    pub fn restore_counts(&mut self, id: QueueId, counts: Counts) {
        let tenant_paused = self.queues[id].counts.tenant_paused;
        self.index_finish(id, None, counts.finish);
        let fresh = Counts { tenant_paused, ..Counts::default() };
        let Counts { delayed, dead, paused, finish, holder, used_at, .. } = counts;
        self.queues[id].counts = Counts { delayed, dead, paused, finish, holder, used_at, ..fresh };
    }

    /// Puts a job back that is queued (with its score) or runs.
    pub fn restore(&mut self, id: QueueId, sub: Option<&SubQueueName>, queued: Option<(u64, J)>) {
        match queued {
            Some(job) => {
                self.put_job(id, sub, job);
                self.queues[id].counts.ready += 1;
            }
            None => {
                self.queues[id].counts.running += 1;
                let tenant = self.queues[id].tenant.clone();
                for limit in sub.into_iter().flat_map(limits_of) {
                    self.count_running(&(tenant.clone(), limit), 1);
                }
            }
        }
        self.undo.changes.clear();
    }

    /// Opens what has something to hand out, after all jobs were put back.
    pub fn open_all(&mut self) {
        let mut ids: Vec<QueueId> = (0..self.queues.len()).collect();
        ids.sort_by_key(|id| (&self.queues[*id].tenant, &self.queues[*id].queue));
        for id in ids {
            self.change(id, |_| {});
        }
        self.keep();
    }
}
