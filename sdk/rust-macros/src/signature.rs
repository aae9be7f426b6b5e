//! The function under `#[task]`: which shapes are a task, and what its parameters are.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{
    Attribute, Error, Expr, FnArg, Ident, ItemFn, Lit, Meta, Pat, Result, ReturnType, Type, ext::IdentExt,
    spanned::Spanned,
};

use crate::errors::Errors;

/// One parameter that a caller gives.
pub(crate) struct Parameter {
    pub(crate) name: Ident,
    pub(crate) ty: Type,
    /// What `#[default(…)]` says.
    pub(crate) default: Option<TokenStream>,
    pub(crate) description: String,
}

impl Parameter {
    /// The name that callers use: without `r#`.
    pub(crate) fn public_name(&self) -> String {
        self.name.unraw().to_string()
    }

    /// Serde treats a missing `Option` as `None`, so it is described with a default of null.
    pub(crate) fn is_option(&self) -> bool {
        last_segment(&self.ty).is_some_and(|name| name == "Option")
    }
}

/// A function that can be a task.
pub(crate) struct Signature {
    pub(crate) takes_context: bool,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) description: String,
    /// None for `impl Trait`, which cannot be named.
    pub(crate) returns: Option<Type>,
}

/// Reads the function and removes from it what only the macro understands.
pub(crate) fn read(function: &mut ItemFn) -> Result<Signature> {
    let mut errors = Errors::default();
    check_shape(function, &mut errors);
    let mut signature = Signature {
        takes_context: false,
        parameters: Vec::new(),
        description: documentation(&function.attrs),
        returns: returns(&function.sig.output),
    };
    for (position, input) in function.sig.inputs.iter_mut().enumerate() {
        match read_input(position, input) {
            Ok(Some(parameter)) => signature.parameters.push(parameter),
            Ok(None) => signature.takes_context = true,
            Err(error) => errors.push(error),
        }
    }
    if signature.parameters.len() > 64 {
        errors.push(Error::new(function.sig.inputs.span(), "a task has at most 64 parameters"));
    }
    errors.finish().map(|()| signature)
}

fn check_shape(function: &ItemFn, errors: &mut Errors) {
    let sig = &function.sig;
    let mut refuse = |span, problem: &str| errors.push(Error::new(span, problem));
    if let Some(token) = &sig.asyncness {
        refuse(token.span(), "a task is a plain function: every attempt has a sandbox of its own and may block");
    }
    if let Some(token) = &sig.unsafety {
        refuse(token.span(), "a task must be safe to call: put the unsafe part into a block inside");
    }
    if let Some(abi) = &sig.abi {
        refuse(abi.span(), "a task is a Rust function; the SDK exports it");
    }
    if !sig.generics.params.is_empty() {
        refuse(
            sig.generics.params.span(),
            "a task has no generics or lifetimes: its parameters arrive as JSON of one type",
        );
    }
    if let Some(clause) = &sig.generics.where_clause {
        refuse(clause.span(), "a task has no generics, so it needs no where clause");
    }
    if let Some(variadic) = &sig.variadic {
        refuse(variadic.span(), "a task has a fixed list of parameters");
    }
}

/// The parameter, or None for the context.
fn read_input(position: usize, input: &mut FnArg) -> Result<Option<Parameter>> {
    let typed = match input {
        FnArg::Receiver(receiver) => {
            return Err(Error::new(receiver.span(), "a task is a free function, not a method: remove `self`"));
        }
        FnArg::Typed(typed) => typed,
    };
    let name = match typed.pat.as_ref() {
        Pat::Ident(ident) if ident.by_ref.is_none() && ident.subpat.is_none() => ident.ident.clone(),
        other => {
            return Err(Error::new(
                other.span(),
                "a parameter needs a plain name: callers use it (take patterns apart inside)",
            ));
        }
    };
    if let Some(of) = context_kind(&typed.ty) {
        return match of {
            ContextKind::Shared if position == 0 => {
                typed.attrs.first().map_or(Ok(None), |a| Err(Error::new(a.span(), "the context takes no attribute")))
            }
            ContextKind::Shared => {
                Err(Error::new(typed.ty.span(), "the context comes first: `fn task(ctx: &Context, …)`"))
            }
            ContextKind::Other => Err(Error::new(typed.ty.span(), "the context is taken as `&Context`")),
        };
    }
    check_type(&typed.ty)?;
    let attributes = std::mem::take(&mut typed.attrs);
    let default = read_default(&attributes, &typed.ty)?;
    Ok(Some(Parameter { name, ty: (*typed.ty).clone(), default, description: documentation(&attributes) }))
}

