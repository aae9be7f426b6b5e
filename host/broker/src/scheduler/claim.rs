//! Handing out within limits: one job at a time, in the six steps of the rules in `limits`.

use std::collections::{BTreeSet, HashMap, HashSet};

use umbel_model::{QueueName, Rate, TaskName, TenantId, UnixMs, WorkerId, rate::Used};

use super::{
    branch::{Block, Branch, Limit, LimitName, Place, QueueId, SubQueueName, limits_of, urgency},
    tenant_queues::{Scheduler, TenantQueue},
    turns::OpenQueue,
};
use crate::{CLAIM_SCAN, Claim, ClaimQueues, Control, JobLimits, LOOKS_A_TENANT, MAX_LIMITED_TENANTS, Scope};

/// The store of the jobs and rates, as the scheduler needs it.
pub trait Store<J> {
    type Error;

    /// Looks at a ready job, which the other methods are then about: whether its time to start is over. None when it cannot
    /// be handed out as it is stored.
    fn look(&mut self, tenant: &TenantId, job: J) -> Result<Option<bool>, Self::Error>;

    fn task(&mut self) -> Result<TaskName, Self::Error>;

    /// The limits that it was submitted with.
    fn limits(&mut self) -> Result<JobLimits, Self::Error>;

    /// It was a plain job, and waits in the sub-queue of its task from now on.
    fn moved(&mut self) -> Result<(), Self::Error>;

    /// The used part of a rate.
    fn used(&mut self, name: &LimitName) -> Result<Option<Used>, Self::Error>;

    fn set_used(&mut self, name: &LimitName, used: Used) -> Result<(), Self::Error>;
}

/// A claim on its way through its queues.
#[derive(Debug)]
pub struct ClaimRound<'a> {
    claim: &'a Claim,
    /// Looks that are left.
    budget: u32,
    /// Jobs that it got, without those that have expired.
    jobs: u32,
    looks: Looks<'a>,
}

/// Where a claim looks next, and what it does not look at.
#[derive(Debug)]
pub(super) struct Looks<'a> {
    queues: &'a ClaimQueues,
    /// Places of the queues that it names.
    places: HashMap<&'a QueueName, usize>,
    /// No tenant before this one has anything for the claim.
    from: Option<(u64, TenantId)>,
    /// Until the claim ends.
    excluded: BTreeSet<QueueId>,
    /// While another one has something to hand out: they took `LOOKS_A_TENANT` looks without a job.
    deferred: BTreeSet<TenantId>,
    looks: HashMap<TenantId, u32>,
    /// By tenant the queue that was served last, and how often in a row: at most `most_in_row`.
    in_row: HashMap<TenantId, (QueueId, u32)>,
    most_in_row: u32,
    /// Tenants of which few jobs are taken: how many more of all of them together.
    limited: HashSet<&'a TenantId>,
    limited_left: u32,
}

impl<'a> ClaimRound<'a> {
    pub fn new(claim: &'a Claim) -> Self {
        let budget = claim.max.saturating_add(CLAIM_SCAN);
        Self { claim, budget, jobs: 0, looks: Looks::new(claim) }
    }

    /// Takes the next job, the one that the store looked at last, out of its queue: whether it has expired. If not, it
    /// counts as running there. None: there is no more for this claim.
    pub fn take<J: Ord + Copy, S: Store<J>>(
        &mut self,
        scheduler: &mut Scheduler<J>,
        store: &mut S,
    ) -> Result<Option<bool>, S::Error> {
        while self.jobs < self.claim.max {
            let Some(next) = self.looks.next(scheduler, &self.claim.worker) else { return Ok(None) };
            if self.budget == 0 {
                let (Ok(id) | Err(id)) = next;
                scheduler.ready_in.insert(scheduler.queues[id].queue.clone());
                return Ok(None);
            }
            self.budget -= 1;
            let Ok(id) = next else { continue };
            let found = scheduler.pick(id, &self.claim.worker, store)?;
            let tenant = &scheduler.queues[id].tenant;
            self.looks.looked(tenant, found.map(|_| id));
            if let Some(expired) = found {
                if !expired {
                    self.looks.starts(tenant);
                }
                self.jobs += u32::from(!expired);
                return Ok(found);
            }
        }
        Ok(None)
    }
}

