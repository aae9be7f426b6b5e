//! The branches of one tenant queue: its sub-queues by task, those by key inside them, and what orders and blocks them.

use std::collections::{BTreeMap, BTreeSet};

use umbel_model::{QueueName, TaskName, TenantId, UnixMs, WorkerId};

/// The owner of a rate or of a cap on how many jobs run at once. Together with the tenant it is unique.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    Tenant,
    Queue(QueueName),
    Task(TaskName),
    Key(TaskName, String),
}

/// The limit of a tenant.
pub type LimitName = (TenantId, Limit);

/// The sub-queue of a task and of a value of its limit key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubQueueName {
    pub task: TaskName,
    /// Empty: jobs without a limit key.
    pub key: String,
}

/// The limits that a job of a sub-queue counts for: of its task, and of its key if it has one.
pub(super) fn limits_of(name: &SubQueueName) -> impl Iterator<Item = Limit> {
    let key = (!name.key.is_empty()).then(|| Limit::Key(name.task.clone(), name.key.clone()));
    std::iter::once(Limit::Task(name.task.clone())).chain(key)
}

/// A part of the tree that may be blocked: a tenant queue (no task), the sub-queue of a task (no key), or that of a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Branch {
    pub(super) task: Option<TaskName>,
    pub(super) key: Option<String>,
}

impl Branch {
    pub(super) const QUEUE: Self = Self { task: None, key: None };

    pub(super) fn task(task: &TaskName) -> Self {
        Self { task: Some(task.clone()), key: None }
    }

    pub(super) fn key(name: &SubQueueName) -> Self {
        Self { task: Some(name.task.clone()), key: Some(name.key.clone()) }
    }

    /// The branch that a used-up limit blocks.
    pub(super) fn of(limit: &Limit) -> Self {
        match limit {
            Limit::Tenant | Limit::Queue(_) => Self::QUEUE,
            Limit::Task(task) => Self::task(task),
            Limit::Key(task, key) => Self { task: Some(task.clone()), key: Some(key.clone()) },
        }
    }
}

/// Why a branch is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Block {
    /// As many jobs run as the cap of this limit allows.
    Full(Limit),
    /// A rate is used up until then.
    Until(UnixMs),
    Paused,
}

/// Where a sub-queue stands among its siblings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) open: bool,
    /// Virtual finish time of its last job: the sibling with the least is next.
    pub(super) finish: u64,
    /// Virtual time of its own children; 0 in the sub-queue of a key.
    pub(super) time: u64,
    pub(super) blocked: Option<Block>,
}

/// A tenant queue's number. They are never deleted: one that nobody uses is forgotten, see `idle_queues`.
pub type QueueId = usize;

/// The counts of a tenant queue, and its place among the queues of its tenant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queued jobs, those in sub-queues too.
    pub ready: u64,
    pub running: u64,
    /// Scheduled or retrying.
    pub delayed: u64,
    /// In the dead set.
    pub dead: u64,
    /// The queue is paused.
    pub paused: bool,
    /// Virtual finish time among the queues of its tenant; none while nothing can be handed out.
    pub finish: Option<u64>,
    /// The worker of the last delivery.
    pub holder: Option<WorkerId>,
    /// When a job came into it last, or it was seen in use; none: it is forgotten until a job comes into it.
    pub used_at: Option<UnixMs>,
    pub(super) tenant_paused: bool,
    pub(super) blocked: Option<Block>,
    /// Virtual time of its sub-queues and plain jobs; 0 while it has no sub-queues, as the next one.
    pub(super) time: u64,
    pub(super) plain_finish: u64,
}

impl Counts {
    /// Jobs that wait in it or are dead.
    pub(super) fn held(&self) -> [u64; 3] {
        [self.ready, self.delayed, self.dead]
    }
}

/// The part of a score that says the priority: less is more urgent.
pub(super) fn urgency(score: u64) -> u64 {
    score >> 48
}

/// The first job of a sub-queue: the rank of the sub-queue (urgency and virtual finish time), its name, score and job.
pub(super) type First<J> = ((u64, u64), SubQueueName, (u64, J));

/// Jobs by score.
pub(super) type Jobs<J> = BTreeSet<(u64, J)>;

/// What a sub-queue holds: jobs, or sub-queues by name.
pub(super) trait Contents: Default {
    fn is_empty(&self) -> bool;

    /// The urgency of what is next; none when nothing in it is open.
    fn urgency(&self) -> Option<u64>;
}

impl<J: Ord> Contents for Jobs<J> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn urgency(&self) -> Option<u64> {
        self.first().map(|(score, _)| urgency(*score))
    }
}

/// The sub-queue of a task or of a key.
#[derive(Debug)]
pub(super) struct SubQueue<C> {
    pub(super) holds: C,
    pub(super) place: Place,
}

