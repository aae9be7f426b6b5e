//! The JSON Schemas of tasks, compiled, with a bound on what a hostile schema or argument costs.
//!
//! Schemas come from strangers. Nothing remote is fetched, patterns run on an engine without backtracking, and `cost`
//! bounds the work before it is begun.

mod cost;

use std::sync::Arc;

use async_trait::async_trait;
use jsonschema::Validator;
use moka::future::Cache;
use serde_json::{Value, value::RawValue};
use tokio::sync::Semaphore;
use umbel_compose::{Complaints, ValueChecker};
use umbel_model::{Digest, Parameter, TaskDescription, TaskName};

use crate::problem::{Problem, Result, cut};
use cost::{Cost, INLINE_STEPS, MAX_PATTERN_BYTES, MAX_STEPS, validator};

/// Long checks at once: they share the processors with everything else.
pub(crate) const HEAVY_CHECKS: usize = 2;

/// Patterns of one task: each costs milliseconds to compile.
const MAX_TASK_PATTERNS: usize = 64;
/// Bytes of compiled schemas that are kept, as `weight` guesses them.
const CACHED_BYTES: u64 = 256 << 20;
/// A compiled schema is about so many times as large as its text.
const TEXT_FACTOR: usize = 16;
/// Errors reported of one argument.
const MAX_ERRORS: usize = 16;

/// The compiled schemas of one task, by parameter.
#[derive(Debug)]
pub(crate) struct Schemas {
    parameters: Vec<Option<Arc<Compiled>>>,
    /// Guess of its bytes in memory, rather too high.
    weight: u32,
}

#[derive(Debug)]
struct Compiled {
    schema: Value,
    validator: Validator,
    cost: Cost,
}

impl Schemas {
    /// Compiles the schemas. The error names the parameter.
    pub(crate) fn compile(parameters: &[Parameter]) -> Result<Self, String> {
        let (mut weight, mut patterns) = (1_024, 0);
        let mut compiled = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            compiled.push(if accepts_all(&parameter.schema) {
                None
            } else {
                let refused = |problem: String| format!("the schema of parameter `{}`: {problem}", parameter.name);
                let cost = Cost::of(&parameter.schema).map_err(refused)?;
                patterns += cost.patterns;
                if patterns > MAX_TASK_PATTERNS {
                    return Err(format!("its parameters have more than {MAX_TASK_PATTERNS} patterns together"));
                }
                weight += parameter.schema.to_string().len() * TEXT_FACTOR + cost.patterns * MAX_PATTERN_BYTES;
                Some(Arc::new(Compiled::new(&parameter.schema, cost).map_err(refused)?))
            });
        }
        Ok(Self { parameters: compiled, weight: u32::try_from(weight).unwrap_or(u32::MAX) })
    }
}

/// Checks the values of one task's calls. At most so many long checks run at once as there are permits.
#[derive(Debug)]
pub(crate) struct SchemaChecker {
    pub(crate) schemas: Arc<Schemas>,
    pub(crate) permits: Arc<Semaphore>,
}

#[async_trait]
impl ValueChecker for SchemaChecker {
    /// A long check waits for a permit and runs off the async threads.
    async fn check(&self, at: usize, json: &RawValue) -> Result<(), Complaints> {
        let Some(Some(compiled)) = self.schemas.parameters.get(at) else { return Ok(()) };
        let value: Value = serde_json::from_str(json.get()).map_err(|e| {
            Complaints::Wrong(vec![(String::new(), format!("cannot be read: {}", cut(&e.to_string())))])
        })?;
        let bytes = json.get().len();
        if compiled.cost.allows(&compiled.schema, &value, bytes, INLINE_STEPS) {
            return compiled.verdict(&value);
        }
        // Closed never: refused is the safe answer.
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Complaints::TooComplex)?;
        let compiled = compiled.clone();
        let long = tokio::task::spawn_blocking(move || {
            // Held here: a caller that goes away does not end the work.
            let _permit = permit;
            compiled.check(&value, bytes)
        });
        // A check that panics is refused, not passed.
        long.await.unwrap_or(Err(Complaints::TooComplex))
    }
}

impl Compiled {
    fn new(schema: &Value, cost: Cost) -> Result<Self, String> {
        let validator = validator(schema, MAX_PATTERN_BYTES).map_err(|problem| cut(&problem))?;
        Ok(Self { schema: schema.clone(), validator, cost })
    }

    fn check(&self, value: &Value, bytes: usize) -> Result<(), Complaints> {
        if !self.cost.allows(&self.schema, value, bytes, MAX_STEPS) {
            return Err(Complaints::TooComplex);
        }
        self.verdict(value)
    }

    /// The check itself, once its steps are known to be few.
    fn verdict(&self, value: &Value) -> Result<(), Complaints> {
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
        // The schema that schemars makes of `serde_json::Value` has no more than a title.
        Value::Object(map) => map.keys().all(|key| matches!(key.as_str(), "title" | "description" | "$schema")),
        _ => false,
    }
}

/// Compiled schemas by module and task: immutable, so never stale.
#[derive(Debug)]
pub(crate) struct SchemaCache(Cache<(Digest, TaskName), Arc<Schemas>>);

impl SchemaCache {
    pub(crate) fn new() -> Self {
        let cache = Cache::builder().max_capacity(CACHED_BYTES).weigher(|_, s: &Arc<Schemas>| s.weight);
        Self(cache.build())
    }

    /// The schemas of a task; compiled off the async threads when they are not known.
    pub(crate) async fn get(&self, digest: Digest, task: &TaskDescription) -> Result<Arc<Schemas>> {
        let key = (digest, task.name.clone());
        if let Some(schemas) = self.0.get(&key).await {
            return Ok(schemas);
        }
        let parameters = task.parameters.clone();
        let compiled = tokio::task::spawn_blocking(move || Schemas::compile(&parameters)).await;
        let refused = |problem: String| Problem::schema_invalid(format!("task `{}`: {problem}", task.name));
        let compiled = compiled.unwrap_or_else(|_| Err("its schemas crash the compiler".into()));
        let schemas = Arc::new(compiled.map_err(refused)?);
        self.0.insert(key, schemas.clone()).await;
        Ok(schemas)
    }
}

#[cfg(test)]
mod tests;
