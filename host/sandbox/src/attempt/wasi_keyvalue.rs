//! The two drafts of `wasi:keyvalue/store`, on the calls of `kv_calls`: the same permissions, limits, charges, and checks of the
//! delivery.
//!
//! They differ in the cursors of lists: the first draft has numbers. Such a number names an end of a page that the bucket
//! remembers while it is open. Atomics are not linked: the newer draft's compare-and-swap is unfinished, and without all of its
//! functions a module would be taken and not start.

use std::{collections::VecDeque, sync::Arc};

use umbel_capabilities::{KeyValue, kv::Expected};
use umbel_model::{BucketName, permission::Access};
use wasmtime::{
    Result, StoreContextMut,
    component::{ComponentType, Lift, Linker, LinkerInstance, Lower, Resource, ResourceType, WasmList},
};
use wasmtime_wasi::WasiView as _;

use crate::{
    attempt::{fuel::charge, kv_calls as calls, state::State},
    bindings::{kv, names},
};

/// Ends of pages that a bucket remembers.
const MAX_ENDS: usize = 16;
/// Entries of one page.
const PAGE: u32 = 1_000;

type Caller<'a> = StoreContextMut<'a, State>;
type Answer<T> = Result<(std::result::Result<T, Error>,)>;

/// An open bucket.
struct Bucket {
    name: String,
    /// The last ends of pages, and the number of the first of them.
    ends: VecDeque<String>,
    first: u64,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum Error {
    #[component(name = "no-such-store")]
    NoSuchStore,
    #[component(name = "access-denied")]
    AccessDenied,
    #[component(name = "other")]
    Other(String),
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct NumberedKeys {
    keys: Vec<String>,
    cursor: Option<u64>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Keys {
    keys: Vec<String>,
    cursor: Option<String>,
}

impl From<kv::Error> for Error {
    fn from(error: kv::Error) -> Self {
        Self::Other(match error {
            kv::Error::Denied(_) => return Self::AccessDenied,
            kv::Error::Invalid(text)
            | kv::Error::Quota(text)
            | kv::Error::Limit(text)
            | kv::Error::Unavailable(text) => text,
            kv::Error::TooLarge(max) => format!("a value has at most {max} bytes"),
            kv::Error::Stale => "this attempt has lost its delivery: another one may run".into(),
            kv::Error::Conflict(_) | kv::Error::NotANumber | kv::Error::Overflow => "the store did not answer".into(),
        })
    }
}

pub(crate) fn add(linker: &mut Linker<State>) -> Result<()> {
    let [numbered, named] = names::KEYVALUE;
    let mut store = linker.instance(numbered)?;
    add_store(&mut store)?;
    add_list(&mut store, |mut caller: Caller<'_>, bucket, cursor: Option<u64>| {
        Box::new(async move {
            let after = match cursor.map(|number| end(&mut caller, &bucket, number)).transpose() {
                Ok(after) => after.flatten(),
                Err(error) => return Err(error),
            };
            if cursor.is_some() && after.is_none() {
                return Ok(Err(Error::Other("the cursor is not one of the last pages of this bucket".into())));
            }
            match page(&mut caller, &bucket, after).await? {
                Err(error) => Ok(Err(error)),
                Ok(Keys { keys, cursor }) => {
                    let cursor = cursor.map(|end| remember(&mut caller, &bucket, end)).transpose()?;
                    Ok(Ok(NumberedKeys { keys, cursor }))
                }
            }
        })
    })?;
    let mut store = linker.instance(named)?;
    add_store(&mut store)?;
    add_list(&mut store, |mut caller: Caller<'_>, bucket, cursor: Option<String>| {
        Box::new(async move { page(&mut caller, &bucket, cursor).await })
    })
}

/// All but the lists.
fn add_store(store: &mut LinkerInstance<'_, State>) -> Result<()> {
    store.resource("bucket", ResourceType::host::<Bucket>(), |mut caller, rep| {
        caller.data_mut().ctx().table.delete(Resource::<Bucket>::new_own(rep))?;
        Ok(())
    })?;
    store.func_wrap_async("open", |mut caller: Caller<'_>, (name,): (String,)| {
        Box::new(async move {
            charge(&mut caller, name.len())?;
            if name.parse::<BucketName>().is_err() {
                return Answer::Ok((Err(Error::NoSuchStore),));
            }
            if let Err(error) = calls::allowed(&mut caller, &name, Access::Read).await {
                return Ok((Err(error.into()),));
            }
            let bucket = Bucket { name, ends: VecDeque::new(), first: 0 };
            Ok((Ok(caller.data_mut().ctx().table.push(bucket)?),))
        })
    })?;
    store.func_wrap_async(
        "[method]bucket.get",
        |mut caller: Caller<'_>, (bucket, key): (Resource<Bucket>, String)| {
            Box::new(async move { Answer::Ok((value(&mut caller, &bucket, key).await?,)) })
        },
    )?;
    store.func_wrap_async(
        "[method]bucket.exists",
        |mut caller: Caller<'_>, (bucket, key): (Resource<Bucket>, String)| {
            Box::new(async move {
                let found = value(&mut caller, &bucket, key).await?;
                Answer::Ok((found.map(|value| value.is_some()),))
            })
        },
    )?;
    store.func_wrap_async(
        "[method]bucket.set",
        |mut caller: Caller<'_>, (bucket, key, value): (Resource<Bucket>, String, WasmList<u8>)| {
            Box::new(async move {
                let value = match calls::taken(&mut caller, key.len(), &value)? {
                    Ok(value) => value,
                    Err(error) => return Answer::Ok((Err(error.into()),)),
                };
                let name = name_of(&mut caller, &bucket)?;
                let answer = match calls::written(&mut caller, &name, &key, Expected::Any).await {
                    Ok((store, at)) => store.set(at, value, 0).await.map(drop).map_err(|e| calls::error(e).into()),
                    Err(error) => Err(error.into()),
                };
                Ok((answer,))
            })
        },
    )?;
    store.func_wrap_async(
        "[method]bucket.delete",
        |mut caller: Caller<'_>, (bucket, key): (Resource<Bucket>, String)| {
            Box::new(async move {
                charge(&mut caller, key.len())?;
                let name = name_of(&mut caller, &bucket)?;
                let answer = match calls::written(&mut caller, &name, &key, Expected::Any).await {
                    Ok((store, at)) => delete(store, at).await,
                    Err(error) => Err(error.into()),
                };
                Answer::Ok((answer,))
            })
        },
    )
}

