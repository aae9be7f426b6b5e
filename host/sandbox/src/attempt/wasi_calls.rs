//! The WASI functions that move bytes between guest and host, linked in place of those of `wasmtime-wasi`: they look at the
//! guest's memory before anything is copied, refuse what is beyond their limit, and charge each byte when it is moved.
//!
//! All other WASI functions move a few numbers; `State::ctx` counts their calls.

use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource, WasmList},
};
use wasmtime_wasi::{
    WasiView as _,
    p2::{
        DynInputStream, DynOutputStream, DynPollable, StreamResult,
        bindings::{
            io::{
                poll::Host as _,
                streams::{Host as _, HostInputStream as _, HostOutputStream as _, StreamError},
            },
            random::{insecure::Host as _, random::Host as _},
        },
    },
};

use crate::attempt::{
    fuel::{charge, charge_bytes},
    state::State,
    wasi::{MAX_RANDOM_BYTES, WRITE_BYTES},
};

/// A guest asked one call to move more than it may.
#[derive(Debug, thiserror::Error)]
#[error("{call} moves at most {max} bytes at once, and the guest asked for {bytes}")]
pub(crate) struct TooMuch {
    call: &'static str,
    bytes: usize,
    max: usize,
}

fn within(call: &'static str, bytes: usize, max: usize) -> Result<()> {
    if bytes <= max { Ok(()) } else { Err(TooMuch { call, bytes, max }.into()) }
}

type Caller<'a> = StoreContextMut<'a, State>;
type Written = Result<(Result<(), StreamError>,)>;

/// Replaces what `wasmtime_wasi` linked.
pub(crate) fn replace(linker: &mut Linker<State>) -> Result<()> {
    linker.allow_shadowing(true);
    replace_streams(linker)?;
    replace_poll(linker)?;
    replace_random(linker)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// The version that `wasmtime_wasi` links; a guest of any other 0.2.x gets the same functions.
const STREAMS: &str = "wasi:io/streams@0.2.12";
const POLL: &str = "wasi:io/poll@0.2.12";
const RANDOM: &str = "wasi:random/random@0.2.12";
const INSECURE: &str = "wasi:random/insecure@0.2.12";

fn replace_streams(linker: &mut Linker<State>) -> Result<()> {
    replace_input(linker)?;
    let mut streams = linker.instance(STREAMS)?;
    streams.func_wrap(
        "[method]output-stream.write",
        |mut caller: Caller<'_>, (stream, bytes): (Resource<DynOutputStream>, WasmList<u8>)| -> Written {
            let bytes = taken(&mut caller, "write", &bytes)?;
            let written = caller.data_mut().ctx().table.write(stream, bytes);
            answer(&mut caller, written)
        },
    )?;
    streams.func_wrap_async(
        "[method]output-stream.blocking-write-and-flush",
        |mut caller: Caller<'_>, (stream, bytes): (Resource<DynOutputStream>, WasmList<u8>)| {
            Box::new(async move {
                let bytes = taken(&mut caller, "blocking-write-and-flush", &bytes)?;
                let written = caller.data_mut().ctx().table.blocking_write_and_flush(stream, bytes).await;
                answer(&mut caller, written)
            })
        },
    )?;
    streams.func_wrap(
        "[method]output-stream.write-zeroes",
        |mut caller: Caller<'_>, (stream, count): (Resource<DynOutputStream>, u64)| -> Written {
            charge_zeroes(&mut caller, "write-zeroes", count)?;
            let written = caller.data_mut().ctx().table.write_zeroes(stream, count);
            answer(&mut caller, written)
        },
    )?;
    streams.func_wrap_async(
        "[method]output-stream.blocking-write-zeroes-and-flush",
        |mut caller: Caller<'_>, (stream, count): (Resource<DynOutputStream>, u64)| {
            Box::new(async move {
                charge_zeroes(&mut caller, "blocking-write-zeroes-and-flush", count)?;
                let written = caller.data_mut().ctx().table.blocking_write_zeroes_and_flush(stream, count).await;
                answer(&mut caller, written)
            })
        },
    )
}

