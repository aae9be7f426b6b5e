//! Expands `#[task]`: the function itself, and a type of the same name that describes and runs it.
//!
//! The type is an empty enum, because functions and types have separate namespaces: `add(2, 3)` calls the function,
//! `module![add]` names the type, and `use tasks::add` brings both.

use proc_macro2::TokenStream;
use quote::{format_ident, quote, quote_spanned};
use syn::{Error, ItemFn, Result, ext::IdentExt, spanned::Spanned};

use crate::{
    errors::Errors,
    options::Options,
    signature::{self, Parameter, Signature},
};

pub(crate) fn task(options: TokenStream, item: TokenStream) -> TokenStream {
    expand(options, item.clone()).unwrap_or_else(|error| {
        // The item is kept, so that one mistake does not become many.
        let error = error.into_compile_error();
        let item = without_parameter_attributes(item);
        quote!(#item #error)
    })
}

fn expand(options: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let mut function: ItemFn =
        syn::parse2(item.clone()).map_err(|e| Error::new(e.span(), "#[task] belongs on a function with a body"))?;
    let mut errors = Errors::default();
    let options = syn::parse2::<Options>(options).map_err(|e| errors.push(e)).ok();
    let signature = signature::read(&mut function).map_err(|e| errors.push(e)).ok();
    errors.finish()?;
    let (Some(options), Some(signature)) = (options, signature) else { return Ok(item) };
    let names: Vec<String> = signature.parameters.iter().map(Parameter::public_name).collect();
    options.check_parameters(&names)?;
    let implementation = implementation(&function, &options, &signature);
    Ok(quote!(#function #implementation))
}

/// The function as plain Rust, for the compiler to go on with after an error.
fn without_parameter_attributes(item: TokenStream) -> TokenStream {
    let Ok(mut function) = syn::parse2::<ItemFn>(item.clone()) else { return item };
    for input in &mut function.sig.inputs {
        match input {
            syn::FnArg::Typed(typed) => typed.attrs.clear(),
            // A receiver outside an impl is an error of its own, which would only repeat ours.
            syn::FnArg::Receiver(_) => return TokenStream::new(),
        }
    }
    let name = &function.sig.ident;
    let vis = &function.vis;
    quote!(
        #[allow(dead_code, unused)] #function
        // So that `module![…]` finds the name.
        #[doc(hidden)] #[allow(non_camel_case_types, dead_code)] #vis enum #name {}
        const _: () = {
            impl ::umbel::__private::Task for #name {
                const NAME: &'static str = ::core::stringify!(#name);
                fn describe() -> ::umbel::raw::TaskDescription { ::core::unreachable!() }
                fn run(_: &::umbel::Context, _: &str) -> ::core::result::Result<::std::string::String, ::umbel::raw::Outcome> {
                    ::core::unreachable!()
                }
            }
        };
    )
}

fn implementation(function: &ItemFn, options: &Options, signature: &Signature) -> TokenStream {
    let name = &function.sig.ident;
    let vis = &function.vis;
    let public_name = options.name.as_ref().map_or_else(|| name.unraw().to_string(), |(name, _)| name.clone());
    let defaults = signature.parameters.iter().filter_map(default_function);
    let describe = describe(options, signature);
    let run = run(function, signature);
    let signatures = crate::canvas::signatures(name, vis, &signature.parameters);
    let about = format!("The task `{public_name}`: list it in `umbel::module![…]`.");
    let permissions = &options.permissions;
    quote! {
        #[doc = #about]
        #[allow(non_camel_case_types)]
        #vis enum #name {}

        #[allow(clippy::all, clippy::pedantic)]
        const _: () = {
            #(#defaults)*

            impl ::umbel::__private::Task for #name {
                const NAME: &'static str = #public_name;
                const PERMISSIONS: &'static [&'static str] = &[#(#permissions),*];
                #describe
                #run
            }

            #signatures
        };
    }
}

fn default_name(parameter: &Parameter) -> syn::Ident {
    format_ident!("__umbel_default_{}", parameter.name.unraw())
}

fn default_function(parameter: &Parameter) -> Option<TokenStream> {
    let expression = parameter.default.as_ref()?;
    let (name, ty) = (default_name(parameter), &parameter.ty);
    Some(quote!(fn #name() -> #ty { #expression }))
}

fn describe(options: &Options, signature: &Signature) -> TokenStream {
    let policy = options.policy_json();
    let description = &signature.description;
    let parameters = signature.parameters.iter().map(|parameter| {
        let ty = &parameter.ty;
        let name = parameter.public_name();
        let about = &parameter.description;
        let default = match &parameter.default {
            Some(expression) => {
                let function = default_name(parameter);
                quote_spanned!(expression.span()=> ::core::option::Option::Some(::umbel::__private::default_json(&#function())))
            }
            None if parameter.is_option() => quote!(::core::option::Option::Some(::std::string::String::from("null"))),
            None => quote!(::core::option::Option::None),
        };
        quote_spanned!(ty.span()=> ::umbel::__private::parameter::<#ty>(#name, #about, #default))
    });
    let returns = match &signature.returns {
        Some(ty) => quote!({
            #[allow(unused_imports)]
            use ::umbel::__private::{AnyReturns as _, PlainReturns as _, ResultReturns as _};
            (&&&::umbel::__private::Returns::<#ty>::new()).schema()
        }),
        None => quote!(::core::option::Option::None),
    };
    quote! {
        fn describe() -> ::umbel::raw::TaskDescription {
            ::umbel::raw::TaskDescription {
                name: ::std::string::String::from(Self::NAME),
                description: ::std::string::String::from(#description),
                parameters: ::std::vec![#(#parameters),*],
                returns: #returns,
                policy: ::std::string::String::from(#policy),
            }
        }
    }
}

fn run(function: &ItemFn, signature: &Signature) -> TokenStream {
    let name = &function.sig.ident;
    let fields = signature.parameters.iter().map(|parameter| {
        let (name, ty) = (&parameter.name, &parameter.ty);
        let default = parameter.default.as_ref().map(|_| {
            let function = default_name(parameter).to_string();
            quote!(#[serde(default = #function)])
        });
        quote!(#default #name: #ty)
    });
    let context = signature.takes_context.then(|| quote!(__umbel_context,));
    let names: Vec<_> = signature.parameters.iter().map(|parameter| &parameter.name).collect();
    let arguments = (!names.is_empty()).then(|| {
        quote! {
            #[derive(::umbel::__private::serde::Deserialize)]
            #[serde(crate = "::umbel::__private::serde")]
            #[allow(non_snake_case)]
            struct __UmbelArguments { #(#fields),* }
            let __umbel_arguments: __UmbelArguments = ::umbel::__private::arguments(__umbel_json)?;
        }
    });
    // Errors about what the function returns belong at the type it says it returns.
    let output_span = match &function.sig.output {
        syn::ReturnType::Default => name.span(),
        syn::ReturnType::Type(_, ty) => ty.span(),
    };
    let finish = quote_spanned!(output_span=> (&&::umbel::__private::Shape::of(&__umbel_returned)).shape().finish(__umbel_returned));
    quote! {
        fn run(
            __umbel_context: &::umbel::Context,
            __umbel_json: &str,
        ) -> ::core::result::Result<::std::string::String, ::umbel::raw::Outcome> {
            #[allow(unused_imports)]
            use ::umbel::__private::{PlainShape as _, ResultShape as _};
            #arguments
            let __umbel_returned = #name(#context #(__umbel_arguments.#names),*);
            #finish
        }
    }
}
