//! The options of `#[task(…)]`: read, checked, and written as the policy JSON that the module describes.
//!
//! Field names are those of the server's `PolicyPatch`; only what the author set is written. Bounds here are those
//! that hold on every server; an operator's own are checked at upload.

use proc_macro2::Span;
use syn::{
    Error, Expr, ExprLit, Ident, Lit, Result, Token,
    parse::{Parse, ParseStream},
    spanned::Spanned,
};

use crate::units;

const KNOWN: &str = "name, queue, priority, max_retries, retry_backoff, retry_jitter, time_limit, soft_time_limit, \
                     fuel, memory, max_deliveries, expires, result_ttl, dead_ttl, rate_limit, capabilities";
/// The server's default hard limit, which a soft limit alone must stay under.
const DEFAULT_TIME_LIMIT_MS: u64 = 300_000;
/// A year: no duration that anybody means is longer.
const MAX_DURATION_MS: u64 = 365 * 86_400_000;
/// One page of WebAssembly memory.
const MIN_MEMORY_BYTES: u64 = 64 << 10;
/// All that 32-bit addresses reach.
const MAX_MEMORY_BYTES: u64 = 4 << 30;

/// A value and where it was written.
type At<T> = Option<(T, Span)>;

/// What the author set.
#[derive(Default)]
pub(crate) struct Options {
    /// The task's name, when it is not the function's.
    pub(crate) name: At<String>,
    queue: At<String>,
    priority: At<u64>,
    /// None inside means "unlimited".
    max_retries: At<Option<u64>>,
    /// First and longest delay, and whether the author wrote a range.
    retry_backoff: At<(u64, u64, bool)>,
    retry_jitter: At<bool>,
    time_limit_ms: At<u64>,
    soft_time_limit_ms: At<u64>,
    fuel: At<u64>,
    memory_bytes: At<u64>,
    max_deliveries: At<u64>,
    expires_ms: At<u64>,
    result_ttl_ms: At<u64>,
    dead_ttl_ms: At<u64>,
    rate_limit: At<String>,
    capabilities: At<Vec<String>>,
}

/// `key = value`.
struct Setting {
    key: Ident,
    value: Expr,
}

impl Parse for Setting {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let key: Ident =
            input.parse().map_err(|e| Error::new(e.span(), "expected an option, such as queue = \"critical\""))?;
        if !input.peek(Token![=]) {
            return Err(Error::new(key.span(), format!("`{key}` needs a value: write `{key} = …`")));
        }
        input.parse::<Token![=]>()?;
        Ok(Self { key, value: input.parse()? })
    }
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        let mut seen: Vec<String> = Vec::new();
        let mut errors = Errors::default();
        for setting in input.parse_terminated(Setting::parse, Token![,])? {
            let key = setting.key.to_string();
            if seen.contains(&key) {
                errors.push(Error::new(setting.key.span(), format!("`{key}` is set twice")));
            } else if let Err(error) = options.set(&setting) {
                errors.push(error);
            }
            seen.push(key);
        }
        if let Err(error) = options.check_together() {
            errors.push(error);
        }
        errors.finish().map(|()| options)
    }
}

impl Options {
    fn set(&mut self, Setting { key, value }: &Setting) -> Result<()> {
        let span = value.span();
        match key.to_string().as_str() {
            "name" => self.name = Some((name(value, 128, "a task's name", task_first)?, span)),
            "queue" => self.queue = Some((name(value, 64, "a queue's name", queue_first)?, span)),
            "priority" => self.priority = Some((integer(value, 0, 9, "a priority, 9 first")?, span)),
            "max_retries" => self.max_retries = Some((max_retries(value)?, span)),
            "retry_backoff" => self.retry_backoff = Some((backoff(value)?, span)),
            "retry_jitter" => self.retry_jitter = Some((boolean(value)?, span)),
            "time_limit" => self.time_limit_ms = Some((duration(value, 1)?, span)),
            "soft_time_limit" => self.soft_time_limit_ms = Some((duration(value, 1)?, span)),
            "fuel" => self.fuel = Some((fuel(value)?, span)),
            "memory" => self.memory_bytes = Some((memory(value)?, span)),
            "max_deliveries" => {
                self.max_deliveries = Some((integer(value, 1, 1_000_000, "a number of deliveries")?, span))
            }
            "expires" => self.expires_ms = Some((duration(value, 1)?, span)),
            "result_ttl" => self.result_ttl_ms = Some((duration(value, 0)?, span)),
            "dead_ttl" => self.dead_ttl_ms = Some((duration(value, 0)?, span)),
            "rate_limit" => self.rate_limit = Some((units::rate(&text(value)?).map_err(at(value))?, span)),
            "capabilities" => self.capabilities = Some((capabilities(value)?, span)),
            other => {
                return Err(Error::new(key.span(), format!("`{other}` is not an option of a task; known are {KNOWN}")));
            }
        }
        Ok(())
    }

    fn check_together(&self) -> Result<()> {
        let Some((soft, span)) = self.soft_time_limit_ms else { return Ok(()) };
        let hard = self.time_limit_ms.map_or(DEFAULT_TIME_LIMIT_MS, |(hard, _)| hard);
        if soft < hard {
            return Ok(());
        }
        let which = if self.time_limit_ms.is_some() { "time_limit" } else { "the default time_limit, 300s" };
        Err(Error::new(span, format!("soft_time_limit must be below {which}: it leaves the task time to clean up")))
    }

