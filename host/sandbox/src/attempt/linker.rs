//! Everything that a module may import. A test keeps the list of names equal to the functions that are linked.
//!
//! Host functions of `umbel:task` never block and are charged fuel; those of WASI that wait are async.

use std::borrow::Cow;

use serde_json::Value;
use umbel_model::Progress;
use wasmtime::{
    Engine, Result, StoreContextMut,
    component::{ComponentType, Linker, LinkerInstance, Lower, WasmStr},
};

use crate::{
    attempt::{
        blob_calls, config_calls,
        fuel::{charge, charge_at, charge_bytes},
        host::{Host, LogLevel, Refused},
        http_calls, json, kv_calls, net, secret_calls, sockets,
        state::{AttemptData, State},
        text::clean,
        wasi_calls, wasi_keyvalue,
    },
    bindings::{GuestLevel, names, types},
};

/// The longest progress message that is kept, bytes.
const MAX_PROGRESS_BYTES: usize = 1_024;

/// The longest name of a state of the guest's own, bytes.
const MAX_STATE_BYTES: usize = 64;
/// The largest JSON that is kept with it, bytes.
const MAX_META_BYTES: usize = 16 << 10;

/// A linker with everything that is provided.
pub(crate) fn build(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasi_calls::replace(&mut linker)?;
    http_calls::add(&mut linker)?;
    sockets::replace(&mut linker)?;
    add_context(&mut linker)?;
    add_custom_state(&mut linker)?;
    add_schedule(&mut linker)?;
    add_canvas(&mut linker)?;
    config_calls::add(&mut linker)?;
    kv_calls::add(&mut linker)?;
    blob_calls::add(&mut linker)?;
    secret_calls::add(&mut linker)?;
    wasi_keyvalue::add(&mut linker)?;
    add_logging(&mut linker)?;
    Ok(linker)
}

type Caller<'a> = StoreContextMut<'a, State>;

fn add_context(linker: &mut Linker<State>) -> Result<()> {
    let mut context = linker.instance(names::CONTEXT)?;
    let bytes = |state: &State| {
        let AttemptData { info, task, .. } = &state.attempt;
        let traceparent = info.traceparent.as_ref().map_or(0, String::len);
        info.job_id.len() + task.len() + info.queue.len() + traceparent
    };
    add_getter(&mut context, "current", bytes, State::guest_attempt)?;
    add_getter(&mut context, "remaining-ms", |_| 0, |state| state.clock.remaining_ms())?;
    add_getter(&mut context, "should-stop", |_| 0, State::should_stop)?;
    context.func_wrap("progress", |mut caller: Caller<'_>, (done, total, message): (u64, u64, WasmStr)| -> Result<()> {
        net::charge_texts(&mut caller, &[&message])?;
        let (bytes, message) = {
            let message = message.to_str(&caller)?;
            let caught = caller.data().attempt.reach.secrets.caught(&message);
            (message.len(), clean(&caught, MAX_PROGRESS_BYTES))
        };
        charge(&mut caller, bytes)?;
        report(&mut caller, |now| (now.done, now.total, now.message) = (done, total, message));
        Ok(())
    })
}

/// Links a function that only tells the guest something, of so many bytes.
fn add_getter<T: ComponentType + Lower + 'static>(
    instance: &mut LinkerInstance<'_, State>,
    name: &str,
    bytes: fn(&State) -> usize,
    get: fn(&State) -> T,
) -> Result<()> {
    instance.func_wrap(name, move |mut caller: Caller<'_>, (): ()| {
        let bytes = bytes(caller.data());
        charge(&mut caller, bytes)?;
        Ok((get(caller.data()),))
    })
}

fn report(caller: &mut Caller<'_>, change: impl FnOnce(&mut Progress)) {
    let state = caller.data_mut();
    if let Some(progress) = state.attempt.progress.report(change) {
        state.log.host.progress(progress);
    }
}

fn add_custom_state(linker: &mut Linker<State>) -> Result<()> {
    let mut custom = linker.instance(names::CUSTOM_STATE)?;
    custom.func_wrap("update", |mut caller: Caller<'_>, (name, meta): (WasmStr, Option<WasmStr>)| -> Result<()> {
        let texts: Vec<&WasmStr> = [&name].into_iter().chain(&meta).collect();
        net::charge_texts(&mut caller, &texts)?;
        let (bytes, name, meta) = {
            let (name, meta) = (name.to_str(&caller)?, meta.as_ref().map(|meta| meta.to_str(&caller)).transpose()?);
            let bytes = name.len() + meta.as_ref().map_or(0, |meta| meta.len());
            let secrets = &caller.data().attempt.reach.secrets;
            let meta = meta.map(|meta| kept_meta(secrets.caught(&meta)));
            (bytes, clean(&secrets.caught(&name), MAX_STATE_BYTES), meta)
        };
        // Reading JSON costs the host as much as reading a canvas.
        let per_byte = caller.data().charge.canvas_byte;
        charge_at(&mut caller, bytes, per_byte)?;
        let meta = meta.map(|meta| meta.and_then(meta_value)).transpose().unwrap_or_else(|problem| {
            let text = format!("the meta of state {name:?} is dropped: {problem}");
            caller.data().log.push(LogLevel::Warn, "umbel", &text);
            None
        });
        report(&mut caller, |now| {
            now.state = (!name.is_empty()).then_some(name);
            now.meta = meta;
        });
        Ok(())
    })
}

