//! The connection: requests with the token, their limits, and what is sent again when a connection fails.
//!
//! A request is sent again only when that cannot do anything twice: when it reads only, when it carries an idempotency
//! key, or when no connection came about, so that nothing was sent.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures::{Stream, stream};
use reqwest::{Body, Method, RequestBuilder, Response, header::HeaderMap};
use serde::{Serialize, de::DeserializeOwned};
use umbel_tls::Trust;

use crate::error::Error;

/// Longest answer that is read, bytes.
pub const MAX_ANSWER_BYTES: usize = 256 << 20;
/// Longest `?wait=` of the server; longer waits are several requests.
pub const MAX_WAIT: Duration = Duration::from_secs(60);
/// How long a request may take beyond its wait and its body.
const PATIENCE: Duration = Duration::from_secs(120);
/// A slower upload than that many bytes a second is given up.
const LEAST_SPEED: u64 = 16 << 10;
/// An upload of which the size is not known.
const LONGEST_UPLOAD: Duration = Duration::from_secs(3_600);
/// Bytes of an upload between two calls of its progress.
const PIECE: usize = 64 << 10;
/// An answer that goes on as long as its job.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);
/// How long a request comes again that the server refuses with `Retry-After`, because the tenant has too many under way.
const BUSY_PATIENCE: Duration = Duration::from_secs(60);
/// What a pause counts for at least.
const LEAST_OBEYED: Duration = Duration::from_millis(500);
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// How often and how soon a request that is safe to repeat is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Besides the first time. 0: never.
    pub times: u32,
    /// Before the first repetition; doubled for each one after it.
    pub first: Duration,
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { times: 4, first: Duration::from_millis(100), longest: Duration::from_secs(2) }
    }
}

impl Retry {
    /// The pause before repetition `n`, from 0.
    pub(crate) fn pause(self, n: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(n)).min(self.longest)
    }
}

/// What a client does beyond the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientOptions {
    retry: Retry,
    ca_file: Option<PathBuf>,
}

impl ClientOptions {
    /// Other rules of repetition.
    pub fn retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// For https: trusts the authorities in this PEM file, and not those of the system. It is read when the client is made.
    pub fn ca_file(self, file: impl Into<PathBuf>) -> Self {
        Self { ca_file: Some(file.into()), ..self }
    }
}

/// How a module is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushOptions {
    /// Point its tasks at it.
    pub deploy: bool,
    /// Also those that belong to another module.
    pub take_over: bool,
    /// Check everything and store nothing.
    pub dry_run: bool,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { deploy: true, take_over: false, dry_run: false }
    }
}

impl PushOptions {
    /// As parameters of the request: older servers refuse those that they do not know.
    fn query(self) -> impl Iterator<Item = (&'static str, bool)> {
        let set = [("take_over", self.take_over), ("dry_run", self.dry_run)].into_iter().filter(|(_, set)| *set);
        [("deploy", self.deploy)].into_iter().chain(set)
    }
}

/// A server and a token for it. Cheap to clone; all clones share their connections.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    url: String,
    token: String,
    retry: Retry,
}

impl std::fmt::Debug for Client {
    // The token is nobody's business.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.0.url).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `url`, such as `https://umbel.example` or `http://127.0.0.1:7717`, with a bearer token of a
    /// tenant. Nothing is sent yet. With https the server's certificate must be one that the system trusts.
    pub fn new(url: &str, token: &str) -> Result<Self, Error> {
        Self::with_options(url, token, &ClientOptions::default())
    }

