//! Calls of a guest that read and write blobs: bounded, charged by their bytes, allowed by the grants of the attempt when they are
//! made, and passed to the store that the attempt reaches.
//!
//! A call that waits holds no thread: the guest's fiber is suspended, and ends with the attempt.

use std::sync::Arc;

use bytes::Bytes;
use umbel_capabilities::{BlobAccess, BlobError, BlobWriter, Refusal};
use umbel_model::{Digest, permission::Access};
use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource, ResourceType, WasmList},
};
use wasmtime_wasi::WasiView as _;

use crate::{
    attempt::{
        fuel::{charge, charge_at, charge_bytes},
        host::LogLevel,
        limiter::Reserved,
        open_blobs::{OpenReader, OpenWriter},
        state::State,
    },
    bindings::{blob, names},
};

/// The longest media type, bytes.
const MAX_CONTENT_TYPE_BYTES: usize = 128;
/// What the host keeps for an open reader, about, bytes.
const READER_BYTES: usize = 4 << 10;
/// The same for a writer: what it gathered, and what is on its way to the store.
const WRITER_BYTES: usize = 512 << 10;

type Caller<'a> = StoreContextMut<'a, State>;
type Asked<T> = std::result::Result<T, blob::Error>;
type Answer<T> = Result<(Asked<T>,)>;

pub(crate) fn add(linker: &mut Linker<State>) -> Result<()> {
    let mut store = linker.instance(names::BLOB)?;
    store.resource("reader", ResourceType::host::<OpenReader>(), |mut caller, rep| {
        caller.data_mut().ctx().table.delete(Resource::<OpenReader>::new_own(rep))?;
        Ok(())
    })?;
    store.resource("writer", ResourceType::host::<OpenWriter>(), |mut caller, rep| {
        caller.data_mut().ctx().table.delete(Resource::<OpenWriter>::new_own(rep))?;
        Ok(())
    })?;
    store.func_wrap_async("[static]reader.open", |mut caller: Caller<'_>, (digest,): (String,)| {
        Box::new(async move {
            charge_call(&mut caller, digest.len())?;
            match opened(&mut caller, &digest).await {
                Ok(reader) => Answer::Ok((Ok(caller.data_mut().ctx().table.push(reader)?),)),
                Err(refused) => Ok((Err(refused),)),
            }
        })
    })?;
    store.func_wrap("[method]reader.size", |mut caller: Caller<'_>, (reader,): (Resource<OpenReader>,)| {
        charge(&mut caller, 0)?;
        Ok((caller.data_mut().ctx().table.get(&reader)?.size,))
    })?;
    store.func_wrap_async(
        "[method]reader.read",
        |mut caller: Caller<'_>, (reader, offset, length): (Resource<OpenReader>, u64, u32)| {
            Box::new(async move {
                charge_call(&mut caller, 0)?;
                let reader = caller.data_mut().ctx().table.get(&reader)?;
                let (digest, size) = (reader.digest, reader.size);
                let most = caller.data().attempt.blob_calls.limits.call_bytes as u64;
                let from = offset.min(size);
                let to = size.min(from + u64::from(length).min(most));
                charge_bytes(&mut caller, (to - from) as usize)?;
                Answer::Ok((read(&mut caller, digest, from..to).await.map(Vec::from),))
            })
        },
    )?;
    store.func_wrap_async("[static]writer.create", |mut caller: Caller<'_>, (content_type,): (Option<String>,)| {
        Box::new(async move {
            charge_call(&mut caller, content_type.as_ref().map_or(0, String::len))?;
            match created(&mut caller, content_type).await {
                Ok(writer) => Answer::Ok((Ok(caller.data_mut().ctx().table.push(writer)?),)),
                Err(refused) => Ok((Err(refused),)),
            }
        })
    })?;
    store.func_wrap_async(
        "[method]writer.write",
        |mut caller: Caller<'_>, (writer, bytes): (Resource<OpenWriter>, WasmList<u8>)| {
            Box::new(async move {
                charge(&mut caller, bytes.len())?;
                let taken = caller.data_mut().ctx().table.get_mut(&writer)?.writer.take();
                match write(&mut caller, taken, &bytes).await {
                    Ok(written) => {
                        caller.data_mut().ctx().table.get_mut(&writer)?.writer = Some(written);
                        Answer::Ok((Ok(()),))
                    }
                    Err(refused) => Ok((Err(refused),)),
                }
            })
        },
    )?;
    store.func_wrap_async("[static]writer.finish", |mut caller: Caller<'_>, (writer,): (Resource<OpenWriter>,)| {
        Box::new(async move {
            charge_call(&mut caller, 0)?;
            let writer = caller.data_mut().ctx().table.delete(writer)?;
            Answer::Ok((finished(&mut caller, writer).await.map(|digest| digest.to_string()),))
        })
    })
}

/// Charges a call that costs the host more than a call does.
fn charge_call(caller: &mut Caller<'_>, bytes: usize) -> Result<()> {
    charge(caller, bytes)?;
    let price = usize::try_from(caller.data().charge.blob_call).unwrap_or(usize::MAX);
    charge_at(caller, price, 1)
}

