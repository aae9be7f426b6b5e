//! Runs one attempt: a fresh store, the call, and the end of it.
//!
//! A guest that computes is ended by the epoch, one that waits in a host call by a timer, both by the stop handle.
//! The timer is a little later than the epoch, so that a guest that computes gets its backtrace.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use umbel_capabilities::{Metered, Reach};
use umbel_model::{Outcome, Usage};
use wasmtime::{Store, Trap, UpdateDeadline};

use crate::{
    attempt::{
        blob_bounds::BlobBounds,
        call::{Attempt, AttemptInfo, Call},
        host::Host,
        kv_bounds::KvBounds,
        limiter::Limiter,
        log::AttemptLog,
        net,
        outcome::{self, Failed, Phase},
        sockets,
        state::{AttemptData, Charge, Clock, ProgressThrottle, State},
        stop::{Stop, StopHandle},
        workflow_calls::WorkflowCalls,
    },
    bindings::GuestAnswer,
    engine::Sandbox,
    prepared::Prepared,
};

/// A guest yields after so much fuel even within a tick, which also brings the fuel counter up to date: what an
/// interrupted attempt reports is at most this much too low.
const FUEL_YIELD_INTERVAL: u64 = 20_000_000;
/// The timer for guests that wait in the host is later than the epoch's deadline by this.
pub(crate) const TIMER_GRACE: Duration = Duration::from_millis(50);
/// Resource handles of one store, all kinds together.
const MAX_HANDLES: usize = 1_024;
/// Bytes that a guest may hand over besides its result: kinds, messages and details of failures.
const RESULT_SLACK_BYTES: usize = 64 << 10;

/// An attempt that has a slot and whose clock runs.
#[derive(Clone)]
pub(crate) struct StartedAttempt {
    pub(crate) clock: Clock,
    pub(crate) log: Arc<AttemptLog>,
    pub(crate) stop: StopHandle,
}

impl StartedAttempt {
    pub(crate) fn end(&self, outcome: Outcome, usage: Usage, mut data: AttemptData) -> Attempt {
        let usage = with_capabilities(usage, data.reach.meter.read());
        if let Some(progress) = data.progress.finish() {
            self.log.host.progress(progress);
        }
        Attempt { outcome, usage, began: true, log_dropped: self.log.dropped() }
    }
}

/// The limits of one store.
pub(crate) struct Limits {
    pub(crate) fuel: u64,
    pub(crate) memory_bytes: u64,
    /// Bytes that one call may move from the guest to the host, its result included.
    pub(crate) call_bytes: usize,
}

impl Sandbox {
    /// Runs `call` and names its end. Needs a tokio runtime with time; computes on the thread that polls it, and
    /// yields every tick. Waits first when all slots are taken; that wait does not count as time of the attempt.
    pub async fn run(&self, prepared: &Prepared, call: Call, host: Arc<dyn Host>, stop: &StopHandle) -> Attempt {
        let Ok(_slot) = self.inner.slots.acquire().await else { return Attempt::unrun(Outcome::Released) };
        if let Some(stop) = stop.stopped() {
            return Attempt::unrun(stop.outcome());
        }
        let started = self.start_attempt(&call, host, stop);
        let data = self.attempt_data(call.task, call.info, call.reach);
        let limits = self.limits(call.fuel, call.memory_bytes);
        let (outcome, usage, data) = self.call_once(prepared, &limits, &started, data, &call.arguments).await;
        started.end(outcome, usage, data)
    }

    /// Starts the clock and the log of an attempt that has a slot.
    pub(crate) fn start_attempt(&self, call: &Call, host: Arc<dyn Host>, stop: &StopHandle) -> StartedAttempt {
        let clock = Clock::start(call.time_limit_ms, call.soft_time_limit_ms);
        let log = AttemptLog::new(host, call.reach.secrets.clone(), self.inner.config.log, clock.started);
        StartedAttempt { clock, log, stop: stop.clone() }
    }

    pub(crate) fn attempt_data(&self, task: Box<str>, info: AttemptInfo, reach: Reach) -> AttemptData {
        let config = &self.inner.config;
        let progress = ProgressThrottle::new(Duration::from_millis(config.progress_interval_ms));
        let workflow_calls = WorkflowCalls::new(config.workflow_calls);
        let (kv_calls, blob_calls) = (KvBounds::new(config.kv_calls), BlobBounds::new(config.blob_calls));
        AttemptData { task, info, reach, progress, workflow_calls, kv_calls, blob_calls, config: None }
    }

    pub(crate) fn limits(&self, fuel: u64, memory_bytes: u64) -> Limits {
        let config = &self.inner.config;
        let largest =
            config.max_call_bytes.max(config.max_result_bytes).max(config.workflow_calls.bytes.saturating_mul(4));
        Limits { fuel, memory_bytes, call_bytes: largest.saturating_add(RESULT_SLACK_BYTES) }
    }

