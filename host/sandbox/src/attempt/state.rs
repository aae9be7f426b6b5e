//! The data of a wasmtime store: everything that the host functions of one attempt need.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use umbel_capabilities::{ConfigValues, Reach};
use umbel_model::Progress;
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

use crate::{
    attempt::{
        blob_bounds::BlobBounds, call::AttemptInfo, http::Http, kv_bounds::KvBounds, limiter::Limiter, log::AttemptLog,
        stop::StopHandle, wasi::Wasi, workflow_calls::WorkflowCalls,
    },
    bindings::GuestAttempt,
};

/// When an attempt started and must end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    pub(crate) started: Instant,
    soft: Option<Instant>,
    pub(crate) hard: Instant,
}

/// Longer than any limit that an operator allows: keeps sums of instants in range.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Clock {
    pub(crate) fn start(time_limit_ms: u64, soft_time_limit_ms: u64) -> Self {
        let started = Instant::now();
        let after = |ms| started + Duration::from_millis(ms).min(FOREVER);
        let soft = (soft_time_limit_ms > 0).then(|| after(soft_time_limit_ms));
        Self { started, soft, hard: after(time_limit_ms) }
    }

    pub(crate) fn soft_passed(&self) -> bool {
        self.soft.is_some_and(|soft| Instant::now() >= soft)
    }

    pub(crate) fn remaining_ms(&self) -> u64 {
        let left = self.hard.saturating_duration_since(Instant::now()).as_millis();
        u64::try_from(left).unwrap_or(u64::MAX)
    }
}

/// The data that all stores of an attempt share: it may call its task many times, each time in a new store.
pub(crate) struct AttemptData {
    pub(crate) task: Box<str>,
    pub(crate) info: AttemptInfo,
    pub(crate) reach: Reach,
    pub(crate) progress: ProgressThrottle,
    pub(crate) workflow_calls: WorkflowCalls,
    pub(crate) kv_calls: KvBounds,
    /// Once the guest asked: the values that it sees to its end.
    pub(crate) config: Option<ConfigValues>,
    pub(crate) blob_calls: BlobBounds,
}

/// The data of one store.
pub(crate) struct State {
    pub(crate) limiter: Limiter,
    pub(crate) clock: Clock,
    pub(crate) stop: StopHandle,
    pub(crate) log: Arc<AttemptLog>,
    pub(crate) attempt: AttemptData,
    pub(crate) charge: Charge,
    /// Stands before `wasi`, whose table has the streams of its bodies: fields are dropped in their order.
    pub(crate) http: Option<Box<Http>>,
    pub(crate) wasi: Option<Box<Wasi>>,
    /// The bytes of WASI calls are charged when they are moved, the calls themselves cannot be: each tick compares their sum
    /// with the fuel, and the usage includes it.
    pub(crate) wasi_calls: u64,
    /// Whether the guest tried to use a socket.
    pub(crate) tried_sockets: bool,
}

/// Fuel that host calls cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Charge {
    pub(crate) call: u64,
    pub(crate) byte: u64,
    /// Of a canvas: parsing it costs more than copying it.
    pub(crate) canvas_byte: u64,
    pub(crate) http_request: u64,
    pub(crate) blob_call: u64,
}

impl State {
    pub(crate) fn should_stop(&self) -> bool {
        self.stop.is_asked() || self.clock.soft_passed() || self.log.host.should_stop()
    }

    /// Fuel of the WASI calls so far.
    pub(crate) fn wasi_fuel(&self) -> u64 {
        self.wasi_calls.saturating_mul(self.charge.call)
    }

    pub(crate) fn guest_attempt(&self) -> GuestAttempt {
        let AttemptData { info, task, .. } = &self.attempt;
        GuestAttempt {
            job_id: info.job_id.clone(),
            task: task.to_string(),
            queue: info.queue.clone(),
            attempt: info.attempt,
            max_retries: info.max_retries,
            delivery: info.delivery,
            fence: info.fence,
            traceparent: info.traceparent.clone(),
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi_calls += 1;
        let (log, started) = (&self.log, self.clock.started);
        let wasi = self.wasi.get_or_insert_with(|| Box::new(Wasi::new(log, started)));
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

impl State {
    /// What the host keeps for `wasi:http`.
    pub(crate) fn http_kept(&mut self) -> &mut Http {
        let (http, log) = (&self.attempt.reach.http, &self.log);
        self.http.get_or_insert_with(|| Box::new(Http::new(http.clone(), log.clone())))
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        self.wasi_calls += 1;
        let (client, log, started) = (&self.attempt.reach.http, &self.log, self.clock.started);
        let http = self.http.get_or_insert_with(|| Box::new(Http::new(client.clone(), log.clone())));
        let wasi = self.wasi.get_or_insert_with(|| Box::new(Wasi::new(log, started)));
        http.view(&mut wasi.table)
    }
}

/// Passes progress on at most once an interval: the last report of an interval replaces those before it.
#[derive(Debug)]
pub(crate) struct ProgressThrottle {
    interval: Duration,
    last: Option<Instant>,
    /// The guest's last report: its step and its custom state are reported by separate calls and shown together.
    now: Progress,
    held: bool,
}

impl ProgressThrottle {
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, last: None, now: Progress::default(), held: false }
    }

    /// The progress to pass on now, if it is time.
    pub(crate) fn report(&mut self, change: impl FnOnce(&mut Progress)) -> Option<Progress> {
        change(&mut self.now);
        let at = Instant::now();
        self.held = self.last.is_some_and(|last| at.duration_since(last) < self.interval);
        if self.held {
            return None;
        }
        self.last = Some(at);
        Some(self.now.clone())
    }

    /// The report that is still held back at the end.
    pub(crate) fn finish(&mut self) -> Option<Progress> {
        std::mem::take(&mut self.held).then(|| self.now.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_progress_becomes_the_first_and_the_last() {
        let mut throttle = ProgressThrottle::new(Duration::from_secs(3_600));
        let at = |done| Progress { done, total: 10, ..Progress::default() };
        assert_eq!(throttle.report(|now| *now = at(1)), Some(at(1)));
        assert_eq!(throttle.report(|now| *now = at(2)), None);
        assert_eq!(throttle.report(|now| *now = at(3)), None);
        assert_eq!(throttle.finish(), Some(at(3)));
        assert_eq!(throttle.finish(), None);
    }

    #[test]
    fn absurd_time_limits_do_not_overflow() {
        let clock = Clock::start(u64::MAX, u64::MAX);
        assert!(clock.remaining_ms() > 1_000_000_000);
        assert!(!clock.soft_passed());
    }
}
