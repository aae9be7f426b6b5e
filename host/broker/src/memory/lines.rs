//! Where ready jobs wait in the model: lines, lanes and key lanes, who is open, and who is next.

use std::collections::{BTreeMap, BTreeSet};

use umbel_model::{JobId, QueueName, TaskName, TenantId, UnixMs, WorkerId};

/// A tenant's queue.
pub(super) type Line = (TenantId, QueueName);

/// Orders ready jobs: priority 9 first, then the order of arrival.
pub(super) fn ready_score(priority: u8, seq: u64) -> u64 {
    (u64::from(9 - priority.min(9)) << 48) | seq
}

/// The part of a score that says its priority: less is more urgent.
fn urgency(score: u64) -> u64 {
    score >> 48
}

/// A cap on what runs at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cap {
    Tenant,
    Queue,
    Task,
    Key,
}

/// Why a line, lane or key lane is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Park {
    Until(UnixMs),
    Full(Cap),
    Paused,
}

#[derive(Debug, Default)]
pub(super) struct KeyLane {
    jobs: BTreeSet<(u64, JobId)>,
    tag: u64,
    open: bool,
    parked: Option<Park>,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    keys: BTreeMap<String, KeyLane>,
    clock: u64,
    tag: u64,
    open: bool,
    parked: Option<Park>,
}

impl Lane {
    /// Its first open key lane.
    fn first(&self) -> Option<(&String, &KeyLane)> {
        let open = self.keys.iter().filter(|(_, lane)| lane.open);
        open.min_by_key(|(key, lane)| (lane.jobs.first().map(|(score, _)| urgency(*score)), lane.tag, (*key).clone()))
    }

    fn urgency(&self) -> Option<u64> {
        self.first().and_then(|(_, lane)| lane.jobs.first()).map(|(score, _)| urgency(*score))
    }
}

/// What is next in a line.
#[derive(Debug, Clone)]
pub(super) struct Next {
    pub(super) job: (u64, JobId),
    /// The task and key of the lane that it is in; none: it is plain.
    pub(super) lane: Option<(TaskName, String)>,
}

/// A line's jobs and counts.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    plain: BTreeSet<(u64, JobId)>,
    plain_tag: u64,
    lanes: BTreeMap<TaskName, Lane>,
    clock: u64,
    parked: Option<Park>,
    /// Among the tenants of its queue, while it is open.
    pub(super) tag: Option<u64>,
    pub(super) running: u64,
    /// The worker of the last delivery.
    pub(super) holder: Option<WorkerId>,
    pub(super) delayed: u64,
    pub(super) dead: u64,
    /// When a job came into it last, or it was seen in use.
    pub(super) used_at: UnixMs,
}

impl Waiting {
    pub(super) fn queued(&self) -> u64 {
        let laned: usize = self.lanes.values().flat_map(|lane| lane.keys.values()).map(|key| key.jobs.len()).sum();
        (self.plain.len() + laned) as u64
    }

    /// Of a queue that is made now.
    pub(super) fn new(now: UnixMs) -> Self {
        Self { used_at: now, ..Self::default() }
    }

    /// Jobs that wait in it or are dead.
    pub(super) fn held(&self) -> [u64; 3] {
        [self.queued(), self.delayed, self.dead]
    }

    pub(super) fn has_lanes(&self) -> bool {
        !self.lanes.is_empty()
    }

    pub(super) fn insert(&mut self, job: (u64, JobId), lane: Option<&(TaskName, String)>) {
        match lane {
            None => self.plain.insert(job),
            Some((task, key)) => {
                self.lanes.entry(task.clone()).or_default().keys.entry(key.clone()).or_default().jobs.insert(job)
            }
        };
    }

    pub(super) fn remove(&mut self, job: (u64, JobId), lane: Option<&(TaskName, String)>) {
        match lane {
            None => {
                self.plain.remove(&job);
            }
            Some((task, key)) => {
                if let Some(key) = self.lanes.get_mut(task).and_then(|lane| lane.keys.get_mut(key)) {
                    key.jobs.remove(&job);
                }
            }
        }
    }

