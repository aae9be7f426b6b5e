//! Values of options as they are written in `#[task(…)]`: read, and refused where they stand.

use proc_macro2::Span;
use syn::{Error, Expr, ExprLit, Lit, Result, spanned::Spanned};
use umbel_permission::{MAX_PERMISSIONS, Permission};

use crate::{
    errors::Errors,
    expression::{Expression, MAX_LISTED_BYTES},
    units,
};

/// A year: no duration that anybody means is longer.
const MAX_DURATION_MS: u64 = 365 * 86_400_000;
/// One page of WebAssembly memory.
const MIN_MEMORY_BYTES: u64 = 64 << 10;
/// All that 32-bit addresses reach.
const MAX_MEMORY_BYTES: u64 = 4 << 30;
/// Kinds or expressions in one list; the server's limit.
const MAX_LIST: usize = 32;

fn at(value: &Expr) -> impl Fn(String) -> Error {
    let span = value.span();
    move |problem| Error::new(span, problem)
}

fn literal<'a>(value: &'a Expr, wanted: &str) -> Result<&'a Lit> {
    match value {
        Expr::Lit(ExprLit { lit, .. }) => Ok(lit),
        _ => Err(Error::new(value.span(), format!("expected {wanted}, written out"))),
    }
}

pub(crate) fn text(value: &Expr) -> Result<String> {
    match literal(value, "a text")? {
        Lit::Str(text) => Ok(text.value()),
        other => Err(Error::new(other.span(), "expected a text in quotes, such as \"30s\"")),
    }
}

pub(crate) fn boolean(value: &Expr) -> Result<bool> {
    match literal(value, "true or false")? {
        Lit::Bool(lit) => Ok(lit.value),
        other => Err(Error::new(other.span(), "expected true or false")),
    }
}

pub(crate) fn integer(value: &Expr, min: u64, max: u64, what: &str) -> Result<u64> {
    let wanted = format!("{what}: a whole number from {min} to {max}");
    match literal(value, &wanted)? {
        Lit::Int(lit) => match lit.base10_parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(number),
            _ => Err(Error::new(lit.span(), format!("expected {wanted}"))),
        },
        other => Err(Error::new(other.span(), format!("expected {wanted}"))),
    }
}

fn bounded(value: &Expr, number: u64, min: u64, max: u64, shown: &str) -> Result<u64> {
    if (min..=max).contains(&number) {
        return Ok(number);
    }
    Err(Error::new(value.span(), format!("expected {shown}")))
}

pub(crate) fn duration(value: &Expr, min_ms: u64) -> Result<u64> {
    let ms = units::duration_ms(&text(value)?).map_err(at(value))?;
    bounded(value, ms, min_ms, MAX_DURATION_MS, &format!("a duration from {min_ms}ms to 365d"))
}

pub(crate) fn memory(value: &Expr) -> Result<u64> {
    let bytes = units::size_bytes(&text(value)?).map_err(at(value))?;
    bounded(value, bytes, MIN_MEMORY_BYTES, MAX_MEMORY_BYTES, "a size from 64KiB to 4GiB")
}

pub(crate) fn fuel(value: &Expr) -> Result<u64> {
    if let Expr::Lit(ExprLit { lit: Lit::Int(_), .. }) = value {
        return integer(value, 1, u64::MAX, "an amount of fuel");
    }
    let fuel = units::amount(&text(value)?).map_err(at(value))?;
    bounded(value, fuel, 1, u64::MAX, "an amount of fuel above 0")
}

pub(crate) fn max_retries(value: &Expr) -> Result<Option<u64>> {
    if let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = value {
        return match text.value().as_str() {
            "unlimited" => Ok(None),
            _ => Err(Error::new(text.span(), "expected a whole number of retries or \"unlimited\"")),
        };
    }
    integer(value, 0, u32::MAX.into(), "a number of retries").map(Some)
}

/// `"1s..10m"` doubles from the first to the second, `"5s"` always waits that long, `"off"` retries at once.
pub(crate) fn backoff(value: &Expr) -> Result<(u64, u64, bool)> {
    let text = text(value)?;
    if text == "off" {
        return Ok((0, 0, false));
    }
    let one = |text: &str| -> Result<u64> {
        let ms = units::duration_ms(text.trim()).map_err(|problem| {
            Error::new(value.span(), format!("{problem}; a backoff is \"1s..10m\", \"5s\" or \"off\""))
        })?;
        bounded(value, ms, 0, MAX_DURATION_MS, "a delay of at most 365d")
    };
    let Some((first, last)) = text.split_once("..") else {
        let delay = one(&text)?;
        return Ok((delay, delay, false));
    };
    let (first, last) = (one(first)?, one(last)?);
    if first > last {
        return Err(Error::new(value.span(), "the first delay of a backoff must not be longer than the last"));
    }
    Ok((first, last, true))
}

