//! The macros of the Umbel SDK: `#[task]` and `module!`, used through the crate `umbel`.
//!
//! Invariants: whatever can be known wrong when a guest is compiled is a compile error here, at the token that is
//! wrong, and several mistakes are reported at once; the function itself is left as it was, so it stays callable.

mod canvas;
mod errors;
mod expand;
mod expression;
mod json;
mod module;
mod options;
mod signature;
mod units;
mod values;

use proc_macro::TokenStream;

/// Makes a function a task. Documented where it is re-exported, as `umbel::task`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    expand::task(options.into(), item.into()).into()
}

/// Steps one after the other. Documented where it is re-exported, as `umbel::canvas::chain`.
#[proc_macro]
pub fn chain(steps: TokenStream) -> TokenStream {
    canvas::chain(steps.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Steps side by side. Documented where it is re-exported, as `umbel::canvas::group`.
#[proc_macro]
pub fn group(members: TokenStream) -> TokenStream {
    canvas::group(members.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// A group and its body. Documented where it is re-exported, as `umbel::canvas::chord`.
#[proc_macro]
pub fn chord(parts: TokenStream) -> TokenStream {
    canvas::chord(parts.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// One step. Documented where it is re-exported, as `umbel::canvas::canvas`.
#[proc_macro]
pub fn canvas(step: TokenStream) -> TokenStream {
    canvas::step(step.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}

/// Exports the tasks of a module. Documented where it is re-exported, as `umbel::module`.
#[proc_macro]
pub fn module(tasks: TokenStream) -> TokenStream {
    module::module(tasks.into()).unwrap_or_else(syn::Error::into_compile_error).into()
}
