//! Failures as callers see them: RFC 9457 problems with stable codes.
//!
//! A code is never renamed or given another meaning. `docs/errors.md` lists each with cause and fix; a test compares.

use std::borrow::Cow;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::body::cut;

macro_rules! codes {
    ($($variant:ident = $text:literal, $status:ident, $retryable:literal, $title:literal;)*) => {
        /// The stable codes of this API's own failures. Refused modules carry the inspector's codes besides.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As it stands in a problem's `code`.
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }

            pub fn status(self) -> StatusCode { match self { $(Self::$variant => StatusCode::$status,)* } }

            /// True when the same request may succeed later.
            pub fn is_retryable(self) -> bool { match self { $(Self::$variant => $retryable,)* } }

            pub fn title(self) -> &'static str { match self { $(Self::$variant => $title,)* } }
        }
    };
}

codes! {
    MissingToken = "missing_token", UNAUTHORIZED, false, "A token is needed";
    InvalidToken = "invalid_token", UNAUTHORIZED, false, "The token is not valid";
    OperatorNeeded = "operator_needed", FORBIDDEN, false, "The token is not an operator's";
    RouteNotFound = "route_not_found", NOT_FOUND, false, "There is nothing at this path";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, false, "The path does not know this method";
    UriTooLong = "uri_too_long", URI_TOO_LONG, false, "The address is too long";
    InvalidHeader = "invalid_header", BAD_REQUEST, false, "A header cannot be used";
    InvalidQuery = "invalid_query", BAD_REQUEST, false, "A query parameter cannot be used";
    InvalidCursor = "invalid_cursor", BAD_REQUEST, false, "The cursor is not one that a list answered";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, false, "The body has another media type";
    InvalidJson = "invalid_json", BAD_REQUEST, false, "The body is not JSON";
    JsonTooDeep = "json_too_deep", BAD_REQUEST, false, "The JSON is nested too deeply";
    InvalidBody = "invalid_body", UNPROCESSABLE_ENTITY, false, "The body has the wrong shape";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, false, "The body is too large";
    BodyUnreadable = "body_unreadable", BAD_REQUEST, true, "The body did not arrive";
    BodyTooSlow = "body_too_slow", REQUEST_TIMEOUT, true, "The body comes too slowly";
    TooManyLines = "too_many_lines", PAYLOAD_TOO_LARGE, false, "The batch has too many lines";
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, true, "Too many requests are under way";
    TooManyRequests = "too_many_requests", TOO_MANY_REQUESTS, true, "The tenant has too many requests under way";
    RequestTimeout = "request_timeout", SERVICE_UNAVAILABLE, true, "The request took too long";
    Internal = "internal", INTERNAL_SERVER_ERROR, false, "The server failed";
    BrokerUnavailable = "broker_unavailable", SERVICE_UNAVAILABLE, true, "The broker cannot be reached";
    BrokerRefused = "broker_refused", SERVICE_UNAVAILABLE, false, "The broker's settings were refused";
    BrokerFull = "broker_full", INSUFFICIENT_STORAGE, true, "The broker has no room";
    RecordUnreadable = "record_unreadable", INTERNAL_SERVER_ERROR, false, "A stored record cannot be read";
    StorageFull = "storage_full", INSUFFICIENT_STORAGE, true, "The module store has no room";
    StorageReadOnly = "storage_read_only", INSUFFICIENT_STORAGE, true, "The module store cannot be written";
    StorageUnavailable = "storage_unavailable", SERVICE_UNAVAILABLE, true, "The module store cannot be reached";
    CorruptedBlob = "corrupted_blob", INTERNAL_SERVER_ERROR, false, "A stored module is damaged";
    ValueLost = "value_lost", GONE, false, "A large value is lost";
    ModuleNotFound = "module_not_found", NOT_FOUND, false, "There is no such module";
    ModuleTooLarge = "module_too_large", PAYLOAD_TOO_LARGE, false, "The module is too large";
    ModuleExists = "module_exists", PRECONDITION_FAILED, false, "The module is known already";
    DigestMismatch = "digest_mismatch", BAD_REQUEST, false, "The bytes have another digest";
    SchemaInvalid = "schema_invalid", UNPROCESSABLE_ENTITY, false, "A parameter's JSON Schema cannot be used";
    TooManyDocuments = "too_many_documents", CONFLICT, false, "No more of these may be stored";
    TaskNotFound = "task_not_found", NOT_FOUND, false, "There is no such task";
    TaskNotInModule = "task_not_in_module", UNPROCESSABLE_ENTITY, false, "The module does not have this task";
    NothingToRollBack = "nothing_to_roll_back", CONFLICT, false, "There is no earlier deploy";
    VersionConflict = "version_conflict", PRECONDITION_FAILED, false, "It has changed since it was read";
    ConcurrentChange = "concurrent_change", CONFLICT, true, "Others keep changing it";
    InvalidPolicy = "invalid_policy", UNPROCESSABLE_ENTITY, false, "The policy cannot be used";
    InvalidArguments = "invalid_arguments", UNPROCESSABLE_ENTITY, false, "The arguments do not fit the task";
    ArgumentsTooLarge = "arguments_too_large", PAYLOAD_TOO_LARGE, false, "The arguments are too large";
    ArgumentsTooComplex = "arguments_too_complex", UNPROCESSABLE_ENTITY, false, "The arguments cost too much to check";
    InvalidOption = "invalid_option", UNPROCESSABLE_ENTITY, false, "An option cannot be used";
    IdempotencyConflict = "idempotency_conflict", UNPROCESSABLE_ENTITY, false, "The key belongs to another request";
    QueueFull = "queue_full", TOO_MANY_REQUESTS, true, "The queue is full";
    TooManyQueues = "too_many_queues", TOO_MANY_REQUESTS, false, "No more queues may be made";
    JobNotFound = "job_not_found", NOT_FOUND, false, "There is no such job";
    JobEnded = "job_ended", CONFLICT, false, "The job has ended";
    JobNotWaiting = "job_not_waiting", CONFLICT, false, "The job does not wait";
    JobNotEnded = "job_not_ended", CONFLICT, false, "The job has not ended";
    NoResult = "no_result", NOT_FOUND, false, "The job has no result";
    NotDead = "not_dead", CONFLICT, false, "The job is not in the dead set";
    QueueNotFound = "queue_not_found", NOT_FOUND, false, "There is no such queue";
    QueueNotEmpty = "queue_not_empty", CONFLICT, false, "The queue is not empty";
    InvalidControl = "invalid_control", UNPROCESSABLE_ENTITY, false, "The control cannot be used";
    InvalidRoute = "invalid_route", UNPROCESSABLE_ENTITY, false, "A route cannot be used";
    BulkNotFound = "bulk_not_found", NOT_FOUND, false, "There is no such bulk action";
    BulkEnded = "bulk_ended", CONFLICT, false, "The bulk action is over";
    TooManyBulks = "too_many_bulks", TOO_MANY_REQUESTS, true, "The tenant has too many bulk actions";
    WorkerNotFound = "worker_not_found", NOT_FOUND, false, "There is no such worker";
    InvalidCanvas = "invalid_canvas", UNPROCESSABLE_ENTITY, false, "The canvas cannot be used";
    WorkflowNotFound = "workflow_not_found", NOT_FOUND, false, "There is no such workflow";
    WorkflowEnded = "workflow_ended", CONFLICT, false, "The workflow is over";
    WorkflowNode = "workflow_node", CONFLICT, false, "The job is a part of a workflow";
    NotResumable = "not_resumable", CONFLICT, false, "The workflow cannot be resumed";
    TooManyWorkflows = "too_many_workflows", TOO_MANY_REQUESTS, true, "The tenant has too many workflows";
}

