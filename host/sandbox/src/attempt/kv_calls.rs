//! Calls of a guest that read and write key-value entries: counted, charged by their bytes, allowed by the grants of the attempt
//! when they are made, and passed to the store that the attempt reaches.
//!
//! A call that waits holds no thread: the guest's fiber is suspended, and ends with the attempt.

use umbel_capabilities::{
    KeyValue, KvError, Refusal,
    kv::{At, Entry, Expected},
};
use umbel_model::{BucketName, KvKey, permission::Access};
use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, WasmList},
};

use std::sync::Arc;

use crate::{
    attempt::{
        fuel::{charge, charge_bytes},
        host::LogLevel,
        net,
        state::State,
    },
    bindings::{kv, names},
};

/// Keys of one `get`; as the contract says.
const MAX_KEYS: usize = 32;
/// About the bytes that a host handles for an entry beside key and value.
const ENTRY_BYTES: usize = 32;

type Caller<'a> = StoreContextMut<'a, State>;
type Answer<T> = Result<(std::result::Result<T, kv::Error>,)>;

pub(crate) fn add(linker: &mut Linker<State>) -> Result<()> {
    let mut store = linker.instance(names::KV)?;
    store.func_wrap_async("get", |mut caller: Caller<'_>, (bucket, keys): (String, Vec<String>)| {
        Box::new(async move { Answer::Ok((read(&mut caller, &bucket, keys).await?,)) })
    })?;
    store.func_wrap_async(
        "set",
        |mut caller: Caller<'_>,
         (bucket, key, value, ttl_ms, expect): (String, String, WasmList<u8>, Option<u64>, kv::Expect)| {
            Box::new(async move {
                let value = match taken(&mut caller, bucket.len() + key.len(), &value)? {
                    Ok(value) => value,
                    Err(refused) => return Answer::Ok((Err(refused),)),
                };
                let answer = match written(&mut caller, &bucket, &key, expected(expect)).await {
                    Ok((store, at)) => store.set(at, value, ttl(ttl_ms)).await.map_err(error),
                    Err(refused) => Err(refused),
                };
                Answer::Ok((answer,))
            })
        },
    )?;
    store.func_wrap_async(
        "increment",
        |mut caller: Caller<'_>, (bucket, key, delta, initial, ttl_ms): (String, String, i64, i64, Option<u64>)| {
            Box::new(async move {
                charge(&mut caller, bucket.len() + key.len())?;
                let answer = match written(&mut caller, &bucket, &key, Expected::Any).await {
                    Ok((store, at)) => store.add(at, delta, initial, ttl(ttl_ms)).await.map_err(error),
                    Err(refused) => Err(refused),
                };
                Answer::Ok((answer,))
            })
        },
    )?;
    store.func_wrap_async(
        "delete",
        |mut caller: Caller<'_>, (bucket, key, expect): (String, String, kv::Expect)| {
            Box::new(async move {
                charge(&mut caller, bucket.len() + key.len())?;
                let answer = match written(&mut caller, &bucket, &key, expected(expect)).await {
                    Ok((store, at)) => store.delete(at).await.map_err(error),
                    Err(refused) => Err(refused),
                };
                Answer::Ok((answer,))
            })
        },
    )?;
    store.func_wrap_async(
        "list",
        |mut caller: Caller<'_>, (bucket, prefix, cursor, max): (String, String, Option<String>, u32)| {
            Box::new(async move { Answer::Ok((listed(&mut caller, &bucket, prefix, cursor, max).await?,)) })
        },
    )
}

pub(crate) type Asked<T> = std::result::Result<T, kv::Error>;

/// Entries of some keys, charged by what is asked and what is answered.
pub(crate) async fn read(
    caller: &mut Caller<'_>,
    bucket: &str,
    keys: Vec<String>,
) -> Result<Asked<Vec<Option<kv::Entry>>>> {
    charge(caller, bucket.len() + keys.iter().map(|key| key.len() + ENTRY_BYTES).sum::<usize>())?;
    let answer = get(caller, bucket, keys).await;
    let bytes = answer.iter().flatten().flatten().map(|entry| entry.value.len() + ENTRY_BYTES).sum();
    charge_bytes(caller, bytes)?;
    Ok(answer)
}

/// A page of entries, charged in the same way.
pub(crate) async fn listed(
    caller: &mut Caller<'_>,
    bucket: &str,
    prefix: String,
    cursor: Option<String>,
    max: u32,
) -> Result<Asked<kv::Page>> {
    charge(caller, bucket.len() + prefix.len() + cursor.as_ref().map_or(0, String::len))?;
    let answer = list(caller, bucket, prefix, cursor, max).await;
    let entries = answer.iter().flat_map(|page| &page.entries);
    let bytes = entries.map(|(key, entry)| key.len() + entry.value.len() + ENTRY_BYTES).sum();
    charge_bytes(caller, bytes)?;
    Ok(answer)
}

