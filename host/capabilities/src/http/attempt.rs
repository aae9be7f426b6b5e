//! `send`: the whole policy of outgoing requests, for one attempt.
//!
//! In this order: count, read the target, ask the grants, wait for a permit, look up the name, check every address, connect
//! to one of them, ask the grants again if that took long, send, take the answer. Redirects are answers: the guest follows them, by a request that comes here again.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, Version, header, request::Parts};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use umbel_model::{Digest, TenantId};

use crate::{
    grants::{Effective, Grants},
    http::{
        answer_body::{Answer, AnswerBody, Back},
        client::{HttpClient, WasPooled},
        connect::Open,
        error::HttpError,
        failures, headers,
        masked_body::masked,
        pace::Pace,
        pool::Key,
        request_body::{Exchange, GuestBody, Permits, RequestBody},
        target::Target,
        traffic::Traffic,
    },
    meter::Meter,
    secrets::{AttemptSecrets, BODY_BYTES, Wanted, is_searched, mask_fields},
};

/// How long a guest is willing to wait. The settings bound it in any case.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timeouts {
    pub connect: Option<Duration>,
    pub first_byte: Option<Duration>,
    pub between_bytes: Option<Duration>,
}

/// How a request ended.
pub struct Sent {
    /// The head of the answer is there, and its body can be read.
    pub answer: Result<Response<AnswerBody>, HttpError>,
    /// A line for the job's log, if there is something to say. Of bounded length and number; anything may be in it.
    pub notice: Option<String>,
}

/// The requests of one attempt.
pub struct AttemptHttp {
    client: Arc<HttpClient>,
    tenant: TenantId,
    module: Digest,
    grants: Arc<dyn Grants>,
    meter: Arc<Meter>,
    secrets: Arc<AttemptSecrets>,
    /// Made at the first request: most attempts make none.
    live: OnceLock<Live>,
}

struct Live {
    traffic: Arc<Traffic>,
    permits: Arc<Semaphore>,
    log_lines: AtomicU32,
}

/// What a request may do, and the secrets for its head, as they were at one moment.
struct Leave {
    allowed: Arc<Effective>,
    wanted: Wanted,
    asked_at: Instant,
}

/// A leave that is older is asked for again before the request is sent: it waited, for the guest's body or for a connection, and
/// meanwhile a permission may have been taken back, or a secret deleted.
const LEAVE_HOLDS: Duration = Duration::from_millis(500);
/// How often a request is tried on connections that turn out to be closed.
const MAX_STALE: usize = 4;

impl HttpClient {
    /// The requests of one attempt of a tenant's module.
    pub fn attempt(
        self: &Arc<Self>,
        tenant: TenantId,
        module: Digest,
        grants: Arc<dyn Grants>,
        meter: Arc<Meter>,
        secrets: Arc<AttemptSecrets>,
    ) -> Arc<AttemptHttp> {
        Arc::new(AttemptHttp { client: self.clone(), tenant, module, grants, meter, secrets, live: OnceLock::new() })
    }
}

impl AttemptHttp {
    /// Sends a request and waits for the head of the answer. Dropping the future ends all that was begun for it.
    pub async fn send(self: Arc<Self>, request: Request<GuestBody>, timeouts: Timeouts) -> Sent {
        let runtime = self.client.runtime.clone();
        let task = AbortOnDropHandle::new(runtime.spawn(async move { self.send_here(request, timeouts).await }));
        task.await.unwrap_or(Sent { answer: Err(HttpError::Stopping), notice: None })
    }

    async fn send_here(&self, request: Request<GuestBody>, timeouts: Timeouts) -> Sent {
        let live = self.live();
        let mut told = Told { about: String::new(), notice: None };
        let answer = self.try_send(live, request, timeouts, &mut told).await;
        if let Err(error) = &answer {
            told.notice = Some(format!("HTTP request{} failed: {error}", told.about));
        }
        let notice = told.notice.and_then(|text| live.notice(text, self.client.config.attempt.log_lines));
        Sent { answer: answer.map(|answer| self.searched(answer)), notice }
    }