/// One place in the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer into the request's body.
    pub pointer: String,
    pub detail: String,
}

/// A failure, ready to be answered.
#[derive(Debug, Clone)]
pub struct Problem(Box<Parts>);

#[derive(Debug, Clone)]
struct Parts {
    code: Cow<'static, str>,
    status: StatusCode,
    retryable: bool,
    title: &'static str,
    detail: String,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The body of every failure, `application/problem+json` (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// `urn:umbel:error:<code>`.
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    /// What was wrong here, and what to do.
    detail: &'a str,
    /// Stable; docs/errors.md explains each.
    code: &'a str,
    /// True when the same request may succeed later.
    retryable: bool,
    /// The places in the request that are wrong.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let title = code.title();
        Self::with_code(code.as_str().into(), code.status(), code.is_retryable(), title, detail)
    }

    /// A problem with a code of somebody else's, such as the inspector's.
    pub(crate) fn with_code(
        code: Cow<'static, str>,
        status: StatusCode,
        retryable: bool,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let mut headers = Vec::new();
        if retryable && matches!(status.as_u16(), 429 | 503 | 507) {
            headers.push((header::RETRY_AFTER, HeaderValue::from_static("1")));
        }
        Self(Box::new(Parts { code, status, retryable, title, detail: detail.into(), errors: Vec::new(), headers }))
    }

