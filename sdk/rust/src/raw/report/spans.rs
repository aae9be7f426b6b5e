//! `tracing` events as lines of the job's log: the message, then the fields. Spans are accepted and not shown.

use std::fmt::{self, Write as _};

use tracing_core::{
    Event, Interest, Level, LevelFilter, Metadata, Subscriber, dispatcher,
    field::{Field, Visit},
    span,
};

use crate::raw::{self, wasi::logging::logging};

pub(super) fn install() {
    // An error says that the module has set its own, which it keeps.
    let _ = dispatcher::set_global_default(dispatcher::Dispatch::new(JobLog));
}

/// The highest level that is kept: the same setting as the `log` crate's.
fn most() -> LevelFilter {
    match log::max_level() {
        log::LevelFilter::Off => LevelFilter::OFF,
        log::LevelFilter::Error => LevelFilter::ERROR,
        log::LevelFilter::Warn => LevelFilter::WARN,
        log::LevelFilter::Info => LevelFilter::INFO,
        log::LevelFilter::Debug => LevelFilter::DEBUG,
        log::LevelFilter::Trace => LevelFilter::TRACE,
    }
}

struct JobLog;

impl Subscriber for JobLog {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // The level may change while a task runs.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= most()
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            Level::ERROR => raw::Level::Error,
            Level::WARN => raw::Level::Warn,
            Level::INFO => raw::Level::Info,
            Level::DEBUG => raw::Level::Debug,
            Level::TRACE => raw::Level::Trace,
        };
        let text = [line.message, line.fields].concat();
        logging::log(level, event.metadata().target(), text.trim_start());
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { self.message.push_str(value) } else { self.record_debug(field, &value) }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String cannot fail; a Debug that fails itself leaves what it wrote.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
