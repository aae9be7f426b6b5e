//! What `module![…]` writes: the list of tasks, the exports of the component, and the same two functions for native
//! tests.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{Error, Path, Result, Token, parse::Parser, punctuated::Punctuated, spanned::Spanned};

use crate::errors::Errors;

/// Tasks of one module; the server's limit.
const MAX_TASKS: usize = 256;

pub(crate) fn module(tasks: TokenStream) -> Result<TokenStream> {
    let tasks: Vec<Path> = Punctuated::<Path, Token![,]>::parse_terminated
        .parse2(tasks)
        .map_err(|e| Error::new(e.span(), "expected the names of tasks: umbel::module![add, total]"))?
        .into_iter()
        .collect();
    if tasks.is_empty() {
        return Err(Error::new(proc_macro2::Span::call_site(), "a module has at least one task: umbel::module![add]"));
    }
    let mut errors = Errors::default();
    if tasks.len() > MAX_TASKS {
        errors.push(Error::new(tasks[MAX_TASKS].span(), format!("a module has at most {MAX_TASKS} tasks")));
    }
    let mut seen: Vec<String> = Vec::new();
    for task in &tasks {
        let text = quote!(#task).to_string();
        if seen.contains(&text) {
            errors.push(Error::new(task.span(), "this task is listed twice"));
        }
        seen.push(text);
    }
    errors.finish()?;
    Ok(expand(&tasks))
}

fn expand(tasks: &[Path]) -> TokenStream {
    // The name's constant is evaluated once per task, at the task, so that a clash points at the second of the two.
    let unique = tasks.iter().enumerate().map(|(at, task)| {
        let before = &tasks[..at];
        quote_spanned! {task.span()=>
            const _: () = ::core::assert!(
                ::umbel::__private::is_new(&[#(<#before as ::umbel::__private::Task>::NAME),*], <#task as ::umbel::__private::Task>::NAME),
                "another task of this module has the same name"
            );
        }
    });
    quote! {
        #[doc(hidden)]
        pub struct __UmbelModule;

        impl ::umbel::__private::Module for __UmbelModule {
            fn describe() -> ::std::vec::Vec<::umbel::raw::TaskDescription> {
                ::std::vec![#(<#tasks as ::umbel::__private::Task>::describe()),*]
            }

            fn run(
                context: &::umbel::Context,
                task: &str,
                arguments: &str,
            ) -> ::core::result::Result<::std::string::String, ::umbel::raw::Outcome> {
                #(if task == <#tasks as ::umbel::__private::Task>::NAME {
                    return <#tasks as ::umbel::__private::Task>::run(context, arguments);
                })*
                ::core::result::Result::Err(::umbel::__private::unknown_task(task))
            }
        }

        #(#unique)*

        #[cfg(target_arch = "wasm32")]
        impl ::umbel::raw::Guest for __UmbelModule {
            fn describe() -> ::std::vec::Vec<::umbel::raw::TaskDescription> {
                <Self as ::umbel::__private::Module>::describe()
            }

            fn run(
                task: ::std::string::String,
                arguments: ::std::string::String,
            ) -> ::core::result::Result<::std::string::String, ::umbel::raw::Outcome> {
                ::umbel::__private::enter::<Self>(&task, &arguments)
            }
        }

        #[cfg(target_arch = "wasm32")]
        ::umbel::raw::export!(__UmbelModule with_types_in ::umbel::raw);

        /// This module as a host sees it, for native tests.
        #[cfg(not(target_arch = "wasm32"))]
        #[allow(dead_code)]
        pub mod umbel_module {
            /// The tasks of this module, for `umbel::testing::App::new`.
            pub use super::__UmbelModule as Module;

            /// What the module describes at upload.
            pub fn describe() -> ::std::vec::Vec<::umbel::raw::TaskDescription> {
                <super::__UmbelModule as ::umbel::__private::Module>::describe()
            }

            /// Runs a task by name with a JSON object of arguments and a fake context.
            pub fn run(
                task: &str,
                arguments: &str,
            ) -> ::core::result::Result<::std::string::String, ::umbel::raw::Outcome> {
                run_with(&::umbel::Context::fake(), task, arguments)
            }

            /// Runs a task by name with the given context.
            pub fn run_with(
                context: &::umbel::Context,
                task: &str,
                arguments: &str,
            ) -> ::core::result::Result<::std::string::String, ::umbel::raw::Outcome> {
                <super::__UmbelModule as ::umbel::__private::Module>::run(context, task, arguments)
            }
        }
    }
}
