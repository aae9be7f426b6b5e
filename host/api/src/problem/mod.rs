//! Failures as callers see them: RFC 9457 problems with stable codes.
//!
//! A code is never renamed or given another meaning. `docs/errors.md` lists each with cause and fix; a test compares.

mod conversions;
mod named;

use std::borrow::Cow;

use axum::{
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

macro_rules! codes {
    ($($name:ident $variant:ident, $status:ident, $retryable:literal, $title:literal;)*) => {
        /// The stable codes of this API's own failures. Refused modules carry the inspector's codes besides.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// As it stands in a problem's `code`.
            pub fn as_str(self) -> &'static str { match self { $(Self::$variant => stringify!($name),)* } }

            pub fn status(self) -> StatusCode { match self { $(Self::$variant => StatusCode::$status,)* } }

            /// True when the same request may succeed later.
            pub fn is_retryable(self) -> bool { match self { $(Self::$variant => $retryable,)* } }

            pub fn title(self) -> &'static str { match self { $(Self::$variant => $title,)* } }
        }

        /// One function for each code. The detail says the cause and what to do about it.
        impl Problem {
            $(#[doc = $title] pub fn $name(detail: impl Into<String>) -> Self { Self::new(Code::$variant, detail) })*
        }
    };
}

codes! {
    https_needed HttpsNeeded, BAD_REQUEST, false, "The server speaks https only";
    missing_token MissingToken, UNAUTHORIZED, false, "A token is needed";
    invalid_token InvalidToken, UNAUTHORIZED, false, "The token is not valid";
    operator_needed OperatorNeeded, FORBIDDEN, false, "The token is not an operator's";
    grant_needed GrantNeeded, FORBIDDEN, false, "The token may not grant";
    route_not_found RouteNotFound, NOT_FOUND, false, "There is nothing at this path";
    method_not_allowed MethodNotAllowed, METHOD_NOT_ALLOWED, false, "The path does not know this method";
    uri_too_long UriTooLong, URI_TOO_LONG, false, "The address is too long";
    invalid_header InvalidHeader, BAD_REQUEST, false, "A header cannot be used";
    invalid_query InvalidQuery, BAD_REQUEST, false, "A query parameter cannot be used";
    invalid_cursor InvalidCursor, BAD_REQUEST, false, "The cursor is not one that a list answered";
    unsupported_media_type UnsupportedMediaType, UNSUPPORTED_MEDIA_TYPE, false, "The body has another media type";
    invalid_json InvalidJson, BAD_REQUEST, false, "The body is not JSON";
    json_too_deep JsonTooDeep, BAD_REQUEST, false, "The JSON is nested too deeply";
    invalid_body InvalidBody, UNPROCESSABLE_ENTITY, false, "The body has the wrong shape";
    body_too_large BodyTooLarge, PAYLOAD_TOO_LARGE, false, "The body is too large";
    body_unreadable BodyUnreadable, BAD_REQUEST, true, "The body did not arrive";
    body_too_slow BodyTooSlow, REQUEST_TIMEOUT, true, "The body comes too slowly";
    too_many_lines TooManyLines, PAYLOAD_TOO_LARGE, false, "The batch has too many lines";
    overloaded Overloaded, SERVICE_UNAVAILABLE, true, "Too many requests are under way";
    too_many_requests TooManyRequests, TOO_MANY_REQUESTS, true, "The tenant has too many requests under way";
    request_timeout RequestTimeout, SERVICE_UNAVAILABLE, true, "The request took too long";
    internal Internal, INTERNAL_SERVER_ERROR, false, "The server failed";
    broker_unavailable BrokerUnavailable, SERVICE_UNAVAILABLE, true, "The broker cannot be reached";
    broker_refused BrokerRefused, SERVICE_UNAVAILABLE, false, "The broker's settings were refused";
    not_confirmed NotConfirmed, SERVICE_UNAVAILABLE, true, "The change is stored, but not confirmed";
    broker_full BrokerFull, INSUFFICIENT_STORAGE, true, "The broker has no room";
    record_unreadable RecordUnreadable, INTERNAL_SERVER_ERROR, false, "A stored record cannot be read";
    storage_full StorageFull, INSUFFICIENT_STORAGE, true, "The module store has no room";
    storage_read_only StorageReadOnly, INSUFFICIENT_STORAGE, true, "The module store cannot be written";
    storage_unavailable StorageUnavailable, SERVICE_UNAVAILABLE, true, "The module store cannot be reached";
    corrupted_blob CorruptedBlob, INTERNAL_SERVER_ERROR, false, "A stored module is damaged";
    missing_blob MissingBlob, UNPROCESSABLE_ENTITY, false, "It refers to a blob that is not stored";
    blob_not_found BlobNotFound, NOT_FOUND, false, "There is no such blob";
    blob_lost BlobLost, GONE, false, "The bytes of the blob are lost";
    blob_too_large BlobTooLarge, PAYLOAD_TOO_LARGE, false, "The blob is too large";
    blob_in_use BlobInUse, CONFLICT, false, "Jobs refer to the blob";
    too_many_blobs TooManyBlobs, TOO_MANY_REQUESTS, false, "No more blobs may be stored";
    invalid_range InvalidRange, RANGE_NOT_SATISFIABLE, false, "The range is outside of the blob";
    value_lost ValueLost, GONE, false, "A large value is lost";
    token_not_found TokenNotFound, NOT_FOUND, false, "There is no such token";
    module_not_found ModuleNotFound, NOT_FOUND, false, "There is no such module";
    module_deleted ModuleDeleted, GONE, false, "The module was deleted";
    module_in_use ModuleInUse, CONFLICT, false, "Tasks point at the module";
    approval_needed ApprovalNeeded, CONFLICT, false, "Nobody approved what the module asks for";
    invalid_permission InvalidPermission, UNPROCESSABLE_ENTITY, false, "A permission cannot be used";
    ambiguous_digest AmbiguousDigest, CONFLICT, false, "Several modules have digests that begin like this";
    module_too_large ModuleTooLarge, PAYLOAD_TOO_LARGE, false, "The module is too large";
    module_exists ModuleExists, PRECONDITION_FAILED, false, "The module is known already";
    digest_mismatch DigestMismatch, BAD_REQUEST, false, "The bytes have another digest";
    schema_invalid SchemaInvalid, UNPROCESSABLE_ENTITY, false, "A parameter's JSON Schema cannot be used";
    too_many_documents TooManyDocuments, CONFLICT, false, "No more of these may be stored";
    task_not_found TaskNotFound, NOT_FOUND, false, "There is no such task";
    task_not_in_module TaskNotInModule, UNPROCESSABLE_ENTITY, false, "The module does not have this task";
    task_of_another_module TaskOfAnotherModule, CONFLICT, false, "A task belongs to another module";
    nothing_to_roll_back NothingToRollBack, CONFLICT, false, "There is no earlier deploy";
    version_conflict VersionConflict, PRECONDITION_FAILED, false, "It has changed since it was read";
    concurrent_change ConcurrentChange, CONFLICT, true, "Others keep changing it";
    invalid_policy InvalidPolicy, UNPROCESSABLE_ENTITY, false, "The policy cannot be used";
    invalid_arguments InvalidArguments, UNPROCESSABLE_ENTITY, false, "The arguments do not fit the task";
    arguments_too_large ArgumentsTooLarge, PAYLOAD_TOO_LARGE, false, "The arguments are too large";
    arguments_too_complex ArgumentsTooComplex, UNPROCESSABLE_ENTITY, false, "The arguments cost too much to check";
    invalid_option InvalidOption, UNPROCESSABLE_ENTITY, false, "An option cannot be used";
    idempotency_conflict IdempotencyConflict, UNPROCESSABLE_ENTITY, false, "The key belongs to another request";
    idempotency_forgotten IdempotencyForgotten, GONE, false, "What the key belongs to was forgotten";
    queue_full QueueFull, TOO_MANY_REQUESTS, true, "The queue is full";
    too_many_queues TooManyQueues, TOO_MANY_REQUESTS, false, "No more queues may be made";
    storage_quota StorageQuota, INSUFFICIENT_STORAGE, true, "The tenant has stored as many bytes as it may";
    invalid_key InvalidKey, BAD_REQUEST, false, "The bucket or the key cannot be used";
    entry_not_found EntryNotFound, NOT_FOUND, false, "There is no such entry";
    value_too_large ValueTooLarge, PAYLOAD_TOO_LARGE, false, "The value is too large";
    not_a_number NotANumber, CONFLICT, false, "The entry is no number that can be changed";
    too_many_buckets TooManyBuckets, TOO_MANY_REQUESTS, false, "No more buckets may be made";
    job_not_found JobNotFound, NOT_FOUND, false, "There is no such job";
    job_ended JobEnded, CONFLICT, false, "The job has ended";
    job_not_waiting JobNotWaiting, CONFLICT, false, "The job does not wait";
    job_not_ended JobNotEnded, CONFLICT, false, "The job has not ended";
    no_result NoResult, NOT_FOUND, false, "The job has no result";
    not_dead NotDead, CONFLICT, false, "The job is not in the dead set";
    queue_not_found QueueNotFound, NOT_FOUND, false, "There is no such queue";
    queue_not_empty QueueNotEmpty, CONFLICT, false, "The queue is not empty";
    invalid_control InvalidControl, UNPROCESSABLE_ENTITY, false, "The control cannot be used";
    invalid_route InvalidRoute, UNPROCESSABLE_ENTITY, false, "A route cannot be used";
    bulk_not_found BulkNotFound, NOT_FOUND, false, "There is no such bulk action";
    bulk_ended BulkEnded, CONFLICT, false, "The bulk action is over";
    too_many_bulks TooManyBulks, TOO_MANY_REQUESTS, true, "The tenant has too many bulk actions";
    schedule_not_found ScheduleNotFound, NOT_FOUND, false, "There is no such schedule";
    invalid_schedule InvalidSchedule, UNPROCESSABLE_ENTITY, false, "The schedule cannot be used";
    too_many_schedules TooManySchedules, CONFLICT, false, "The tenant has too many schedules";
    nothing_to_skip NothingToSkip, CONFLICT, false, "The schedule has no next time";
    backfill_not_found BackfillNotFound, NOT_FOUND, false, "The schedule has no such backfill";
    too_many_backfills TooManyBackfills, CONFLICT, false, "The schedule has too many backfills";
    tenant_not_found TenantNotFound, NOT_FOUND, false, "There is no such tenant";
    secret_not_found SecretNotFound, NOT_FOUND, false, "There is no such secret";
    invalid_secret InvalidSecret, UNPROCESSABLE_ENTITY, false, "The secret cannot be kept";
    no_master_key NoMasterKey, CONFLICT, false, "The server has not the master key for it";
    secret_unreadable SecretUnreadable, INTERNAL_SERVER_ERROR, false, "A secret or its key cannot be opened";
    worker_not_found WorkerNotFound, NOT_FOUND, false, "There is no such worker";
    invalid_canvas InvalidCanvas, UNPROCESSABLE_ENTITY, false, "The canvas cannot be used";
    workflow_not_found WorkflowNotFound, NOT_FOUND, false, "There is no such workflow";
    workflow_ended WorkflowEnded, CONFLICT, false, "The workflow is over";
    workflow_not_over WorkflowNotOver, CONFLICT, false, "The workflow is not over";
    workflow_node WorkflowNode, CONFLICT, false, "The job is a part of a workflow";
    not_resumable NotResumable, CONFLICT, false, "The workflow cannot be resumed";
    too_many_workflows TooManyWorkflows, TOO_MANY_REQUESTS, true, "The tenant has too many workflows";
}

/// At most 512 bytes of a text: many details quote what was sent.
pub(crate) fn cut(text: &str) -> String {
    umbel_model::outcome::truncated(text.to_owned(), 512)
}

/// One place in the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer into the request's body.
    pub pointer: String,
    pub detail: String,
}

/// The result of everything that a request may fail in: mostly its answer, or a problem.
pub(crate) type Result<T = Response, E = Problem> = std::result::Result<T, E>;

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
    /// The cause, and what to do about it.
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
    /// A problem with a code that is known only at run time; for the others there are functions with their names.
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
        Self::new(code, format!("{field}: {detail}")).with_place(format!("/{field}"), detail)
    }

    /// With the one place in the body that is wrong.
    #[must_use]
    pub(crate) fn with_place(self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.errors(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
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

    /// The body of its answer.
    pub(crate) fn json(&self, request_id: &str) -> Vec<u8> {
        serde_json::to_vec(&self.body(request_id)).expect("texts and numbers are JSON")
    }

    /// The response, naming the request.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let mut response = (self.0.status, self.json(request_id)).into_response();
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

/// Leaves the rendering to the middleware, which knows the request's id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
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
