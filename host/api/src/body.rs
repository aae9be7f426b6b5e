//! Bodies: read within limits, parsed with problems that name the field; and JSON answers.

use std::{fmt, marker::PhantomData, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse as _,
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{IgnoredAny, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::error::Category;
use tokio::time::Instant;
use umbel_compose::JsonError;
use umbel_model::json::{self, JsonProblem, MAX_DEPTH};

use crate::{
    footprint,
    problem::{Code, Problem, Result, cut},
    state::Api,
};

/// Bytes of a refused body that are read and forgotten.
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// How long a refused body is read.
const DRAIN_TIME: Duration = Duration::from_secs(2);

/// Bytes of a body that are checked where they are: so long takes some 0.2 ms.
const INLINE_BYTES: usize = 32 << 10;

/// A JSON body of at most `limit` bytes, whole.
pub(crate) async fn read_json(api: &Api, headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes> {
    let media_type = media_type(headers);
    let checked = match () {
        () if media_type != "application/json" && !media_type.ends_with("+json") => {
            Err(Problem::unsupported_media_type("send `Content-Type: application/json`"))
        }
        () if is_declared_longer(headers, limit as u64) => Err(too_large(limit)),
        () => Ok(()),
    };
    read_checked(api, headers, checked, body, limit).await
}

/// A body of any bytes, at most `limit`, whole.
pub(crate) async fn read_bytes(api: &Api, headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes> {
    let checked = if is_declared_longer(headers, limit as u64) { Err(too_large(limit)) } else { Ok(()) };
    read_checked(api, headers, checked, body, limit).await
}

async fn read_checked(api: &Api, headers: &HeaderMap, checked: Result<()>, body: Body, limit: usize) -> Result<Bytes> {
    let ((), body) = or_drain(checked, body).await?;
    let bytes = declared_length(headers).and_then(|length| usize::try_from(length).ok()).unwrap_or(limit);
    let ((), body) = or_drain(footprint::room_for_body(api, bytes.min(limit)).await, body).await?;
    read_all(Chunks::new(api, body), limit, || too_large(limit)).await
}

/// The media type of a body in small letters, without its parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether `Content-Length` says more than `limit`.
pub(crate) fn is_declared_longer(headers: &HeaderMap, limit: u64) -> bool {
    declared_length(headers).is_some_and(|length| length > limit)
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok())
}

pub(crate) fn too_large(limit: usize) -> Problem {
    Problem::body_too_large(format!("at most {limit} bytes are taken here"))
}

/// The parts of a body as they arrive. A body that is silent for too long, or too slow, is a problem.
pub(crate) struct Chunks {
    stream: BodyDataStream,
    idle: Duration,
    grace: Duration,
    bytes_per_second: u64,
    /// Time spent waiting for the client; the server's own work between chunks does not count.
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
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        // Until then the bytes that have come are enough.
        let earned = Duration::from_millis(self.read.saturating_mul(1_000) / self.bytes_per_second);
        let left = self.grace.max(earned).saturating_sub(self.waited);
        let started = Instant::now();
        let Ok(chunk) = tokio::time::timeout(left.min(self.idle), self.stream.next()).await else {
            return Err(if self.idle <= left {
                Problem::body_unreadable(format!("nothing came for {} s", self.idle.as_secs()))
            } else {
                Problem::body_too_slow(format!("it came with less than {} bytes a second", self.bytes_per_second))
            });
        };
        self.waited += started.elapsed();
        let chunk = chunk.transpose().map_err(|_| Problem::body_unreadable("the connection broke within the body"))?;
        self.read += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        Ok(chunk)
    }
}

/// All of a body of at most `limit` bytes.
pub(crate) async fn read_all(mut chunks: Chunks, limit: usize, too_large: impl Fn() -> Problem) -> Result<Bytes> {
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(chunk) = chunks.next().await? {
        if first.len() + rest.len() + chunk.len() > limit {
            return Err(too_large());
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

/// Reads the rest of a body and drops it: a client that is still sending when the connection closes may never see the
/// answer. Bounded in bytes and time, because the body is refused already.
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

/// `body`, if the request may go on. Otherwise it is read and forgotten before the problem is answered.
pub(crate) async fn or_drain<T>(checked: Result<T>, body: Body) -> Result<(T, Body)> {
    match checked {
        Ok(value) => Ok((value, body)),
        Err(problem) => {
            drain(body).await;
            Err(problem)
        }
    }
}

/// A body's text, not nested too deeply, and without values that no task could read.
pub(crate) fn checked_text(json: &[u8]) -> Result<&str> {
    let text = std::str::from_utf8(json)
        .map_err(|e| Problem::invalid_json(format!("byte {} of the body is not UTF-8", e.valid_up_to())))?;
    json::check(text).map_err(|fault| match fault.problem {
        JsonProblem::TooDeep => Problem::json_too_deep(format!("at most {MAX_DEPTH} levels are taken")),
        problem => Problem::at(Code::InvalidBody, &fault.pointer, &problem.to_string()),
    })?;
    Ok(text)
}

/// A body that was checked as `checked_text` does it.
#[derive(Debug)]
pub(crate) struct Checked(pub(crate) Bytes);

impl Checked {
    /// A long body waits for its tenant's turn, and is checked off the async threads: these serve everybody.
    pub(crate) async fn new(api: &Api, json: Bytes) -> Result<Self> {
        if json.len() <= INLINE_BYTES {
            checked_text(&json)?;
            return Ok(Self(json));
        }
        let turn = footprint::turn_to_check(api).await;
        let check = tokio::task::spawn_blocking(move || {
            // Held here: a caller that goes away does not end the work.
            let _turn = turn;
            checked_text(&json)?;
            Ok(Self(json))
        });
        check.await.map_err(|_| Problem::see_log())?
    }

    /// Of the kind of `read_json`.
    pub(crate) async fn read(api: &Api, headers: &HeaderMap, body: Body, limit: usize) -> Result<Self> {
        Self::new(api, read_json(api, headers, body, limit).await?).await
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.0).expect("it was checked")
    }
}

/// The problem of a failed parse.
fn json_problem(error: &serde_json::Error) -> Problem {
    match error.classify() {
        Category::Data => Problem::invalid_body(cut(&error.to_string())),
        _ => Problem::invalid_json(cut(&error.to_string())),
    }
}

/// The object that a body's text is. A list is refused, though serde would take its items as the fields.
pub(crate) fn object_of<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T> {
    if text.trim_ascii_start().starts_with('{') {
        return serde_json::from_str(text).map_err(|error| shape_problem::<T>(text, &error));
    }
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Err(Problem::invalid_body("send a JSON object")),
        Err(error) => Err(Problem::invalid_json(cut(&error.to_string()))),
    }
}

/// A field that is an object. A list is refused, though serde would take its items as the fields, and `[]` as all defaults.
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

/// Why a text is no `T`, with the pointer of the field that is wrong.
pub(crate) fn shape_problem<'de, T: Deserialize<'de>>(text: &'de str, error: &serde_json::Error) -> Problem {
    // A name where there is none is a syntax error to serde.
    let is_json = error.classify() == Category::Data || serde_json::from_str::<IgnoredAny>(text).is_ok();
    match JsonError::of_text::<T>(text).filter(|_| is_json) {
        Some(JsonError { pointer, detail }) if pointer.is_empty() => Problem::invalid_body(cut(&detail)),
        Some(JsonError { pointer, detail }) => Problem::at(Code::InvalidBody, &pointer, &detail),
        None => json_problem(error),
    }
}

/// Whether a request has no body.
pub(crate) fn is_empty(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0")
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && !headers.contains_key(header::CONTENT_TYPE)
}

/// A JSON answer of the status 200.
pub(crate) fn ok<T: Serialize>(value: &T) -> Result {
    answer(StatusCode::OK, value)
}

/// A JSON answer.
pub(crate) fn answer<T: Serialize>(status: StatusCode, value: &T) -> Result {
    let body = serde_json::to_vec(value).map_err(|error| {
        tracing::error!(%error, "an answer cannot be written as JSON");
        Problem::internal("the answer cannot be written")
    })?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}