/// A list of texts, each with where it was written, none of them twice. `what` names one of them, `example` is a list.
pub(crate) fn list(value: &Expr, what: &str, example: &str) -> Result<Vec<(String, Span)>> {
    let Expr::Array(array) = value else {
        return Err(Error::new(value.span(), format!("expected a list of texts, such as {example}")));
    };
    let mut items: Vec<(String, Span)> = Vec::new();
    for element in &array.elems {
        let item = text(element)?;
        if items.iter().any(|(before, _)| *before == item) {
            return Err(Error::new(element.span(), format!("this {what} is listed twice")));
        }
        items.push((item, element.span()));
    }
    Ok(items)
}

/// What a module or task asks to reach, each in its usual spelling. The server's rules.
pub(crate) fn permissions(value: &Expr) -> Result<Vec<String>> {
    let texts = list(value, "permission", "[\"http GET https://api.example.com/\"]")?;
    if texts.len() > MAX_PERMISSIONS {
        return Err(Error::new(value.span(), format!("at most {MAX_PERMISSIONS} permissions can be listed")));
    }
    let mut errors = Errors::default();
    let mut permissions = Vec::new();
    for (text, span) in texts {
        match text.parse::<Permission>() {
            Ok(permission) if permission.is_operators() => {
                errors.push(Error::new(span, "only an operator can grant this, in the tenant's bounds: leave it out"));
            }
            Ok(permission) => permissions.push(permission.to_string()),
            Err(error) => errors.push(Error::new(span, error.problem)),
        }
    }
    errors.finish().map(|()| permissions)
}

/// Kinds of failure: names, or the beginning of one and a `*`. The server's rules.
pub(crate) fn kinds(value: &Expr) -> Result<Vec<(String, Span)>> {
    let kinds = list(value, "kind", "[\"Timeout\", \"trap:*\"]")?;
    let mut errors = Errors::default();
    if kinds.len() > MAX_LIST {
        errors.push(Error::new(value.span(), format!("at most {MAX_LIST} kinds can be listed")));
    }
    for (kind, span) in &kinds {
        let body = kind.strip_suffix('*').unwrap_or(kind);
        let visible = |b: u8| b.is_ascii_graphic() && b != b'*';
        if kind.is_empty() || kind.len() > MAX_LISTED_BYTES || !body.bytes().all(visible) {
            let rule = format!(
                "a kind of failure has 1 to {MAX_LISTED_BYTES} visible ASCII characters, such as \"Timeout\"; a `*` \
                 stands at its end, as in \"trap:*\""
            );
            errors.push(Error::new(*span, rule));
        }
    }
    errors.finish().map(|()| kinds)
}

/// One of a few words.
pub(crate) fn word(value: &Expr, words: &[&'static str]) -> Result<&'static str> {
    let given = text(value)?;
    let found = words.iter().find(|word| **word == given);
    let wanted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    found.copied().ok_or_else(|| Error::new(value.span(), format!("expected {}", wanted.join(" or "))))
}

pub(crate) fn task_first(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

pub(crate) fn queue_first(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

pub(crate) fn name(value: &Expr, max: usize, what: &str, first: fn(u8) -> bool) -> Result<String> {
    let name = text(value)?;
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > max || !first(bytes[0]) || !bytes.iter().all(|b| rest(*b)) {
        let letter = if first(b'_') { "a letter or _" } else { "a letter or digit" };
        let rule = format!("{what} has 1 to {max} of A-Z a-z 0-9 _ . - and starts with {letter}");
        return Err(Error::new(value.span(), rule));
    }
    Ok(name)
}

pub(crate) fn rate(value: &Expr) -> Result<String> {
    units::rate(&text(value)?).map_err(at(value))
}

/// An expression over the arguments.
pub(crate) fn expression(value: &Expr) -> Result<(Expression, Span)> {
    let text = text(value)?;
    Ok((Expression::parse(&text).map_err(at(value))?, value.span()))
}

pub(crate) fn expressions(value: &Expr) -> Result<Vec<(Expression, Span)>> {
    let texts = list(value, "expression", "[\"kwargs.customer_id\"]")?;
    if texts.len() > MAX_LIST {
        return Err(Error::new(value.span(), format!("at most {MAX_LIST} expressions can be listed")));
    }
    let mut errors = Errors::default();
    let mut expressions = Vec::new();
    for (text, span) in texts {
        match Expression::parse(&text) {
            Ok(expression) => expressions.push((expression, span)),
            Err(problem) => errors.push(Error::new(span, problem)),
        }
    }
    errors.finish().map(|()| expressions)
}
