//! A module's description of its tasks, checked before anybody relies on it.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Capability, Declared, Digest, JsonText, Manifest, Policy, PolicyBounds, PolicyPatch, TaskName, UnixMs};

/// Tasks of one module. A module with more is refused.
pub const MAX_TASKS: usize = 256;
/// Parameters of one task.
pub const MAX_PARAMETERS: usize = 64;
/// Bytes of one description text.
pub const MAX_DESCRIPTION_BYTES: usize = 16 << 10;
/// Bytes of one JSON Schema.
pub const MAX_SCHEMA_BYTES: usize = 64 << 10;
/// Bytes of one task's whole description, as it is stored: schemas, defaults and texts together.
pub const MAX_TASK_BYTES: usize = 256 << 10;
/// Bytes of the descriptions of one module's tasks together.
pub const MAX_MODULE_TASKS_BYTES: usize = 1 << 20;

/// One parameter of a task, in the order of positional arguments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    pub name: String,
    /// JSON Schema, draft 2020-12.
    pub schema: JsonText,
    /// Used when a caller leaves the parameter out; without one it is required. A default of `null` is a default.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub default: Option<JsonText>,
}

/// A value that is there, `null` too: keeps `Some(null)` apart from `None`.
pub(crate) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// One task of a module, as its `describe` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskDescription {
    pub name: TaskName,
    #[serde(default)]
    pub description: String,
    pub parameters: Vec<Parameter>,
    /// JSON Schema of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns: Option<JsonText>,
    /// The fields that the author set.
    #[serde(default)]
    pub policy: PolicyPatch,
}

impl TaskDescription {
    /// Bytes of the whole description as JSON.
    fn stored_bytes(&self) -> usize {
        serde_json::to_string(self).expect("a description has text keys only").len()
    }
}

/// The record of an uploaded module: kept once per tenant and digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModuleInfo {
    pub digest: Digest,
    pub size_bytes: u64,
    /// True when the upload was a core module that the host wrapped.
    pub core_module: bool,
    /// Interfaces it imports, such as `umbel:task/context@0.1.0`.
    pub imports: Vec<String>,
    pub tasks: Vec<TaskDescription>,
    /// The permissions that it declares. None in records of older releases, which did not ask for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Declared>,
    /// When it was pushed last, about, by the clock of the server. None in records of older releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed_at: Option<UnixMs>,
    /// When it was deleted, by the clock of the server. It is kept for the jobs that use it, and takes no new ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<UnixMs>,
}

impl ModuleInfo {
    pub fn manifest(&self) -> Manifest {
        let capabilities = self.imports.iter().filter_map(|import| Capability::of_import(import)).collect();
        Manifest { capabilities, declared: self.permissions.clone().unwrap_or_default() }
    }

    /// Whether people must approve what it asks for before its tasks may be deployed.
    pub fn needs_approval(&self) -> bool {
        self.permissions.as_ref().is_some_and(|declared| !declared.is_empty())
    }
}

/// Why a module's description is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("task {task:?}: {problem}")]
pub struct TaskError {
    /// The first 64 characters of the task's name, or empty for the module as a whole.
    pub task: String,
    pub problem: String,
}

/// Checks the tasks of one module against the limits and the operator's bounds.
pub fn check_tasks(tasks: &[TaskDescription], bounds: &PolicyBounds) -> Result<(), TaskError> {
    let whole = |problem: String| TaskError { task: String::new(), problem };
    if tasks.is_empty() {
        return Err(whole("the module describes no task; list its functions in umbel::module![…]".into()));
    }
    if tasks.len() > MAX_TASKS {
        return Err(whole(format!("the module describes {} tasks, more than {MAX_TASKS}", tasks.len())));
    }
    let mut names = BTreeSet::new();
    let mut bytes = 0;
    for task in tasks {
        let fail = |problem: String| TaskError { task: task.name.as_str().chars().take(64).collect(), problem };
        if !names.insert(&task.name) {
            return Err(fail("is described twice".into()));
        }
        if task.description.len() > MAX_DESCRIPTION_BYTES {
            return Err(fail(format!("its description is longer than {MAX_DESCRIPTION_BYTES} bytes")));
        }
        check_parameters(&task.parameters).map_err(fail)?;
        if let Some(schema) = &task.returns {
            check_schema("returns", schema).map_err(fail)?;
        }
        let own = task.stored_bytes();
        if own > MAX_TASK_BYTES {
            let problem = format!("its description has {own} bytes, more than {MAX_TASK_BYTES}; shorten its schemas");
            return Err(fail(problem));
        }
        bytes += own;
        bounds.check(&Policy::resolve(&task.policy)).map_err(|e| fail(e.to_string()))?;
    }
    if bytes > MAX_MODULE_TASKS_BYTES {
        let problem = format!("its descriptions have {bytes} bytes together, more than {MAX_MODULE_TASKS_BYTES}");
        return Err(whole(format!("{problem}; split the module")));
    }
    Ok(())
}