impl<'a> Looks<'a> {
    pub(super) fn new(claim: &'a Claim) -> Self {
        let Claim { queues, limited, .. } = claim;
        let names = if let ClaimQueues::Named(names) = queues { names.as_slice() } else { &[] };
        // The first place counts.
        let places = names.iter().enumerate().rev().map(|(at, name)| (name, at)).collect();
        Self {
            queues,
            places,
            from: None,
            excluded: BTreeSet::new(),
            deferred: BTreeSet::new(),
            looks: HashMap::new(),
            in_row: HashMap::new(),
            most_in_row: claim.in_row.max(1),
            limited: limited.tenants.iter().take(MAX_LIMITED_TENANTS).collect(),
            limited_left: limited.max,
        }
    }

    /// Start-time fair queueing: an open tenant queue of the tenant with the least virtual finish time, by name when level.
    /// An exclusive one whose jobs run on another worker is excluded: then it is `Err`.
    pub(super) fn next<J: Ord + Copy>(
        &mut self,
        scheduler: &Scheduler<J>,
        worker: &WorkerId,
    ) -> Option<Result<QueueId, QueueId>> {
        let mut first = self.first(scheduler);
        if first.is_none() && !self.deferred.is_empty() {
            self.deferred.clear();
            self.looks.clear();
            self.from = None;
            first = self.first(scheduler);
        }
        let id = first?;
        if scheduler.is_held_by_another(id, worker) {
            self.excluded.insert(id);
            return Some(Err(id));
        }
        Some(Ok(id))
    }

    fn first<J: Ord + Copy>(&mut self, scheduler: &Scheduler<J>) -> Option<QueueId> {
        if !self.places.is_empty() && self.places.keys().all(|queue| !scheduler.open.contains_key(*queue)) {
            return None;
        }
        let waiting = scheduler.turns.waiting(self.from.as_ref());
        let is_asked = |tenant: &TenantId| {
            !self.deferred.contains(tenant) && (self.limited_left > 0 || !self.limited.contains(tenant))
        };
        let (turn, id) = waiting.filter(|(_, tenant)| is_asked(tenant)).find_map(|turn| {
            let id = self.first_of(scheduler, &turn.1)?;
            Some((turn, id))
        })?;
        if self.from.as_ref() != Some(turn) {
            self.from = Some(turn.clone());
        }
        Some(id)
    }

    /// The tenant queue from which a tenant is served next.
    fn first_of<J: Ord + Copy>(&self, scheduler: &Scheduler<J>, tenant: &TenantId) -> Option<QueueId> {
        let mut open = scheduler.turns.open_of(tenant).filter(|(.., id)| !self.excluded.contains(id));
        match self.queues {
            ClaimQueues::Named(_) => {
                let place = |(_, queue, id): &OpenQueue| Some((*self.places.get(queue)?, *id));
                open.filter_map(place).min().map(|(_, id)| id)
            }
            ClaimQueues::AllBut(names) => {
                let goes_on = self.in_row.get(tenant).filter(|(id, served)| {
                    *served < self.most_in_row
                        && scheduler.queues[*id].counts.finish.is_some()
                        && !self.excluded.contains(id)
                });
                if let Some((id, _)) = goes_on {
                    return Some(*id);
                }
                open.find(|(_, queue, _)| !names.contains(queue)).map(|(.., id)| *id)
            }
        }
    }

    /// Counts a job that is handed out.
    fn starts(&mut self, tenant: &TenantId) {
        if self.limited.contains(tenant) {
            self.limited_left = self.limited_left.saturating_sub(1);
        }
    }

    /// Counts a look: `served` is the queue of which it found a job.
    pub(super) fn looked(&mut self, tenant: &TenantId, served: Option<QueueId>) {
        if let Some(id) = served {
            self.looks.remove(tenant);
            match self.in_row.get_mut(tenant) {
                // One after the other: nobody asks.
                _ if self.most_in_row == 1 => {}
                Some((of, n)) if *of == id && *n < self.most_in_row => *n += 1,
                Some(row) => *row = (id, 1),
                None => drop(self.in_row.insert(tenant.clone(), (id, 1))),
            }
            return;
        }
        let looks = self.looks.entry(tenant.clone()).or_default();
        *looks += 1;
        if *looks >= LOOKS_A_TENANT {
            self.deferred.insert(tenant.clone());
        }
    }
}

impl<J: Ord + Copy> Scheduler<J> {
    fn is_held_by_another(&self, id: QueueId, worker: &WorkerId) -> bool {
        let of = &self.queues[id];
        of.counts.running > 0
            && of.counts.holder.as_ref() != Some(worker)
            && self.controls.get(&of.tenant, &Scope::Queue(of.queue.clone())).exclusive
    }

