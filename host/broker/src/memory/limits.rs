//! Limits in the model: handing out within them, and opening again what they had parked.

use std::collections::{BTreeMap, BTreeSet};

use umbel_model::{JobState, QueueName, Rate, TaskName, TenantId, UnixMs};

use super::{
    lines::{Cap, Line, Next, Park},
    state::{Key, State},
};
use crate::*;

/// What a rate or a count is of.
pub(super) type LimitName = (TenantId, Option<QueueName>, Option<TaskName>, Option<String>);

impl State {
    pub(super) fn hand_out(&mut self, now: UnixMs, claim: &Claim) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        let mut budget = claim.max + CLAIM_SCAN;
        for queue in &claim.queues {
            let (mut passed, mut tired) = (BTreeSet::new(), BTreeSet::new());
            let mut looks: BTreeMap<TenantId, u32> = BTreeMap::new();
            while (deliveries.len() as u32) < claim.max && budget > 0 {
                let Some(line) = self.next_line(queue, &(&passed | &tired)) else {
                    looks.clear();
                    if std::mem::take(&mut tired).is_empty() {
                        break;
                    }
                    continue;
                };
                budget -= 1;
                if self.is_held_by_another(&line, claim) {
                    passed.insert(line.0);
                    continue;
                }
                let Some((key, laned)) = self.pick(now, &line) else {
                    let looked = looks.entry(line.0.clone()).or_default();
                    *looked += 1;
                    if *looked >= LOOKS_A_LINE {
                        tired.insert(line.0);
                    }
                    continue;
                };
                looks.remove(&line.0);
                if self.has_expired(now, &key) {
                    self.finish(now, &key, JobState::Expired);
                } else {
                    let index = deliveries.len();
                    deliveries.push(self.deliver(now, &key, claim, index, laned));
                }
            }
            if budget == 0 && (deliveries.len() as u32) < claim.max && self.next_line(queue, &BTreeSet::new()).is_some()
            {
                self.ready_in.insert(queue.clone());
            }
        }
        self.put_off();
        // One that expired may have been the last of its workflow.
        self.finish_workflows(now);
        deliveries
    }

    fn has_expired(&self, now: UnixMs, key: &Key) -> bool {
        self.jobs[key].record.expires_at.is_some_and(|at| at <= now)
    }

    /// Start-time fair queueing: the line of the tenant served least, by name when level.
    fn next_line(&self, queue: &QueueName, passed: &BTreeSet<TenantId>) -> Option<Line> {
        let open = self.lines.iter().filter(|(line, _)| line.1 == *queue && !passed.contains(&line.0));
        open.filter_map(|(line, waiting)| Some((waiting.tag?, line.clone()))).min().map(|(_, line)| line)
    }

    fn is_held_by_another(&self, line: &Line, claim: &Claim) -> bool {
        let waiting = &self.lines[line];
        let exclusive = self.control(&line.0, &Scope::Queue(line.1.clone())).exclusive;
        exclusive && waiting.running > 0 && waiting.holder.as_ref() != Some(&claim.worker)
    }

    /// Takes the next job out of a line, and whether it was in a lane; none when something was parked or moved instead.
    fn pick(&mut self, now: UnixMs, line: &Line) -> Option<(Key, bool)> {
        if let Some(why) = self.line_is_full(now, line) {
            self.change(line, |waiting| waiting.park(why));
            return None;
        }
        let next = self.lines[line].next()?;
        let key = (line.0.clone(), next.job.1);
        let task = self.jobs[&key].record.task.clone();
        let control = self.controls.get(&(line.0.clone(), Scope::Task(task.clone()))).cloned();
        if next.lane.is_none() && control.is_some() {
            self.job_mut(&key).lane = Some((task.clone(), String::new()));
            self.change(line, |waiting| waiting.move_to_lane(&next, &task));
            return None;
        }
        let control = control.unwrap_or_default();
        if next.lane.is_some() && control.paused {
            self.change(line, |waiting| waiting.park_lane(&task, Park::Paused));
            return None;
        }
        if !self.has_expired(now, &key) {
            if let Some((task, of)) = &next.lane
                && !self.lane_has_room(now, line, &key, task, of, &control)
            {
                return None;
            }
            self.take_rates(now, line, &key, &next, &control);
        }
        let laned = next.lane.is_some();
        if let Some(tag) = self.lines.get_mut(line).and_then(|waiting| waiting.tag.as_mut()) {
            *tag += 1;
        }
        self.change(line, |waiting| waiting.take(&next));
        Some((key, laned))
    }

    /// Why nothing of a line may start now.
    fn line_is_full(&mut self, now: UnixMs, line: &Line) -> Option<Park> {
        let of_tenant = self.control(&line.0, &Scope::Tenant);
        let of_queue = self.control(&line.0, &Scope::Queue(line.1.clone()));
        let running =
            self.lines.iter().filter(|((tenant, _), _)| *tenant == line.0).map(|(_, w)| w.running).sum::<u64>();
        if of_tenant.concurrency > 0 && running >= of_tenant.concurrency.into() {
            return Some(Park::Full(Cap::Tenant));
        }
        if of_queue.concurrency > 0 && self.lines[line].running >= of_queue.concurrency.into() {
            return Some(Park::Full(Cap::Queue));
        }
        let tenant = (line.0.clone(), None, None, None);
        let queue = (line.0.clone(), Some(line.1.clone()), None, None);
        if let Some(at) = self.wait_for(now, &tenant, of_tenant.rate) {
            return Some(Park::Until(at));
        }
        self.wait_for(now, &queue, of_queue.rate).map(Park::Until)
    }

    /// Whether the limits of its task and key let the next job start; parks its lane or key lane if not.
    fn lane_has_room(
        &mut self,
        now: UnixMs,
        line: &Line,
        key: &Key,
        task: &TaskName,
        of: &str,
        control: &Control,
    ) -> bool {
        let limits = self.limits_of(key, control);
        let of_task = task_limit(&line.0, task);
        if let Some(why) = self.used_up(now, &of_task, limits.concurrency, limits.rate, Cap::Task) {
            self.change(line, |waiting| waiting.park_lane(task, why));
            return false;
        }
        let of_key = key_limit(&line.0, task, of);
        if !of.is_empty()
            && let Some(why) = self.used_up(now, &of_key, limits.key_concurrency, limits.key_rate, Cap::Key)
        {
            self.change(line, |waiting| waiting.park_key(task, of, why));
            return false;
        }
        true
    }

    fn used_up(&mut self, now: UnixMs, name: &LimitName, cap: u32, rate: Option<Rate>, which: Cap) -> Option<Park> {
        let running = self.used.get(name).copied().unwrap_or(0);
        if cap > 0 && running >= u64::from(cap) {
            return Some(Park::Full(which));
        }
        self.wait_for(now, name, rate).map(Park::Until)
    }

    /// Until when a rate lets nothing start.
    fn wait_for(&mut self, now: UnixMs, name: &LimitName, rate: Option<Rate>) -> Option<UnixMs> {
        let wait = rate?.take(now, self.taken.get(name).copied()).err()?;
        if let Some(used) = wait.store {
            self.taken.insert(name.clone(), used);
        }
        Some(wait.until_ms)
    }

    fn limits_of(&self, key: &Key, control: &Control) -> JobLimits {
        let mut limits = self.jobs[key]
            .broker_options
            .as_ref()
            .and_then(|broker_options| broker_options.limits.clone())
            .unwrap_or_default();
        limits.rate = control.rate.or(limits.rate);
        if control.concurrency > 0 {
            limits.concurrency = control.concurrency;
        }
        limits
    }

    /// Takes one from each rate that holds for a job that starts now.
    fn take_rates(&mut self, now: UnixMs, line: &Line, key: &Key, next: &Next, control: &Control) {
        let (tenant, queue) = line;
        let mut rates = vec![
            ((tenant.clone(), None, None, None), self.control(tenant, &Scope::Tenant).rate),
            (
                (tenant.clone(), Some(queue.clone()), None, None),
                self.control(tenant, &Scope::Queue(queue.clone())).rate,
            ),
        ];
        if let Some((task, of)) = &next.lane {
            let limits = self.limits_of(key, control);
            rates.push((task_limit(tenant, task), limits.rate));
            if !of.is_empty() {
                rates.push((key_limit(tenant, task, of), limits.key_rate));
            }
        }
        for (name, rate) in rates {
            let Some(rate) = rate else { continue };
            let before = self.taken.get(&name).copied();
            if let Ok(after) = rate.take(now, before) {
                self.taken.insert(name, after);
            }
        }
    }

    /// Counts a job of a lane that starts.
    pub(super) fn count_running(&mut self, tenant: &TenantId, task: &TaskName, of: &str) {
        *self.used.entry(task_limit(tenant, task)).or_default() += 1;
        if !of.is_empty() {
            *self.used.entry(key_limit(tenant, task, of)).or_default() += 1;
        }
    }

    /// A delivery ended: opens what waited for its place.
    pub(super) fn make_place(&mut self, line: &Line, lane: Option<&(TaskName, String)>) {
        let full = |which: Cap| move |park: &Park| *park == Park::Full(which.clone());
        if let Some((task, of)) = lane {
            self.count_ended(task_limit(&line.0, task));
            self.open_lines(&line.0, |waiting| waiting.unpark_lane(task, full(Cap::Task)));
            if !of.is_empty() {
                self.count_ended(key_limit(&line.0, task, of));
                self.open_lines(&line.0, |waiting| waiting.unpark_key(task, of, full(Cap::Key)));
            }
        }
        self.open_line(line, |waiting| waiting.unpark(full(Cap::Queue)));
        self.open_lines(&line.0, |waiting| waiting.unpark(full(Cap::Tenant)));
    }

    fn count_ended(&mut self, name: LimitName) {
        if let Some(count) = self.used.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                self.used.remove(&name);
            }
        }
    }

    /// Opens at most `max` of what a rate had parked until now; how many, and when the next one is to be opened.
    pub(super) fn open_rates(&mut self, now: UnixMs, max: u32) -> (u32, Option<UnixMs>) {
        let mut parked: Vec<_> = self
            .lines
            .iter()
            .flat_map(|(line, waiting)| {
                waiting.parked_until().into_iter().map(|(at, task, key)| (at, line.clone(), task, key))
            })
            .collect();
        parked.sort();
        let due = parked.iter().filter(|(at, ..)| *at <= now).count().min(max as usize);
        for (_, line, task, key) in parked.drain(..due) {
            let timed = |park: &Park| matches!(park, Park::Until(_));
            self.open_line(&line, |waiting| match (&task, &key) {
                (Some(task), Some(key)) => waiting.unpark_key(task, key, timed),
                (Some(task), None) => waiting.unpark_lane(task, timed),
                _ => waiting.unpark(timed),
            });
        }
        (due as u32, parked.first().map(|(at, ..)| *at))
    }

    // ---- controls

    pub(super) fn control(&self, tenant: &TenantId, scope: &Scope) -> Control {
        self.controls.get(&(tenant.clone(), scope.clone())).cloned().unwrap_or_default()
    }

    pub(super) fn set_control(&mut self, tenant: &TenantId, scope: &Scope, patch: &ControlPatch) -> ControlSet {
        if let Scope::Queue(queue) = scope
            && !self.lines.contains_key(&(tenant.clone(), queue.clone()))
        {
            return ControlSet::Unknown;
        }
        let name = (tenant.clone(), scope.clone());
        let is_task = |((t, s), _): &(&(TenantId, Scope), &Control)| t == tenant && matches!(s, Scope::Task(_));
        let control = self.control(tenant, scope).patched(patch);
        if control == Control::default() {
            self.controls.remove(&name);
        } else {
            let tasks = self.controls.iter().filter(is_task).count() as u64;
            let is_new_task = matches!(scope, Scope::Task(_)) && !self.controls.contains_key(&name);
            if is_new_task && tasks >= self.limits.max_documents {
                return ControlSet::Full;
            }
            self.controls.insert(name, control.clone());
        }
        match scope {
            Scope::Tenant => self.open_lines(tenant, |waiting| waiting.unpark(|_| true)),
            Scope::Queue(queue) => {
                let now = self.now;
                self.open_line(&(tenant.clone(), queue.clone()), |waiting| {
                    waiting.unpark(|_| true);
                    waiting.used_at = now;
                });
            }
            Scope::Task(task) => self.open_lines(tenant, |waiting| waiting.unpark_lane(task, |_| true)),
        }
        ControlSet::Set(control)
    }

    pub(super) fn controls(&self, tenant: &TenantId) -> Vec<(Scope, Control)> {
        let mine = self.controls.iter().filter(|((of, _), _)| of == tenant);
        mine.map(|((_, scope), control)| (scope.clone(), control.clone())).collect()
    }
}

fn task_limit(tenant: &TenantId, task: &TaskName) -> LimitName {
    (tenant.clone(), None, Some(task.clone()), None)
}

fn key_limit(tenant: &TenantId, task: &TaskName, key: &str) -> LimitName {
    (tenant.clone(), None, Some(task.clone()), Some(key.to_owned()))
}