    /// The same with other authorities or other rules of repetition.
    ///
    /// # Errors
    /// The address is neither http nor https, or the file of authorities cannot be used.
    pub fn with_options(url: &str, token: &str, options: &ClientOptions) -> Result<Self, Error> {
        let mut tls = match url.split_once("://") {
            // The authorities of the system are read when they are needed.
            Some(("https", _)) => {
                let trust = options.ca_file.clone().map_or(Trust::System, Trust::File);
                umbel_tls::client_config(&trust, None).map_err(|error| Error::Authorities(error.to_string()))?
            }
            Some(("http", _)) => umbel_tls::trusts_nobody(),
            _ => return Err(Error::Address(url.to_owned())),
        };
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(Duration::from_secs(5))
            .user_agent(concat!("umbel/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .build()
            .map_err(|error| Error::Request(error.to_string()))?;
        let url = url.trim_end_matches('/').to_owned();
        Ok(Self(Arc::new(Inner { http, url, token: token.to_owned(), retry: options.retry })))
    }

    /// The server's address, with no slash at its end.
    pub fn url(&self) -> &str {
        &self.0.url
    }

    pub(crate) fn retry(&self) -> Retry {
        self.0.retry
    }

    /// A request that reads; `path` starts with `/`.
    pub fn get(&self, path: impl Into<String>) -> Request {
        self.request(Method::GET, path)
    }

    /// A request that changes something.
    pub fn post(&self, path: impl Into<String>) -> Request {
        self.request(Method::POST, path)
    }

    /// A request that changes fields of something.
    pub fn patch(&self, path: impl Into<String>) -> Request {
        self.request(Method::PATCH, path)
    }

    /// A request that replaces something: doing it twice is the same as doing it once.
    pub fn put(&self, path: impl Into<String>) -> Request {
        self.request(Method::PUT, path).repeatable()
    }

    /// A request that deletes something.
    pub fn delete(&self, path: impl Into<String>) -> Request {
        self.request(Method::DELETE, path)
    }

    /// A request that is not sent twice, whatever its method.
    pub(crate) fn change(&self, method: Method, path: impl Into<String>) -> Request {
        self.request(method, path)
    }

    fn request(&self, method: Method, path: impl Into<String>) -> Request {
        Request {
            client: self.clone(),
            safe: method == Method::GET,
            method,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            wait: Duration::ZERO,
            error: None,
        }
    }

    /// Uploads a module and, unless `how` says otherwise, points its tasks at it; answers what the server says of it, as JSON
    /// text. `progress` is told of the bytes as they are sent.
    pub async fn push(
        &self,
        module: Bytes,
        how: PushOptions,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<String, Error> {
        let size = module.len() as u64;
        let request = self.0.http.post(format!("{}/v1/modules", self.0.url)).bearer_auth(&self.0.token);
        let request = request
            .query(&how.query().collect::<Vec<_>>())
            .header("content-type", "application/wasm")
            .header("content-length", size)
            .timeout(time_for(size, Duration::ZERO))
            .body(Body::wrap_stream(pieces(module, progress)));
        self.answer(request).await.map_err(|sent| sent.error)
    }

    /// Puts a body that is sent as it comes; answers what the server says, as JSON text. The server sets its limits of size and time.
    pub(crate) async fn put_stream(
        &self,
        path: &str,
        body: Body,
        size: Option<u64>,
        content_type: Option<&str>,
    ) -> Result<String, Error> {
        let mut request = self.0.http.put(format!("{}{path}", self.0.url)).bearer_auth(&self.0.token);
        if let Some(size) = size {
            request = request.header("content-length", size);
        }
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let patience = size.map_or(LONGEST_UPLOAD, |size| time_for(size, Duration::ZERO));
        self.answer(request.timeout(patience).body(body)).await.map_err(|sent| sent.error)
    }

    async fn answer(&self, request: RequestBuilder) -> Result<String, Sent> {
        let (body, _) = self.answer_with_headers(request).await?;
        text_of(body).map_err(|error| Sent { arrived: true, retry_after: None, error })
    }

    async fn answer_with_headers(&self, request: RequestBuilder) -> Result<(Bytes, HeaderMap), Sent> {
        let unreachable = |error: reqwest::Error| Sent {
            // No connection came about: nothing of the request can have arrived.
            arrived: !error.is_connect(),
            retry_after: None,
            error: Error::of_transport(&self.0.url, &error),
        };
        let response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = match read(response).await {
            Ok(Some(body)) => body,
            Ok(None) => {
                return Err(Sent { arrived: true, retry_after: None, error: Error::AnswerTooLarge(MAX_ANSWER_BYTES) });
            }
            Err(error) => return Err(Sent { arrived: true, ..unreachable(error) }),
        };
        if status.is_success() {
            return Ok((body.freeze(), headers));
        }
        let text = text_of(body.freeze()).unwrap_or_default();
        let retry_after = retry_after(&headers);
        Err(Sent { arrived: true, retry_after, error: Error::of_answer(status.as_u16(), &text) })
    }
}

fn text_of(body: Bytes) -> Result<String, Error> {
    String::from_utf8(body.into()).map_err(|_| Error::BadAnswer)
}

/// A failure, and whether the server may have seen the request.
struct Sent {
    arrived: bool,
    /// When the server says that it may be asked again.
    retry_after: Option<Duration>,
    error: Error,
}

/// The header `Retry-After`, in seconds, at most a minute.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.min(60)))
}

/// A part of `pause`, drawn.
fn spread(pause: Duration) -> Result<Duration, Error> {
    let mut byte = [0];
    getrandom::fill(&mut byte).map_err(|error| Error::Request(format!("no random numbers: {error}")))?;
    Ok(pause * u32::from(byte[0]) / 256)
}

/// The body, or nothing when it is too long.
async fn read(mut response: Response) -> Result<Option<BytesMut>, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body))
}