/// A copy of the meta of a custom state, if it is small enough to be kept; or why it is dropped.
fn kept_meta(text: Cow<'_, str>) -> Result<String, String> {
    if text.len() > MAX_META_BYTES {
        return Err(format!("it has {} bytes, more than {MAX_META_BYTES}", text.len()));
    }
    Ok(text.into_owned())
}

/// The meta, parsed; or why it is dropped.
fn meta_value(text: String) -> Result<Value, String> {
    let checked = json::checked(text).map_err(|_| "it is not JSON, or nested too deep".to_owned())?;
    serde_json::from_str(checked.get()).map_err(|_| "it is not JSON".to_owned())
}

fn add_schedule(linker: &mut Linker<State>) -> Result<()> {
    let mut schedule = linker.instance(names::SCHEDULE)?;
    let bytes = |state: &State| state.attempt.info.fire.as_ref().map_or(0, |fire| fire.schedule.len());
    add_getter(&mut schedule, "current", bytes, |state| state.attempt.info.fire.clone())
}

fn add_canvas(linker: &mut Linker<State>) -> Result<()> {
    let mut canvas = linker.instance(names::CANVAS)?;
    let bytes = |state: &State| state.attempt.info.workflow_node.as_ref().map_or(0, |node| node.workflow_id.len());
    add_getter(&mut canvas, "place", bytes, |state| state.attempt.info.workflow_node.clone())?;
    canvas.func_wrap("submit", |caller: Caller<'_>, (canvas,): (String,)| {
        workflow_call(caller, &canvas, String::len, |state, host, canvas| {
            state.attempt.workflow_calls.submit(host, canvas)
        })
    })?;
    canvas.func_wrap("replace", |caller: Caller<'_>, (canvas,): (String,)| {
        workflow_call(caller, &canvas, |()| 0, |state, host, canvas| state.attempt.workflow_calls.replace(host, canvas))
    })?;
    canvas.func_wrap("add-to-group", |caller: Caller<'_>, (members,): (String,)| {
        workflow_call(
            caller,
            &members,
            |()| 0,
            |state, host, members| {
                let in_group = state.attempt.info.workflow_node.as_ref().is_some_and(|node| node.in_group);
                state.attempt.workflow_calls.add_to_group(host, in_group, members)
            },
        )
    })
}

/// Charges the fuel of reading `text`, then passes the call to the host, without the values of secrets, and charges what it answers.
fn workflow_call<T>(
    mut caller: Caller<'_>,
    text: &str,
    bytes: fn(&T) -> usize,
    call: impl FnOnce(&mut State, &dyn Host, &str) -> Result<T, Refused>,
) -> Result<(Result<T, types::Failure>,)> {
    let per_byte = caller.data().charge.canvas_byte;
    charge_at(&mut caller, text.len(), per_byte)?;
    net::charge(&mut caller, text.len())?;
    let log = caller.data().log.clone();
    let text = caller.data().attempt.reach.secrets.caught(text);
    let answer = call(caller.data_mut(), &*log.host, &text);
    let answered = match &answer {
        Ok(answer) => bytes(answer),
        Err(refused) => refused.kind.len() + refused.message.len(),
    };
    charge_bytes(&mut caller, answered)?;
    Ok((answer.map_err(|Refused { kind, message }| types::Failure { kind, message, details: None }),))
}

fn add_logging(linker: &mut Linker<State>) -> Result<()> {
    let mut logging = linker.instance(names::LOGGING)?;
    // `WasmStr` is a view on the guest's memory: only what the log keeps is copied.
    logging.func_wrap("log", |mut caller: Caller<'_>, (level, context, message): (GuestLevel, WasmStr, WasmStr)| {
        net::charge_texts(&mut caller, &[&context, &message])?;
        let log = caller.data().log.clone();
        let bytes = {
            let (context, message) = (context.to_str(&caller)?, message.to_str(&caller)?);
            // Both have the levels in the order of the contract.
            log.push(LogLevel::ALL[level as usize], &context, &message);
            context.len() + message.len()
        };
        charge(&mut caller, bytes)
    })
}

/// Packages and interfaces that are provided, with the start of their version.
const PROVIDED: [(&str, &str, &[&str]); 13] = [
    ("umbel:blob", "0.1.", &["store"]),
    ("umbel:kv", "0.1.", &["store"]),
    ("umbel:secret", "0.1.", &["store"]),
    ("umbel:task", "0.1.", &["context", "custom-state", "schedule", "canvas", "types"]),
    ("wasi:io", "0.2.", &["error", "poll", "streams"]),
    ("wasi:clocks", "0.2.", &["monotonic-clock", "wall-clock"]),
    ("wasi:random", "0.2.", &["random", "insecure", "insecure-seed"]),
    ("wasi:cli", "0.2.", &["exit", "environment", "stdin", "stdout", "stderr", "terminal-stdin", "terminal-stdout"]),
    ("wasi:cli", "0.2.", &["terminal-input", "terminal-output", "terminal-stderr"]),
    ("wasi:filesystem", "0.2.", &["preopens", "types"]),
    ("wasi:sockets", "0.2.", &["network", "instance-network", "ip-name-lookup"]),
    ("wasi:http", "0.2.", &["types", "outgoing-handler"]),
    ("wasi:sockets", "0.2.", &["tcp", "tcp-create-socket", "udp", "udp-create-socket"]),
];