    /// An answer as the guest gets it: without the values of the secrets that the attempt sent.
    fn searched(&self, answer: Response<Answer>) -> Response<AnswerBody> {
        if self.secrets.search_bytes() == 0 {
            return answer.map(|body| body.boxed_unsync());
        }
        let (mut parts, body) = answer.into_parts();
        mask_fields(&self.secrets.forms(), &mut parts.headers);
        Response::from_parts(parts, masked(body.boxed_unsync(), self.secrets.clone()))
    }

    /// The secrets that are to be put into the head. Nothing is opened before there is a connection.
    async fn wanted(&self, parts: &Parts, target: &Target) -> Result<Wanted, HttpError> {
        if !self.secrets.has_placeholders() {
            return Ok(Wanted::default());
        }
        let of_rule = target.rule_target(parts.method.as_str());
        Ok(self.secrets.wanted_by_head(&target.path_and_query, &parts.headers, &of_rule).await?)
    }

    /// Asks for all that the head needs.
    async fn leave(&self, parts: &Parts, target: &Target, told: &mut Told) -> Result<Leave, HttpError> {
        let asked_at = Instant::now();
        let allowed = self.allowed(parts.method.as_str(), target, told).await?;
        Ok(Leave { allowed, wanted: self.wanted(parts, target).await?, asked_at })
    }

    /// Asks again for a connection that was waited for: for its address, and for the secrets that are in the body already.
    async fn leave_for(
        &self,
        peer: SocketAddr,
        parts: &Parts,
        in_body: &Wanted,
        target: &Target,
        told: &mut Told,
    ) -> Result<Leave, HttpError> {
        let leave = self.leave(parts, target, told).await?;
        self.client.check(target, peer, &leave.allowed)?;
        self.secrets.check_again(in_body, &target.rule_target(parts.method.as_str())).await?;
        Ok(leave)
    }

