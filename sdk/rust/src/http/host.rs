//! Sends a request through `wasi:http` and reads the whole answer.

use super::{
    Error, Request, Response,
    raw::{
        outgoing_handler,
        streams::{InputStream, OutputStream, StreamError},
        types::{
            ErrorCode, Fields, FutureIncomingResponse, IncomingBody, Method, OutgoingBody, OutgoingRequest,
            RequestOptions, Scheme, http_error_code,
        },
    },
    shown,
};

/// One read, bytes.
const READ_BYTES: u64 = 64 << 10;

pub(super) fn send(request: Request) -> Result<Response, Error> {
    let of = shown(&request.method, &request.url);
    let invalid = |what: &str| Error::new("http_invalid_request", false, format!("{of}: {what}"));
    let (outgoing, options) = outgoing(&request).map_err(|what| invalid(&what))?;
    let body = match &request.body {
        None => None,
        Some(bytes) => Some((outgoing.body().map_err(|()| invalid("it has no body"))?, bytes)),
    };
    let future = outgoing_handler::handle(outgoing, Some(options)).map_err(|code| failed(&of, &code))?;
    // What goes wrong while the body is written is told by the answer.
    if let Some((body, bytes)) = body {
        let whole = body.write().is_ok_and(|stream| write(&stream, bytes));
        if whole {
            let _ = OutgoingBody::finish(body, None);
        }
    }
    answer(&future, &of, request.max_body_bytes)
}

fn outgoing(request: &Request) -> Result<(OutgoingRequest, RequestOptions), String> {
    let (scheme, rest) = match request.url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Scheme::Https, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Scheme::Http, rest),
        _ => return Err("the URL does not begin with https:// or http://".to_owned()),
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let fields = Fields::new();
    for (name, value) in &request.headers {
        let added = fields.append(name, value.as_bytes());
        added.map_err(|error| format!("the header {name:?} cannot be set: {error:?}"))?;
    }
    if let Some(body) = &request.body {
        let added = fields.append("content-length", body.len().to_string().as_bytes());
        added.map_err(|error| format!("leave out the header content-length: {error:?}"))?;
    }
    let outgoing = OutgoingRequest::new(fields);
    let method = match request.method.as_str() {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    };
    let set = |set: Result<(), ()>, what: &str| set.map_err(|()| format!("{what} cannot be used"));
    set(outgoing.set_method(&method), "the method")?;
    set(outgoing.set_scheme(Some(&scheme)), "the scheme")?;
    set(outgoing.set_authority(Some(authority)), "the host")?;
    set(outgoing.set_path_with_query(Some(path)), "the path or the query")?;
    let options = RequestOptions::new();
    if let Some(timeout) = request.timeout {
        let nanos = Some(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX));
        for taken in [
            options.set_connect_timeout(nanos),
            options.set_first_byte_timeout(nanos),
            options.set_between_bytes_timeout(nanos),
        ] {
            set(taken, "the timeout")?;
        }
    }
    Ok((outgoing, options))
}

/// Writes all of it; false if nobody takes it any more.
fn write(stream: &OutputStream, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        let Ok(room) = stream.check_write() else { return false };
        if room == 0 {
            stream.subscribe().block();
            continue;
        }
        let (now, rest) = bytes.split_at(bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)));
        if stream.write(now).is_err() {
            return false;
        }
        bytes = rest;
    }
    true
}

fn answer(future: &FutureIncomingResponse, of: &str, max_body_bytes: usize) -> Result<Response, Error> {
    let broken = || Error::new("http_bad_answer", true, format!("{of}: the answer cannot be read"));
    let response = loop {
        match future.get() {
            None => future.subscribe().block(),
            Some(Ok(Ok(response))) => break response,
            Some(Ok(Err(code))) => return Err(failed(of, &code)),
            Some(Err(())) => return Err(broken()),
        }
    };
    let headers = response.headers().entries();
    let body = response.consume().map_err(|()| broken())?;
    let bytes = read(&body, of, max_body_bytes)?;
    Ok(Response { status: response.status(), headers, body: bytes, of: of.to_owned() })
}

fn read(body: &IncomingBody, of: &str, max: usize) -> Result<Vec<u8>, Error> {
    let stream: InputStream =
        body.stream().map_err(|()| Error::new("http_bad_answer", true, format!("{of}: the answer cannot be read")))?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(part) if bytes.len() + part.len() > max => {
                let text = format!("{of}: the body of the answer is larger than {max} bytes");
                return Err(Error::new("http_limit", false, text));
            }
            Ok(part) => bytes.extend(part),
            Err(StreamError::Closed) => return Ok(bytes),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(match http_error_code(&error) {
                    Some(code) => failed(of, &code),
                    None => Error::new("http_connection", true, format!("{of}: {}", error.to_debug_string())),
                });
            }
        }
    }
}

/// The host's word for it; the job's log has more.
fn failed(of: &str, code: &ErrorCode) -> Error {
    let (kind, may_help, what): (&'static str, bool, &str) = match code {
        ErrorCode::HttpRequestDenied => {
            ("http_denied", false, "the request is denied; the job's log says what is missing")
        }
        ErrorCode::DestinationIpProhibited => {
            ("http_denied", false, "the server has an address that may not be reached")
        }
        ErrorCode::HttpRequestUriInvalid | ErrorCode::HttpRequestUriTooLong => {
            ("http_invalid_request", false, "the URL cannot be used")
        }
        ErrorCode::HttpRequestMethodInvalid => ("http_invalid_request", false, "the method cannot be used"),
        ErrorCode::HttpRequestHeaderSectionSize(_) => {
            ("http_limit", false, "the request has too many or too large headers")
        }
        ErrorCode::HttpRequestBodySize(_) => {
            ("http_limit", false, "the bodies of the requests are larger than the limit")
        }
        ErrorCode::HttpResponseBodySize(_) => ("http_limit", false, "the answers are larger than the limit"),
        ErrorCode::HttpResponseHeaderSectionSize(_) => {
            ("http_bad_answer", true, "the headers of the answer are too large")
        }
        ErrorCode::ConnectionLimitReached => ("http_limit", true, "too many requests of this tenant"),
        ErrorCode::DnsTimeout => ("http_dns", true, "the name could not be looked up in time"),
        ErrorCode::DnsError(_) => ("http_dns", true, "the name could not be looked up"),
        ErrorCode::ConnectionTimeout | ErrorCode::HttpResponseTimeout | ErrorCode::ConnectionReadTimeout => {
            ("http_timeout", true, "the server took too long")
        }
        ErrorCode::TlsCertificateError => ("http_tls", true, "the certificate of the server is not accepted"),
        ErrorCode::TlsProtocolError | ErrorCode::TlsAlertReceived(_) => {
            ("http_tls", true, "the handshake of TLS failed")
        }
        ErrorCode::ConnectionRefused => ("http_connection", true, "the server refused the connection"),
        ErrorCode::HttpResponseIncomplete | ErrorCode::ConnectionTerminated | ErrorCode::DestinationUnavailable => {
            ("http_connection", true, "the connection failed")
        }
        ErrorCode::HttpProtocolError => ("http_bad_answer", true, "the server does not speak HTTP as it should"),
        ErrorCode::InternalError(Some(text)) => ("http_connection", true, text.as_str()),
        _ => ("http_connection", true, "the request failed"),
    };
    Error::new(kind, may_help, format!("{of}: {what}"))
}
