//! The functions of `wasi:http` that move bytes between guest and host or cost the host more than a call, linked in place of
//! those of `wasmtime-wasi-http`: they charge what they move, and a request its price.
//!
//! All others move a few numbers or short texts of the host's; `State::http` counts their calls.

use umbel_model::outcome::MAX_MESSAGE_BYTES;
use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource},
};
use wasmtime_wasi_http::{
    Error, FieldMap, RequestOptions, WasiHttpView as _,
    p2::{
        HeaderResult, HttpError, HttpResult,
        bindings::http::{
            outgoing_handler::Host as _,
            types::{
                self, ErrorCode, HeaderError, Host as _, HostFields as _, HostOutgoingRequest as _, Method, Scheme,
            },
        },
        types::{HostFutureIncomingResponse, HostIncomingResponse, HostOutgoingRequest},
    },
};

use crate::attempt::{
    fuel::{charge, charge_at, charge_bytes},
    http::REQUEST_BYTES,
    state::State,
    text::clean,
};

type Caller<'a> = StoreContextMut<'a, State>;
type Fields = Resource<FieldMap>;
type Value = Vec<u8>;
type HeaderAnswer<T> = Result<(Result<T, HeaderError>,)>;
type Set = Result<(Result<(), ()>,)>;

/// The version that `wasmtime_wasi_http` links; a guest of any other 0.2.x gets the same functions.
const TYPES: &str = "wasi:http/types@0.2.12";
const HANDLER: &str = "wasi:http/outgoing-handler@0.2.12";

/// Links `wasi:http`.
pub(crate) fn add(linker: &mut Linker<State>) -> Result<()> {
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    linker.allow_shadowing(true);
    replace_handler(linker)?;
    replace_fields(linker)?;
    replace_request(linker)?;
    replace_errors(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

type Handled = HttpResult<Resource<HostFutureIncomingResponse>>;

fn replace_handler(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(HANDLER)?.func_wrap(
        "handle",
        |mut caller: Caller<'_>,
         (request, options): (Resource<HostOutgoingRequest>, Option<Resource<RequestOptions>>)| {
            let price = usize::try_from(caller.data().charge.http_request).unwrap_or(usize::MAX);
            charge_at(&mut caller, price, 1)?;
            let handled = begin(&mut caller, request, options);
            Ok((match handled {
                Ok(future) => Ok(future),
                Err(error) => Err(caller.data_mut().http().convert_error_code(error)?),
            },))
        },
    )
}

/// Begins a request, if the guest's memory has room for what the host keeps for it.
fn begin(
    caller: &mut Caller<'_>,
    request: Resource<HostOutgoingRequest>,
    options: Option<Resource<RequestOptions>>,
) -> Handled {
    if !has_url(caller.data_mut().http().table.get_mut(&request)?) {
        return refuse(caller, request, ErrorCode::HttpRequestUriInvalid);
    }
    let bytes = REQUEST_BYTES + caller.data().attempt.reach.secrets.body_bytes();
    let Some(reserved) = caller.data_mut().limiter.reserve(bytes) else {
        let text = format!("the memory limit of the attempt leaves no room for another request ({bytes} bytes)");
        return refuse(caller, request, ErrorCode::InternalError(Some(text)));
    };
    let state = caller.data_mut();
    state.http_kept().reserve(reserved);
    state.http().handle(request, options)
}

/// Whether a request has a host; its path is `/` unless it was set. `wasmtime-wasi-http` writes a line to the log of the
/// process for each URL that it cannot put together.
fn has_url(request: &mut HostOutgoingRequest) -> bool {
    let path = request.path_with_query.get_or_insert_default();
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    request.authority.is_some()
}

/// Uses the request up, as a handler does it.
fn refuse(caller: &mut Caller<'_>, request: Resource<HostOutgoingRequest>, code: ErrorCode) -> Handled {
    types::HostOutgoingRequest::drop(&mut caller.data_mut().http(), request).map_err(HttpError::trap)?;
    Err(code.into())
}

fn replace_fields(linker: &mut Linker<State>) -> Result<()> {
    let mut linked = linker.instance(TYPES)?;
    linked.func_wrap(
        "[static]fields.from-list",
        |mut caller: Caller<'_>, (entries,): (Vec<(String, Value)>,)| -> HeaderAnswer<Fields> {
            let bytes = entries.iter().map(|(name, value)| entry_bytes(name.len(), value.len())).sum();
            charge(&mut caller, bytes)?;
            let made = caller.data_mut().http().from_list(entries);
            caller.data_mut().http_kept().count_fields(bytes)?;
            answer(&mut caller, made)
        },
    )?;
    linked.func_wrap("[method]fields.clone", |mut caller: Caller<'_>, (fields,): (Fields,)| {
        charge_copy(&mut caller, &fields)?;
        Ok((types::HostFields::clone(&mut caller.data_mut().http(), fields)?,))
    })?;
    // The fields may outlive their answer.
    linked.func_wrap(
        "[method]incoming-response.headers",
        |mut caller: Caller<'_>, (response,): (Resource<HostIncomingResponse>,)| {
            charge(&mut caller, 0)?;
            let fields = types::HostIncomingResponse::headers(&mut caller.data_mut().http(), response)?;
            charge_copy(&mut caller, &fields)?;
            Ok((fields,))
        },
    )?;
    linked.func_wrap("[method]fields.get", |mut caller: Caller<'_>, (fields, name): (Fields, String)| {
        charge(&mut caller, name.len())?;
        let values = caller.data_mut().http().get(fields, name)?;
        charge(&mut caller, values.iter().map(|value| entry_bytes(0, value.len())).sum())?;
        Ok((values,))
    })?;
    linked.func_wrap("[method]fields.has", |mut caller: Caller<'_>, (fields, name): (Fields, String)| {
        charge(&mut caller, name.len())?;
        Ok((caller.data_mut().http().has(fields, name)?,))
    })?;
    linked.func_wrap(
        "[method]fields.set",
        |mut caller: Caller<'_>, (fields, name, values): (Fields, String, Vec<Value>)| -> HeaderAnswer<()> {
            let bytes = values.iter().map(|value| entry_bytes(name.len(), value.len())).sum::<usize>();
            charge_change(&mut caller, &fields, bytes + name.len())?;
            let set = caller.data_mut().http().set(fields, name, values);
            answer(&mut caller, set)
        },
    )?;
    linked.func_wrap(
        "[method]fields.delete",
        |mut caller: Caller<'_>, (fields, name): (Fields, String)| -> HeaderAnswer<()> {
            charge_change(&mut caller, &fields, name.len())?;
            let deleted = caller.data_mut().http().delete(fields, name);
            answer(&mut caller, deleted)
        },
    )?;
    linked.func_wrap(
        "[method]fields.append",
        |mut caller: Caller<'_>, (fields, name, value): (Fields, String, Value)| -> HeaderAnswer<()> {
            charge_change(&mut caller, &fields, entry_bytes(name.len(), value.len()))?;
            let appended = caller.data_mut().http().append(fields, name, value);
            answer(&mut caller, appended)
        },
    )?;
    linked.func_wrap("[method]fields.entries", |mut caller: Caller<'_>, (fields,): (Fields,)| {
        let entries = caller.data_mut().http().entries(fields)?;
        charge(&mut caller, entries.iter().map(|(name, value)| entry_bytes(name.len(), value.len())).sum())?;
        Ok((entries,))
    })
}

