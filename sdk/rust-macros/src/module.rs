//! Expands `module![…]`: the list of tasks, the exports of the component, and the same two functions for native
//! tests.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{
    Error, Ident, Path, Result, Token,
    parse::{Parse, ParseStream},
    spanned::Spanned,
};

use crate::{errors::Errors, values};

/// Tasks of one module; the server's limit.
const MAX_TASKS: usize = 256;

/// What stands in `module![…]`.
struct Listed {
    tasks: Vec<Path>,
    /// What all tasks ask to reach.
    permissions: Vec<String>,
}

impl Parse for Listed {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut listed = Self { tasks: Vec::new(), permissions: Vec::new() };
        while !input.is_empty() {
            if input.peek(Ident) && input.peek2(Token![:]) && !input.peek2(Token![::]) {
                listed.permissions = permissions(input)?;
            } else {
                let expected =
                    |e: Error| Error::new(e.span(), "expected the names of tasks: umbel::module![add, total]");
                listed.tasks.push(input.parse().map_err(expected)?);
            }
            if input.is_empty() {
                break;
            }
            let expected = |e: Error| Error::new(e.span(), "expected a comma between the names of tasks");
            input.parse::<Token![,]>().map_err(expected)?;
        }
        Ok(listed)
    }
}

/// `permissions: ["…"]`, at the end.
fn permissions(input: ParseStream<'_>) -> Result<Vec<String>> {
    let key: Ident = input.parse()?;
    if key != "permissions" {
        let problem = format!("`{key}` is not known here; only `permissions: [\"…\"]` stands behind the tasks");
        return Err(Error::new(key.span(), problem));
    }
    input.parse::<Token![:]>()?;
    let permissions = values::permissions(&input.parse()?)?;
    let rest = input.fork();
    if rest.parse::<Option<Token![,]>>().is_err() || !rest.is_empty() {
        return Err(Error::new(input.span(), "the permissions stand at the end, behind all tasks"));
    }
    Ok(permissions)
}

pub(crate) fn module(listed: TokenStream) -> Result<TokenStream> {
    let Listed { tasks, permissions } = syn::parse2(listed)?;
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
    Ok(expand(&tasks, &permissions))
}

fn expand(tasks: &[Path], permissions: &[String]) -> TokenStream {
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

            fn declare() -> ::std::vec::Vec<::umbel::raw::Declared> {
                let mut declared = ::umbel::__private::declared(::core::option::Option::None, &[#(#permissions),*]);
                #(declared.extend(::umbel::__private::declared(
                    ::core::option::Option::Some(<#tasks as ::umbel::__private::Task>::NAME),
                    <#tasks as ::umbel::__private::Task>::PERMISSIONS,
                ));)*
                declared
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
        impl ::umbel::raw::declaring::Guest for __UmbelModule {
            fn declare() -> ::std::vec::Vec<::umbel::raw::Declared> {
                <Self as ::umbel::__private::Module>::declare()
            }
        }

        #[cfg(target_arch = "wasm32")]
        ::umbel::raw::export!(__UmbelModule with_types_in ::umbel::raw);
        #[cfg(target_arch = "wasm32")]
        ::umbel::raw::declaring::export!(__UmbelModule with_types_in ::umbel::raw::declaring);

        /// This module as a host sees it, for native tests.
        #[cfg(not(target_arch = "wasm32"))]
        #[allow(dead_code)]
        pub mod umbel_module {
            /// The tasks of this module, for `umbel::testing::App::new`.
            pub use super::__UmbelModule as Module;

            /// The descriptions that the module gives at upload.
            pub fn describe() -> ::std::vec::Vec<::umbel::raw::TaskDescription> {
                <super::__UmbelModule as ::umbel::__private::Module>::describe()
            }

            /// What the module and its tasks ask to reach.
            pub fn permissions() -> ::std::vec::Vec<::umbel::raw::Declared> {
                <super::__UmbelModule as ::umbel::__private::Module>::declare()
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
