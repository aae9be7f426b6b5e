//! The macros of the Umbel SDK: `#[task]` and `module!`, used through the crate `umbel`.
//!
//! Invariants: whatever can be known wrong when a guest is compiled is a compile error here, at the token that is
//! wrong, and several mistakes are reported at once; the function itself is left as it was, so it stays callable.

mod expand;
mod module;
mod options;
mod signature;
mod units;

use proc_macro::TokenStream;

/// Makes a function a task. Documented where it is re-exported, as `umbel::task`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::task(options.into(), item.into()).into()
}

/// Exports the tasks of a module. Documented where it is re-exported, as `umbel::module`.
#[proc_macro]
pub fn module(tasks: TokenStream) -> TokenStream {
    module::module(tasks.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
