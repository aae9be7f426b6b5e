//! Log lines on stderr, for people or as JSON.
//!
//! Invariant: one event is one line, whatever text a user got into it: control characters are escaped here, once.

use std::io::{self, IsTerminal as _, Write};

use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, LoggingFlags};
use crate::{Failure, Result};

impl LoggingFlags {
    /// Sends this process's events to stderr.
    pub fn start(&self) -> Result {
        let filter = EnvFilter::try_new(&self.log_level).map_err(|_| {
            Failure::usage("--log-level cannot be read")
                .help("use error, warn, info, debug or a filter such as info,umbel_worker=debug")
        })?;
        let ansi = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || OneLine { ansi });
        let started = match self.log_format {
            LogFormat::Human => builder.with_ansi(ansi).with_target(false).try_init(),
            LogFormat::Json => builder.with_ansi(false).json().flatten_event(true).with_current_span(false).try_init(),
        };
        started.map_err(|e| Failure::new("logging", e.to_string()))
    }
}

/// Writes each event as one line without control characters.
#[derive(Debug, Clone, Copy)]
struct OneLine {
    /// The formatter's own colours are let through. What users wrote was escaped by the formatter before.
    ansi: bool,
}

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        // A closed stderr ends no service.
        let _ = io::stderr().lock().write_all(one_line(event, self.ansi).as_bytes());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn one_line(event: &[u8], ansi: bool) -> String {
    let text = String::from_utf8_lossy(event);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match c {
            '\u{1b}' if ansi => line.push(c),
            c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) => line.extend(c.escape_default()),
            c => line.push(c),
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_is_in_it() {
        assert_eq!(one_line(b"a\nINFO forged\x1b[2J\n", false), "a\\nINFO forged\\u{1b}[2J\n");
    }
}