async fn delete(store: Arc<dyn KeyValue>, at: umbel_capabilities::kv::At) -> std::result::Result<(), Error> {
    store.delete(at).await.map(drop).map_err(|error| calls::error(error).into())
}

/// Links `list-keys` with its cursors.
fn add_list<C, T, F>(store: &mut LinkerInstance<'_, State>, list: F) -> Result<()>
where
    C: ComponentType + Lift + Send + Sync + 'static,
    T: ComponentType + Lower + Send + Sync + 'static,
    F: for<'a> Fn(
            Caller<'a>,
            Resource<Bucket>,
            Option<C>,
        ) -> Box<dyn Future<Output = Result<std::result::Result<T, Error>>> + Send + 'a>
        + Send
        + Sync
        + 'static,
{
    store.func_wrap_async("[method]bucket.list-keys", move |caller: Caller<'_>, (bucket, cursor)| {
        let listed = Box::into_pin(list(caller, bucket, cursor));
        Box::new(async move { Answer::Ok((listed.await?,)) })
    })
}

fn name_of(caller: &mut Caller<'_>, bucket: &Resource<Bucket>) -> Result<String> {
    Ok(caller.data_mut().ctx().table.get(bucket)?.name.clone())
}

async fn value(
    caller: &mut Caller<'_>,
    bucket: &Resource<Bucket>,
    key: String,
) -> Result<std::result::Result<Option<Vec<u8>>, Error>> {
    let name = name_of(caller, bucket)?;
    let found = calls::read(caller, &name, vec![key]).await?;
    Ok(found.map(|entries| entries.into_iter().flatten().next().map(|entry| entry.value)).map_err(Error::from))
}

async fn page(
    caller: &mut Caller<'_>,
    bucket: &Resource<Bucket>,
    after: Option<String>,
) -> Result<std::result::Result<Keys, Error>> {
    let name = name_of(caller, bucket)?;
    let page = calls::listed(caller, &name, String::new(), after, PAGE).await?;
    let keys =
        |page: kv::Page| Keys { keys: page.entries.into_iter().map(|(key, _)| key).collect(), cursor: page.next };
    Ok(page.map(keys).map_err(Error::from))
}

/// The end of a page that a number names; none when it is not remembered.
fn end(caller: &mut Caller<'_>, bucket: &Resource<Bucket>, number: u64) -> Result<Option<String>> {
    let bucket = caller.data_mut().ctx().table.get(bucket)?;
    let at = number.checked_sub(bucket.first).and_then(|at| usize::try_from(at).ok());
    Ok(at.and_then(|at| bucket.ends.get(at)).cloned())
}

/// The number of an end of a page.
fn remember(caller: &mut Caller<'_>, bucket: &Resource<Bucket>, end: String) -> Result<u64> {
    let bucket = caller.data_mut().ctx().table.get_mut(bucket)?;
    if bucket.ends.len() == MAX_ENDS {
        bucket.ends.pop_front();
        bucket.first += 1;
    }
    bucket.ends.push_back(end);
    Ok(bucket.first + bucket.ends.len() as u64 - 1)
}