/// Whether an import of this name, such as `wasi:io/poll@0.2.3`, is provided.
pub(crate) fn is_provided(import: &str) -> bool {
    if import == names::LOGGING || names::KEYVALUE.contains(&import) || names::CONFIG.contains(&import) {
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

    /// One item of each interface.
    const ITEMS: [(&str, &str); 29] = [
        ("wasi:io/error@0.2.12", "error"),
        ("wasi:io/poll@0.2.12", "poll"),
        ("wasi:io/streams@0.2.12", "input-stream"),
        ("wasi:clocks/monotonic-clock@0.2.12", "now"),
        ("wasi:clocks/wall-clock@0.2.12", "now"),
        ("wasi:random/random@0.2.12", "get-random-bytes"),
        ("wasi:random/insecure@0.2.12", "get-insecure-random-bytes"),
        ("wasi:random/insecure-seed@0.2.12", "insecure-seed"),
        ("wasi:cli/exit@0.2.12", "exit"),
        ("wasi:cli/environment@0.2.12", "get-environment"),
        ("wasi:cli/stdin@0.2.12", "get-stdin"),
        ("wasi:cli/stdout@0.2.12", "get-stdout"),
        ("wasi:cli/stderr@0.2.12", "get-stderr"),
        ("wasi:cli/terminal-input@0.2.12", "terminal-input"),
        ("wasi:cli/terminal-output@0.2.12", "terminal-output"),
        ("wasi:cli/terminal-stdin@0.2.12", "get-terminal-stdin"),
        ("wasi:cli/terminal-stdout@0.2.12", "get-terminal-stdout"),
        ("wasi:cli/terminal-stderr@0.2.12", "get-terminal-stderr"),
        ("wasi:filesystem/preopens@0.2.12", "get-directories"),
        ("wasi:filesystem/types@0.2.12", "descriptor"),
        ("wasi:http/types@0.2.12", "fields"),
        ("wasi:http/outgoing-handler@0.2.12", "handle"),
        ("wasi:sockets/network@0.2.12", "network"),
        ("wasi:sockets/instance-network@0.2.12", "instance-network"),
        ("wasi:sockets/ip-name-lookup@0.2.12", "resolve-addresses"),
        ("wasi:sockets/tcp@0.2.12", "tcp-socket"),
        ("wasi:sockets/tcp-create-socket@0.2.12", "create-tcp-socket"),
        ("wasi:sockets/udp@0.2.12", "udp-socket"),
        ("wasi:sockets/udp-create-socket@0.2.12", "create-udp-socket"),
    ];

    #[test]
    fn every_listed_interface_is_linked() {
        let engine = crate::engine::compiler_engine().unwrap();
        let mut linker = build(&engine).unwrap();
        let listed: usize = PROVIDED.iter().map(|(_, _, interfaces)| interfaces.len()).sum();
        // Seven are in `ours`, and `types` of `umbel:task` defines no function.
        assert_eq!(listed - 8, ITEMS.len());
        let ours = [
            (names::CONTEXT, "current"),
            (names::CUSTOM_STATE, "update"),
            (names::SCHEDULE, "current"),
            (names::CANVAS, "submit"),
            (names::KV, "get"),
            (names::BLOB, "[static]reader.open"),
            (names::SECRET, "reveal"),
            (names::KEYVALUE[0], "open"),
            (names::KEYVALUE[1], "open"),
            (names::CONFIG[0], "get"),
            (names::CONFIG[1], "get-all"),
            (names::CONFIG[2], "get"),
            (names::CONFIG[3], "get-all"),
            (names::LOGGING, "log"),
        ];
        for (interface, item) in ITEMS.into_iter().chain(ours) {
            assert!(is_provided(interface), "{interface}");
            // An item that is linked already cannot be linked again.
            let again = linker.instance(interface).unwrap().func_wrap(item, |_, (): ()| Ok(()));
            assert!(again.is_err(), "{interface} {item}");
        }
    }

    #[test]
    fn other_names_and_versions_are_not_provided() {
        for name in [
            "wasi:http/incoming-handler@0.2.0",
            "wasi:http/types@0.3.0",
            "wasi:io/poll",
            "wasi:io/poll@0.3.0",
            "wasi:io/poll@0.2.0-rc",
            "env",
            "umbel:task/context@0.2.0",
            "wasi:keyvalue/atomics@0.2.0-draft2",
            "wasi:keyvalue/store@0.2.0",
            "wasi:config/store@0.2.0",
        ] {
            assert!(!is_provided(name), "{name}");
        }
    }
}
