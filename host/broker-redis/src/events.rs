//! What happens to the jobs of a tenant that somebody follows.

use umbel_broker::{Event, EventPage, FOLLOW_MS, MAX_EVENTS, Result};
use umbel_model::{JobState, TenantId};

use crate::{
    RedisBroker,
    answers::Answer,
    bytes::{Reader, corrupt},
    connection::Repeat,
};

/// Numbers of Lua are exact below it; those of events are, for 280 years.
const LARGEST: u64 = 1 << 53;

impl RedisBroker {
    pub(crate) async fn follow_tenant(&self, tenant: &TenantId) -> Result<u64> {
        let args = vec![tenant.to_string().into_bytes(), FOLLOW_MS.to_string().into_bytes()];
        let last: i64 = self.typed("follow", args, Repeat::Safe).await?;
        u64::try_from(last).map_err(corrupt)
    }

    pub(crate) async fn read_events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<EventPage> {
        let max = u64::from(max).min(MAX_EVENTS);
        let args = [tenant.to_string(), after.min(LARGEST).to_string(), max.to_string()];
        let args = args.map(String::into_bytes).to_vec();
        let mut answer = Answer::new(self.run("events", args, Repeat::Safe).await?)?;
        let mut number = || u64::try_from(answer.number()?).map_err(corrupt);
        let last = number()?;
        if last == 0 {
            return Ok(EventPage { missed: after > 0, ..EventPage::default() });
        }
        let (first, begin) = (number()?, number()?);
        let mut events = Vec::new();
        while !answer.done() {
            events.push(event(begin + events.len() as u64, &answer.bytes()?)?);
        }
        Ok(EventPage { events, missed: after.saturating_add(1) < first || after > last, last })
    }
}

/// As `add_event` in `core.lua` writes it.
fn event(number: u64, bytes: &[u8]) -> Result<Event> {
    let mut reader = Reader(bytes);
    let (at, state) = (reader.number(6)?, reader.u8()?);
    let state = JobState::ALL.get(usize::from(state)).ok_or_else(|| corrupt("the state of an event is not known"))?;
    let (id, task) = reader.rest()?.split_at_checked(26).ok_or_else(|| corrupt("an event is too short"))?;
    Ok(Event { number, at, job: id.parse().map_err(corrupt)?, task: task.parse().map_err(corrupt)?, state: *state })
}