    /// Puts secrets into the body, if it is a text that ends within the limit, and says which. What is longer is sent as it is.
    async fn put_into_body(
        &self,
        parts: &mut Parts,
        body: &mut RequestBody,
        target: &Target,
    ) -> Result<Wanted, HttpError> {
        let how = if self.secrets.searches_bodies() { is_searched(&parts.headers) } else { None };
        let Some(how) = how else { return Ok(Wanted::default()) };
        let mut ahead = body.read_ahead(BODY_BYTES).await?;
        let of_rule = target.rule_target(parts.method.as_str());
        let wanted =
            if ahead.whole { self.secrets.wanted_by_body(&ahead.bytes, &of_rule).await? } else { Wanted::default() };
        let put = wanted.put_into_body(&ahead.bytes, how)?;
        if let Some(put) = &put {
            self.live().traffic.sent(put.len().saturating_sub(ahead.bytes.len()))?;
            if parts.headers.contains_key(header::CONTENT_LENGTH) {
                parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(put.len()));
            }
        }
        // The copy that is sent is freed when it was, and zeroed by the allocator.
        let bytes = put.map_or_else(|| std::mem::take(&mut ahead.bytes).into(), |put| Bytes::copy_from_slice(&put));
        body.put_before(bytes, ahead);
        Ok(wanted)
    }

    async fn try_send(
        &self,
        live: &Live,
        request: Request<GuestBody>,
        timeouts: Timeouts,
        told: &mut Told,
    ) -> Result<Response<Answer>, HttpError> {
        let limits = &live.traffic.limits;
        let (mut parts, body) = request.into_parts();
        let exchange = Exchange::new(live.traffic.clone(), self.client.runtime.clone());
        // From here on the body is drained whatever happens.
        let mut body = RequestBody::new(body, exchange.clone());
        live.traffic.request()?;
        let target = Target::read(&parts.method, &parts.uri, limits.url_bytes)?;
        let method = parts.method.clone();
        told.about = format!(" {method} {}://{}", target.scheme.as_str(), target.authority());
        let asked_at = Instant::now();
        let allowed = self.allowed(method.as_str(), &target, told).await?;
        headers::strip(&mut parts.headers);
        let line_bytes = method.as_str().len() + target.path_and_query.len() + target.authority().len() + 24;
        let head_bytes = headers::check_request(&parts.headers, line_bytes, limits)?;
        live.traffic.sent(head_bytes)?;
        let mut leave = Leave { allowed, wanted: self.wanted(&parts, &target).await?, asked_at };
        let (permits, waited) = live.permits().await?;
        if waited {
            leave = self.leave(&parts, &target, told).await?;
        }
        body.hold(permits.clone());
        let in_body = self.put_into_body(&mut parts, &mut body, &target).await?;
        if leave.is_old() {
            leave = self.leave(&parts, &target, told).await?;
        }
        let key = Key {
            tenant: self.tenant.clone(),
            module: self.module,
            scheme: target.scheme,
            host: target.host.clone(),
            port: target.port,
        };
        exchange.note_progress();
        for _ in 0..MAX_STALE {
            let (mut open, pooled) = self.client.connection(&key, &target, &leave.allowed, timeouts.connect).await?;
            if leave.is_old() {
                leave = self.leave_for(open.peer, &parts, &in_body, &target, told).await?;
            }
            let sent = self.send_on(&mut open, &parts, &leave.wanted, &target, body, &exchange, timeouts).await;
            let incoming = match sent {
                Ok(incoming) => incoming,
                Err(Unanswered { unsent: Some(request), .. }) if pooled.0 => {
                    body = request.into_body();
                    continue;
                }
                Err(Unanswered { error, .. }) => return Err(error),
            };
            return self.answer(live, incoming, open, pooled, key, permits, timeouts);
        }
        Err(HttpError::Closed)
    }

    /// What is allowed now, if the request is.
    async fn allowed(&self, method: &str, target: &Target, told: &mut Told) -> Result<Arc<Effective>, HttpError> {
        let allowed = self.grants.now().await.map_err(|_| HttpError::GrantsUnavailable)?;
        match allowed.allow_http(&target.rule_target(method)) {
            Ok(()) => Ok(allowed),
            Err(denied) if self.client.config.report_only => {
                told.notice = Some(format!("HTTP request{} would be denied: {denied}", told.about));
                Ok(allowed)
            }
            Err(denied) => Err(HttpError::Denied(denied)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "all of it is about one request")]
    async fn send_on(
        &self,
        open: &mut Open,
        parts: &Parts,
        wanted: &Wanted,
        target: &Target,
        body: RequestBody,
        exchange: &Exchange,
        timeouts: Timeouts,
    ) -> Result<Response<Incoming>, Unanswered> {
        let max_bytes = self.client.config.attempt.head_bytes;
        let request = match head(parts, wanted, target, open.connection.is_http2(), max_bytes) {
            Ok(head) => head.map(|()| body),
            Err(error) => return Err(Unanswered { error, unsent: None }),
        };
        let most = Duration::from_millis(self.client.config.time.first_byte_ms);
        let limit = timeouts.first_byte.unwrap_or(most).min(most);
        let mut sending = std::pin::pin!(open.connection.send(request));
        loop {
            let until = exchange.progress() + limit;
            tokio::select! {
                biased;
                sent = &mut sending => return sent.map_err(|unsent| Unanswered {
                    error: failures::of_request(&unsent.error, exchange.failed()),
                    unsent: unsent.request,
                }),
                () = tokio::time::sleep_until(until) => {
                    if exchange.progress() + limit <= tokio::time::Instant::now() {
                        return Err(Unanswered { error: HttpError::FirstByteTimeout(limit), unsent: None });
                    }
                }
            }
        }
    }

    /// Checks the head of an answer and bounds its body.
    #[expect(clippy::too_many_arguments, reason = "all of it is about one answer")]
    fn answer(
        &self,
        live: &Live,
        incoming: Response<Incoming>,
        open: Open,
        pooled: WasPooled,
        key: Key,
        permits: Arc<Permits>,
        timeouts: Timeouts,
    ) -> Result<Response<Answer>, HttpError> {
        let time = &self.client.config.time;
        let (mut parts, body) = incoming.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(HttpError::Protocol("it switched to another protocol, which nobody asked for".to_owned()));
        }
        let head_bytes = headers::bytes(&parts.headers) + 16;
        if head_bytes > live.traffic.limits.head_bytes || parts.headers.len() > live.traffic.limits.fields {
            return Err(HttpError::ResponseHead);
        }
        live.traffic.received(head_bytes)?;
        headers::strip(&mut parts.headers);
        let most = Duration::from_millis(time.between_bytes_ms);
        let between = timeouts.between_bytes.unwrap_or(most).min(most);
        let pace = Pace::new(between, Duration::from_millis(time.rate_window_ms), time.least_rate);
        let back = if open.connection.is_http2() {
            // Others may use it at once; one from the pool is still there.
            if !pooled.0 {
                self.client.pool.put(key, open);
            }
            None
        } else {
            Some(Back { pool: self.client.pool.clone(), key, open })
        };
        let body = Answer::new(body, live.traffic.clone(), pace, time.least_rate, permits, back);
        Ok(Response::from_parts(parts, body))
    }

    fn live(&self) -> &Live {
        self.live.get_or_init(|| {
            let limits = self.client.config.attempt;
            let tenant = self.client.tenants.of(&self.tenant);
            Live {
                traffic: Arc::new(Traffic { meter: self.meter.clone(), limits, tenant }),
                permits: Arc::new(Semaphore::new(limits.concurrent)),
                log_lines: AtomicU32::new(0),
            }
        })
    }
}

