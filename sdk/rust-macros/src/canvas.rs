//! Composing tasks: `chain![…]` and the like, and the code that `#[task]` writes so that `add::s(2, 3)` is checked.
//!
//! Rust's functions have a fixed number of parameters, and a step of a chain leaves its first argument to the step
//! before. So inside of the macros a call `path::to::task::s(…)` is handed over as a tuple, which the task takes through
//! the trait `TakesArguments`: implemented for all of its parameters, for those behind the first, and for fewer.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Error, Expr, ExprCall, Ident, Result, Token, Visibility, parse::Parser, punctuated::Punctuated, spanned::Spanned,
};

use crate::signature::Parameter;

/// Tasks with more parameters take all of them, those behind the first, or none.
const MAX_ANY: usize = 6;

pub(crate) fn chain(steps: TokenStream) -> Result<TokenStream> {
    let steps = expressions(steps)?;
    if steps.is_empty() {
        return Err(Error::new(Span::call_site(), "a chain has at least one step: chain![add::s(2, 2), add::s(4)]"));
    }
    let steps = steps.iter().map(canvas_of);
    Ok(quote!(::umbel::canvas::chain::<::umbel::canvas::Canvas>([#(#steps),*])))
}

pub(crate) fn group(members: TokenStream) -> Result<TokenStream> {
    let members = expressions(members)?;
    let members = members.iter().map(canvas_of);
    Ok(quote!(::umbel::canvas::group::<::umbel::canvas::Canvas>([#(#members),*])))
}

pub(crate) fn chord(parts: TokenStream) -> Result<TokenStream> {
    let parts = expressions(parts)?;
    let [header, body] = parts.as_slice() else {
        let problem = "a chord has a group and a body: chord![group![add::s(2, 2), add::s(4, 4)], total::s()]";
        return Err(Error::new(Span::call_site(), problem));
    };
    let body = canvas_of(body);
    Ok(quote!(::umbel::canvas::chord(#header, #body)))
}

pub(crate) fn step(step: TokenStream) -> Result<TokenStream> {
    let steps = expressions(step)?;
    let [step] = steps.as_slice() else {
        return Err(Error::new(Span::call_site(), "expected one step: canvas!(add::s(4).link(mul::s(2)))"));
    };
    Ok(canvas_of(step))
}

fn expressions(tokens: TokenStream) -> Result<Vec<Expr>> {
    let mut expressions: Vec<Expr> =
        Punctuated::<Expr, Token![,]>::parse_terminated.parse2(tokens)?.into_iter().collect();
    expressions.iter_mut().for_each(rewrite);
    Ok(expressions)
}

fn canvas_of(step: &Expr) -> TokenStream {
    quote_spanned!(step.span()=> ::umbel::__private::step(#step))
}

/// Turns the calls of `task::s` that are steps into calls with a tuple.
fn rewrite(expression: &mut Expr) {
    match expression {
        Expr::Call(call) => match partial(call) {
            Some(partial) => *expression = Expr::Verbatim(partial),
            None => call.args.iter_mut().for_each(rewrite),
        },
        Expr::MethodCall(call) => {
            rewrite(&mut call.receiver);
            call.args.iter_mut().for_each(rewrite);
        }
        Expr::Paren(inner) => rewrite(&mut inner.expr),
        Expr::Group(inner) => rewrite(&mut inner.expr),
        Expr::Array(list) => list.elems.iter_mut().for_each(rewrite),
        Expr::If(choice) => {
            rewrite_last(&mut choice.then_branch);
            if let Some((_, otherwise)) = &mut choice.else_branch {
                rewrite(otherwise);
            }
        }
        Expr::Block(block) => rewrite_last(&mut block.block),
        Expr::Match(choice) => choice.arms.iter_mut().for_each(|arm| rewrite(&mut arm.body)),
        _ => {}
    }
}

fn rewrite_last(block: &mut syn::Block) {
    if let Some(syn::Stmt::Expr(value, None)) = block.stmts.last_mut() {
        rewrite(value);
    }
}

fn partial(call: &ExprCall) -> Option<TokenStream> {
    let Expr::Path(function) = call.func.as_ref() else { return None };
    let mut task = function.path.clone();
    if function.qself.is_some() || task.segments.len() < 2 {
        return None;
    }
    let last = task.segments.pop()?.into_value();
    if last.ident != "s" || !last.arguments.is_none() {
        return None;
    }
    // Without what was between it and the `s`.
    task.segments.pop_punct();
    let arguments = &call.args;
    let comma = (!arguments.is_empty() && !arguments.trailing_punct()).then(|| quote!(,));
    Some(quote_spanned!(task.span()=> ::umbel::__private::partial::<#task, _>((#arguments #comma))))
}

/// `s`, `si`, `p`, `map`, `starmap` and `chunks` of a task, and what its partial calls take.
pub(crate) fn signatures(task: &Ident, vis: &Visibility, parameters: &[Parameter]) -> TokenStream {
    let all = Typed::new(parameters);
    let behind_first = Typed::new(parameters.get(1..).unwrap_or_default());
    let full = all.constructor(vis, "s", "A call with all of its arguments.", false);
    let immutable = all.constructor(
        vis,
        "si",
        "A call with all of its arguments, which takes no result of what comes before it.",
        true,
    );
    let behind = behind_first.constructor(
        vis,
        "p",
        "A call whose first argument is the result of what comes before it, with all of the others.",
        false,
    );
    let many = each(vis, parameters);
    let takes = takes(task, parameters);
    quote! {
        #[allow(dead_code)]
        impl #task {
            #full
            #immutable
            #behind
            #many
        }

        #takes
    }
}

/// Parameters that are taken as arguments of their types.
struct Typed {
    names: Vec<Ident>,
    generics: Vec<Ident>,
    types: Vec<syn::Type>,
}

impl Typed {
    fn new(parameters: &[Parameter]) -> Self {
        Self {
            names: parameters.iter().map(|parameter| parameter.name.clone()).collect(),
            generics: (0..parameters.len()).map(|at| format_ident!("__A{at}")).collect(),
            types: parameters.iter().map(|parameter| parameter.ty.clone()).collect(),
        }
    }

    fn bounded(&self) -> TokenStream {
        let Self { generics, types, .. } = self;
        quote!(#(#generics: ::umbel::__private::Argument<#types>),*)
    }

    fn constructor(&self, vis: &Visibility, name: &str, about: &str, immutable: bool) -> TokenStream {
        let name = Ident::new(name, Span::call_site());
        let (bounded, Self { names, generics, types }) = (self.bounded(), self);
        let immutable = immutable.then(|| quote!(.immutable()));
        quote! {
            #[doc = #about]
            #[must_use]
            #vis fn #name<#bounded>(#(#names: #generics),*) -> ::umbel::__private::Signature {
                ::umbel::__private::Signature::with(
                    <Self as ::umbel::__private::Task>::NAME,
                    ::std::vec![#(<#generics as ::umbel::__private::Argument<#types>>::into_json(#names)),*],
                )
                #immutable
            }
        }
    }

    /// The function of `TakesArguments`, for a tuple of these.
    fn takes(&self, task: &Ident) -> TokenStream {
        let (bounded, Self { generics, types, .. }) = (self.bounded(), self);
        quote! {
            impl<#bounded> ::umbel::__private::TakesArguments<(#(#generics,)*)> for #task {
                #[allow(non_snake_case)]
                fn json((#(#generics,)*): (#(#generics,)*)) -> ::std::vec::Vec<::umbel::__private::Json> {
                    ::std::vec![#(<#generics as ::umbel::__private::Argument<#types>>::into_json(#generics)),*]
                }
            }
        }
    }
}

fn each(vis: &Visibility, parameters: &[Parameter]) -> TokenStream {
    let Some(first) = parameters.first().map(|parameter| &parameter.ty) else { return TokenStream::new() };
    let Typed { generics, types, .. } = &Typed::new(parameters);
    let item = quote!((#(#generics,)*));
    let bounds = quote!(#(#generics: ::umbel::__private::Argument<#types>),*);
    let items = quote!(items.into_iter().map(|(#(#generics,)*): #item| {
        ::std::vec![#(<#generics as ::umbel::__private::Argument<#types>>::into_json(#generics)),*]
    }).collect());
    quote! {
        /// One job that calls it for each item, one after the other, and gives the list of the results.
        #[must_use]
        #vis fn map<__A: ::umbel::__private::Argument<#first>>(
            items: impl ::core::iter::IntoIterator<Item = __A>,
        ) -> ::umbel::__private::Each {
            let items = items.into_iter().map(|item| ::std::vec![<__A as ::umbel::__private::Argument<#first>>::into_json(item)]);
            ::umbel::__private::Signature::of::<Self>().each("map", ::core::option::Option::None, items.collect())
        }

        /// One job that calls it with each tuple of arguments, one after the other, and gives the list of the results.
        #[must_use]
        #[allow(non_snake_case)]
        #vis fn starmap<#bounds>(items: impl ::core::iter::IntoIterator<Item = #item>) -> ::umbel::__private::Each {
            ::umbel::__private::Signature::of::<Self>().each("starmap", ::core::option::Option::None, #items)
        }

        /// As `starmap`, in jobs of `size` items, side by side; gives the list of their lists.
        #[must_use]
        #[allow(non_snake_case)]
        #vis fn chunks<#bounds>(
            items: impl ::core::iter::IntoIterator<Item = #item>,
            size: u32,
        ) -> ::umbel::__private::Each {
            ::umbel::__private::Signature::of::<Self>().each("chunks", ::core::option::Option::Some(size), #items)
        }
    }
}

fn takes(task: &Ident, parameters: &[Parameter]) -> TokenStream {
    let count = parameters.len();
    let full = Typed::new(parameters).takes(task);
    let fewer = (0..count).filter(|given| count <= MAX_ANY || *given == 0 || given + 1 == count).map(|given| {
        let last_is_optional = parameters.last().is_some_and(|last| last.default.is_some() || last.is_option());
        if given + 1 == count && !last_is_optional {
            return Typed::new(&parameters[1..]).takes(task);
        }
        // Whether they begin at the first parameter or behind it is known only where the step stands.
        any(task, given)
    });
    quote!(#full #(#fewer)*)
}

fn any(task: &Ident, given: usize) -> TokenStream {
    let generics: Vec<Ident> = (0..given).map(|at| format_ident!("__A{at}")).collect();
    quote! {
        impl<#(#generics: ::umbel::__private::serde::Serialize),*> ::umbel::__private::TakesArguments<(#(#generics,)*)> for #task {
            #[allow(non_snake_case)]
            fn json((#(#generics,)*): (#(#generics,)*)) -> ::std::vec::Vec<::umbel::__private::Json> {
                ::std::vec![#(::umbel::__private::Json::of(&#generics)),*]
            }
        }
    }
}
