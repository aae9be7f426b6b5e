//! Everything that a module may import. The list of names and what is linked are kept equal by a test.
//!
//! Host functions of `umbel:task` never block and are charged fuel; those of WASI that wait are async.

use umbel_model::Progress;
use wasmtime::{
    Engine, Result, StoreContextMut, Trap,
    component::{Linker, WasmStr},
};

use crate::{
    attempt::{host::LogLevel, state::State, text::clean},
    bindings::{GuestAttempt, GuestLevel, names},
};

/// The longest progress message that is kept, bytes.
const MAX_PROGRESS_BYTES: usize = 1_024;

/// A linker with all that is provided.
pub(crate) fn build(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    add_context(&mut linker)?;
    add_logging(&mut linker)?;
    Ok(linker)
}

type Caller<'a> = StoreContextMut<'a, State>;

fn add_context(linker: &mut Linker<State>) -> Result<()> {
    let mut context = linker.instance(names::CONTEXT)?;
    context.func_wrap("current", |mut caller: Caller<'_>, (): ()| -> Result<(GuestAttempt,)> {
        charge(&mut caller, 0)?;
        Ok((caller.data().guest_attempt(),))
    })?;
    context.func_wrap("remaining-ms", |mut caller: Caller<'_>, (): ()| -> Result<(u64,)> {
        charge(&mut caller, 0)?;
        Ok((caller.data().clock.remaining_ms(),))
    })?;
    context.func_wrap("should-stop", |mut caller: Caller<'_>, (): ()| -> Result<(bool,)> {
        charge(&mut caller, 0)?;
        Ok((caller.data().should_stop(),))
    })?;
    context.func_wrap("progress", |mut caller: Caller<'_>, (done, total, message): (u64, u64, String)| -> Result<()> {
        charge(&mut caller, message.len())?;
        let message = clean(&message, MAX_PROGRESS_BYTES);
        let state = caller.data_mut();
        if let Some(progress) = state.progress.report(Progress { done, total, message }) {
            state.log.host().progress(progress);
        }
        Ok(())
    })
}

fn add_logging(linker: &mut Linker<State>) -> Result<()> {
    let mut logging = linker.instance(names::LOGGING)?;
    // `WasmStr` is a view on the guest's memory: a line of 100 MB is never copied.
    logging.func_wrap("log", |mut caller: Caller<'_>, (level, context, message): (GuestLevel, WasmStr, WasmStr)| {
        let log = caller.data().log.clone();
        let bytes = {
            let (context, message) = (context.to_str(&caller)?, message.to_str(&caller)?);
            log.push(log_level(level), &context, &message);
            context.len() + message.len()
        };
        charge(&mut caller, bytes)
    })
}

fn log_level(level: GuestLevel) -> LogLevel {
    match level {
        GuestLevel::Trace => LogLevel::Trace,
        GuestLevel::Debug => LogLevel::Debug,
        GuestLevel::Info => LogLevel::Info,
        GuestLevel::Warn => LogLevel::Warn,
        GuestLevel::Error => LogLevel::Error,
        GuestLevel::Critical => LogLevel::Critical,
    }
}

/// Takes the fuel of one host call, so that a flood of calls ends like a loop without any.
fn charge(caller: &mut Caller<'_>, bytes: usize) -> Result<()> {
    let charge = caller.data().charge;
    let cost = charge.call.saturating_add(charge.byte.saturating_mul(bytes as u64));
    match caller.get_fuel()?.checked_sub(cost) {
        Some(left) => caller.set_fuel(left),
        None => {
            caller.set_fuel(0)?;
            Err(Trap::OutOfFuel.into())
        }
    }
}

/// Packages and interfaces that are provided, with what their version starts with.
const PROVIDED: [(&str, &str, &[&str]); 7] = [
    ("umbel:task", "0.1.", &["context", "types"]),
    ("wasi:io", "0.2.", &["error", "poll", "streams"]),
    ("wasi:clocks", "0.2.", &["monotonic-clock", "wall-clock"]),
    ("wasi:random", "0.2.", &["random", "insecure", "insecure-seed"]),
    (
        "wasi:cli",
        "0.2.",
        &[
            "exit",
            "environment",
            "stdin",
            "stdout",
            "stderr",
            "terminal-input",
            "terminal-output",
            "terminal-stdin",
            "terminal-stdout",
            "terminal-stderr",
        ],
    ),
    ("wasi:filesystem", "0.2.", &["preopens", "types"]),
    (
        "wasi:sockets",
        "0.2.",
        &[
            "network",
            "instance-network",
            "ip-name-lookup",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
    ),
];

/// Whether an import of this name, such as `wasi:io/poll@0.2.3`, is provided.
pub(crate) fn is_provided(import: &str) -> bool {
    if import == names::LOGGING {
        return true;
    }
    let Some((package, rest)) = import.split_once('/') else { return false };
    let Some((interface, version)) = rest.split_once('@') else { return false };
    let known = |(p, v, interfaces): &(&str, &str, &[&str])| {
        *p == package && version.starts_with(v) && !version.contains('-') && interfaces.contains(&interface)
    };
    PROVIDED.iter().any(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::component::Component;

    #[test]
    fn every_listed_interface_is_linked() {
        let engine = crate::engine::compiler_engine().unwrap();
        let linker = build(&engine).unwrap();
        for (package, version, interfaces) in PROVIDED {
            // Types alone import nothing, so they need no definition.
            for interface in interfaces.iter().filter(|i| **i != "types" || package != "umbel:task") {
                let name = format!("{package}/{interface}@{version}0");
                assert!(is_provided(&name), "{name}");
                let wat = format!("(component (import \"{name}\" (instance)))");
                let component = Component::new(&engine, wat::parse_str(wat).unwrap()).unwrap();
                // An empty instance type matches any definition; one that is missing is refused only when used.
                linker.instantiate_pre(&component).unwrap();
                assert!(linker.clone().instance(&name).is_err(), "{name} is not linked");
            }
        }
    }

    #[test]
    fn other_names_and_versions_are_not_provided() {
        for name in ["wasi:http/types@0.2.0", "wasi:io/poll", "wasi:io/poll@0.3.0", "wasi:io/poll@0.2.0-rc", "env", "umbel:task/context@0.2.0"] {
            assert!(!is_provided(name), "{name}");
        }
    }
}