fn check_parameters(parameters: &[Parameter]) -> Result<(), String> {
    if parameters.len() > MAX_PARAMETERS {
        return Err(format!("it has {} parameters, more than {MAX_PARAMETERS}", parameters.len()));
    }
    let mut names = BTreeSet::new();
    for parameter in parameters {
        let name = &parameter.name;
        if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) {
            return Err("a parameter's name must have 1 to 128 bytes and no control characters".into());
        }
        if !names.insert(name) {
            return Err(format!("parameter `{name}` is described twice"));
        }
        check_schema(name, &parameter.schema)?;
    }
    Ok(())
}

fn check_schema(of: &str, schema: &JsonText) -> Result<(), String> {
    if !schema.as_str().starts_with(['{', 't', 'f']) {
        return Err(format!("the schema of `{of}` must be an object or a boolean"));
    }
    if schema.as_str().len() > MAX_SCHEMA_BYTES {
        return Err(format!("the schema of `{of}` is longer than {MAX_SCHEMA_BYTES} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str) -> TaskDescription {
        TaskDescription {
            name: TaskName::new(name).unwrap(),
            description: String::new(),
            parameters: vec![],
            returns: None,
            policy: PolicyPatch::default(),
        }
    }

    #[test]
    fn ten_thousand_tasks_are_refused() {
        let tasks: Vec<_> = (0..10_000).map(|n| task(&format!("t{n}"))).collect();
        assert!(check_tasks(&tasks, &PolicyBounds::default()).unwrap_err().problem.contains("10000"));
    }

    #[test]
    fn a_task_described_twice_is_refused_by_name() {
        let error = check_tasks(&[task("a"), task("a")], &PolicyBounds::default()).unwrap_err();
        assert_eq!(error.task, "a");
    }

    fn with_schemas(name: &str, schemas: usize, bytes: usize) -> TaskDescription {
        let schema = JsonText::from(&serde_json::json!({ "title": "x".repeat(bytes) }));
        let parameter = |n| Parameter { name: format!("p{n}"), schema: schema.clone(), default: None };
        TaskDescription { parameters: (0..schemas).map(parameter).collect(), ..task(name) }
    }

    #[test]
    fn a_task_with_many_large_schemas_is_refused() {
        let problem = |tasks: &[TaskDescription]| check_tasks(tasks, &PolicyBounds::default()).unwrap_err().problem;
        assert!(check_tasks(&[with_schemas("a", 3, 60_000)], &PolicyBounds::default()).is_ok());
        assert!(problem(&[with_schemas("a", 64, 65_400)]).contains("more than 262144"));
        let tasks: Vec<_> = (0..8).map(|n| with_schemas(&format!("t{n}"), 3, 60_000)).collect();
        assert!(problem(&tasks).contains("together, more than 1048576"));
    }

    #[test]
    fn a_default_of_null_is_a_default() {
        let text = r#"{"name":"x","schema":true,"default":null}"#;
        let parameter: Parameter = serde_json::from_str(text).unwrap();
        assert_eq!(parameter.default.unwrap().as_str(), "null");
        let none: Parameter = serde_json::from_str(r#"{"name":"x","schema":true}"#).unwrap();
        assert_eq!(none.default, None);
    }

    #[test]
    fn a_record_of_an_older_release_asks_for_nothing() {
        let digest = Digest::of(b"m");
        let text = format!(
            r#"{{"digest":"{digest}","size_bytes":1,"core_module":false,"imports":["wasi:clocks/wall-clock@0.2.0"],"tasks":[]}}"#
        );
        let info: ModuleInfo = serde_json::from_str(&text).unwrap();
        assert!(!info.needs_approval() && !info.manifest().is_pure());
        assert_eq!(serde_json::to_string(&info).unwrap(), text);
    }
}