fn pieces(
    module: Bytes,
    progress: impl Fn(u64) + Send + Sync + 'static,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static {
    stream::iter((0..module.len().div_ceil(PIECE)).map(move |n| {
        let piece = module.slice(n * PIECE..module.len().min((n + 1) * PIECE));
        progress(piece.len() as u64);
        Ok(piece)
    }))
}

fn time_for(body_bytes: u64, wait: Duration) -> Duration {
    PATIENCE + wait + Duration::from_secs(body_bytes / LEAST_SPEED)
}

/// One request, to be sent with `text` or `answer`.
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    client: Client,
    method: Method,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    wait: Duration,
    /// May be sent twice.
    safe: bool,
    error: Option<Error>,
}

impl Request {
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Asks the server to answer at the end or after so long, at most `MAX_WAIT`.
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait.min(MAX_WAIT);
        let ms = self.wait.as_millis();
        self.query("wait", format!("{ms}ms"))
    }

    /// The same key and body are done once, however often they are sent: a request with a key is sent again when its
    /// connection breaks.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.safe = true;
        self.header(IDEMPOTENCY_KEY, key)
    }

    /// Says that doing it twice is the same as doing it once.
    pub fn repeatable(mut self) -> Self {
        self.safe = true;
        self
    }

    pub fn json(mut self, value: &impl Serialize) -> Self {
        match serde_json::to_vec(value) {
            Ok(json) => self.body("application/json", json),
            Err(error) => {
                self.error = Some(Error::Request(error.to_string()));
                self
            }
        }
    }

    pub fn body(mut self, media_type: &'static str, bytes: impl Into<Bytes>) -> Self {
        self.body = bytes.into();
        self.header("content-type", media_type)
    }

    /// The body of a success as the server wrote it: numbers keep all their digits.
    pub async fn text(self) -> Result<String, Error> {
        text_of(self.answered().await?.0)
    }

    /// The body as `text` gives it, and the value of one header of the answer.
    pub async fn text_and_header(self, name: &str) -> Result<(String, Option<String>), Error> {
        let (body, headers) = self.answered().await?;
        let value = headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok((text_of(body)?, value))
    }

    /// The body of a success, which may be no text, and the headers.
    pub(crate) async fn bytes_and_headers(self) -> Result<(Bytes, HeaderMap), Error> {
        self.answered().await
    }

    async fn answered(self) -> Result<(Bytes, HeaderMap), Error> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let retry = self.client.0.retry;
        let mut repetition = 0;
        let mut obeyed = Duration::ZERO;
        loop {
            let Sent { arrived, retry_after, error } = match self.client.answer_with_headers(self.build()).await {
                Ok(answer) => return Ok(answer),
                Err(sent) => sent,
            };
            // Refused before anything was done: the server says when there may be room.
            if let Some(pause) = retry_after.filter(|_| error.is_busy() && obeyed < BUSY_PATIENCE) {
                // Many clients are refused at once: they must not come back at once, too.
                let pause = pause + spread(pause)?;
                tokio::time::sleep(pause).await;
                obeyed += pause.max(LEAST_OBEYED);
                continue;
            }
            let again = error.is_transient() && (self.safe || !arrived);
            if !again || repetition >= retry.times {
                return Err(error);
            }
            tokio::time::sleep(retry.pause(repetition).max(retry_after.unwrap_or_default())).await;
            repetition += 1;
        }
    }

    /// The answer, typed.
    pub async fn answer<T: DeserializeOwned>(self) -> Result<T, Error> {
        typed(&self.text().await?)
    }

    /// The answer as it arrives, piece by piece, once; with no limit of time but the one between two pieces, `silence`. A
    /// refusal is an error.
    pub(crate) async fn pieces(&self, silence: Duration) -> Result<Pieces, Error> {
        let url = &self.client.0.url;
        let slow = || Error::Unreachable { url: url.clone(), cause: "no answer in time".into() };
        let sent = self.build().timeout(FOREVER).send();
        let response = tokio::time::timeout(PATIENCE, sent).await.map_err(|_| slow())?;
        let response = response.map_err(|error| Error::of_transport(url, &error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(Pieces { url: url.clone(), response, silence });
        }
        let body = read(response).await.map_err(|error| Error::of_transport(url, &error))?;
        Err(Error::of_answer(status.as_u16(), &String::from_utf8_lossy(&body.unwrap_or_default())))
    }

    fn build(&self) -> RequestBuilder {
        let Inner { http, url, token, .. } = &*self.client.0;
        let mut request = http.request(self.method.clone(), format!("{url}{}", self.path)).bearer_auth(token);
        if !self.query.is_empty() {
            request = request.query(&self.query);
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        if !self.body.is_empty() {
            request = request.body(self.body.clone());
        }
        request.timeout(time_for(self.body.len() as u64, self.wait))
    }
}

/// An answer that arrives bit by bit.
pub(crate) struct Pieces {
    url: String,
    response: Response,
    silence: Duration,
}

impl Pieces {
    /// The next bytes; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match tokio::time::timeout(self.silence, self.response.chunk()).await {
            Ok(chunk) => chunk.map_err(|error| Error::of_transport(&self.url, &error)),
            Err(_) => Err(Error::Unreachable { url: self.url.clone(), cause: "it fell silent".into() }),
        }
    }
}

/// An answer as its type.
pub fn typed<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    serde_json::from_str(text).map_err(|_| Error::BadAnswer)
}

/// An idempotency key that nobody else has: 32 hexadecimal digits.
pub fn fresh_key() -> Result<String, Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Request(format!("no random numbers: {error}")))?;
    Ok(hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_never_overflow() {
        let retry = Retry::default();
        let ms = |n| retry.pause(n).as_millis();
        assert_eq!([ms(0), ms(1), ms(2), ms(9), ms(u32::MAX)], [100, 200, 400, 2_000, 2_000]);
    }

    #[test]
    fn only_http_and_https_are_taken_and_the_token_is_never_shown() {
        for wrong in ["ftp://h", "h:1", "httpss://h", ""] {
            assert!(matches!(Client::new(wrong, "t"), Err(Error::Address(_))), "{wrong}");
        }
        let client = Client::new("http://h:1/", "secret").unwrap();
        assert_eq!(client.url(), "http://h:1");
        assert!(!format!("{client:?}").contains("secret"));
    }
}