/// A field costs the host about as much as so many more bytes.
fn entry_bytes(name: usize, value: usize) -> usize {
    name + value + 64
}

/// Changing fields that were cloned copies all of them first.
fn charge_change(caller: &mut Caller<'_>, fields: &Fields, bytes: usize) -> Result<()> {
    let copied = size(caller, fields)?;
    charge(caller, bytes.saturating_add(copied))?;
    caller.data_mut().http_kept().count_fields(bytes)
}

fn charge_copy(caller: &mut Caller<'_>, fields: &Fields) -> Result<()> {
    let bytes = size(caller, fields)?;
    charge(caller, bytes)?;
    caller.data_mut().http_kept().count_fields(bytes)
}

fn size(caller: &mut Caller<'_>, fields: &Fields) -> Result<usize> {
    let http = caller.data_mut().http();
    let fields = http.table.get(fields)?;
    Ok(fields.iter().map(|(name, value)| entry_bytes(name.as_str().len(), value.len())).sum())
}

fn answer<T>(caller: &mut Caller<'_>, result: HeaderResult<T>) -> HeaderAnswer<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(caller.data_mut().http().convert_header_error(error)?),)),
    }
}

fn replace_request(linker: &mut Linker<State>) -> Result<()> {
    type Outgoing = Resource<HostOutgoingRequest>;
    let mut linked = linker.instance(TYPES)?;
    linked.func_wrap(
        "[method]outgoing-request.set-method",
        |mut caller: Caller<'_>, (request, method): (Outgoing, Method)| -> Set {
            let bytes = if let Method::Other(name) = &method { name.len() } else { 0 };
            charge(&mut caller, bytes)?;
            Ok((caller.data_mut().http().set_method(request, method)?,))
        },
    )?;
    linked.func_wrap(
        "[method]outgoing-request.set-scheme",
        |mut caller: Caller<'_>, (request, scheme): (Outgoing, Option<Scheme>)| -> Set {
            let bytes = if let Some(Scheme::Other(name)) = &scheme { name.len() } else { 0 };
            charge(&mut caller, bytes)?;
            Ok((caller.data_mut().http().set_scheme(request, scheme)?,))
        },
    )?;
    linked.func_wrap(
        "[method]outgoing-request.set-path-with-query",
        |mut caller: Caller<'_>, (request, path): (Outgoing, Option<String>)| -> Set {
            charge(&mut caller, path.as_ref().map_or(0, String::len))?;
            Ok((keep(path, |path| caller.data_mut().http().set_path_with_query(request, path))?,))
        },
    )?;
    linked.func_wrap(
        "[method]outgoing-request.set-authority",
        |mut caller: Caller<'_>, (request, authority): (Outgoing, Option<String>)| -> Set {
            charge(&mut caller, authority.as_ref().map_or(0, String::len))?;
            Ok((keep(authority, |authority| caller.data_mut().http().set_authority(request, authority))?,))
        },
    )?;
    linked.func_wrap("[method]outgoing-request.method", |mut caller: Caller<'_>, (request,): (Outgoing,)| {
        let method = caller.data_mut().http().method(request)?;
        charge(&mut caller, if let Method::Other(name) = &method { name.len() } else { 0 })?;
        Ok((method,))
    })?;
    linked.func_wrap("[method]outgoing-request.scheme", |mut caller: Caller<'_>, (request,): (Outgoing,)| {
        let scheme = caller.data_mut().http().scheme(request)?;
        charge(&mut caller, if let Some(Scheme::Other(name)) = &scheme { name.len() } else { 0 })?;
        Ok((scheme,))
    })?;
    linked.func_wrap(
        "[method]outgoing-request.path-with-query",
        |mut caller: Caller<'_>, (request,): (Outgoing,)| {
            let path = caller.data_mut().http().path_with_query(request)?;
            charge(&mut caller, path.as_ref().map_or(0, String::len))?;
            Ok((path,))
        },
    )?;
    linked.func_wrap("[method]outgoing-request.authority", |mut caller: Caller<'_>, (request,): (Outgoing,)| {
        let authority = caller.data_mut().http().authority(request)?;
        charge(&mut caller, authority.as_ref().map_or(0, String::len))?;
        Ok((authority,))
    })
}

