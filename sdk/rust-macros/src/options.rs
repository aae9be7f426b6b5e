//! The options of `#[task(…)]`: read, checked, and written as the policy JSON that the module describes.
//!
//! Field names are those of the server's `PolicyPatch`; only what the author set is written. Bounds here are those
//! that hold on every server; an operator's own are checked at upload.

use std::collections::BTreeMap;

use proc_macro2::Span;
use syn::{
    Error, Expr, Ident, Result, Token,
    parse::{Parse, ParseStream},
    spanned::Spanned,
};

use crate::{
    errors::Errors,
    expression::Expression,
    json, values,
    values::{boolean, duration, integer},
};

const KNOWN: &str = "name, queue, priority, max_retries, retry_backoff, retry_multiplier, retry_jitter, retry_on, \
                     dont_retry_on, retry_fuel_factor, throws, time_limit, soft_time_limit, fuel, memory, acks, \
                     max_deliveries, on_worker_lost, expires, result_ttl, dead_ttl, ignore_result, \
                     store_errors_even_if_ignored, rate_limit, rate_burst, concurrency, limit_key, key_rate_limit, \
                     key_rate_burst, key_concurrency, unique, unique_by, unique_for, debounce, debounce_max_wait, \
                     permissions";
/// The server's default hard limit, which a soft limit alone must stay under.
const DEFAULT_TIME_LIMIT_MS: u64 = 300_000;

/// A value and where it was written.
type At<T> = Option<(T, Span)>;

/// The options that the author set.
#[derive(Default)]
pub(crate) struct Options {
    /// The task's name, when it is not the function's.
    pub(crate) name: At<String>,
    /// What the task asks to reach besides its module; no part of the policy.
    pub(crate) permissions: Vec<String>,
    /// Fields of the policy as JSON, and where their values were written.
    fields: BTreeMap<&'static str, (String, Span)>,
    /// First and longest delay, and whether the author wrote a range.
    backoff: At<(u64, u64, bool)>,
    multiplier: At<u64>,
    jitter: Option<bool>,
    /// Of the fields that are checked together.
    durations: BTreeMap<&'static str, u64>,
    retry_on: Vec<(String, Span)>,
    retry_fuel_factor: u64,
    unique: Option<&'static str>,
    /// Those of all options, which must begin with a parameter.
    expressions: Vec<(Expression, Span)>,
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
            } else if let Err(error) = options.set(&key, &setting) {
                errors.push(error);
            }
            seen.push(key);
        }
        let is_set = |key: &str| seen.iter().any(|set| set == key);
        options.check_times(&mut errors);
        options.check_retries(&mut errors);
        options.check_keys(is_set, &mut errors);
        errors.finish().map(|()| options)
    }
}

impl Options {
    fn set(&mut self, key: &str, setting: &Setting) -> Result<()> {
        let value = &setting.value;
        if self.set_time(key, value)? || self.set_retry(key, value)? || self.set_limit(key, value)? {
            return Ok(());
        }
        match key {
            "name" => {
                let name = values::name(value, 128, "a task's name", values::task_first)?;
                self.name = Some((name, value.span()));
            }
            "queue" => {
                let queue = values::name(value, 64, "a queue's name", values::queue_first)?;
                self.put("queue", json::text(&queue), value);
            }
            "priority" => self.put("priority", integer(value, 0, 9, "a priority, 9 first")?, value),
            "fuel" => self.put("fuel", values::fuel(value)?, value),
            "memory" => self.put("memory_bytes", values::memory(value)?, value),
            "acks" => self.put("acks", json::text(values::word(value, &["late", "early"])?), value),
            "max_deliveries" => {
                self.put("max_deliveries", integer(value, 1, 1_000_000, "a number of deliveries")?, value);
            }
            "on_worker_lost" => {
                let wanted = values::word(value, &["requeue", "dead", "fail"])?;
                self.put("on_worker_lost", json::text(wanted), value);
            }
            "ignore_result" => self.put("ignore_result", boolean(value)?, value),
            "store_errors_even_if_ignored" => self.put("store_errors_even_if_ignored", boolean(value)?, value),
            "permissions" => self.permissions = values::permissions(value)?,
            "capabilities" => {
                let problem = "policies grant nothing: write permissions = [\"http https://api.example.com/\"] instead";
                return Err(Error::new(setting.key.span(), problem));
            }
            other => {
                let problem = format!("`{other}` is not an option of a task; known are {KNOWN}");
                return Err(Error::new(setting.key.span(), problem));
            }
        }
        Ok(())
    }

