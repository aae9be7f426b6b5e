//! The JSON Schemas of tasks, compiled, with a bound on what a hostile schema or argument costs.
//!
//! Schemas come from strangers. Nothing remote is fetched, patterns run on an engine without backtracking, and `cost`
//! bounds the work before it is begun.

mod cost;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jsonschema::Validator;
use moka::future::Cache;
use serde_json::{Value, value::RawValue};
use umbel_compose::{Complaints, ValueChecker};
use umbel_model::{Digest, ModuleInfo, Parameter, TaskDescription, TaskName, TenantId};

use crate::{
    admission::FairSemaphore,
    json_limits::marks,
    problem::{Problem, Result, cut},
};
use cost::{Cost, INLINE_STEPS, MAX_NODES, MAX_PATTERN_BYTES, MAX_STEPS, validator};

/// Long checks at once: they share the processors with everything else.
pub(crate) const HEAVY_CHECKS: usize = 2;

/// Schemas of a module that are compiled at once; at most one module's of each tenant.
const COMPILES: usize = 2;
/// Patterns of one task: each costs milliseconds to compile.
const MAX_TASK_PATTERNS: usize = 64;
/// Patterns of the tasks of one module.
const MAX_MODULE_PATTERNS: usize = 512;
/// Commas and brackets of one task's schemas together: what a tree is made of.
const MAX_TASK_MARKS: usize = 20_000;
/// Bytes of compiled schemas that are kept, as `weight` guesses them.
const CACHED_BYTES: u64 = 128 << 20;
/// Bytes of memory for each comma and bracket of a schema. An empty object in a list is three of them and takes 2.7 KB in the
/// trees and the validator, as was measured.
const MARK_BYTES: usize = 1_024;
/// Bytes of memory for each part of a schema with its references unfolded.
const NODE_BYTES: usize = 512;
/// Bytes of an argument that may be parsed on an async thread: the tree of a text can be a hundred times as large.
const INLINE_BYTES: usize = 16 << 10;
/// Errors reported of one argument.
const MAX_ERRORS: usize = 16;

/// The compiled schemas of one task, by parameter.
#[derive(Debug)]
pub(crate) struct Schemas {
    parameters: Vec<Option<Arc<Compiled>>>,
    patterns: usize,
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
        let total: usize = parameters.iter().map(|parameter| marks(parameter.schema.as_str().as_bytes())).sum();
        if total > MAX_TASK_MARKS {
            return Err(format!(
                "the schemas of its parameters have {total} commas and brackets together, more than {MAX_TASK_MARKS}; \
                 flatten them or take examples and defaults out"
            ));
        }
        let (mut weight, mut patterns, mut nodes) = (1_024 + total * MARK_BYTES, 0, 0);
        let mut compiled = Vec::with_capacity(parameters.len());
        for parameter in parameters {
            let refused = |problem: String| format!("the schema of parameter `{}`: {problem}", parameter.name);
            let schema = parameter.schema.to_value().map_err(|error| refused(cut(&error.to_string())))?;
            compiled.push(if accepts_all(&schema) {
                None
            } else {
                let cost = Cost::of(&schema).map_err(refused)?;
                patterns += cost.patterns;
                if patterns > MAX_TASK_PATTERNS {
                    return Err(format!("its parameters have more than {MAX_TASK_PATTERNS} patterns together"));
                }
                nodes += cost.nodes;
                if nodes > MAX_NODES {
                    return Err(format!("its parameters have more than {MAX_NODES} parts with references unfolded"));
                }
                weight += parameter.schema.as_str().len() * 2;
                weight += cost.nodes * NODE_BYTES + cost.patterns * MAX_PATTERN_BYTES;
                Some(Arc::new(Compiled::new(schema, cost).map_err(refused)?))
            });
        }
        Ok(Self { parameters: compiled, patterns, weight: u32::try_from(weight).unwrap_or(u32::MAX) })
    }
}

