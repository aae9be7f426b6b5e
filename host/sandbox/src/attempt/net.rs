//! The net over what a guest hands out: the values of secrets that its attempt used or got are replaced before anybody keeps them.

use umbel_capabilities::AttemptSecrets;
use wasmtime::{Result, StoreContextMut, component::WasmStr};

use crate::{
    attempt::{fuel::charge_bytes, state::State, text::cut},
    bindings::{GuestAnswer, GuestOutcome, types},
};

/// Charges the search for secrets in so many bytes of a call, before it is made. Nothing where the attempt used none.
pub(crate) fn charge(caller: &mut StoreContextMut<'_, State>, bytes: usize) -> Result<()> {
    match caller.data().attempt.reach.secrets.search_cost(bytes) {
        0 => Ok(()),
        cost => charge_bytes(caller, cost),
    }
}

/// The same of texts of a call.
pub(crate) fn charge_texts(caller: &mut StoreContextMut<'_, State>, texts: &[&WasmStr]) -> Result<()> {
    if caller.data().attempt.reach.secrets.search_cost(0) == 0 {
        return Ok(());
    }
    let mut bytes = 0;
    for text in texts {
        bytes += text.to_str(&*caller)?.len();
    }
    charge(caller, bytes)
}

/// What a guest returned, before any of it is read. Of a text that is too large no more is searched than could be kept.
pub(crate) fn answer(secrets: &AttemptSecrets, answer: GuestAnswer, max_bytes: usize) -> GuestAnswer {
    if secrets.search_cost(0) == 0 {
        return answer;
    }
    let text = |text: String| secrets.caught(cut(&text, max_bytes.saturating_add(1))).into_owned();
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
