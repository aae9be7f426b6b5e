//! The errors of other crates as callers see them.

use super::{Code, FieldError, Problem, cut};

impl From<umbel_modules::Error> for Problem {
    fn from(error: umbel_modules::Error) -> Self {
        use umbel_modules::Error as E;
        let (code, detail) = match &error {
            E::TooLarge { .. } => return Self::module_too_large(error.to_string()),
            E::Corrupted(_) => return Self::corrupted_blob(error.to_string()),
            E::BlobTooLarge { .. } => return Self::blob_too_large(error.to_string()),
            E::BlobMissing(_) => return Self::blob_not_found(error.to_string()),
            E::Missing(_) => return Self::module_not_found(error.to_string()),
            E::ValueMissing { .. } | E::ValueCorrupted { .. } => return Self::value_lost(error.to_string()),
            E::Upload(_) => (Code::BodyUnreadable, "the connection broke within the body"),
            E::DiskFull { .. } => (Code::StorageFull, "an operator must free space in the data folder"),
            E::PermissionDenied { .. } | E::ReadOnly { .. } => {
                (Code::StorageReadOnly, "an operator must make the data folder writable")
            }
            _ => (Code::StorageUnavailable, "try again; the server's log says more"),
        };
        // The store's own words name folders: they are for the operator.
        tracing::warn!(error = ?error.to_string(), "a module store operation failed");
        Self::new(code, detail)
    }
}

impl From<umbel_broker::Error> for Problem {
    fn from(error: umbel_broker::Error) -> Self {
        use umbel_broker::Error as E;
        let (code, detail) = match &error {
            E::Unavailable(_) => (Code::BrokerUnavailable, "try again; the server reconnects by itself"),
            E::Unconfirmed(_) => (
                Code::NotConfirmed,
                "replicas or disk did not confirm it in time; send it again with its idempotency key, or look it up",
            ),
            E::Full(_) => (Code::BrokerFull, "free memory or disk of the broker, then try again"),
            E::Refused(_) => (Code::BrokerRefused, "an operator must change the broker's settings"),
            E::Corrupt(_) => (Code::RecordUnreadable, "the server's log says which"),
            _ => (Code::Internal, "the server's log says more"),
        };
        // The broker's own words may name hosts and files: they are for the operator.
        tracing::warn!(error = ?error.to_string(), "a broker operation failed");
        Self::new(code, detail)
    }
}

impl From<crate::Error> for Problem {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Broker(error) => error.into(),
            other => Self::internal(other.to_string()),
        }
    }
}

/// Why a job is not done again.
impl From<umbel_compose::Refusal> for Problem {
    fn from(refusal: umbel_compose::Refusal) -> Self {
        use umbel_compose::Refusal as R;
        let code = match &refusal {
            R::Node(_) => Code::WorkflowNode,
            R::Unreadable(_) => Code::RecordUnreadable,
            R::TaskGone(_) => Code::TaskNotFound,
            R::ModuleGone(_) => Code::ModuleDeleted,
            R::Arguments(_) => Code::InvalidArguments,
            R::Policy(error) => return Self::policy(error),
            R::Lost(_) => Code::ValueLost,
            _ => {
                // The store's own words name folders: they are for the operator.
                tracing::warn!(error = ?refusal.to_string(), "a job cannot be repeated now");
                return Self::storage_unavailable("try again; the server's log says more");
            }
        };
        Self::new(code, refusal.to_string())
    }
}

impl From<umbel_compose::Error> for Problem {
    fn from(error: umbel_compose::Error) -> Self {
        use umbel_compose::Error as E;
        match error {
            E::Broker(error) => error.into(),
            E::NotResumable(why) => Self::not_resumable(why),
            E::Refused(faults) => {
                let code = faults.first().map_or(Code::InvalidCanvas, |fault| code_of(fault.kind));
                let detail = faults.first().map(|f| match &*f.pointer {
                    "" => cut(&f.detail),
                    pointer => cut(&format!("{pointer}: {}", f.detail)),
                });
                let shown = |f: umbel_compose::Fault| FieldError { pointer: cut(&f.pointer), detail: f.detail };
                Self::new(code, detail.unwrap_or_default()).errors(faults.into_iter().map(shown).collect())
            }
            E::Corrupt(_) => {
                tracing::error!(error = ?error.to_string(), "a stored workflow or task cannot be read");
                Self::record_unreadable("the server's log says which")
            }
            _ => {
                tracing::error!(error = ?error.to_string(), "a canvas could not be made a workflow");
                Self::internal("the server's log says more")
            }
        }
    }
}

fn code_of(kind: umbel_compose::FaultKind) -> Code {
    use umbel_compose::FaultKind as K;
    match kind {
        K::TaskNotFound => Code::TaskNotFound,
        K::Arguments => Code::InvalidArguments,
        K::ArgumentsTooLarge => Code::ArgumentsTooLarge,
        K::ArgumentsTooComplex => Code::ArgumentsTooComplex,
        K::Options => Code::InvalidBody,
        K::Option => Code::InvalidOption,
        K::Policy => Code::InvalidPolicy,
        _ => Code::InvalidCanvas,
    }
}
