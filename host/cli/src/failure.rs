//! The failure of a verb: its code, message, details, the next command to try, and the exit code.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use owo_colors::OwoColorize as _;

use crate::safe_text::plain;

/// Exit codes, documented in docs/guides/cli.md.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    #[default]
    Failure = 1,
    Usage = 2,
    JobFailed = 3,
    NotFound = 4,
    Auth = 5,
    Conflict = 6,
    Unavailable = 7,
    /// Start it again: `EX_TEMPFAIL` of sysexits.h.
    Again = 75,
}

/// A failed verb. One without a code and a message is not printed: it was before, or nobody reads.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct Failure {
    pub code: String,
    pub message: String,
    /// Places that are wrong, and causes, one a line.
    pub details: Vec<String>,
    /// The next command to try.
    pub help: Option<String>,
    pub exit: Exit,
}

impl Failure {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), ..Self::default() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", message).exit(Exit::Usage)
    }

    /// A file that cannot be read.
    pub fn file(file: impl Display, error: &io::Error) -> Self {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NotFound } else { Exit::Failure };
        Self::new("file", format!("{file} cannot be read: {error}")).exit(exit)
    }

    /// Ends with this code and no words.
    pub fn quiet(exit: Exit) -> Self {
        Self::default().exit(exit)
    }

    pub fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub fn details(self, details: Vec<String>) -> Self {
        Self { details, ..self }
    }

    /// Writes it to stderr. A closed stderr is nobody's problem.
    pub fn print(&self) {
        if self.code.is_empty() && self.message.is_empty() {
            return;
        }
        let mut stderr = anstream::stderr().lock();
        // A code may be the kind that a guest gave its error.
        let label = format!("error[{}]", plain(&self.code));
        let _ = writeln!(stderr, "{}: {}", label.red().bold(), plain(&self.message));
        for detail in &self.details {
            let _ = writeln!(stderr, "  {}", plain(detail));
        }
        if let Some(help) = &self.help {
            let _ = writeln!(stderr, "{}: {}", "help".cyan().bold(), plain(help));
        }
    }
}

impl From<umbel_broker::Error> for Failure {
    fn from(error: umbel_broker::Error) -> Self {
        use umbel_broker::Error;
        let (code, exit) = match &error {
            Error::Unavailable(_) => ("broker_unavailable", Exit::Unavailable),
            Error::Refused(_) => ("broker_refused", Exit::Failure),
            Error::Unconfirmed(_) => ("not_confirmed", Exit::Unavailable),
            Error::Full(_) => ("broker_full", Exit::Unavailable),
            _ => ("broker_failed", Exit::Failure),
        };
        Self::new(code, error.to_string()).exit(exit)
    }
}