    /// Opens and closes what the last change opened and closed; true if the line is open. `paused`: its queue or tenant.
    pub(super) fn settle(&mut self, paused: bool) -> bool {
        for lane in self.lanes.values_mut() {
            lane.keys.retain(|_, key| !key.jobs.is_empty());
            for key in lane.keys.values_mut() {
                let open = key.parked.is_none();
                if open && !key.open {
                    key.tag = lane.clock + 1;
                }
                key.open = open;
            }
        }
        self.lanes.retain(|_, lane| !lane.keys.is_empty());
        for lane in self.lanes.values_mut() {
            let open = lane.parked.is_none() && lane.keys.values().any(|key| key.open);
            if open && !lane.open {
                lane.tag = self.clock + 1;
            }
            lane.open = open;
        }
        if self.lanes.is_empty() {
            (self.clock, self.plain_tag) = (0, 0);
            if self.plain.is_empty() {
                self.parked = None;
            }
        }
        let ready = !self.plain.is_empty() || self.lanes.values().any(|lane| lane.open);
        ready && !paused && self.parked.is_none()
    }

    /// What is next, if the line is open.
    pub(super) fn next(&self) -> Option<Next> {
        let open = self.lanes.iter().filter(|(_, lane)| lane.open);
        let lane = open.min_by_key(|(task, lane)| (lane.urgency(), lane.tag, (*task).clone()));
        let plain = self.plain.first();
        if let Some(first) = plain {
            let mine = (Some(urgency(first.0)), self.plain_tag.max(self.clock));
            if lane.is_none_or(|(_, lane)| mine <= (lane.urgency(), lane.tag)) {
                return Some(Next { job: *first, lane: None });
            }
        }
        let (task, lane) = lane?;
        let (key, jobs) = lane.first()?;
        Some(Next { job: *jobs.jobs.first()?, lane: Some((task.clone(), key.clone())) })
    }

    /// Takes out what is next, and counts its turn.
    pub(super) fn take(&mut self, next: &Next) {
        if self.has_lanes() {
            let tag = match &next.lane {
                None => &mut self.plain_tag,
                Some((task, key)) => {
                    let lane = self.lanes.get_mut(task).expect("what is next is in a lane that is there");
                    let of_key = lane.keys.get_mut(key).expect("what is next is in a key lane that is there");
                    lane.clock = lane.clock.max(of_key.tag);
                    of_key.tag = lane.clock + 1;
                    &mut lane.tag
                }
            };
            self.clock = self.clock.max(*tag);
            *tag = self.clock + 1;
        }
        self.remove(next.job, next.lane.as_ref());
    }

    /// Moves the first plain job, which is next, into its task's lane.
    pub(super) fn move_to_lane(&mut self, next: &Next, task: &TaskName) {
        self.remove(next.job, None);
        self.insert(next.job, Some(&(task.clone(), String::new())));
    }

    pub(super) fn park(&mut self, why: Park) {
        self.parked = Some(why);
    }

    pub(super) fn park_lane(&mut self, task: &TaskName, why: Park) {
        if let Some(lane) = self.lanes.get_mut(task) {
            lane.parked = Some(why);
        }
    }

    pub(super) fn park_key(&mut self, task: &TaskName, key: &str, why: Park) {
        if let Some(key) = self.lanes.get_mut(task).and_then(|lane| lane.keys.get_mut(key)) {
            key.parked = Some(why);
        }
    }

    /// Opens the line if it is parked for such a reason.
    pub(super) fn unpark(&mut self, which: impl Fn(&Park) -> bool) {
        if self.parked.as_ref().is_some_and(which) {
            self.parked = None;
        }
    }

    /// Opens the task's lane if it is parked for such a reason.
    pub(super) fn unpark_lane(&mut self, task: &TaskName, which: impl Fn(&Park) -> bool) {
        if let Some(lane) = self.lanes.get_mut(task)
            && lane.parked.as_ref().is_some_and(which)
        {
            lane.parked = None;
        }
    }

    /// Opens the key lane if it is parked for such a reason.
    pub(super) fn unpark_key(&mut self, task: &TaskName, key: &str, which: impl Fn(&Park) -> bool) {
        if let Some(key) = self.lanes.get_mut(task).and_then(|lane| lane.keys.get_mut(key))
            && key.parked.as_ref().is_some_and(which)
        {
            key.parked = None;
        }
    }

    /// What is parked until a time: that time, and the task and key.
    pub(super) fn parked_until(&self) -> Vec<(UnixMs, Option<TaskName>, Option<String>)> {
        let until = |park: &Option<Park>| match park {
            Some(Park::Until(at)) => Some(*at),
            _ => None,
        };
        let mut found: Vec<_> = until(&self.parked).map(|at| (at, None, None)).into_iter().collect();
        for (task, lane) in &self.lanes {
            found.extend(until(&lane.parked).map(|at| (at, Some(task.clone()), None)));
            let keys = lane.keys.iter().filter_map(|(key, of)| Some((until(&of.parked)?, key)));
            found.extend(keys.map(|(at, key)| (at, Some(task.clone()), Some(key.clone()))));
        }
        found
    }
}