/// Checks the values of one task's calls. At most so many long checks run at once as there are permits, and a tenant has its
/// turn among the others.
#[derive(Debug)]
pub(crate) struct SchemaChecker {
    pub(crate) tenant: TenantId,
    pub(crate) schemas: Arc<Schemas>,
    pub(crate) turns: Arc<FairSemaphore>,
}

#[async_trait]
impl ValueChecker for SchemaChecker {
    /// A long check waits for its turn, and is parsed and run off the async threads.
    async fn check(&self, at: usize, json: &RawValue) -> Result<(), Complaints> {
        let Some(Some(compiled)) = self.schemas.parameters.get(at) else { return Ok(()) };
        let bytes = json.get().len();
        if bytes <= INLINE_BYTES {
            let value = parsed(json)?;
            if compiled.cost.allows(&compiled.schema, &value, bytes, INLINE_STEPS) {
                return compiled.verdict(&value);
            }
        }
        // Closed never: refused is the safe answer.
        let turn = self.turns.turn(&self.tenant).await.ok_or(Complaints::TooComplex)?;
        let (compiled, json) = (compiled.clone(), json.to_owned());
        let long = tokio::task::spawn_blocking(move || {
            // Held here: a caller that goes away does not end the work.
            let _turn = turn;
            compiled.check(&parsed(&json)?, bytes)
        });
        // A check that panics is refused, not passed.
        long.await.unwrap_or(Err(Complaints::TooComplex))
    }
}

fn parsed(json: &RawValue) -> Result<Value, Complaints> {
    serde_json::from_str(json.get())
        .map_err(|e| Complaints::Wrong(vec![(String::new(), format!("cannot be read: {}", cut(&e.to_string())))]))
}

impl Compiled {
    fn new(schema: Value, cost: Cost) -> Result<Self, String> {
        let validator = validator(&schema, MAX_PATTERN_BYTES).map_err(|problem| cut(&problem))?;
        Ok(Self { schema, validator, cost })
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
pub(crate) struct SchemaCache {
    known: Cache<(Digest, TaskName), Arc<Schemas>>,
    compiles: FairSemaphore,
}

impl SchemaCache {
    /// Waits for the turn of a tenant that compiles for `wait`.
    pub(crate) fn new(wait: Duration) -> Self {
        let known = Cache::builder().max_capacity(CACHED_BYTES).weigher(|_, s: &Arc<Schemas>| s.weight);
        Self { known: known.build(), compiles: FairSemaphore::new(COMPILES, 1, wait) }
    }

    /// The schemas of a task; compiled off the async threads when they are not known, once however many ask.
    pub(crate) async fn get(&self, tenant: &TenantId, digest: Digest, task: &TaskDescription) -> Result<Arc<Schemas>> {
        let compiled = self.known.try_get_with((digest, task.name.clone()), async {
            let turn = self.compiles.acquire(tenant).await?;
            let parameters = task.parameters.clone();
            let compiled = tokio::task::spawn_blocking(move || {
                // Held here: a caller that goes away does not end the work.
                let _turn = turn;
                Schemas::compile(&parameters)
            });
            let compiled = compiled.await.unwrap_or_else(|_| Err("its schemas crash the compiler".into()));
            let refused = |problem: String| Problem::schema_invalid(format!("task `{}`: {problem}", task.name));
            compiled.map(Arc::new).map_err(refused)
        });
        compiled.await.map_err(|problem: Arc<Problem>| (*problem).clone())
    }

    /// Compiles the schemas of all tasks of a module, so that no submission meets a bad one.
    pub(crate) async fn check_module(&self, tenant: &TenantId, info: &ModuleInfo) -> Result<()> {
        let mut patterns = 0;
        for task in &info.tasks {
            patterns += self.get(tenant, info.digest, task).await?.patterns;
            if patterns > MAX_MODULE_PATTERNS {
                let detail =
                    format!("its tasks have more than {MAX_MODULE_PATTERNS} patterns together; split the module");
                return Err(Problem::schema_invalid(detail));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