/// What a guest reads is bounded by what its stream has there: a part of an HTTP body, which the HTTP client bounds.
fn replace_input(linker: &mut Linker<State>) -> Result<()> {
    type Input = Resource<DynInputStream>;
    let mut streams = linker.instance(STREAMS)?;
    streams.func_wrap("[method]input-stream.read", |mut caller: Caller<'_>, (stream, most): (Input, u64)| {
        let read = caller.data_mut().ctx().table.read(stream, most);
        charged(&mut caller, read, Vec::len)
    })?;
    streams.func_wrap_async(
        "[method]input-stream.blocking-read",
        |mut caller: Caller<'_>, (stream, most): (Input, u64)| {
            Box::new(async move {
                let read = caller.data_mut().ctx().table.blocking_read(stream, most).await;
                charged(&mut caller, read, Vec::len)
            })
        },
    )?;
    streams.func_wrap("[method]input-stream.skip", |mut caller: Caller<'_>, (stream, most): (Input, u64)| {
        let skipped = caller.data_mut().ctx().table.skip(stream, most);
        charged(&mut caller, skipped, as_bytes)
    })?;
    streams.func_wrap_async(
        "[method]input-stream.blocking-skip",
        |mut caller: Caller<'_>, (stream, most): (Input, u64)| {
            Box::new(async move {
                let skipped = caller.data_mut().ctx().table.blocking_skip(stream, most).await;
                charged(&mut caller, skipped, as_bytes)
            })
        },
    )?;
    streams.func_wrap(
        "[method]output-stream.splice",
        |mut caller: Caller<'_>, (to, from, most): (Resource<DynOutputStream>, Input, u64)| {
            let moved = caller.data_mut().ctx().table.splice(to, from, most);
            charged(&mut caller, moved, as_bytes)
        },
    )?;
    streams.func_wrap_async(
        "[method]output-stream.blocking-splice",
        |mut caller: Caller<'_>, (to, from, most): (Resource<DynOutputStream>, Input, u64)| {
            Box::new(async move {
                let moved = caller.data_mut().ctx().table.blocking_splice(to, from, most).await;
                charged(&mut caller, moved, as_bytes)
            })
        },
    )
}

fn as_bytes(count: &u64) -> usize {
    usize::try_from(*count).unwrap_or(usize::MAX)
}

/// Charges what was moved out of an input stream.
fn charged<T>(
    caller: &mut Caller<'_>,
    moved: StreamResult<T>,
    bytes: impl FnOnce(&T) -> usize,
) -> Result<(Result<T, StreamError>,)> {
    match moved {
        Ok(moved) => {
            charge(caller, bytes(&moved))?;
            Ok((Ok(moved),))
        }
        Err(error) => Ok((Err(caller.data_mut().ctx().table.convert_stream_error(error)?),)),
    }
}

/// Copies what a guest writes, if it is as little as `check-write` allows.
fn taken(caller: &mut Caller<'_>, call: &'static str, bytes: &WasmList<u8>) -> Result<Vec<u8>> {
    within(call, bytes.len(), WRITE_BYTES)?;
    charge(caller, bytes.len())?;
    let bytes = bytes.as_le_slice(&*caller).to_vec();
    let secrets = &caller.data().attempt.reach.secrets;
    if secrets.search_cost(0) > 0 {
        // Each line that it may be is searched by itself.
        let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
        let cost = secrets.search_cost(bytes.len()).saturating_add(secrets.search_cost(0).saturating_mul(lines));
        charge_bytes(caller, cost)?;
    }
    Ok(bytes)
}

fn charge_zeroes(caller: &mut Caller<'_>, call: &'static str, count: u64) -> Result<()> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    within(call, count, WRITE_BYTES)?;
    charge(caller, count)
}

fn answer(caller: &mut Caller<'_>, written: StreamResult<()>) -> Written {
    match written {
        Ok(()) => Ok((Ok(()),)),
        Err(error) => Ok((Err(caller.data_mut().ctx().table.convert_stream_error(error)?),)),
    }
}

/// About the bytes that the host takes to wait for one pollable.
const POLLABLE_BYTES: usize = 64;

fn replace_poll(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(POLL)?.func_wrap_async("poll", |mut caller: Caller<'_>, (pollables,): (Vec<Pollable>,)| {
        Box::new(async move {
            // Wasmtime counts each of the list as a handle, so the list is as short as `MAX_HANDLES`.
            charge(&mut caller, pollables.len() * POLLABLE_BYTES)?;
            Ok((caller.data_mut().ctx().table.poll(pollables).await?,))
        })
    })
}

type Pollable = Resource<DynPollable>;

fn replace_random(linker: &mut Linker<State>) -> Result<()> {
    linker.instance(RANDOM)?.func_wrap("get-random-bytes", |mut caller: Caller<'_>, (count,): (u64,)| {
        charge_random(&mut caller, count)?;
        Ok((caller.data_mut().ctx().ctx.random().get_random_bytes(count)?,))
    })?;
    linker.instance(INSECURE)?.func_wrap("get-insecure-random-bytes", |mut caller: Caller<'_>, (count,): (u64,)| {
        charge_random(&mut caller, count)?;
        Ok((caller.data_mut().ctx().ctx.random().get_insecure_random_bytes(count)?,))
    })
}

fn charge_random(caller: &mut Caller<'_>, count: u64) -> Result<()> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    within("get-random-bytes", count, MAX_RANDOM_BYTES)?;
    charge(caller, count)
}
