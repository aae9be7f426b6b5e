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

/// The counts of a tenant queue, and its place among the tenants of its queue.
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
    /// Virtual finish time among the tenants of its queue; none while nothing can be handed out.
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

/// The jobs of a key, by score.
#[derive(Debug)]
pub(super) struct KeyQueue<J> {
    pub(super) jobs: BTreeSet<(u64, J)>,
    pub(super) place: Place,
}

/// The sub-queue of a task.
#[derive(Debug)]
pub(super) struct SubQueue<J> {
    pub(super) keys: BTreeMap<String, KeyQueue<J>>,
    /// Those that are open, in the order in which they are served: urgency, virtual finish time, key.
    pub(super) open: BTreeSet<(u64, u64, String)>,
    pub(super) place: Place,
}

impl<J: Ord> KeyQueue<J> {
    fn rank(&self) -> Option<(u64, u64)> {
        let urgency = self.jobs.first().map_or(u64::MAX, |(score, _)| urgency(*score));
        self.place.open.then_some((urgency, self.place.finish))
    }
}

impl<J: Ord> SubQueue<J> {
    fn rank(&self) -> Option<(u64, u64)> {
        let urgency = self.open.first().map_or(u64::MAX, |(urgency, ..)| *urgency);
        self.place.open.then_some((urgency, self.place.finish))
    }
}

/// The ready jobs of a tenant queue.
#[derive(Debug)]
pub(super) struct Ready<J> {
    pub(super) plain: BTreeSet<(u64, J)>,
    pub(super) tasks: BTreeMap<TaskName, SubQueue<J>>,
    /// Those that are open, in the order in which they are served: urgency, virtual finish time, task.
    pub(super) open: BTreeSet<(u64, u64, TaskName)>,
}

impl<J> Default for Ready<J> {
    fn default() -> Self {
        Self { plain: BTreeSet::new(), tasks: BTreeMap::new(), open: BTreeSet::new() }
    }
}

impl<J: Ord + Copy> Ready<J> {
    pub(super) fn key(&self, name: &SubQueueName) -> Option<&KeyQueue<J>> {
        self.tasks.get(&name.task)?.keys.get(&name.key)
    }

    pub(super) fn place(&self, branch: &Branch) -> Option<&Place> {
        let sub = self.tasks.get(branch.task.as_ref()?)?;
        match &branch.key {
            None => Some(&sub.place),
            Some(key) => sub.keys.get(key).map(|key| &key.place),
        }
    }

    /// Puts a sub-queue in its place, made if there is none; with no place, it goes. The place before.
    pub(super) fn put(&mut self, branch: &Branch, place: Option<Place>) -> Option<Place> {
        let task = branch.task.as_ref()?;
        let old = self.tasks.get(task).and_then(SubQueue::rank);
        let before = match (&branch.key, place) {
            (None, None) => self.tasks.remove(task).map(|sub| sub.place),
            (None, Some(place)) => match self.tasks.get_mut(task) {
                Some(sub) => Some(std::mem::replace(&mut sub.place, place)),
                None => {
                    let sub = SubQueue { keys: BTreeMap::new(), open: BTreeSet::new(), place };
                    self.tasks.insert(task.clone(), sub);
                    None
                }
            },
            (Some(key), place) => self.tasks.get_mut(task)?.put(key, place),
        };
        let new = self.tasks.get(task).and_then(SubQueue::rank);
        follow(&mut self.open, old, new, task);
        before
    }

    /// Adds a job, or takes it out; false if it was there already, or was not.
    pub(super) fn change(&mut self, name: Option<&SubQueueName>, job: (u64, J), add: bool) -> bool {
        let change = |jobs: &mut BTreeSet<(u64, J)>| if add { jobs.insert(job) } else { jobs.remove(&job) };
        let Some(name) = name else { return change(&mut self.plain) };
        let Some(sub) = self.tasks.get_mut(&name.task) else { return false };
        let old = sub.rank();
        let Some(key) = sub.keys.get_mut(&name.key) else { return false };
        let old_key = key.rank();
        let changed = change(&mut key.jobs);
        let new_key = key.rank();
        follow(&mut sub.open, old_key, new_key, &name.key);
        let new = sub.rank();
        follow(&mut self.open, old, new, &name.task);
        changed
    }

    /// The first job of the sub-queue that is next, with its rank.
    pub(super) fn first_of_tasks(&self) -> Option<First<J>> {
        let (urgency, finish, task) = self.open.first()?;
        let sub = self.tasks.get(task)?;
        let (_, _, key) = sub.open.first()?;
        let job = *sub.keys.get(key)?.jobs.first()?;
        Some(((*urgency, *finish), SubQueueName { task: task.clone(), key: key.clone() }, job))
    }
}

impl<J: Ord> SubQueue<J> {
    fn put(&mut self, key: &str, place: Option<Place>) -> Option<Place> {
        let old = self.keys.get(key).and_then(KeyQueue::rank);
        let before = match place {
            None => self.keys.remove(key).map(|key| key.place),
            Some(place) => match self.keys.get_mut(key) {
                Some(key) => Some(std::mem::replace(&mut key.place, place)),
                None => {
                    self.keys.insert(key.to_owned(), KeyQueue { jobs: BTreeSet::new(), place });
                    None
                }
            },
        };
        let new = self.keys.get(key).and_then(KeyQueue::rank);
        follow(&mut self.open, old, new, key);
        before
    }
}

/// Lets the order of what is open follow a change of one of them.
fn follow<N: Ord, B: ToOwned<Owned = N> + ?Sized>(
    open: &mut BTreeSet<(u64, u64, N)>,
    old: Option<(u64, u64)>,
    new: Option<(u64, u64)>,
    name: &B,
) {
    if old == new {
        return;
    }
    if let Some((urgency, finish)) = old {
        open.remove(&(urgency, finish, name.to_owned()));
    }
    if let Some((urgency, finish)) = new {
        open.insert((urgency, finish, name.to_owned()));
    }
}