/// The longest part of a URL that is kept, bytes. The policy refuses shorter ones already.
const MAX_URL_BYTES: usize = 16 << 10;

fn keep(part: Option<String>, set: impl FnOnce(Option<String>) -> Result<Result<(), ()>>) -> Result<Result<(), ()>> {
    if part.as_ref().is_some_and(|part| part.len() > MAX_URL_BYTES) { Ok(Err(())) } else { set(part) }
}

fn replace_errors(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(TYPES)?.func_wrap(
        "http-error-code",
        |mut caller: Caller<'_>, (error,): (Resource<types::IoError>,)| {
            charge(&mut caller, 0)?;
            let state = caller.data_mut();
            // Errors of bodies come as they were made, and wasmtime-wasi-http 48 knows them only when they were converted.
            let ours = state.http().table.get(&error)?.downcast_ref::<Error>().map(of_body);
            match ours {
                Some(code) => {
                    charge_bytes(
                        &mut caller,
                        if let ErrorCode::InternalError(Some(text)) = &code { text.len() } else { 0 },
                    )?;
                    Ok((Some(code),))
                }
                None => Ok((state.http().http_error_code(error)?,)),
            }
        },
    )
}

fn of_body(error: &Error) -> ErrorCode {
    match error {
        Error::HttpResponseBodySize(max) => ErrorCode::HttpResponseBodySize(*max),
        Error::HttpResponseIncomplete => ErrorCode::HttpResponseIncomplete,
        Error::HttpResponseHeaderSectionSize(max) => ErrorCode::HttpResponseTrailerSectionSize(*max),
        Error::ConnectionReadTimeout => ErrorCode::ConnectionReadTimeout,
        Error::ConnectionTerminated => ErrorCode::ConnectionTerminated,
        Error::ConnectionLimitReached => ErrorCode::ConnectionLimitReached,
        Error::HttpProtocolError => ErrorCode::HttpProtocolError,
        other => ErrorCode::InternalError(Some(clean(&other.to_string(), MAX_MESSAGE_BYTES))),
    }
}
