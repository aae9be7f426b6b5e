//! Events of the model.

use std::collections::VecDeque;

use umbel_model::{JobState, TenantId};

use super::{
    records::Key,
    state::{Following, State},
};
use umbel_broker::*;

impl State {
    pub(super) fn follow(&mut self, tenant: &TenantId) -> u64 {
        let now = self.now;
        self.end_followings();
        let newest = self.last_event;
        let start = || Following { until: 0, last: (now * 1_000).max(newest + 1) - 1, kept: VecDeque::new() };
        let following = self.followed.entry(tenant.clone()).or_insert_with(start);
        following.until = now + FOLLOW_MS;
        following.last
    }

    fn end_followings(&mut self) {
        self.followed.retain(|_, following| following.until > self.now);
    }

    /// The job's state was changed.
    pub(super) fn record_event(&mut self, key: &Key) {
        let now = self.now;
        self.end_followings();
        let Some(following) = self.followed.get_mut(&key.0) else { return };
        let record = &self.jobs[key].record;
        following.last += 1;
        self.last_event = self.last_event.max(following.last);
        let number = following.last;
        following.kept.push_back(Event { number, at: now, job: key.1, task: record.task.clone(), state: record.state });
        if following.kept.len() as u64 > MAX_EVENTS {
            following.kept.pop_front();
        }
    }

    pub(super) fn events(&self, tenant: &TenantId, after: u64, max: u32) -> EventPage {
        let Some(following) = self.followed.get(tenant).filter(|following| following.until > self.now) else {
            return EventPage { missed: after > 0, ..EventPage::default() };
        };
        let first = following.last + 1 - following.kept.len() as u64;
        let events = following.kept.iter().filter(|event| event.number > after).take(max as usize).cloned().collect();
        EventPage { events, missed: after.saturating_add(1) < first || after > following.last, last: following.last }
    }

    pub(super) fn set_state(&mut self, key: &Key, state: JobState) {
        self.job_mut(key).record.state = state;
        self.record_event(key);
    }
}
