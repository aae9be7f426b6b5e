//! Faults of a submission, each with its pointer.

use umbel_model::{named_enum, outcome::truncated};

/// Faults that are reported at most.
const MAX_FAULTS: usize = 64;
/// Longest pointer and detail, bytes: they may quote what was sent.
const MAX_TEXT_BYTES: usize = 1_024;

named_enum! {
    /// The kind of a fault: what a caller can rely on.
    #[non_exhaustive]
    pub enum FaultKind {
        /// The canvas has a wrong shape, or is too large or too deep.
        Canvas = "invalid_canvas",
        /// The tenant has no such task.
        TaskNotFound = "task_not_found",
        /// A call does not fit its task.
        Arguments = "invalid_arguments",
        ArgumentsTooLarge = "arguments_too_large",
        /// Checking a value against its schema would take too many steps.
        ArgumentsTooComplex = "arguments_too_complex",
        /// `options` is no object, or has an unknown field or one of a wrong type.
        Options = "invalid_body",
        /// An option, tag, header or time that cannot be used.
        Option = "invalid_option",
        /// A policy that breaks a bound of the operator.
        Policy = "invalid_policy",
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub kind: FaultKind,
    /// JSON pointer into the request.
    pub pointer: String,
    pub detail: String,
}

impl Fault {
    /// With a bounded pointer and detail.
    pub(crate) fn new(kind: FaultKind, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        let [pointer, detail] = [pointer.into(), detail.into()].map(|text| truncated(text, MAX_TEXT_BYTES));
        Self { kind, pointer, detail }
    }
}

/// Why a submission was not composed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One fault at least, 64 at most.
    #[error("{}", first(.0))]
    Refused(Vec<Fault>),
    #[error(transparent)]
    Broker(#[from] umbel_broker::Error),
    /// A secret or a key that cannot be used.
    #[error(transparent)]
    Secret(#[from] umbel_secrets::Error),
    /// A stored record of a task or a workflow cannot be read.
    #[error("a stored record cannot be read: {0}")]
    Corrupt(String),
    /// Whoever knows the tasks could not answer; says why.
    #[error("{0}")]
    Source(String),
    /// A workflow that cannot be resumed; says why.
    #[error("{0}")]
    NotResumable(&'static str),
}

fn first(faults: &[Fault]) -> String {
    faults.first().map(|fault| format!("{}: {}", fault.pointer, fault.detail)).unwrap_or_default()
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Refused(vec![fault])
    }
}

impl From<Faults> for Error {
    fn from(faults: Faults) -> Self {
        Self::Refused(faults.0)
    }
}

impl Error {
    /// True when the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Broker(error) if error.is_transient())
    }

    /// A name for it that does not change: that of the first fault, or of the error.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Refused(faults) => faults.first().map_or("invalid_canvas", |fault| fault.kind.as_str()),
            Self::Broker(_) | Self::Source(_) => "unavailable",
            Self::Secret(_) => "secret_unreadable",
            Self::Corrupt(_) => "record_unreadable",
            Self::NotResumable(_) => "not_resumable",
        }
    }
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Faults as they are found.
#[derive(Debug, Default)]
pub(crate) struct Faults(Vec<Fault>);

impl Faults {
    pub(crate) fn add(&mut self, kind: FaultKind, pointer: impl Into<String>, detail: impl Into<String>) {
        if !self.is_full() {
            self.0.push(Fault::new(kind, pointer, detail));
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MAX_FAULTS
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An error if there are any.
    pub(crate) fn done(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(self.into()) }
    }
}

/// One fault as an error.
pub(crate) fn refused(kind: FaultKind, pointer: impl Into<String>, detail: impl Into<String>) -> Error {
    Fault::new(kind, pointer, detail).into()
}