enum ContextKind {
    Shared,
    Other,
}

fn context_kind(ty: &Type) -> Option<ContextKind> {
    let is_context = |ty: &Type| last_segment(ty).is_some_and(|name| name == "Context");
    match ty {
        Type::Reference(reference) if is_context(&reference.elem) => {
            let plain = reference.mutability.is_none() && reference.lifetime.is_none();
            Some(if plain { ContextKind::Shared } else { ContextKind::Other })
        }
        ty if is_context(ty) => Some(ContextKind::Other),
        _ => None,
    }
}

fn check_type(ty: &Type) -> Result<()> {
    match ty {
        Type::Reference(reference) => {
            let hint = match reference.elem.as_ref() {
                Type::Slice(_) => "take a Vec",
                Type::Path(path) if path.path.is_ident("str") => "take a String",
                _ => "take the value itself",
            };
            Err(Error::new(ty.span(), format!("a parameter is owned, because it is made from JSON: {hint}")))
        }
        Type::ImplTrait(_) => Err(Error::new(ty.span(), "a parameter needs one type: its JSON Schema is published")),
        Type::Ptr(_) | Type::BareFn(_) | Type::Infer(_) | Type::Never(_) => {
            Err(Error::new(ty.span(), "a parameter is made from JSON, which this type cannot be"))
        }
        _ => Ok(()),
    }
}

fn read_default(attributes: &[Attribute], ty: &Type) -> Result<Option<TokenStream>> {
    let mut default = None;
    for attribute in attributes {
        if attribute.path().is_ident("doc") {
            continue;
        }
        if !attribute.path().is_ident("default") {
            return Err(Error::new(attribute.span(), "a parameter takes only #[default(…)] and a doc comment"));
        }
        if default.is_some() {
            return Err(Error::new(attribute.span(), "a parameter has one default"));
        }
        default = Some(match &attribute.meta {
            Meta::Path(_) => quote!(<#ty as ::core::default::Default>::default()),
            Meta::List(_) => default_expression(attribute.parse_args()?, ty),
            Meta::NameValue(value) => return Err(Error::new(value.span(), "write the default as #[default(…)]")),
        });
    }
    Ok(default)
}

/// A text literal is also a fine default of a `String`.
fn default_expression(expression: Expr, ty: &Type) -> TokenStream {
    let is_text = matches!(&expression, Expr::Lit(lit) if matches!(lit.lit, Lit::Str(_)));
    if is_text && last_segment(ty).is_some_and(|name| name == "String") {
        return quote!(::std::string::String::from(#expression));
    }
    quote!(#expression)
}

fn last_segment(ty: &Type) -> Option<String> {
    let Type::Path(path) = ty else { return None };
    path.path.segments.last().map(|segment| segment.ident.to_string())
}

fn returns(output: &ReturnType) -> Option<Type> {
    match output {
        ReturnType::Default => Some(syn::parse_quote!(())),
        ReturnType::Type(_, ty) if quote!(#ty).into_iter().any(|token| token.to_string() == "impl") => None,
        ReturnType::Type(_, ty) => Some((**ty).clone()),
    }
}

/// The doc comment as plain text: lines joined, one leading space and outer blank lines removed.
fn documentation(attributes: &[Attribute]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for attribute in attributes {
        let Meta::NameValue(meta) = &attribute.meta else { continue };
        if !meta.path.is_ident("doc") {
            continue;
        }
        if let Expr::Lit(syn::ExprLit { lit: Lit::Str(text), .. }) = &meta.value {
            let text = text.value();
            lines.extend(text.split('\n').map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end().to_owned()));
        }
    }
    lines.join("\n").trim().to_owned()
}