/// Asks whether a call is allowed now.
async fn allowed(caller: &mut Caller<'_>, access: Access) -> Asked<Arc<dyn BlobAccess>> {
    let reach = caller.data().attempt.reach.clone();
    match reach.blobs(access).await {
        Ok(blobs) => Ok(blobs),
        Err(Refusal::Unavailable(why)) => Err(blob::Error::Unavailable(why.to_string())),
        Err(Refusal::Denied(denied)) => {
            let state = caller.data_mut();
            let text = denied.to_string();
            if state.attempt.kv_calls.is_new(&denied.missing) {
                state.log.push(LogLevel::Warn, "umbel", &text);
            }
            Err(blob::Error::Denied(text))
        }
    }
}

/// Memory of the host that counts as the guest's.
fn reserved(caller: &mut Caller<'_>, bytes: usize) -> Asked<Reserved> {
    let no_room = || blob::Error::Limit(format!("the memory limit of the attempt leaves no room for {bytes} bytes"));
    caller.data_mut().limiter.reserve(bytes).ok_or_else(no_room)
}

async fn opened(caller: &mut Caller<'_>, digest: &str) -> Asked<OpenReader> {
    let blobs = allowed(caller, Access::Read).await?;
    let invalid = |_| blob::Error::Invalid("a digest is `sha256:` and 64 lower-case hex digits".into());
    let digest: Digest = digest.parse().map_err(invalid)?;
    let open = caller.data().attempt.blob_calls.open().map_err(blob::Error::Limit)?;
    let reserved = reserved(caller, READER_BYTES)?;
    let size = blobs.open(digest).await.map_err(error)?;
    Ok(OpenReader { digest, size, _open: open, _reserved: reserved })
}

async fn read(caller: &mut Caller<'_>, digest: Digest, range: std::ops::Range<u64>) -> Asked<Bytes> {
    let blobs = allowed(caller, Access::Read).await?;
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let length = range.end - range.start;
    let _reserved = reserved(caller, length as usize)?;
    let bytes = blobs.read(digest, range).await.map_err(error)?;
    caller.data().attempt.reach.meter.blob_read(bytes.len() as u64);
    Ok(bytes)
}

async fn created(caller: &mut Caller<'_>, content_type: Option<String>) -> Asked<OpenWriter> {
    let blobs = allowed(caller, Access::Write).await?;
    let is_bad = |text: &String| {
        text.is_empty() || text.len() > MAX_CONTENT_TYPE_BYTES || !text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    if content_type.as_ref().is_some_and(is_bad) {
        let text = format!("a content type has 1 to {MAX_CONTENT_TYPE_BYTES} visible ASCII characters");
        return Err(blob::Error::Invalid(text));
    }
    let open = caller.data().attempt.blob_calls.open().map_err(blob::Error::Limit)?;
    let reserved = reserved(caller, WRITER_BYTES)?;
    caller.data_mut().attempt.blob_calls.begin().map_err(blob::Error::Limit)?;
    let writer = blobs.create(content_type).await.map_err(error)?;
    Ok(OpenWriter { writer: Some(writer), _open: open, _reserved: reserved })
}

/// Writes, and gives the writer back unless it failed: then it is dropped, and what it wrote with it.
async fn write(
    caller: &mut Caller<'_>,
    writer: Option<Box<dyn BlobWriter>>,
    bytes: &WasmList<u8>,
) -> Asked<Box<dyn BlobWriter>> {
    allowed(caller, Access::Write).await?;
    let mut writer = writer.ok_or_else(has_failed)?;
    let most = caller.data().attempt.blob_calls.limits.call_bytes;
    if bytes.len() > most {
        return Err(blob::Error::Invalid(format!("one call writes at most {most} bytes")));
    }
    let before = caller.data().attempt.reach.meter.read().blob_bytes_written;
    caller.data().attempt.blob_calls.check_written(before, bytes.len()).map_err(blob::Error::Limit)?;
    let _reserved = reserved(caller, bytes.len())?;
    // A view on the guest's memory until here: nothing is copied of what is refused.
    let bytes = Bytes::copy_from_slice(bytes.as_le_slice(&*caller));
    caller.data().attempt.reach.meter.blob_written(bytes.len() as u64);
    writer.write(bytes).await.map_err(error)?;
    Ok(writer)
}

async fn finished(caller: &mut Caller<'_>, mut open: OpenWriter) -> Asked<Digest> {
    allowed(caller, Access::Write).await?;
    let writer = open.writer.take().ok_or_else(has_failed)?;
    writer.finish().await.map_err(error)
}

fn has_failed() -> blob::Error {
    blob::Error::Invalid("a write of this blob failed: begin it anew".into())
}

fn error(error: BlobError) -> blob::Error {
    match error {
        BlobError::Invalid(why) => blob::Error::Invalid(why),
        BlobError::NotFound => blob::Error::NotFound,
        BlobError::Deleted => blob::Error::Deleted,
        BlobError::TooLarge(max) => blob::Error::TooLarge(max),
        BlobError::Quota(why) => blob::Error::Quota(why),
        BlobError::Unavailable(why) => blob::Error::Unavailable(why),
    }
}