    /// Takes the next job out of an open tenant queue: whether it has expired. None: a branch was blocked, or a job was
    /// moved to its sub-queue or dropped.
    pub(super) fn pick<S: Store<J>>(
        &mut self,
        id: QueueId,
        worker: &WorkerId,
        store: &mut S,
    ) -> Result<Option<bool>, S::Error> {
        let of_queue = self.bounds_of_queue(id);
        if self.block_if_used_up(id, &of_queue, store)? {
            return Ok(None);
        }
        let Some((sub, job)) = self.next_in(id) else { return Ok(None) };
        let tenant = self.queues[id].tenant.clone();
        let Some(expired) = store.look(&tenant, job.1)? else {
            self.remove(id, sub.as_ref(), job);
            return Ok(None);
        };
        let control = self.control_of(&tenant, sub.as_ref(), store)?;
        match (&sub, control) {
            (None, Some((task, _))) => {
                store.moved()?;
                self.take_job(id, None, job);
                self.put_job(id, Some(&SubQueueName { task, key: String::new() }), job);
                self.change(id, |_| {});
                return Ok(None);
            }
            (Some(name), Some((_, control))) if control.paused => {
                self.block(id, &Branch::task(&name.task), Block::Paused);
                return Ok(None);
            }
            (_, control) if !expired => {
                let of_sub_queue = match &sub {
                    Some(name) => {
                        bounds_of(name, &store.limits()?.under(&control.map(|(_, of)| of).unwrap_or_default()))
                    }
                    None => Vec::new(),
                };
                if self.block_if_used_up(id, &of_sub_queue, store)? {
                    return Ok(None);
                }
                for (limit, bound) in of_queue.into_iter().chain(of_sub_queue) {
                    let name = (tenant.clone(), limit);
                    if let Bound::Rate(rate) = bound
                        && let Ok(used) = self.take_rate(&name, rate, store)?
                    {
                        store.set_used(&name, used)?;
                    }
                }
                self.count_start(id, sub.as_ref(), worker);
            }
            _ => {}
        }
        self.take_turn(id, sub.as_ref(), job);
        Ok(Some(expired))
    }

    /// The job that is next in a tenant queue.
    fn next_in(&self, id: QueueId) -> Option<(Option<SubQueueName>, (u64, J))> {
        let TenantQueue { ready, counts, .. } = &self.queues[id];
        let of_tasks = ready.first_of_tasks();
        if let Some(plain) = ready.plain.first() {
            let mine = (urgency(plain.0), counts.plain_finish.max(counts.time));
            if of_tasks.as_ref().is_none_or(|(rank, ..)| mine <= *rank) {
                return Some((None, *plain));
            }
        }
        of_tasks.map(|(_, name, job)| (Some(name), job))
    }

    /// The control of the task of the job that was looked at.
    fn control_of<S: Store<J>>(
        &self,
        tenant: &TenantId,
        sub: Option<&SubQueueName>,
        store: &mut S,
    ) -> Result<Option<(TaskName, Control)>, S::Error> {
        if !self.controls.has_of_task(tenant) {
            return Ok(None);
        }
        let task = match sub {
            Some(name) => name.task.clone(),
            None => store.task()?,
        };
        Ok(self.controls.find(tenant, &Scope::Task(task.clone())).cloned().map(|control| (task, control)))
    }

    fn count_start(&mut self, id: QueueId, sub: Option<&SubQueueName>, worker: &WorkerId) {
        self.change(id, |counts| {
            counts.running += 1;
            if counts.holder.as_ref() != Some(worker) {
                counts.holder = Some(worker.clone());
            }
        });
        for limit in sub.into_iter().flat_map(limits_of) {
            let name = (self.queues[id].tenant.clone(), limit);
            self.count_running(&name, 1);
        }
    }