    fn put(&mut self, field: &'static str, json: impl ToString, value: &Expr) {
        self.fields.insert(field, (json.to_string(), value.span()));
    }

    fn set_time(&mut self, key: &str, value: &Expr) -> Result<bool> {
        let (field, min_ms) = match key {
            "time_limit" => ("time_limit_ms", 1),
            "soft_time_limit" => ("soft_time_limit_ms", 1),
            "expires" => ("expires_ms", 1),
            "result_ttl" => ("result_ttl_ms", 0),
            "dead_ttl" => ("dead_ttl_ms", 0),
            "unique_for" => ("unique_for_ms", 1),
            "debounce" => ("debounce_ms", 1),
            "debounce_max_wait" => ("debounce_max_wait_ms", 1),
            _ => return Ok(false),
        };
        let ms = duration(value, min_ms)?;
        self.durations.insert(field, ms);
        self.put(field, ms, value);
        Ok(true)
    }

    fn set_retry(&mut self, key: &str, value: &Expr) -> Result<bool> {
        let plain = |kinds: &[(String, Span)]| json::list(kinds.iter().map(|(kind, _)| kind));
        match key {
            "max_retries" => match values::max_retries(value)? {
                Some(retries) => self.put("max_retries", retries, value),
                None => self.put("retries_unlimited", true, value),
            },
            "retry_backoff" => self.backoff = Some((values::backoff(value)?, value.span())),
            "retry_multiplier" => self.multiplier = Some((integer(value, 1, 100, "a factor")?, value.span())),
            "retry_jitter" => self.jitter = Some(boolean(value)?),
            "retry_on" => {
                self.retry_on = values::kinds(value)?;
                self.put("retry_on", plain(&self.retry_on), value);
            }
            "dont_retry_on" => self.put("dont_retry_on", plain(&values::kinds(value)?), value),
            "retry_fuel_factor" => {
                self.retry_fuel_factor = integer(value, 1, 1_000, "a factor")?;
                self.put("retry_fuel_factor", self.retry_fuel_factor, value);
            }
            "throws" => self.put("throws", plain(&values::kinds(value)?), value),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn set_limit(&mut self, key: &str, value: &Expr) -> Result<bool> {
        let burst = || integer(value, 1, 1_000_000, "a number of starts");
        let jobs = || integer(value, 1, u32::MAX.into(), "a number of jobs");
        match key {
            "rate_limit" => self.put("rate_limit", json::text(&values::rate(value)?), value),
            "rate_burst" => self.put("rate_burst", burst()?, value),
            "concurrency" => self.put("concurrency", jobs()?, value),
            "limit_key" => {
                let expression = values::expression(value)?;
                self.put("limit_key", json::text(&expression.0.text), value);
                self.expressions.push(expression);
            }
            "key_rate_limit" => self.put("key_rate_limit", json::text(&values::rate(value)?), value),
            "key_rate_burst" => self.put("key_rate_burst", burst()?, value),
            "key_concurrency" => self.put("key_concurrency", jobs()?, value),
            "unique" => {
                let wins = values::word(value, &["off", "first", "latest"])?;
                self.unique = Some(wins);
                self.put("unique", json::text(wins), value);
            }
            "unique_by" => {
                let expressions = values::expressions(value)?;
                self.put("unique_by", json::list(expressions.iter().map(|(e, _)| &e.text)), value);
                self.expressions.extend(expressions);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn refuse(&self, field: &str, problem: impl std::fmt::Display) -> Error {
        let span = self.fields.get(field).map_or_else(Span::call_site, |(_, span)| *span);
        Error::new(span, problem)
    }

    fn check_times(&self, errors: &mut Errors) {
        let of = |field: &str| self.durations.get(field).copied();
        if let Some(soft) = of("soft_time_limit_ms") {
            let hard = of("time_limit_ms");
            let which = if hard.is_some() { "time_limit" } else { "the default time_limit, 300s" };
            if soft >= hard.unwrap_or(DEFAULT_TIME_LIMIT_MS) {
                let problem = format!("soft_time_limit must be below {which}: it leaves the task time to clean up");
                errors.push(self.refuse("soft_time_limit_ms", problem));
            }
        }
        if of("unique_for_ms").is_some() && self.unique != Some("first") {
            let problem = "unique_for needs unique = \"first\": only the first job keeps others away";
            errors.push(self.refuse("unique_for_ms", problem));
        }
        if of("debounce_ms").is_some() && self.unique == Some("first") {
            let problem = "debounce needs unique = \"latest\", not \"first\": the last submission is the one that runs";
            errors.push(self.refuse("debounce_ms", problem));
        }
        match (of("debounce_max_wait_ms"), of("debounce_ms")) {
            (Some(_), None) => errors.push(self.refuse("debounce_max_wait_ms", "debounce_max_wait needs debounce")),
            (Some(most), Some(each)) if most < each => {
                errors.push(self.refuse("debounce_max_wait_ms", "debounce_max_wait must not be shorter than debounce"));
            }
            _ => {}
        }
    }

    fn check_retries(&self, errors: &mut Errors) {
        for (kind, span) in &self.retry_on {
            let problem = match kind.as_str() {
                "bad_output" => "bad_output is never retried: the task would return the same again",
                "out_of_fuel" if self.retry_fuel_factor < 2 => {
                    "out_of_fuel is retried only with more of it: set retry_fuel_factor to 2 or more"
                }
                _ => continue,
            };
            errors.push(Error::new(*span, problem));
        }
        if let (Some((factor, span)), Some(((first, last, _), _))) = (self.multiplier, self.backoff)
            && factor > 1
            && first == last
        {
            let problem =
                "retry_multiplier has nothing to multiply: write retry_backoff as a range, such as \"1s..10m\"";
            errors.push(Error::new(span, problem));
        }
    }

    fn check_keys(&self, is_set: impl Fn(&str) -> bool, errors: &mut Errors) {
        if is_set("limit_key") {
            return;
        }
        for key in ["key_rate_limit", "key_rate_burst", "key_concurrency"] {
            if is_set(key) && self.fields.contains_key(key) {
                let problem = format!("{key} needs limit_key, which says what the key is: limit_key = \"kwargs.name\"");
                errors.push(self.refuse(key, problem));
            }
        }
    }

    /// Checks what is known only with the function: its parameters, by the names that callers use.
    pub(crate) fn check_parameters(&self, parameters: &[String]) -> Result<()> {
        let mut errors = Errors::default();
        for (expression, span) in &self.expressions {
            if let Err(problem) = expression.check(parameters) {
                errors.push(Error::new(*span, problem));
            }
        }
        errors.finish()
    }

    /// The policy as a JSON object.
    pub(crate) fn policy_json(&self) -> String {
        let mut fields: Vec<String> =
            self.fields.iter().map(|(name, (json, _))| format!("\"{name}\":{json}")).collect();
        fields.extend(self.backoff_json());
        format!("{{{}}}", fields.join(","))
    }

    fn backoff_json(&self) -> Option<String> {
        let mut jitter = self.jitter;
        let mut fields = Vec::new();
        if let Some(((initial, max, is_range), _)) = self.backoff {
            fields.push(format!("\"initial_ms\":{initial},\"max_ms\":{max}"));
            // Somebody who writes one delay means that delay; a range is spread unless told otherwise.
            jitter = jitter.or(Some(is_range));
        }
        fields.extend(self.multiplier.map(|(factor, _)| format!("\"multiplier\":{factor}")));
        fields.extend(jitter.map(|jitter| format!("\"jitter\":{jitter}")));
        (!fields.is_empty()).then(|| format!("\"retry_backoff\":{{{}}}", fields.join(",")))
    }
}
