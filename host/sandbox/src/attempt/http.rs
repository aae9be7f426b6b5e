//! Outgoing HTTP of one attempt: `wasi:http` on top of the policy of `umbel-capabilities`.
//!
//! What the host keeps for a request counts as memory of the guest, until the answer was read or dropped. All ends with the
//! store: requests under way are given up, and a body that the guest did not finish never looks complete.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderName, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};
use umbel_capabilities::http::{AttemptHttp, FORBIDDEN_HEADERS, HttpError, Sent, Timeouts};
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::{
    Error, FieldMapError, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks,
};

use crate::attempt::{host::LogLevel, limiter::Reserved, log::AttemptLog, wasi::WRITE_BYTES};

/// Of all fields of one `fields` resource, bytes of the host's memory.
const MAX_FIELDS_BYTES: usize = 64 << 10;
/// The same for all that one store ever makes.
const MAX_ALL_FIELDS_BYTES: usize = 16 << 20;
/// What the host takes at most for one open request: what the connection reads ahead, the heads, and what the guest wrote
/// and nobody sent yet.
pub(crate) const REQUEST_BYTES: usize = 128 << 10;

/// Made at a guest's first call of `wasi:http`: most guests make none. Dropped before the table of resources is.
pub(crate) struct Http {
    ctx: WasiHttpCtx,
    hooks: Hooks,
}

struct Hooks {
    http: Option<Arc<AttemptHttp>>,
    log: Arc<AttemptLog>,
    reserved: Option<Reserved>,
    /// Of all fields that were ever made for the guest.
    fields_bytes: usize,
    ended: Arc<AtomicBool>,
}

impl Http {
    pub(crate) fn new(http: Option<Arc<AttemptHttp>>, log: Arc<AttemptLog>) -> Self {
        let mut ctx = WasiHttpCtx::new();
        ctx.set_field_size_limit(MAX_FIELDS_BYTES);
        Self { ctx, hooks: Hooks { http, log, reserved: None, fields_bytes: 0, ended: Arc::default() } }
    }
}

impl Http {
    /// Counts fields that are made for the guest: what all of them took so far bounds what the host keeps of them.
    pub(crate) fn count_fields(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let hooks = &mut self.hooks;
        hooks.fields_bytes = hooks.fields_bytes.saturating_add(bytes);
        if hooks.fields_bytes > MAX_ALL_FIELDS_BYTES { Err(FieldMapError::TotalSizeTooBig.into()) } else { Ok(()) }
    }

    /// The memory of the request that is about to be sent.
    pub(crate) fn reserve(&mut self, reserved: Reserved) {
        self.hooks.reserved = Some(reserved);
    }

    /// What the functions of `wasi:http` work on.
    pub(crate) fn view<'a>(&'a mut self, table: &'a mut ResourceTable) -> WasiHttpCtxView<'a> {
        WasiHttpCtxView { ctx: &mut self.ctx, hooks: &mut self.hooks, table }
    }
}

impl Drop for Hooks {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

type Answered = Result<(Response<WasiBody>, Io), Error>;
/// What goes on after the head of the answer is there: nothing, because connections run elsewhere.
type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        Arc::new(is_forbidden)
    }

    fn set_host_header(&mut self) -> bool {
        // The policy sets the host that it checked.
        false
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        WRITE_BYTES
    }

    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Answered> + Send> {
        let (log, reserved) = (self.log.clone(), self.reserved.take());
        let Some(http) = self.http.clone() else {
            return Box::new(async move {
                log.push(LogLevel::Warn, "umbel", "HTTP request denied: there is no network where this runs");
                Err(Error::HttpRequestDenied)
            });
        };
        let options = options.unwrap_or_default();
        let timeouts = Timeouts {
            connect: options.connect_timeout,
            first_byte: options.first_byte_timeout,
            between_bytes: options.between_bytes_timeout,
        };
        let ended = self.ended.clone();
        let request = request.map(|inner| Unfinished { inner, ended }.boxed_unsync());
        Box::new(async move {
            let Sent { answer, notice } = http.send(request, timeouts).await;
            if let Some(notice) = notice {
                log.push(LogLevel::Warn, "umbel", &notice);
            }
            let answer = answer.map_err(wasi_error)?;
            let held = answer.map(|inner| {
                inner
                    .map_err(move |error| {
                        let _held_as_long = &reserved;
                        wasi_error(error)
                    })
                    .boxed_unsync()
            });
            Ok((held, Box::new(std::future::ready(Ok(()))) as Io))
        })
    }
}

fn is_forbidden(name: &HeaderName) -> bool {
    FORBIDDEN_HEADERS.contains(&name.as_str())
}

/// The body of a request, which is complete only if the guest finished it while its attempt ran: what the store drops at the
/// end of an attempt looks finished.
struct Unfinished {
    inner: WasiBody,
    ended: Arc<AtomicBool>,
}

impl Body for Unfinished {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) if !self.ended.load(Ordering::Acquire) => Poll::Ready(None),
            Poll::Ready(None | Some(Err(_))) => Poll::Ready(Some(Err(HttpError::Aborted))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What the guest sees. Our words are in the job's log, and in the text where the standard has room for one.
fn wasi_error(error: HttpError) -> Error {
    let text = error.to_string();
    match error {
        HttpError::Denied(_) | HttpError::Secret(_) | HttpError::TooManyRequests(_) => Error::HttpRequestDenied,
        HttpError::AddressRefused { .. } | HttpError::OwnAddress { .. } => Error::DestinationIpProhibited,
        HttpError::InvalidUrl(_) => Error::HttpRequestUriInvalid,
        HttpError::Method(_) => Error::HttpRequestMethodInvalid,
        HttpError::UrlTooLong(_) => Error::HttpRequestUriTooLong,
        HttpError::RequestHead { max, .. } => Error::HttpRequestHeaderSectionSize(u32::try_from(max).ok()),
        HttpError::BytesOut(max) => Error::HttpRequestBodySize(Some(max)),
        HttpError::BytesIn(max) => Error::HttpResponseBodySize(Some(max)),
        HttpError::TenantLimit(_) => Error::ConnectionLimitReached,
        HttpError::ResolveTimeout(_) => Error::DnsTimeout,
        HttpError::NoSuchName => Error::DnsError { rcode: Some("NXDOMAIN".to_owned()), info_code: None },
        HttpError::Resolve(_) => Error::DnsError { rcode: None, info_code: None },
        HttpError::ConnectionRefused => Error::ConnectionRefused,
        HttpError::ConnectTimeout(_) => Error::ConnectionTimeout,
        HttpError::Unreachable(_) => Error::DestinationUnavailable,
        HttpError::Certificate(_) => Error::TlsCertificateError,
        HttpError::Tls(_) => Error::TlsProtocolError,
        HttpError::FirstByteTimeout(_) => Error::HttpResponseTimeout,
        HttpError::TooSlow { .. } => Error::ConnectionReadTimeout,
        HttpError::ResponseHead => Error::HttpResponseHeaderSectionSize(None),
        HttpError::Incomplete => Error::HttpResponseIncomplete,
        HttpError::Closed => Error::ConnectionTerminated,
        HttpError::Protocol(_) => Error::HttpProtocolError,
        HttpError::Authorities(_) => Error::ConfigurationError,
        _ => Error::InternalError(Some(text)),
    }
}