    /// The policy as a JSON object. Every text in it was checked to need no escaping.
    pub(crate) fn policy_json(&self) -> String {
        let mut fields: Vec<String> = Vec::new();
        let mut text = |name: &str, value: &At<String>| {
            if let Some((value, _)) = value {
                fields.push(format!("\"{name}\":\"{value}\""));
            }
        };
        text("queue", &self.queue);
        text("rate_limit", &self.rate_limit);
        let mut number = |name: &str, value: &At<u64>| {
            if let Some((value, _)) = value {
                fields.push(format!("\"{name}\":{value}"));
            }
        };
        number("priority", &self.priority);
        number("time_limit_ms", &self.time_limit_ms);
        number("soft_time_limit_ms", &self.soft_time_limit_ms);
        number("fuel", &self.fuel);
        number("memory_bytes", &self.memory_bytes);
        number("max_deliveries", &self.max_deliveries);
        number("expires_ms", &self.expires_ms);
        number("result_ttl_ms", &self.result_ttl_ms);
        number("dead_ttl_ms", &self.dead_ttl_ms);
        match self.max_retries {
            Some((Some(retries), _)) => fields.push(format!("\"max_retries\":{retries}")),
            Some((None, _)) => fields.push("\"retries_unlimited\":true".into()),
            None => {}
        }
        fields.extend(self.backoff_json());
        if let Some((names, _)) = &self.capabilities {
            let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
            fields.push(format!("\"capabilities\":[{}]", quoted.join(",")));
        }
        format!("{{{}}}", fields.join(","))
    }

    fn backoff_json(&self) -> Option<String> {
        let jitter = self.retry_jitter.map(|(jitter, _)| jitter);
        match self.retry_backoff {
            Some(((initial, max, is_range), _)) => {
                // Somebody who writes one delay means that delay; a range is spread unless told otherwise.
                let jitter = jitter.unwrap_or(is_range);
                Some(format!("\"retry_backoff\":{{\"initial_ms\":{initial},\"max_ms\":{max},\"jitter\":{jitter}}}"))
            }
            None => jitter.map(|jitter| format!("\"retry_backoff\":{{\"jitter\":{jitter}}}")),
        }
    }
}

/// Several mistakes, reported together.
#[derive(Default)]
pub(crate) struct Errors(Option<Error>);

impl Errors {
    pub(crate) fn push(&mut self, error: Error) {
        match &mut self.0 {
            Some(first) => first.combine(error),
            none => *none = Some(error),
        }
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.0.map_or(Ok(()), Err)
    }
}

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

fn text(value: &Expr) -> Result<String> {
    match literal(value, "a text")? {
        Lit::Str(text) => Ok(text.value()),
        other => Err(Error::new(other.span(), "expected a text in quotes, such as \"30s\"")),
    }
}

fn boolean(value: &Expr) -> Result<bool> {
    match literal(value, "true or false")? {
        Lit::Bool(lit) => Ok(lit.value),
        other => Err(Error::new(other.span(), "expected true or false")),
    }
}

fn integer(value: &Expr, min: u64, max: u64, what: &str) -> Result<u64> {
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

fn duration(value: &Expr, min_ms: u64) -> Result<u64> {
    let ms = units::duration_ms(&text(value)?).map_err(at(value))?;
    bounded(value, ms, min_ms, MAX_DURATION_MS, &format!("a duration from {min_ms}ms to 365d"))
}

fn memory(value: &Expr) -> Result<u64> {
    let bytes = units::size_bytes(&text(value)?).map_err(at(value))?;
    bounded(value, bytes, MIN_MEMORY_BYTES, MAX_MEMORY_BYTES, "a size from 64KiB to 4GiB")
}

fn fuel(value: &Expr) -> Result<u64> {
    if let Expr::Lit(ExprLit { lit: Lit::Int(_), .. }) = value {
        return integer(value, 1, u64::MAX, "an amount of fuel");
    }
    let fuel = units::amount(&text(value)?).map_err(at(value))?;
    bounded(value, fuel, 1, u64::MAX, "an amount of fuel above 0")
}

fn max_retries(value: &Expr) -> Result<Option<u64>> {
    if let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = value {
        return match text.value().as_str() {
            "unlimited" => Ok(None),
            _ => Err(Error::new(text.span(), "expected a whole number of retries or \"unlimited\"")),
        };
    }
    integer(value, 0, u32::MAX.into(), "a number of retries").map(Some)
}

/// `"1s..10m"` doubles from the first to the second, `"5s"` always waits that long, `"off"` retries at once.
fn backoff(value: &Expr) -> Result<(u64, u64, bool)> {
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

fn capabilities(value: &Expr) -> Result<Vec<String>> {
    let Expr::Array(array) = value else {
        return Err(Error::new(value.span(), "expected a list of texts, such as [\"http:api.example.com\"]"));
    };
    let mut names: Vec<String> = Vec::new();
    for element in &array.elems {
        let name = text(element)?;
        let visible = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if name.is_empty() || name.len() > 256 || !name.bytes().all(visible) {
            return Err(Error::new(element.span(), "a capability has 1 to 256 visible ASCII characters, no quotes"));
        }
        if names.contains(&name) {
            return Err(Error::new(element.span(), "this capability is listed twice"));
        }
        names.push(name);
    }
    Ok(names)
}

fn task_first(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_'
}

fn queue_first(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn name(value: &Expr, max: usize, what: &str, first: fn(u8) -> bool) -> Result<String> {
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
