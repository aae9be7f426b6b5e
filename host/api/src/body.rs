//! What comes in: bodies with limits, queries and path parts whose errors are problems.

use std::{fmt, marker::PhantomData, str::FromStr, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    extract::{FromRequestParts, Query, RawPathParams},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::error::Category;
use tokio::time::Instant;
use umbel_compose::{Misread, plain};
use umbel_model::{Digest, JobId, QueueName, TaskName, WorkerId, WorkflowId, human};

use crate::{
    json_limits::{MAX_DEPTH, is_too_deep},
    problem::{Code, FieldError, Problem},
    state::Api,
};

/// Bytes of a refused body that are read and forgotten.
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// How long a refused body is read.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// A JSON body, whole.
pub(crate) async fn read_json(api: &Api, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    read_json_up_to(api, headers, body, api.config.max_body_bytes).await
}

/// As `read_json`, with a limit of its own.
pub(crate) async fn read_json_up_to(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
    limit: usize,
) -> Result<Bytes, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    let json = essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json");
    if !json {
        drain(body).await;
        return Err(Problem::new(Code::UnsupportedMediaType, "send `Content-Type: application/json`"));
    }
    if is_declared_longer(headers, limit as u64) {
        drain(body).await;
        return Err(too_large(limit));
    }
    read_all(Chunks::new(api, body), limit).await
}

/// Whether `Content-Length` says more than `limit`.
pub(crate) fn is_declared_longer(headers: &HeaderMap, limit: u64) -> bool {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    length.is_some_and(|length| length > limit)
}

pub(crate) fn too_large(limit: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("at most {limit} bytes are taken here"))
}

/// A body that comes in, neither silent nor slower than the limits say.
pub(crate) struct Chunks {
    stream: BodyDataStream,
    idle: Duration,
    grace: Duration,
    bytes_per_second: u64,
    /// Time spent in waiting for the client: what the server does between chunks is not the client's.
    waited: Duration,
    read: u64,
}

impl Chunks {
    pub(crate) fn new(api: &Api, body: Body) -> Self {
        Self {
            stream: body.into_data_stream(),
            idle: Duration::from_millis(api.config.body_idle_ms),
            grace: Duration::from_millis(api.config.body_grace_ms),
            bytes_per_second: api.config.min_body_bytes_per_second.max(1),
            waited: Duration::ZERO,
            read: 0,
        }
    }

    /// The next part; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        // When what has come so far will be too little.
        let earned = Duration::from_millis(self.read.saturating_mul(1_000) / self.bytes_per_second);
        let left = self.grace.max(earned).saturating_sub(self.waited);
        let started = Instant::now();
        let Ok(chunk) = tokio::time::timeout(left.min(self.idle), self.stream.next()).await else {
            return Err(if self.idle <= left { silent(self.idle) } else { too_slow(self.bytes_per_second) });
        };
        self.waited += started.elapsed();
        let chunk = chunk.transpose().map_err(|_| unreadable())?;
        self.read += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Ok(chunk)
    }
}

