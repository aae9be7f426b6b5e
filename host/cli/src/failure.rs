//! What a verb failed with: a code, what was wrong, where, what to do next, and the exit code.

use std::{io::Write as _, process::ExitCode};

use owo_colors::OwoColorize as _;

/// Exit codes, documented in docs/guides/cli.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
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

/// A failed verb.
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: String,
    pub message: String,
    /// Places that are wrong, and causes, one a line.
    pub details: Vec<String>,
    /// The next command to try.
    pub help: Option<String>,
    pub exit: Exit,
    /// Nothing is to be printed: it was, or nobody reads.
    quiet: bool,
}

impl Failure {
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            details: Vec::new(),
            help: None,
            exit: Exit::Failure,
            quiet: false,
        }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", message).exit(Exit::Usage)
    }

    /// Ends with this code and no words.
    pub fn quiet(exit: Exit) -> Self {
        Self { quiet: true, ..Self::new("", "").exit(exit) }
    }

    #[must_use]
    pub fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    #[must_use]
    pub fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    #[must_use]
    pub fn details(self, details: Vec<String>) -> Self {
        Self { details, ..self }
    }

    /// Writes it to stderr. A closed stderr is nobody's problem.
    pub fn print(&self) {
        if self.quiet {
            return;
        }
        let mut stderr = anstream::stderr().lock();
        // A code may be the kind that a guest gave its error.
        let label = format!("error[{}]", crate::safe_text::plain(&self.code));
        let _ = writeln!(stderr, "{}: {}", label.red().bold(), crate::safe_text::plain(&self.message));
        for detail in &self.details {
            let _ = writeln!(stderr, "  {}", crate::safe_text::plain(detail));
        }
        if let Some(help) = &self.help {
            let _ = writeln!(stderr, "{}: {}", "help".cyan().bold(), crate::safe_text::plain(help));
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.exit as u8)
    }
}

impl From<umbel_broker::Error> for Failure {
    fn from(error: umbel_broker::Error) -> Self {
        use umbel_broker::Error;
        let (code, exit) = match &error {
            Error::Unavailable(_) => ("broker_unavailable", Exit::Unavailable),
            Error::Refused(_) => ("broker_refused", Exit::Failure),
            Error::Full(_) => ("broker_full", Exit::Unavailable),
            _ => ("broker_failed", Exit::Failure),
        };
        Self::new(code, error.to_string()).exit(exit)
    }
}
