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

fn unknown_import(import: &str) -> CompileError {
    let hint = if import.starts_with("wasi_snapshot_preview1") {
        "; build for wasm32-unknown-unknown or wasm32-wasip2, not for wasip1"
    } else if import.contains("wbindgen") || import.starts_with("env.") {
        "; a dependency of the module expects a browser or a C library"
    } else if import.starts_with("wasi:http/incoming-handler") {
        "; a module answers no requests: export umbel:task/guest, and send requests with wasi:http/outgoing-handler"
    } else {
        ""
    };
    CompileError::new(CompileCode::UnknownImport, format!("the module imports {import}, which nobody provides{hint}"))
}