    /// Takes a job out, and counts the turn of its tenant queue and of its sub-queues.
    fn take_turn(&mut self, id: QueueId, sub: Option<&SubQueueName>, job: (u64, J)) {
        self.remember_counts(id);
        let ready = &self.queues[id].ready;
        let (mut time, mut plain_finish) = (self.queues[id].counts.time, self.queues[id].counts.plain_finish);
        if let Some(name) = sub {
            let (task_branch, key_branch) = (Branch::task(&name.task), Branch::key(name));
            if let (Some(task), Some(key)) = (ready.place(&task_branch), ready.place(&key_branch)) {
                let of_task = task.time.max(key.finish);
                time = time.max(task.finish);
                let key = Place { finish: of_task + 1, ..key.clone() };
                let task = Place { time: of_task, finish: time + 1, ..task.clone() };
                self.set_place(id, &key_branch, Some(key));
                self.set_place(id, &task_branch, Some(task));
            }
        } else if !ready.tasks.by_name.is_empty() {
            time = time.max(plain_finish);
            plain_finish = time + 1;
        }
        let of = &mut self.queues[id];
        (of.counts.time, of.counts.plain_finish) = (time, plain_finish);
        let tenant = of.tenant.clone();
        self.count_turn(&tenant);
        self.take_job(id, sub, job);
        self.change(id, |counts| {
            counts.ready = counts.ready.saturating_sub(1);
            counts.finish = counts.finish.map(|finish| finish + 1);
        });
    }

    /// The bounds of a tenant and its queue, in the order in which they are looked at. Most tenants have none.
    fn bounds_of_queue(&self, id: QueueId) -> Vec<(Limit, Bound)> {
        let TenantQueue { tenant, queue, .. } = &self.queues[id];
        if !self.controls.has_any(tenant) {
            return Vec::new();
        }
        let of_tenant = (Limit::Tenant, self.controls.get(tenant, &Scope::Tenant));
        let of_queue = (Limit::Queue(queue.clone()), self.controls.get(tenant, &Scope::Queue(queue.clone())));
        let both = [of_tenant, of_queue];
        let caps = both.iter().map(|(limit, control)| (limit.clone(), Bound::Cap(control.concurrency)));
        let rates = both.iter().filter_map(|(limit, control)| Some((limit.clone(), Bound::Rate(control.rate?))));
        caps.chain(rates).collect()
    }

    /// Blocks the branch of the first bound that is used up, if there is one.
    fn block_if_used_up<S: Store<J>>(
        &mut self,
        id: QueueId,
        bounds: &[(Limit, Bound)],
        store: &mut S,
    ) -> Result<bool, S::Error> {
        for (limit, bound) in bounds {
            let why = match bound {
                Bound::Cap(cap) if *cap > 0 && self.running_for(id, limit) >= u64::from(*cap) => {
                    Block::Full(limit.clone())
                }
                Bound::Cap(_) => continue,
                Bound::Rate(rate) => {
                    match self.take_rate(&(self.queues[id].tenant.clone(), limit.clone()), *rate, store)? {
                        Ok(_) => continue,
                        Err(at) => Block::Until(at),
                    }
                }
            };
            self.block(id, &Branch::of(limit), why);
            return Ok(true);
        }
        Ok(false)
    }

    /// Jobs that run and count for a limit of a tenant queue.
    fn running_for(&self, id: QueueId, limit: &Limit) -> u64 {
        let TenantQueue { tenant, counts, .. } = &self.queues[id];
        match limit {
            Limit::Tenant => self.sum(tenant, |counts| counts.running),
            Limit::Queue(_) => counts.running,
            limit => self.running.get(&(tenant.clone(), limit.clone())).copied().unwrap_or(0),
        }
    }

    /// The used part of a rate when one more job starts now, or the time until which none may (milliseconds).
    fn take_rate<S: Store<J>>(
        &self,
        name: &LimitName,
        rate: Rate,
        store: &mut S,
    ) -> Result<Result<Used, UnixMs>, S::Error> {
        let wait = match rate.take(self.now, store.used(name)?) {
            Ok(used) => return Ok(Ok(used)),
            Err(wait) => wait,
        };
        if let Some(used) = wait.store {
            store.set_used(name, used)?;
        }
        Ok(Err(wait.until_ms))
    }
}

/// What a limit bounds: how many jobs run at once (0: any number), or how many start.
enum Bound {
    Cap(u32),
    Rate(Rate),
}

/// The bounds of a sub-queue, in the order in which they are looked at.
fn bounds_of(name: &SubQueueName, limits: &JobLimits) -> Vec<(Limit, Bound)> {
    let of = |limit: Limit| {
        let (cap, rate) = limits.of(&limit);
        let rate = rate.map(|rate| (limit.clone(), Bound::Rate(rate)));
        std::iter::once((limit, Bound::Cap(cap))).chain(rate)
    };
    limits_of(name).flat_map(of).collect()
}
