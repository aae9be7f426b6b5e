//! Calls of a guest that ask for secrets: charged, allowed by the grants of the attempt when they are made, and passed to what the
//! attempt reaches. A placeholder opens nothing.

use umbel_capabilities::{Refusal, SecretError};
use umbel_model::SecretName;
use wasmtime::{Result, StoreContextMut, component::Linker};

use crate::{
    attempt::{
        fuel::{charge, charge_bytes},
        host::LogLevel,
        state::State,
    },
    bindings::{names, secret},
};

/// About the bytes that a host handles to look a secret up and to open it.
const LOOKUP_BYTES: usize = 8 << 10;

type Caller<'a> = StoreContextMut<'a, State>;
type Asked<T> = std::result::Result<T, secret::Error>;
type Answer<T> = Result<(Asked<T>,)>;

pub(crate) fn add(linker: &mut Linker<State>) -> Result<()> {
    let mut store = linker.instance(names::SECRET)?;
    store.func_wrap_async("placeholder", |mut caller: Caller<'_>, (name,): (String,)| {
        Box::new(async move {
            charge(&mut caller, name.len() + LOOKUP_BYTES)?;
            let secrets = caller.data().attempt.reach.secrets.clone();
            let answer = match valid(&name) {
                Ok(name) => secrets.placeholder(&name).await.map_err(|error| told(&mut caller, error)),
                Err(invalid) => Err(invalid),
            };
            Answer::Ok((answer,))
        })
    })?;
    store.func_wrap_async("reveal", |mut caller: Caller<'_>, (name,): (String,)| {
        Box::new(async move {
            charge(&mut caller, name.len() + LOOKUP_BYTES)?;
            let secrets = caller.data().attempt.reach.secrets.clone();
            let answer = match valid(&name) {
                Ok(name) => secrets.reveal(&name).await.map_err(|error| told(&mut caller, error)),
                Err(invalid) => Err(invalid),
            };
            charge_bytes(&mut caller, answer.as_ref().map_or(0, |value| value.bytes().len()))?;
            Answer::Ok((answer.map(|value| value.bytes().to_vec()),))
        })
    })
}

fn valid(name: &str) -> Asked<SecretName> {
    SecretName::new(name).map_err(|invalid| secret::Error::Invalid(invalid.to_string()))
}

/// The error as the guest gets it. What is missing for it is in the log, each once.
fn told(caller: &mut Caller<'_>, error: SecretError) -> secret::Error {
    let text = error.to_string();
    let state = caller.data_mut();
    if state.attempt.kv_calls.is_new(&text) {
        state.log.push(LogLevel::Warn, "umbel", &text);
    }
    match error {
        SecretError::Refused(Refusal::Denied(_)) | SecretError::NotAllowed(_) => secret::Error::Denied(text),
        SecretError::NotFound(_) => secret::Error::NotFound(text),
        SecretError::Limit(_) => secret::Error::Limit(text),
        SecretError::Refused(Refusal::Unavailable(_)) | SecretError::Unavailable(_) => secret::Error::Unavailable(text),
    }
}
