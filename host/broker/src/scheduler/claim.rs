//! Handing out within limits: one job at a time, in the six steps of the rules in `limits`.

use std::collections::{BTreeSet, HashMap};

use umbel_model::{QueueName, Rate, TaskName, TenantId, UnixMs, WorkerId, rate::Used};

use super::{
    branch::{Block, Branch, Limit, LimitName, Place, QueueId, SubQueueName, limits_of, urgency},
    tenant_queues::{Scheduler, TenantQueue},
};
use crate::{CLAIM_SCAN, Claim, Control, JobLimits, LOOKS_A_QUEUE, Scope};

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
    /// Queues that are left, the one that it looks at first.
    queues: &'a [QueueName],
    /// Looks that are left.
    budget: u32,
    /// Jobs that it got, without those that have expired.
    jobs: u32,
    of_queue: Looks,
}

/// Which tenant queues of a queue a claim does not look at.
#[derive(Debug, Default)]
pub(super) struct Looks {
    /// Until the claim ends.
    excluded: BTreeSet<QueueId>,
    /// While another one is open: they took `LOOKS_A_QUEUE` looks without a job.
    deferred: BTreeSet<QueueId>,
    looks: HashMap<QueueId, u32>,
}

impl<'a> ClaimRound<'a> {
    pub fn new(claim: &'a Claim) -> Self {
        let budget = claim.max.saturating_add(CLAIM_SCAN);
        Self { claim, queues: &claim.queues, budget, jobs: 0, of_queue: Looks::default() }
    }

    /// Takes the next job, the one that the store looked at last, out of its queue: whether it has expired. If not, it
    /// counts as running there. None: there is no more for this claim.
    pub fn take<J: Ord + Copy, S: Store<J>>(
        &mut self,
        scheduler: &mut Scheduler<J>,
        store: &mut S,
    ) -> Result<Option<bool>, S::Error> {
        while let [queue, rest @ ..] = self.queues {
            while self.jobs < self.claim.max && self.budget > 0 {
                let Some(next) = self.of_queue.next(scheduler, queue, &self.claim.worker) else { break };
                self.budget -= 1;
                let Ok(id) = next else { continue };
                let found = scheduler.pick(id, &self.claim.worker, store)?;
                self.of_queue.looked(id, found.is_some());
                if let Some(expired) = found {
                    self.jobs += u32::from(!expired);
                    return Ok(found);
                }
            }
            if self.budget == 0 && self.jobs < self.claim.max && scheduler.is_open(queue) {
                scheduler.ready_in.insert(queue.clone());
            }
            (self.queues, self.of_queue) = (rest, Looks::default());
        }
        Ok(None)
    }
}

impl Looks {
    /// Start-time fair queueing: the open tenant queue with the least virtual finish time, by name when level. An
    /// exclusive one whose jobs run on another worker is excluded: then it is `Err`.
    pub(super) fn next<J: Ord + Copy>(
        &mut self,
        scheduler: &Scheduler<J>,
        queue: &QueueName,
        worker: &WorkerId,
    ) -> Option<Result<QueueId, ()>> {
        let open = scheduler.fair.get(queue)?;
        let first = |of: &Self| {
            let next = |id: &QueueId| !of.excluded.contains(id) && !of.deferred.contains(id);
            open.iter().map(|(_, _, id)| *id).find(next)
        };
        let id = match first(self) {
            None if self.deferred.is_empty() => return None,
            None => {
                self.deferred.clear();
                self.looks.clear();
                first(self)?
            }
            Some(id) => id,
        };
        if scheduler.is_held_by_another(id, worker) {
            self.excluded.insert(id);
            return Some(Err(()));
        }
        Some(Ok(id))
    }

    /// Counts a look: `found` a job.
    pub(super) fn looked(&mut self, id: QueueId, found: bool) {
        if found {
            self.looks.remove(&id);
            return;
        }
        let looks = self.looks.entry(id).or_default();
        *looks += 1;
        if *looks >= LOOKS_A_QUEUE {
            self.deferred.insert(id);
        }
    }
}

impl<J: Ord + Copy> Scheduler<J> {
    /// Whether a queue has anything to hand out.
    fn is_open(&self, queue: &QueueName) -> bool {
        self.fair.get(queue).is_some_and(|open| !open.is_empty())
    }

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
        let counts = &mut self.queues[id].counts;
        (counts.time, counts.plain_finish) = (time, plain_finish);
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
