//! The context in the sandbox: every answer is one host call, and who the attempt is is asked at most once.

use std::{cell::OnceCell, time::Duration};

use crate::raw::{
    Attempt, Failure, Level,
    umbel::task::{
        canvas::{self, WorkflowPlace},
        context, custom_state,
        schedule::{self, Fire},
    },
    wasi::{
        clocks::{monotonic_clock, wall_clock},
        logging::logging,
    },
};

#[derive(Default)]
pub(crate) struct Host {
    attempt: OnceCell<Attempt>,
}

impl Host {
    pub(super) fn attempt(&self) -> &Attempt {
        self.attempt.get_or_init(context::current)
    }

    pub(super) fn remaining_ms(&self) -> u64 {
        context::remaining_ms()
    }

    pub(super) fn should_stop(&self) -> bool {
        context::should_stop()
    }

    pub(super) fn progress(&self, done: u64, total: u64, message: &str) {
        context::progress(done, total, message);
    }

    pub(super) fn set_state(&self, name: &str, meta: Option<&str>) {
        custom_state::update(name, meta);
    }

    pub(super) fn unix_time(&self) -> Duration {
        let now = wall_clock::now();
        Duration::new(now.seconds, now.nanoseconds)
    }

    pub(super) fn sleep(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        monotonic_clock::subscribe_duration(nanos).block();
    }

    pub(super) fn fire(&self) -> Option<Fire> {
        schedule::current()
    }

    pub(super) fn place(&self) -> Option<WorkflowPlace> {
        canvas::place()
    }

    pub(super) fn submit(&self, canvas: &str) -> Result<String, Failure> {
        canvas::submit(canvas)
    }

    pub(super) fn replace(&self, canvas: &str) -> Result<(), Failure> {
        canvas::replace(canvas)
    }

    pub(super) fn add_to_group(&self, members: &str) -> Result<(), Failure> {
        canvas::add_to_group(members)
    }

    pub(super) fn log(&self, level: Level, message: &str) {
        logging::log(level, "", message);
    }
}
