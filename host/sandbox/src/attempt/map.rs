//! One attempt that calls its task for each of several items: the job of a `map` or `starmap`.
//!
//! Every call has a fresh store, as any attempt has. The limits of fuel, time, log, progress and workflow calls hold for the
//! whole attempt.

use std::{sync::Arc, time::Duration, time::Instant};

use serde_json::{json, value::RawValue};
use umbel_model::{Failure, Outcome, Usage, outcome::MAX_DETAILS_BYTES};

use crate::{
    attempt::{
        call::{Attempt, Call},
        host::Host,
        json,
        outcome::{deadline, result_too_large},
        run::StartedAttempt,
        stop::StopHandle,
    },
    engine::Sandbox,
    prepared::Prepared,
};

impl Sandbox {
    /// Calls the task with each of `items` (objects as in [`Call::arguments`], which is ignored), one
    /// after the other. The outcome is the list of the results in the order of the items, within the limits of one
    /// result; a call that ends as `ignore` gives `null`. The first call that gives neither ends the attempt with its
    /// outcome, whose failure names the item in its details: `{"item": 3, "details": …}`, counted from 0. Usage is the
    /// sum of the fuel and of memory × time, the peak of the memory and the duration of the attempt. A replacement is refused to the guest.
    pub async fn run_map(
        &self,
        prepared: &Prepared,
        call: Call,
        items: Vec<Box<str>>,
        host: Arc<dyn Host>,
        stop: &StopHandle,
    ) -> Attempt {
        let Ok(_slot) = self.inner.slots.acquire().await else { return Attempt::unrun(Outcome::Released) };
        if let Some(stop) = stop.stopped() {
            return Attempt::unrun(stop.outcome());
        }
        let started = self.start_attempt(&call, host, stop);
        let mut data = self.attempt_data(call.task, call.info, call.reach);
        data.workflow_calls.is_map = true;
        let mut list = ResultList::new(self.inner.config.max_result_bytes);
        let mut usage = Usage::default();
        let tick = Duration::from_millis(self.inner.config.epoch_tick_ms);
        let mut yielder = Yielder { tick, yielded: Instant::now() };
        for (item, arguments) in items.iter().enumerate() {
            let ended = match yielder.pause(&started).await {
                Some(outcome) => Err(outcome),
                None => {
                    let limits = self.limits(call.fuel.saturating_sub(usage.fuel), call.memory_bytes);
                    let (outcome, used, kept) = self.call_once(prepared, &limits, &started, data, arguments).await;
                    data = kept;
                    usage.fuel = usage.fuel.saturating_add(used.fuel);
                    usage.memory_bytes = usage.memory_bytes.max(used.memory_bytes);
                    usage.memory_kib_ms = usage.memory_kib_ms.saturating_add(used.memory_kib_ms);
                    match outcome {
                        Outcome::Value(value) => list.push(value.get()),
                        Outcome::Ignore => list.push("null"),
                        other => Err(other),
                    }
                }
            };
            if let Err(outcome) = ended {
                return started.end(at_item(outcome, item), timed(usage, &started), data);
            }
        }
        started.end(list.finish(), timed(usage, &started), data)
    }
}

fn timed(usage: Usage, started: &StartedAttempt) -> Usage {
    let duration_us = u64::try_from(started.clock.started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Usage { duration_us, ..usage }
}

/// Yields the thread and checks the deadline between two calls: a short call does neither by itself, and many short calls
/// must not add up to a long one.
struct Yielder {
    tick: Duration,
    yielded: Instant,
}

impl Yielder {
    /// Why the attempt must end here, if it must.
    async fn pause(&mut self, started: &StartedAttempt) -> Option<Outcome> {
        if self.yielded.elapsed() >= self.tick {
            tokio::task::yield_now().await;
            self.yielded = Instant::now();
        }
        if let Some(stop) = started.stop.stopped() {
            return Some(stop.outcome());
        }
        (Instant::now() >= started.clock.hard).then(|| Outcome::Trap(deadline()))
    }
}

/// The results so far, as JSON text.
struct ResultList {
    text: String,
    max_bytes: usize,
}

impl ResultList {
    fn new(max_bytes: usize) -> Self {
        Self { text: String::from("["), max_bytes }
    }

    fn push(&mut self, value: &str) -> Result<(), Outcome> {
        let comma = usize::from(self.text.len() > 1);
        // One more for the closing bracket.
        if self.text.len() + comma + value.len() + 1 > self.max_bytes {
            return Err(Outcome::Trap(result_too_large(self.max_bytes)));
        }
        if comma == 1 {
            self.text.push(',');
        }
        self.text.push_str(value);
        Ok(())
    }

    /// Checks the whole list, which is nested one deeper than its items.
    fn finish(mut self) -> Outcome {
        self.text.push(']');
        match json::checked(self.text) {
            Ok(value) => Outcome::Value(value),
            Err(problem) => Outcome::Trap(Failure::new("bad_output", problem)),
        }
    }
}

/// Names the item in the details of the outcome's failure.
fn at_item(outcome: Outcome, item: usize) -> Outcome {
    let mark = |failure: Failure| {
        let details = |inner: Option<&RawValue>| match inner {
            Some(inner) => json!({ "item": item, "details": inner }).to_string(),
            None => json!({ "item": item }).to_string(),
        };
        let with = details(failure.details.as_deref());
        let details = if with.len() > MAX_DETAILS_BYTES { details(None) } else { with };
        failure.with_details(Some(details))
    };
    outcome.map_failure(mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_results_is_bounded_like_one_result() {
        let mut list = ResultList::new(10);
        list.push("1234").unwrap();
        list.push("567").unwrap();
        assert!(list.push("8").is_err());
        let Outcome::Value(value) = list.finish() else { panic!() };
        assert_eq!(value.get(), "[1234,567]");
        let Outcome::Value(value) = ResultList::new(10).finish() else { panic!() };
        assert_eq!(value.get(), "[]");
    }

    #[test]
    fn a_list_of_the_deepest_results_is_too_deep() {
        let mut list = ResultList::new(1_000);
        list.push(&format!("{}{}", "[".repeat(json::MAX_DEPTH), "]".repeat(json::MAX_DEPTH))).unwrap();
        assert!(matches!(list.finish(), Outcome::Trap(failure) if failure.kind == "bad_output"));
    }

    #[test]
    fn a_failure_names_its_item_and_keeps_its_details_when_they_fit() {
        let details = |inner: Option<String>| {
            let failure = Failure::new("Kind", "message").with_details(inner);
            match at_item(Outcome::Fatal(failure), 7) {
                Outcome::Fatal(Failure { details: Some(details), .. }) => details.get().to_owned(),
                other => panic!("{other:?}"),
            }
        };
        let read = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert_eq!(read(details(None)), json!({ "item": 7 }));
        assert_eq!(read(details(Some("[1]".into()))), json!({ "item": 7, "details": [1] }));
        let large = format!("\"{}\"", "x".repeat(MAX_DETAILS_BYTES - 2));
        assert_eq!(read(details(Some(large))), json!({ "item": 7 }));
    }
}