impl<C: Contents> SubQueue<C> {
    /// Its place after its contents or its block changed, if that is another: none when nothing is in it any more. When it
    /// opens, its turn comes after the virtual time of its parent.
    pub(super) fn settled(&self, parent_time: u64) -> Option<Option<Place>> {
        let open = self.place.blocked.is_none() && self.holds.urgency().is_some();
        if self.holds.is_empty() {
            return Some(None);
        }
        let finish = if open { parent_time + 1 } else { self.place.finish };
        (open != self.place.open).then(|| Some(Place { open, finish, ..self.place.clone() }))
    }
}

/// Sub-queues by name.
#[derive(Debug)]
pub(super) struct SubQueues<N, C> {
    pub(super) by_name: BTreeMap<N, SubQueue<C>>,
    /// Those that are open, in the order in which they are served: urgency, virtual finish time, name.
    pub(super) open: BTreeSet<(u64, u64, N)>,
}

impl<N, C> Default for SubQueues<N, C> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new(), open: BTreeSet::new() }
    }
}

impl<N, C> Contents for SubQueues<N, C> {
    fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    fn urgency(&self) -> Option<u64> {
        self.open.iter().next().map(|(urgency, ..)| *urgency)
    }
}

impl<N: Ord + Clone, C: Contents> SubQueues<N, C> {
    fn rank(&self, name: &N) -> Option<(u64, u64)> {
        let SubQueue { holds, place } = self.by_name.get(name)?;
        place.open.then(|| (holds.urgency().unwrap_or(u64::MAX), place.finish))
    }

    /// Changes the one of this name, and lets the order of what is open follow.
    fn change<T>(&mut self, name: &N, change: impl FnOnce(&mut BTreeMap<N, SubQueue<C>>) -> T) -> T {
        let old = self.rank(name);
        let answer = change(&mut self.by_name);
        let new = self.rank(name);
        if old != new {
            old.map(|(urgency, finish)| self.open.remove(&(urgency, finish, name.clone())));
            new.map(|(urgency, finish)| self.open.insert((urgency, finish, name.clone())));
        }
        answer
    }

    /// Puts one in its place, made if there is none; with no place, it goes. The place before.
    fn put(&mut self, name: &N, place: Option<Place>) -> Option<Place> {
        self.change(name, |all| match (all.get_mut(name), place) {
            (Some(found), Some(place)) => Some(std::mem::replace(&mut found.place, place)),
            (None, Some(place)) => {
                all.insert(name.clone(), SubQueue { holds: C::default(), place });
                None
            }
            (_, None) => all.remove(name).map(|gone| gone.place),
        })
    }
}

/// The ready jobs of a tenant queue.
#[derive(Debug)]
pub(super) struct Ready<J> {
    pub(super) plain: Jobs<J>,
    pub(super) tasks: SubQueues<TaskName, SubQueues<String, Jobs<J>>>,
}

impl<J> Default for Ready<J> {
    fn default() -> Self {
        Self { plain: BTreeSet::new(), tasks: SubQueues::default() }
    }
}

impl<J: Ord + Copy> Ready<J> {
    pub(super) fn place(&self, branch: &Branch) -> Option<&Place> {
        let sub = self.tasks.by_name.get(branch.task.as_ref()?)?;
        match &branch.key {
            None => Some(&sub.place),
            Some(key) => sub.holds.by_name.get(key).map(|key| &key.place),
        }
    }

    /// Puts a sub-queue in its place, made if there is none; with no place, it goes. The place before.
    pub(super) fn put(&mut self, branch: &Branch, place: Option<Place>) -> Option<Place> {
        let task = branch.task.as_ref()?;
        match &branch.key {
            None => self.tasks.put(task, place),
            Some(key) => self.tasks.change(task, |tasks| tasks.get_mut(task)?.holds.put(key, place)),
        }
    }

    /// Adds a job, or takes it out; false if it was there already, or was not.
    pub(super) fn change(&mut self, name: Option<&SubQueueName>, job: (u64, J), add: bool) -> bool {
        let change = |jobs: &mut Jobs<J>| if add { jobs.insert(job) } else { jobs.remove(&job) };
        let Some(SubQueueName { task, key }) = name else { return change(&mut self.plain) };
        let changed = self.tasks.change(task, |tasks| {
            tasks.get_mut(task)?.holds.change(key, |keys| Some(change(&mut keys.get_mut(key)?.holds)))
        });
        changed.unwrap_or(false)
    }

    /// The first job of the sub-queue that is next, with its rank.
    pub(super) fn first_of_tasks(&self) -> Option<First<J>> {
        let (urgency, finish, task) = self.tasks.open.first()?;
        let keys = &self.tasks.by_name.get(task)?.holds;
        let (_, _, key) = keys.open.first()?;
        let job = *keys.by_name.get(key)?.holds.first()?;
        Some(((*urgency, *finish), SubQueueName { task: task.clone(), key: key.clone() }, job))
    }
}
