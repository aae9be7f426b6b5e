//! Whether a module keeps the contract: it is a component, exports the guest interface, and imports only what is
//! provided. A core module that carries its component type is made a component first.

use std::borrow::Cow;

use wit_component::ComponentEncoder;

use crate::{
    attempt::linker::is_provided,
    bindings::names,
    compile::admission::Inspected,
    error::{CompileCode, CompileError},
};

/// The component of `bytes`: themselves, or the core module wrapped.
pub(crate) fn component<'b>(bytes: &'b [u8], inspected: &Inspected) -> Result<Cow<'b, [u8]>, CompileError> {
    if !inspected.core_module {
        return Ok(Cow::Borrowed(bytes));
    }
    if let Some(import) = inspected.imports.first() {
        return Err(unknown_import(import));
    }
    if !inspected.has_component_type {
        let message = "this core module does not say what component it is: build it with the umbel SDK and list its \
                       tasks in umbel::module![…], or upload a component";
        return Err(CompileError::new(CompileCode::NoContract, message));
    }
    let encoder = ComponentEncoder::default();
    let encoded = encoder.validate(true).module(bytes).and_then(|mut encoder| encoder.encode());
    encoded.map(Cow::Owned).map_err(|e| {
        let message = format!("the core module cannot be made a component: {e:#}");
        CompileError::new(CompileCode::InvalidModule, message)
    })
}

/// Checks the imports and exports of a component.
pub(crate) fn check(component: &Inspected) -> Result<(), CompileError> {
    if let Some(import) = component.imports.iter().find(|import| !is_provided(import)) {
        return Err(unknown_import(import));
    }
    if component.exports.iter().any(|export| export.starts_with(names::GUEST_PREFIX)) {
        return Ok(());
    }
    let exports = match component.exports.as_slice() {
        [] => "nothing".to_owned(),
        some => some.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", "),
    };
    let message =
        format!("the module does not export {}x, which this server runs; it exports {exports}", names::GUEST_PREFIX);
    Err(CompileError::new(CompileCode::NoContract, message))
}

/// What is said of a component whose imports do not fit what is linked: the interface, the function, and what to do.
pub(crate) fn unfit(error: &wasmtime::Error) -> CompileError {
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    let quoted = |text: &String| Some(text.split('`').nth(1)?.to_owned());
    let (import, item) = (chain.first().and_then(quoted), chain.get(1).and_then(quoted));
    let cause = chain.last().map_or("", String::as_str);
    let message = match (import, item) {
        (Some(import), Some(item)) if cause.ends_with("implementation is missing") => {
            format!("the module imports `{item}` of {import}, which this server does not have; {}", known(&import))
        }
        (Some(import), Some(item)) => {
            format!(
                "the module imports `{item}` of {import} with another type than it has here ({cause}); {}",
                known(&import)
            )
        }
        _ => format!("an import does not fit what is provided: {error:#}"),
    };
    CompileError::new(CompileCode::UnknownImport, message)
}

/// Up to which version the functions of an interface are known, as advice.
fn known(import: &str) -> &'static str {
    if import.starts_with("wasi:") {
        "it knows the functions of WASI 0.2 up to 0.2.12: build for one of these versions, with the interfaces as they are published"
    } else {
        "build the module with an SDK of this server's version or older"
    }
}

/// Whether an import is of a version of WASI that is off here.
fn is_wasi_0_3(import: &str) -> bool {
    import.starts_with("wasi:") && import.split('@').nth(1).is_some_and(|version| version.starts_with("0.3"))
}

fn unknown_import(import: &str) -> CompileError {
    let hint = if is_wasi_0_3(import) {
        "; WASI 0.3 is off on this server, so build for WASI 0.2: with Rust for the target wasm32-wasip2 or \
         wasm32-unknown-unknown; with componentize-py (0.3 by itself since 0.23) with a world of WASI 0.2, or with --stub-wasi"
    } else if import.starts_with("wasi_snapshot_preview1") {
        "; build for wasm32-unknown-unknown or wasm32-wasip2, not for wasip1"
    } else if import.contains("wbindgen") || import.starts_with("env.") {
        "; a dependency of the module expects a browser or a C library"
    } else if import.starts_with("wasi:http/incoming-handler") {
        "; a module answers no requests: export umbel:task/guest, and send requests with wasi:http/outgoing-handler"
    } else if import.starts_with("wasi:") {
        "; docs/guides/permissions.md lists the interfaces of WASI 0.2 that there are"
    } else {
        ""
    };
    CompileError::new(CompileCode::UnknownImport, format!("the module imports {import}, which nobody provides{hint}"))
}
