//! The log of one attempt: cleans and counts lines before anybody keeps them.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use umbel_capabilities::AttemptSecrets;

use crate::{
    attempt::{
        host::{Host, LogLevel, LogLine},
        text::{clean, cut},
    },
    config::LogLimits,
};

/// Of the last words, bytes.
const MAX_LAST_WORDS_BYTES: usize = 1_024;
/// The longest context that is kept, bytes.
const MAX_CONTEXT_BYTES: usize = 128;

/// Shared by the host functions and the output streams of one attempt.
pub(crate) struct AttemptLog {
    pub(crate) host: Arc<dyn Host>,
    /// Catches the values of secrets that the attempt used.
    secrets: Arc<AttemptSecrets>,
    limits: LogLimits,
    started: Instant,
    counted: Mutex<Counted>,
}

#[derive(Debug, Clone, Default)]
struct Counted {
    lines: u32,
    bytes: usize,
    dropped: u64,
    /// The last critical line, kept even when the log is full: a panic says why just before it traps.
    last_words: Option<LastWords>,
}

/// What a guest said before it stopped itself.
#[derive(Debug, Clone)]
pub(crate) struct LastWords {
    pub(crate) text: String,
    /// The panic hook of the SDK said it.
    pub(crate) is_panic: bool,
}

/// Under which name the SDK's panic hook logs.
const PANIC_CONTEXT: &str = "panic";

impl AttemptLog {
    pub(crate) fn new(
        host: Arc<dyn Host>,
        secrets: Arc<AttemptSecrets>,
        limits: LogLimits,
        started: Instant,
    ) -> Arc<Self> {
        Arc::new(Self { host, secrets, limits, started, counted: Mutex::default() })
    }

    /// Passes a line on, or counts it as dropped. The first dropped one is replaced by a line that says so.
    pub(crate) fn push(&self, level: LogLevel, context: &str, message: &str) {
        if level != LogLevel::Critical && self.is_full() {
            return;
        }
        // Before anything is cut off: a part of a value is not found.
        let message = self.secrets.caught(message);
        let is_ours = matches!(context, "stdout" | "stderr" | "umbel");
        let context = if is_ours { context.into() } else { self.secrets.caught(context) };
        // Text beyond a line's limit is cut before it is counted.
        let message = cut(&message, self.limits.line_bytes);
        let context = cut(&context, MAX_CONTEXT_BYTES);
        let dropped = {
            let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
            if level == LogLevel::Critical {
                let text = clean(message, MAX_LAST_WORDS_BYTES);
                counted.last_words = Some(LastWords { text, is_panic: context == PANIC_CONTEXT });
            }
            let bytes = counted.bytes.saturating_add(message.len() + context.len());
            if counted.dropped == 0 && counted.lines < self.limits.lines && bytes <= self.limits.bytes {
                (counted.lines, counted.bytes) = (counted.lines + 1, bytes);
            } else {
                counted.dropped += 1;
            }
            counted.dropped
        };
        match dropped {
            0 => self.emit(level, &clean(context, MAX_CONTEXT_BYTES), clean(message, self.limits.line_bytes)),
            1 => {
                let LogLimits { lines, bytes, .. } = self.limits;
                let limit = format!("log limit reached ({lines} lines or {bytes} bytes)");
                self.emit(LogLevel::Warn, "umbel", format!("{limit}: the rest of this attempt's log is dropped"));
            }
            _ => {}
        }
    }

    /// Whether lines are dropped; then it counts one more.
    fn is_full(&self) -> bool {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = counted.dropped > 0;
        counted.dropped += u64::from(is_full);
        is_full
    }

    /// How many bytes at the end of `bytes` may be the beginning of a value that must not be told.
    pub(crate) fn begun_at_end(&self, bytes: &[u8]) -> usize {
        self.secrets.begun_at_end(bytes)
    }

    fn emit(&self, level: LogLevel, context: &str, message: String) {
        let elapsed = self.started.elapsed();
        self.host.log(LogLine { level, context: context.to_owned(), message, elapsed });
    }

    /// The guest's last line of level critical.
    pub(crate) fn last_words(&self) -> Option<LastWords> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).last_words.clone()
    }

    /// Lines that were dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use umbel_capabilities::Reach;
    use umbel_model::Progress;

    #[derive(Default)]
    struct Lines(Mutex<Vec<LogLine>>);

    impl Host for Lines {
        fn log(&self, line: LogLine) {
            self.0.lock().unwrap().push(line);
        }
        fn progress(&self, _: Progress) {}
    }

    fn logged(limits: LogLimits, messages: &[&str]) -> (Vec<String>, u64) {
        let lines = Arc::new(Lines::default());
        let log = AttemptLog::new(lines.clone(), Reach::default().secrets, limits, Instant::now());
        for message in messages {
            log.push(LogLevel::Info, "c", message);
        }
        let kept = lines.0.lock().unwrap().iter().map(|l| l.message.clone()).collect();
        (kept, log.dropped())
    }

    #[test]
    fn lines_over_the_limit_are_dropped_with_one_marker() {
        let (kept, dropped) = logged(LogLimits { lines: 2, ..LogLimits::default() }, &["a", "b", "c", "d"]);
        assert_eq!(kept.len(), 3);
        assert_eq!(kept[..2], ["a", "b"]);
        assert!(kept[2].contains("log limit reached"));
        assert_eq!(dropped, 2);
    }

    #[test]
    fn bytes_over_the_limit_are_dropped_and_long_lines_are_cut() {
        let limits = LogLimits { lines: 100, bytes: 20, line_bytes: 5 };
        let (kept, dropped) = logged(limits, &["0123456789", "01234", "01234", "01234"]);
        assert_eq!(kept[..3], ["01234", "01234", "01234"]);
        assert_eq!((kept.len(), dropped), (4, 1));
    }
}
