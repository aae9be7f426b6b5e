//! What a guest says that is not its result: panics, and records of the `log` and `tracing` crates, all into the
//! job's log.
//!
//! Invariant: installing costs a few stores and no host call, because it happens in every fresh sandbox.

#[cfg(feature = "tracing")]
mod spans;

use std::panic::PanicHookInfo;

use crate::raw::{Level, wasi::logging::logging};

/// Before the task runs. A module of its own making that has set other backends keeps them.
pub fn install() {
    std::panic::set_hook(Box::new(report_panic));
    if log::set_logger(&JobLog).is_ok() {
        // Celery's default: the talk of libraries is not wanted. A task may set another with log::set_max_level.
        log::set_max_level(log::LevelFilter::Info);
    }
    #[cfg(feature = "tracing")]
    spans::install();
}

/// The attempt is about to trap (`panic = "abort"`), so this is the last thing that it says.
fn report_panic(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("(no text)");
    let text = match info.location() {
        Some(at) => format!("panicked at {at}: {message}"),
        None => format!("panicked: {message}"),
    };
    logging::log(Level::Critical, "panic", &text);
}

struct JobLog;

impl log::Log for JobLog {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let level = match record.level() {
            log::Level::Error => Level::Error,
            log::Level::Warn => Level::Warn,
            log::Level::Info => Level::Info,
            log::Level::Debug => Level::Debug,
            log::Level::Trace => Level::Trace,
        };
        match record.args().as_str() {
            Some(text) => logging::log(level, record.target(), text),
            None => logging::log(level, record.target(), &record.args().to_string()),
        }
    }

    fn flush(&self) {}
}
