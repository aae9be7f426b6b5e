//! The net over what a guest hands out: the values of secrets that its attempt used or got are replaced before anybody keeps them.

use umbel_capabilities::AttemptSecrets;
use wasmtime::{Result, StoreContextMut};

use crate::{
    attempt::{fuel::charge_bytes, state::State},
    bindings::{GuestAnswer, GuestOutcome, types},
};

/// Charges the search for secrets in what a call hands over. Nothing where the attempt used none.
pub(crate) fn charge(caller: &mut StoreContextMut<'_, State>) -> Result<()> {
    match caller.data().attempt.reach.secrets.search_bytes() {
        0 => Ok(()),
        bytes => charge_bytes(caller, bytes),
    }
}

/// What a guest returned, before any of it is cut or read.
pub(crate) fn answer(secrets: &AttemptSecrets, answer: GuestAnswer) -> GuestAnswer {
    if secrets.search_bytes() == 0 {
        return answer;
    }
    let text = |text: String| secrets.caught(&text).into_owned();
    let failure = |failure: types::Failure| types::Failure {
        kind: text(failure.kind),
        message: text(failure.message),
        details: failure.details.map(text),
    };
    answer.map(text).map_err(|outcome| match outcome {
        GuestOutcome::Error(retry) => {
            GuestOutcome::Error(types::Retryable { failure: failure(retry.failure), ..retry })
        }
        GuestOutcome::Fatal(fatal) => GuestOutcome::Fatal(failure(fatal)),
        GuestOutcome::Reject(reason) => GuestOutcome::Reject(text(reason)),
        other @ (GuestOutcome::Snooze(_) | GuestOutcome::Ignore) => other,
    })
}
