//! The JSON Schemas of tasks, compiled, and what a strange schema or argument may cost.
//!
//! Schemas come from strangers. Nothing remote is fetched, patterns run on an engine without backtracking, and `cost`
//! bounds the work before it is begun.

mod cost;

use std::sync::Arc;

use jsonschema::{PatternOptions, Validator};
use moka::future::Cache;
use serde_json::{Value, value::RawValue};
use umbel_model::{Digest, Parameter, TaskDescription, TaskName};

use crate::{
    body::cut,
    problem::{Code, Problem},
};
use cost::Cost;

/// Bytes of one compiled pattern.
const MAX_PATTERN_BYTES: usize = 256 << 10;
/// Bytes of schema text whose compiled forms are kept.
const CACHED_SCHEMA_BYTES: u64 = 16 << 20;
/// Errors reported of one argument.
const MAX_ERRORS: usize = 16;

/// The compiled schemas of one task, by parameter.
#[derive(Debug)]
pub(crate) struct Schemas {
    parameters: Vec<Option<Compiled>>,
    text_bytes: u32,
}

#[derive(Debug)]
struct Compiled {
    schema: Value,
    validator: Validator,
    cost: Cost,
}

/// What an argument breaks: a JSON pointer within it, and how.
pub(crate) type Complaint = (String, String);

impl Schemas {
    /// Compiles the schemas. The error names the parameter.
    pub(crate) fn compile(parameters: &[Parameter]) -> Result<Self, String> {
        let mut text_bytes = 64;
        let mut compiled = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            compiled.push(if accepts_all(&parameter.schema) {
                None
            } else {
                text_bytes += parameter.schema.to_string().len() as u32;
                let one = Compiled::new(&parameter.schema);
                Some(one.map_err(|problem| format!("the schema of parameter `{}`: {problem}", parameter.name))?)
            });
        }
        Ok(Self { parameters: compiled, text_bytes })
    }

    /// Whether the value may be given for parameter number `at`.
    pub(crate) fn check(&self, at: usize, json: &RawValue) -> Result<(), Complaints> {
        let Some(Some(compiled)) = self.parameters.get(at) else { return Ok(()) };
        let value: Value = serde_json::from_str(json.get()).map_err(|e| {
            Complaints::Wrong(vec![(String::new(), format!("cannot be read: {}", cut(&e.to_string())))])
        })?;
        compiled.check(&value, json.get().len())
    }
}

/// Why an argument is refused.
#[derive(Debug)]
pub(crate) enum Complaints {
    Wrong(Vec<Complaint>),
    /// Checking it would take too many steps.
    TooComplex,
}

impl Compiled {
    fn new(schema: &Value) -> Result<Self, String> {
        let cost = Cost::of(schema)?;
        let options =
            jsonschema::options().offline().with_pattern_options(PatternOptions::regex().size_limit(MAX_PATTERN_BYTES));
        let validator = options.build(schema).map_err(|e| cut(&e.to_string()))?;
        Ok(Self { schema: schema.clone(), validator, cost })
    }

    fn check(&self, value: &Value, bytes: usize) -> Result<(), Complaints> {
        if !self.cost.allows(&self.schema, value, bytes) {
            return Err(Complaints::TooComplex);
        }
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let complaints = self.validator.iter_errors(value).take(MAX_ERRORS);
        Err(Complaints::Wrong(complaints.map(|e| (e.instance_path().to_string(), cut(&e.to_string()))).collect()))
    }
}

fn accepts_all(schema: &Value) -> bool {
    match schema {
        Value::Bool(accepts) => *accepts,
        // What schemars says of `serde_json::Value`: no more than a title.
        Value::Object(map) => map.keys().all(|key| matches!(key.as_str(), "title" | "description" | "$schema")),
        _ => false,
    }
}

/// Compiled schemas by module and task: immutable, so never stale.
#[derive(Debug)]
pub(crate) struct SchemaCache(Cache<(Digest, TaskName), Arc<Schemas>>);

impl SchemaCache {
    pub(crate) fn new() -> Self {
        let cache = Cache::builder().max_capacity(CACHED_SCHEMA_BYTES).weigher(|_, s: &Arc<Schemas>| s.text_bytes);
        Self(cache.build())
    }

    /// The schemas of a task; compiled off the async threads when they are not known.
    pub(crate) async fn get(&self, digest: Digest, task: &TaskDescription) -> Result<Arc<Schemas>, Problem> {
        let key = (digest, task.name.clone());
        if let Some(schemas) = self.0.get(&key).await {
            return Ok(schemas);
        }
        let parameters = task.parameters.clone();
        let compiled = tokio::task::spawn_blocking(move || Schemas::compile(&parameters)).await;
        let schemas = match compiled {
            Ok(Ok(schemas)) => Arc::new(schemas),
            Ok(Err(problem)) => {
                return Err(Problem::new(Code::SchemaInvalid, format!("task `{}`: {problem}", task.name)));
            }
            Err(_) => {
                let detail = format!("task `{}`: its schemas crash the compiler", task.name);
                return Err(Problem::new(Code::SchemaInvalid, detail));
            }
        };
        self.0.insert(key, schemas.clone()).await;
        Ok(schemas)
    }
}

#[cfg(test)]
mod tests;
