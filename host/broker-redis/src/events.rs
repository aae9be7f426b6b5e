//! What happens to the jobs of a tenant that somebody follows.

use async_trait::async_trait;
use tokio::sync::broadcast;
use umbel_broker::{Event, EventPage, Events, FOLLOW_MS, MAX_EVENTS, Result, Signal, Topic};
use umbel_model::{JobState, TenantId};

use crate::{
    RedisBroker, args,
    bytes::{Reader, corrupt},
    connection::Repeat,
};

/// Numbers of Lua are exact below it; those of events are, for 280 years.
const LARGEST: u64 = 1 << 53;

#[async_trait]
impl Events for RedisBroker {
    async fn follow(&self, tenant: &TenantId) -> Result<u64> {
        let last: i64 = self.typed("follow", args([tenant, &FOLLOW_MS]), Repeat::Safe).await?;
        u64::try_from(last).map_err(corrupt)
    }

    async fn events(&self, tenant: &TenantId, after: u64, max: u32) -> Result<EventPage> {
        let args = args([tenant, &after.min(LARGEST), &u64::from(max).min(MAX_EVENTS)]);
        let mut answer = self.answer("events", args, Repeat::Safe).await?;
        let mut number = || u64::try_from(answer.number()?).map_err(corrupt);
        let last = number()?;
        if last == 0 {
            return Ok(EventPage { missed: after > 0, ..EventPage::default() });
        }
        let (first, begin) = (number()?, number()?);
        let mut numbers = begin..;
        let events = answer.rest(|answer| event(numbers.next().unwrap_or_default(), &answer.bytes()?))?;
        Ok(EventPage { events, missed: after.saturating_add(1) < first || after > last, last })
    }

    async fn signals(&self, topic: Topic) -> Result<broadcast::Receiver<Signal>> {
        Ok(self.signals.receiver(&self.connection, topic).await)
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
