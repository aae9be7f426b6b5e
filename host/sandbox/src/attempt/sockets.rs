//! Sockets: no capability gives them, so the functions that begin with one refuse, and an attempt that tried one fails for good.
//!
//! A guest that opened no socket would open none at its next try either. An error that it then returns would be retried
//! by its policy as if it were temporary; so it becomes a final one that says what there is instead. A guest that goes on
//! without sockets is left alone.

use umbel_model::{Failure, Outcome, outcome::truncated};
use wasmtime::{
    Result, StoreContextMut,
    component::{Linker, Resource, WasmStr},
};
use wasmtime_wasi::p2::bindings::sockets::{
    ip_name_lookup::ResolveAddressStream,
    network::{ErrorCode, IpAddressFamily, Network},
    tcp::TcpSocket,
    udp::UdpSocket,
};

use crate::attempt::{fuel::charge, host::LogLevel, state::State};

const TCP: &str = "wasi:sockets/tcp-create-socket@0.2.12";
const UDP: &str = "wasi:sockets/udp-create-socket@0.2.12";
const LOOKUP: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// The kind of a failure for something that no capability gives.
const UNSUPPORTED: &str = "unsupported";
const ADVICE: &str = "the guest tried to use a socket, which no capability gives: send requests with umbel::http (wasi:http/outgoing-handler)";
/// Bytes of the guest's own message that are kept.
const MAX_OWN_BYTES: usize = 4 << 10;

type Caller<'a> = StoreContextMut<'a, State>;

/// Replaces what `wasmtime_wasi` linked.
pub(crate) fn replace(linker: &mut Linker<State>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.instance(TCP)?.func_wrap("create-tcp-socket", |mut caller: Caller<'_>, (_,): (IpAddressFamily,)| {
        tried(&mut caller)?;
        Ok((Err::<Resource<TcpSocket>, _>(ErrorCode::AccessDenied),))
    })?;
    linker.instance(UDP)?.func_wrap("create-udp-socket", |mut caller: Caller<'_>, (_,): (IpAddressFamily,)| {
        tried(&mut caller)?;
        Ok((Err::<Resource<UdpSocket>, _>(ErrorCode::AccessDenied),))
    })?;
    linker.instance(LOOKUP)?.func_wrap(
        "resolve-addresses",
        |mut caller: Caller<'_>, (_, _): (Resource<Network>, WasmStr)| {
            tried(&mut caller)?;
            Ok((Err::<Resource<ResolveAddressStream>, _>(ErrorCode::PermanentResolverFailure),))
        },
    )?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Remembers it, and says so once.
fn tried(caller: &mut Caller<'_>) -> Result<()> {
    charge(caller, 0)?;
    let state = caller.data_mut();
    if !std::mem::replace(&mut state.tried_sockets, true) {
        state.log.push(LogLevel::Warn, "umbel", ADVICE);
    }
    Ok(())
}

/// The outcome of a guest that tried to use a socket.
pub(crate) fn outcome(outcome: Outcome) -> Outcome {
    let Outcome::Error { failure, .. } = outcome else { return outcome };
    let own = truncated(format!("{}: {}", failure.kind, failure.message), MAX_OWN_BYTES);
    Outcome::Fatal(Failure { kind: UNSUPPORTED.into(), message: format!("{ADVICE}; it failed with {own}"), ..failure })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_after_a_try_is_final_and_other_outcomes_stay() {
        let refused = Failure::new("IoError", "Permission denied");
        let Outcome::Fatal(failure) = outcome(Outcome::Error { failure: refused, retry_after_ms: Some(5) }) else {
            panic!()
        };
        assert_eq!(failure.kind, "unsupported");
        assert!(failure.message.contains("umbel::http") && failure.message.ends_with("IoError: Permission denied"));
        assert!(matches!(outcome(Outcome::Ignore), Outcome::Ignore));
        assert!(matches!(outcome(Outcome::Snooze { delay_ms: 1 }), Outcome::Snooze { delay_ms: 1 }));
    }
}