    /// Calls the task in a store of its own and names the end of it.
    pub(crate) async fn call_once(
        &self,
        prepared: &Prepared,
        limits: &Limits,
        started: &StartedAttempt,
        data: AttemptData,
        arguments: &str,
    ) -> (Outcome, Usage, AttemptData) {
        let StartedAttempt { clock, stop, .. } = started;
        let max_result = self.inner.config.max_result_bytes;
        let called = Instant::now();
        let mut store = self.store(limits, started, data);
        let ended = {
            let calling = call_run(&mut store, prepared, arguments);
            bounded(calling, clock.hard + TIMER_GRACE, stop).await
        };
        let outcome = match (ended, stop.stopped()) {
            (Ended::Stopped(stop), _) | (Ended::Returned(Err(_)), Some(stop)) => stop.outcome(),
            (Ended::TimedOut, _) => Outcome::Trap(outcome::deadline()),
            (Ended::Returned(Ok(result)), _) => {
                outcome::returned(net::answer(&store.data().attempt.reach.secrets, result, max_result), max_result)
            }
            (Ended::Returned(Err((error, phase))), None) => outcome::trapped(&error, phase, store.data(), max_result),
        };
        let outcome = if store.data().tried_sockets { sockets::outcome(outcome) } else { outcome };
        let usage = usage(&store, limits.fuel, called);
        // Drops the instance, so that its slot is free before the permit is.
        (outcome, usage, store.into_data().attempt)
    }

    /// A fresh store with every limit set.
    pub(crate) fn store(&self, limits: &Limits, started: &StartedAttempt, data: AttemptData) -> Store<State> {
        let StartedAttempt { clock, log, stop } = started.clone();
        let config = &self.inner.config;
        let (call, byte, canvas_byte) = (config.host_call_fuel, config.host_byte_fuel, config.workflow_calls.byte_fuel);
        let (http_request, blob_call) = (config.http_request_fuel, config.blob_calls.call_fuel);
        let charge = Charge { call, byte, canvas_byte, http_request, blob_call };
        let limiter = Limiter::new(limits.memory_bytes.min(config.max_memory_bytes));
        let stopping = stop.clone();
        let state = State {
            limiter,
            clock,
            stop,
            log,
            attempt: data,
            charge,
            http: None,
            wasi: None,
            wasi_calls: 0,
            tried_sockets: false,
        };
        let mut store = Store::new(&self.inner.engine, state);
        store.limiter(|state| &mut state.limiter);
        store.set_hostcall_fuel(limits.call_bytes);
        store.set_max_component_handles(MAX_HANDLES);
        let fuel_is_on = "the engine's settings turn fuel on";
        store.set_fuel(limits.fuel).expect(fuel_is_on);
        store.fuel_async_yield_interval(Some(FUEL_YIELD_INTERVAL)).expect(fuel_is_on);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |context| {
            if stopping.stopped().is_some() || Instant::now() >= clock.hard {
                return Ok(UpdateDeadline::Interrupt);
            }
            // WASI calls cannot be charged when they are made: a flood of them ends here, at most a tick later.
            if context.data().wasi_fuel() > context.get_fuel()? {
                return Err(Trap::OutOfFuel.into());
            }
            Ok(UpdateDeadline::Yield(1))
        });
        store
    }
}

async fn call_run(store: &mut Store<State>, prepared: &Prepared, arguments: &str) -> Result<GuestAnswer, Failed> {
    let at = |phase| move |error| (error, phase);
    let instance = prepared.inner.pre.instantiate_async(&mut *store).await.map_err(at(Phase::Instantiate))?;
    let run = instance
        .get_typed_func::<(&str, &str), (GuestAnswer,)>(&mut *store, &prepared.inner.run)
        .map_err(at(Phase::Instantiate))?;
    let task = store.data().attempt.task.clone();
    let (result,) = run.call_async(&mut *store, (&task, arguments)).await.map_err(at(Phase::Call))?;
    Ok(result)
}

/// How a bounded call ended.
pub(crate) enum Ended<T> {
    Returned(T),
    TimedOut,
    Stopped(Stop),
}

/// Polls `call` until it returns, the time is over or somebody stops it. A call that never waits costs no timer.
pub(crate) async fn bounded<T>(call: impl Future<Output = T>, until: Instant, stop: &StopHandle) -> Ended<T> {
    let mut call = pin!(call);
    let first = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
    if let Poll::Ready(value) = first {
        return Ended::Returned(value);
    }
    tokio::select! {
        biased;
        value = &mut call => Ended::Returned(value),
        stop = stop.wait() => Ended::Stopped(stop),
        () = tokio::time::sleep_until(until.into()) => Ended::TimedOut,
    }
}

/// The cost of the attempt, including its WASI calls.
pub(crate) fn usage(store: &Store<State>, budget: u64, started: Instant) -> Usage {
    let state = store.data();
    let left = store.get_fuel().unwrap_or(0);
    let memory_bytes = state.limiter.peak_bytes as u64;
    let duration_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Usage {
        fuel: budget.saturating_sub(left).saturating_add(state.wasi_fuel()),
        memory_bytes,
        duration_us,
        memory_kib_ms: Usage::memory_kib_ms_of(memory_bytes, duration_us),
        ..Usage::default()
    }
}

/// The same with what its capabilities counted. The CPU time is known to whoever polls the attempt.
fn with_capabilities(usage: Usage, metered: Metered) -> Usage {
    let Metered { http_requests, http_bytes_out, http_bytes_in, kv_operations, blob_bytes_read, blob_bytes_written } =
        metered;
    Usage { http_requests, http_bytes_out, http_bytes_in, kv_operations, blob_bytes_read, blob_bytes_written, ..usage }
}