/// A value that a guest hands over, charged with `more` bytes. It is a view on the guest's memory: nothing is copied of one that
/// is too large.
pub(crate) fn taken(caller: &mut Caller<'_>, more: usize, value: &WasmList<u8>) -> Result<Asked<Vec<u8>>> {
    charge(caller, more + value.len())?;
    let max = caller.data().attempt.kv_calls.limits.value_bytes;
    if value.len() > max {
        return Ok(Err(kv::Error::TooLarge(max as u64)));
    }
    net::charge(caller, value.len())?;
    let caught = caller.data().attempt.reach.secrets.caught_bytes(value.as_le_slice(&*caller));
    Ok(Ok(caught.unwrap_or_else(|| value.as_le_slice(&*caller).to_vec())))
}

async fn get(caller: &mut Caller<'_>, bucket: &str, keys: Vec<String>) -> Asked<Vec<Option<kv::Entry>>> {
    let (store, bucket) = allowed(caller, bucket, Access::Read).await?;
    if keys.len() > MAX_KEYS {
        return Err(kv::Error::Invalid(format!("one call reads at most {MAX_KEYS} keys, not {}", keys.len())));
    }
    let keys = keys.iter().map(|key| valid(key)).collect::<Asked<Vec<KvKey>>>()?;
    let entries = store.get(bucket, keys).await.map_err(error)?;
    Ok(entries.into_iter().map(|entry| entry.map(told)).collect())
}

async fn list(
    caller: &mut Caller<'_>,
    bucket: &str,
    prefix: String,
    cursor: Option<String>,
    max: u32,
) -> Asked<kv::Page> {
    let (store, bucket) = allowed(caller, bucket, Access::Read).await?;
    if prefix.len() > KvKey::MAX_BYTES {
        return Err(kv::Error::Invalid(format!("a prefix has at most {} bytes", KvKey::MAX_BYTES)));
    }
    let after = cursor.as_deref().map(valid).transpose()?;
    let max = max.clamp(1, caller.data().attempt.kv_calls.limits.page);
    let page = store.list(bucket, prefix, after, max).await.map_err(error)?;
    let entries = page.entries.into_iter().map(|(key, entry)| (key.to_string(), told(entry))).collect();
    Ok(kv::Page { entries, next: page.next.map(|key| key.to_string()) })
}

/// The store, and the entry that is to be written.
pub(crate) async fn written(
    caller: &mut Caller<'_>,
    bucket: &str,
    key: &str,
    expect: Expected,
) -> Asked<(Arc<dyn KeyValue>, At)> {
    let (store, bucket) = allowed(caller, bucket, Access::Write).await?;
    Ok((store, At { bucket, key: valid(key)?, expect }))
}

/// Counts a call, and asks whether it is allowed now.
pub(crate) async fn allowed(
    caller: &mut Caller<'_>,
    bucket: &str,
    access: Access,
) -> Asked<(Arc<dyn KeyValue>, BucketName)> {
    let reach = caller.data().attempt.reach.clone();
    let most = caller.data().attempt.kv_calls.limits.calls;
    if reach.meter.kv_operation() > most {
        return Err(kv::Error::Limit(format!("an attempt may read and write key-value entries {most} times")));
    }
    let bucket: BucketName = valid(bucket)?;
    match reach.key_values(&bucket, access).await {
        Ok(store) => Ok((store, bucket)),
        Err(Refusal::Unavailable(why)) => Err(kv::Error::Unavailable(why.to_string())),
        Err(Refusal::Denied(denied)) => {
            let state = caller.data_mut();
            let text = denied.to_string();
            if state.attempt.kv_calls.is_new(&denied.missing) {
                state.log.push(LogLevel::Warn, "umbel", &text);
            }
            Err(kv::Error::Denied(text))
        }
    }
}

fn valid<T: std::str::FromStr<Err = umbel_model::InvalidName>>(text: &str) -> Asked<T> {
    text.parse().map_err(|invalid: umbel_model::InvalidName| kv::Error::Invalid(invalid.to_string()))
}

fn expected(expect: kv::Expect) -> Expected {
    match expect {
        kv::Expect::Any => Expected::Any,
        kv::Expect::Absent => Expected::Absent,
        kv::Expect::Version(version) => Expected::Version(version),
    }
}

/// A time of 0 is the shortest one: for guests, no time is none.
fn ttl(ttl_ms: Option<u64>) -> u64 {
    ttl_ms.map_or(0, |ms| ms.max(1))
}

fn told(entry: Entry) -> kv::Entry {
    let Entry { value, version, expires_at } = entry;
    kv::Entry { value, version, expires_at }
}

pub(crate) fn error(error: KvError) -> kv::Error {
    match error {
        KvError::Conflict(version) => kv::Error::Conflict(version),
        KvError::TooLarge(max) => kv::Error::TooLarge(max),
        KvError::NotANumber => kv::Error::NotANumber,
        KvError::Overflow => kv::Error::Overflow,
        KvError::Quota(why) => kv::Error::Quota(why),
        KvError::Stale => kv::Error::Stale,
        KvError::Unavailable(why) => kv::Error::Unavailable(why),
    }
}