impl Leave {
    fn is_old(&self) -> bool {
        self.asked_at.elapsed() > LEAVE_HOLDS
    }
}

/// What is to be said about a request.
struct Told {
    /// Method and authority, once they are known.
    about: String,
    notice: Option<String>,
}

/// A request without an answer.
struct Unanswered {
    error: HttpError,
    /// There if not a byte of it was sent.
    unsent: Option<Request<RequestBody>>,
}

impl Live {
    /// Waits until the attempt and its tenant have a request less; whether it had to wait.
    async fn permits(&self) -> Result<(Arc<Permits>, bool), HttpError> {
        let (of_attempt, of_tenant) = (&self.permits, &self.traffic.tenant.permits);
        let at_once = of_attempt.clone().try_acquire_owned().ok();
        let (attempt, mut waited) = match at_once {
            Some(permit) => (permit, false),
            None => (of_attempt.clone().acquire_owned().await.map_err(|_| HttpError::Stopping)?, true),
        };
        let tenant = match of_tenant.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                waited = true;
                of_tenant.clone().acquire_owned().await.map_err(|_| HttpError::Stopping)?
            }
        };
        Ok((Arc::new(Permits { _attempt: attempt, _tenant: tenant }), waited))
    }

    /// A line for the log, while there were not too many.
    fn notice(&self, text: String, max: u32) -> Option<String> {
        let before = self.log_lines.fetch_add(1, Ordering::Relaxed);
        match max.checked_sub(before.saturating_add(1)) {
            None => None,
            Some(0) => Some(format!("{text} (further lines about requests of this attempt are left out)")),
            Some(_) => Some(text),
        }
    }
}

/// The head of a request as a connection wants it. The host is the one that was checked, whatever the guest says.
/// Secrets are opened here, for this one send.
fn head(
    parts: &Parts,
    wanted: &Wanted,
    target: &Target,
    http2: bool,
    max_bytes: usize,
) -> Result<Request<()>, HttpError> {
    let mut head = Request::new(());
    *head.method_mut() = parts.method.clone();
    *head.headers_mut() = if wanted.is_empty() {
        parts.headers.clone()
    } else {
        let too_large = HttpError::RequestHead { max: max_bytes, fields: parts.headers.len() };
        wanted.put_into(&parts.headers, max_bytes)?.ok_or(too_large)?
    };
    let authority = target.authority();
    let mut uri = Uri::builder().path_and_query(target.path_and_query.as_str());
    if http2 {
        *head.version_mut() = Version::HTTP_2;
        uri = uri.scheme(target.scheme.as_str()).authority(authority);
    } else {
        let host = HeaderValue::try_from(authority).map_err(|e| HttpError::InvalidUrl(HttpError::text(e)))?;
        head.headers_mut().insert(header::HOST, host);
    }
    *head.uri_mut() = uri.build().map_err(|e| HttpError::InvalidUrl(HttpError::text(e)))?;
    Ok(head)
}

impl fmt::Debug for AttemptHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptHttp").finish_non_exhaustive()
    }
}
