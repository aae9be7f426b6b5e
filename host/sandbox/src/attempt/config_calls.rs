//! `wasi:config`: the values that the tenant set for a task. An attempt sees the same values to its end.

use umbel_capabilities::ConfigValues;
use umbel_model::ConfigName;
use wasmtime::{Result, StoreContextMut, component::Linker};

use crate::{
    attempt::{
        fuel::{charge, charge_bytes},
        state::State,
    },
    bindings::{config::Error, names},
};

/// About the bytes that a host handles for a value beside its name and text.
const VALUE_BYTES: usize = 32;

type Caller<'a> = StoreContextMut<'a, State>;
type Answer<T> = Result<(std::result::Result<T, Error>,)>;

pub(crate) fn add(linker: &mut Linker<State>) -> Result<()> {
    for name in names::CONFIG {
        let mut store = linker.instance(name)?;
        store.func_wrap_async("get", |mut caller: Caller<'_>, (key,): (String,)| {
            Box::new(async move {
                charge(&mut caller, key.len())?;
                // What is no name has no value.
                let name = ConfigName::new(&key).ok();
                let found = values(&mut caller).await.map(|values| name.and_then(|name| values.get(&name).cloned()));
                charge_bytes(&mut caller, found.iter().flatten().map(|value| value.len() + VALUE_BYTES).sum())?;
                Answer::Ok((found,))
            })
        })?;
        store.func_wrap_async("get-all", |mut caller: Caller<'_>, (): ()| {
            Box::new(async move {
                charge(&mut caller, 0)?;
                let found = values(&mut caller).await;
                let bytes = found.iter().flat_map(|values| values.iter());
                let bytes = bytes.map(|(name, value)| name.as_str().len() + value.len() + VALUE_BYTES).sum();
                // Paid before the copies are made.
                charge_bytes(&mut caller, bytes)?;
                let all = found.map(|values| {
                    values.iter().map(|(name, value)| (name.to_string(), value.clone())).collect::<Vec<_>>()
                });
                Answer::Ok((all,))
            })
        })?;
    }
    Ok(())
}

/// The values, read at the first call.
async fn values(caller: &mut Caller<'_>) -> std::result::Result<ConfigValues, Error> {
    if let Some(known) = &caller.data().attempt.config {
        return Ok(known.clone());
    }
    let config = caller.data().attempt.reach.config.clone();
    let found = config.now().await;
    let found = found.map_err(|_| Error::Io("the configuration cannot be read now: try again later".to_owned()))?;
    caller.data_mut().attempt.config = Some(found.clone());
    Ok(found)
}