    /// A problem with one field of the body: `filter/tag` is at the pointer `/filter/tag`.
    pub(crate) fn of_field(code: Code, field: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let problem = Self::new(code, format!("{field}: {detail}"));
        problem.errors(vec![FieldError { pointer: format!("/{field}"), detail }])
    }

    #[must_use]
    pub(crate) fn errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    pub fn code(&self) -> &str {
        &self.0.code
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The response, naming the request.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = serde_json::to_vec(&self.body(request_id)).expect("texts and numbers are JSON");
        let mut response = (self.0.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.0.headers.iter().cloned());
        response
    }

    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(crate) fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// At most `max` of the places that are wrong.
    pub(crate) fn first_errors(&self, max: usize) -> &[FieldError] {
        &self.0.errors[..self.0.errors.len().min(max)]
    }

    fn body<'a>(&'a self, request_id: &'a str) -> ProblemBody<'a> {
        let parts = &*self.0;
        ProblemBody {
            kind: format!("urn:umbel:error:{}", parts.code),
            title: parts.title,
            status: parts.status.as_u16(),
            detail: &parts.detail,
            code: &parts.code,
            retryable: parts.retryable,
            errors: &parts.errors,
            request_id,
        }
    }
}

/// Leaves the rendering to the gate, which knows the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<umbel_modules::Error> for Problem {
    fn from(error: umbel_modules::Error) -> Self {
        use umbel_modules::Error as E;
        let (code, detail) = match &error {
            E::TooLarge { .. } => return Self::new(Code::ModuleTooLarge, error.to_string()),
            E::Corrupted(_) => return Self::new(Code::CorruptedBlob, error.to_string()),
            E::Missing(_) => return Self::new(Code::ModuleNotFound, error.to_string()),
            E::ValueMissing { .. } | E::ValueCorrupted { .. } => return Self::new(Code::ValueLost, error.to_string()),
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

/// Why a job is not done again.
impl From<umbel_bulk::Refusal> for Problem {
    fn from(refusal: umbel_bulk::Refusal) -> Self {
        use umbel_bulk::Refusal as R;
        let code = match &refusal {
            R::Node(_) => Code::WorkflowNode,
            R::Unreadable(_) => Code::RecordUnreadable,
            R::TaskGone(_) => Code::TaskNotFound,
            R::Arguments(_) => Code::InvalidArguments,
            R::Policy(error) => return crate::task_store::invalid_policy(error),
            R::Lost(_) => Code::ValueLost,
            _ => {
                // The store's own words name folders: they are for the operator.
                tracing::warn!(error = ?refusal.to_string(), "a job cannot be repeated now");
                return Self::new(Code::StorageUnavailable, "try again; the server's log says more");
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
            E::NotResumable(why) => Self::new(Code::NotResumable, why),
            E::Refused(faults) => {
                let code = faults.first().map_or(Code::InvalidCanvas, |fault| code_of(fault.kind));
                let detail = faults.first().map(|f| cut(&format!("{}: {}", f.pointer, f.detail))).unwrap_or_default();
                let shown = |f: umbel_compose::Fault| FieldError { pointer: cut(&f.pointer), detail: f.detail };
                Self::new(code, detail).errors(faults.into_iter().map(shown).collect())
            }
            E::Corrupt(_) => {
                tracing::error!(error = ?error.to_string(), "a stored workflow or task cannot be read");
                Self::new(Code::RecordUnreadable, "the server's log says which")
            }
            _ => {
                tracing::error!(error = ?error.to_string(), "a canvas could not be made a workflow");
                Self::new(Code::Internal, "the server's log says more")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Code::ALL.len());
    }

    #[test]
    fn the_brokers_own_words_stay_in_the_log() {
        let problem = Problem::from(umbel_broker::Error::Unavailable("redis://user:secret@host".into()));
        assert!(!serde_json::to_string(&problem.body("r")).unwrap().contains("secret"));
        assert_eq!(problem.status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