async fn read_all(mut chunks: Chunks, limit: usize) -> Result<Bytes, Problem> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(chunk) = chunks.next().await? {
        if first.len() + rest.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        // Most bodies are one chunk: not copied.
        if first.is_empty() {
            first = chunk;
        } else {
            rest.extend_from_slice(&chunk);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// Reads on and forgets: a client that is still sending when the connection closes may never see the answer. WriteTimeout
/// in bytes and time, because what it sends is refused already.
pub(crate) async fn drain(body: Body) {
    let mut chunks = body.into_data_stream();
    let forget = async {
        let mut left = MAX_DRAINED_BYTES;
        while let Some(Ok(chunk)) = chunks.next().await {
            match left.checked_sub(chunk.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    // Whether it came to its end makes no difference.
    let _ = tokio::time::timeout(DRAIN_TIME, forget).await;
}

fn silent(idle: Duration) -> Problem {
    Problem::new(Code::BodyUnreadable, format!("nothing came for {} s", idle.as_secs()))
}

fn too_slow(bytes_per_second: u64) -> Problem {
    Problem::new(Code::BodyTooSlow, format!("it came with less than {bytes_per_second} bytes a second"))
}

fn unreadable() -> Problem {
    Problem::new(Code::BodyUnreadable, "the connection broke within the body")
}

/// A body's text, not nested too deeply.
pub(crate) fn checked_text(json: &[u8]) -> Result<&str, Problem> {
    if is_too_deep(json) {
        return Err(Problem::new(Code::JsonTooDeep, format!("at most {MAX_DEPTH} levels are taken")));
    }
    std::str::from_utf8(json)
        .map_err(|e| Problem::new(Code::InvalidJson, format!("byte {} of the body is not UTF-8", e.valid_up_to())))
}

/// What a failed parse means.
fn json_problem(error: &serde_json::Error) -> Problem {
    match error.classify() {
        Category::Data => Problem::new(Code::InvalidBody, cut(&error.to_string())),
        _ => Problem::new(Code::InvalidJson, cut(&error.to_string())),
    }
}

/// A JSON body as a value of its own.
pub(crate) async fn json_of<T: DeserializeOwned>(api: &Api, headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let bytes = read_json(api, headers, body).await?;
    object_of(checked_text(&bytes)?)
}

/// What a body's text says: an object. Lists are no objects, though serde would take their items as the fields.
pub(crate) fn object_of<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Problem> {
    if text.trim_ascii_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| misread::<T>(text, &error));
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Err(Problem::new(Code::InvalidBody, "send a JSON object")),
        Err(error) => Err(Problem::new(Code::InvalidJson, cut(&error.to_string()))),
    }
}

/// A field that is an object: a list is none, though serde would take its items as the fields, and `[]` as all defaults.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(Fields(PhantomData))
}

/// Why a text is no `T`, with the place.
pub(crate) fn misread<'de, T: Deserialize<'de>>(text: &'de str, error: &serde_json::Error) -> Problem {
    // A name where there is none is a syntax error to serde.
    let is_json = error.classify() == Category::Data || serde_json::from_str::<IgnoredAny>(text).is_ok();
    match Misread::of_text::<T>(text).filter(|_| is_json) {
        Some(Misread { pointer, detail }) if pointer.is_empty() => Problem::new(Code::InvalidBody, cut(&detail)),
        Some(Misread { pointer, detail }) => {
            let (pointer, detail) = (cut(&pointer), cut(&detail));
            let problem = Problem::new(Code::InvalidBody, cut(&format!("{pointer}: {detail}")));
            problem.errors(vec![FieldError { pointer, detail }])
        }
        None => json_problem(error),
    }
}

/// At most 512 bytes: serde's messages quote what was sent.
pub(crate) fn cut(text: &str) -> String {
    umbel_model::outcome::truncated(text.to_owned(), 512)
}

/// The query, with unknown parameters refused by the type.
pub(crate) fn query_of<T: DeserializeOwned>(parts: &axum::http::Uri) -> Result<T, Problem> {
    Query::try_from_uri(parts)
        .map(|Query(query)| query)
        .map_err(|e| Problem::new(Code::InvalidQuery, cut(&in_words(&e.body_text()))))
}

/// What is wrong with a query, in words for people.
fn in_words(message: &str) -> String {
    let message = message.strip_prefix("Failed to deserialize query string: ").unwrap_or(message);
    let (field, problem) = message.split_once(": ").unwrap_or(("", message));
    let words = match problem {
        "invalid digit found in string" | "cannot parse integer from empty string" => "write a whole number, 0 or more",
        "number too large to fit in target type" => "the number is too large",
        "provided string was not `true` or `false`" => "write true or false",
        _ if field.starts_with("invalid ") => return plain(message),
        _ => &plain(problem),
    };
    if field.is_empty() { words.to_owned() } else { format!("{field}: {words}") }
}

/// Whether a request has no body.
pub(crate) fn is_empty(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && !headers.contains_key(header::CONTENT_TYPE)
}

/// A JSON body as a value of its own; what it is by default when there is none.
pub(crate) async fn json_or_nothing<T: DeserializeOwned + Default>(
    api: &Api,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Problem> {
    if is_empty(headers) {
        return Ok(T::default());
    }
    let bytes = read_json(api, headers, body).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    object_of(checked_text(&bytes)?)
}

/// How long to wait, from a `?wait=` such as `10s`.
pub(crate) fn wait_of(api: &Api, wait: Option<&str>) -> Result<Duration, Problem> {
    let Some(text) = wait else { return Ok(Duration::ZERO) };
    let ms = human::duration_ms(text).map_err(|e| Problem::new(Code::InvalidQuery, cut(&format!("wait: {e}"))))?;
    if ms > api.config.max_wait_ms {
        let detail = format!("wait: at most {} s; ask again for longer", api.config.max_wait_ms / 1_000);
        return Err(Problem::new(Code::InvalidQuery, detail));
    }
    Ok(Duration::from_millis(ms))
}

/// Something that a path names.
pub(crate) trait Named: FromStr<Err = umbel_model::InvalidName> {
    const NOT_FOUND: Code;
}

impl Named for JobId {
    const NOT_FOUND: Code = Code::JobNotFound;
}
impl Named for TaskName {
    const NOT_FOUND: Code = Code::TaskNotFound;
}
impl Named for QueueName {
    const NOT_FOUND: Code = Code::QueueNotFound;
}
impl Named for Digest {
    const NOT_FOUND: Code = Code::ModuleNotFound;
}

impl Named for WorkerId {
    const NOT_FOUND: Code = Code::WorkerNotFound;
}

/// The id of a bulk action in a path.
#[derive(Debug)]
pub(crate) struct BulkOf(pub(crate) JobId);

impl FromStr for BulkOf {
    type Err = umbel_model::InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Named for BulkOf {
    const NOT_FOUND: Code = Code::BulkNotFound;
}

/// The id of a workflow in a path.
#[derive(Debug)]
pub(crate) struct WorkflowOf(pub(crate) WorkflowId);

impl FromStr for WorkflowOf {
    type Err = umbel_model::InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Named for WorkflowOf {
    const NOT_FOUND: Code = Code::WorkflowNotFound;
}

/// The one parameter of a path. What breaks the rule of its kind cannot exist: not found, with the rule.
#[derive(Debug)]
pub(crate) struct Of<T>(pub(crate) T);

impl<T: Named, S: Send + Sync> FromRequestParts<S> for Of<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let missing = || Problem::new(T::NOT_FOUND, "the path is not UTF-8");
        let parameters = RawPathParams::from_request_parts(parts, state).await.map_err(|_| missing())?;
        let (_, text) = parameters.iter().next().ok_or_else(missing)?;
        text.parse().map(Self).map_err(|e: umbel_model::InvalidName| Problem::new(T::NOT_FOUND, e.to_string()))
    }
}

/// A JSON answer.
pub(crate) fn answer<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, Problem> {
    let body = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Problem::new(Code::Internal, "the answer cannot be written")
    })?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}
