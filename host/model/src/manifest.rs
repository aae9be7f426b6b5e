//! The manifest of a module: what it can touch, as its imports say, and what it asks to reach, as it declares.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use crate::{Permission, Permissions, TaskName, named_enum};

/// Permissions that a module declares, for itself and for its tasks, one for each time that it does.
pub const MAX_DECLARED: usize = 1_024;
/// Bytes of their texts together.
pub const MAX_DECLARED_BYTES: usize = 64 << 10;

named_enum! {
    /// One thing that a module can touch beside computing. What it asks for of it is said by its permissions.
    pub enum Capability {
        Http = "http",
        Kv = "kv",
        Blob = "blob",
        Secret = "secret",
        Config = "config",
        Clock = "clock",
        Random = "random",
        Canvas = "canvas",
    }
}

impl Capability {
    /// What an import of that name, such as `wasi:clocks/wall-clock@0.2.0`, can touch. None: nothing that outlives the attempt
    /// or differs between two of them; the files, sockets, streams and variables of WASI lead to an empty world.
    pub fn of_import(import: &str) -> Option<Self> {
        let name = import.split('@').next().unwrap_or_default();
        let (package, interface) = name.split_once('/')?;
        Some(match (package, interface) {
            ("wasi:http", "outgoing-handler") => Self::Http,
            ("umbel:kv" | "wasi:keyvalue", _) | ("umbel:task", "kv") => Self::Kv,
            ("umbel:blob" | "wasi:blobstore", _) | ("umbel:task", "blob") => Self::Blob,
            ("umbel:secret", _) | ("umbel:task", "secret") => Self::Secret,
            ("wasi:config", _) | ("umbel:task", "config") => Self::Config,
            ("wasi:clocks", _) => Self::Clock,
            ("wasi:random", _) => Self::Random,
            ("umbel:task", "canvas") => Self::Canvas,
            _ => return None,
        })
    }
}

/// The permissions that a module declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// Of each of its tasks.
    #[serde(default, skip_serializing_if = "Permissions::is_empty")]
    pub module: Permissions,
    /// What a task has besides.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tasks: BTreeMap<TaskName, Permissions>,
}

/// Why what a module declares is refused: what is wrong and what to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidDeclaration {
    /// The first 64 characters of the task's name, or empty for the module as a whole.
    pub task: String,
    pub problem: String,
}

impl fmt::Display for InvalidDeclaration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.task.as_str() {
            "" => f.write_str(&self.problem),
            task => write!(f, "task {task:?}: {}", self.problem),
        }
    }
}

impl std::error::Error for InvalidDeclaration {}

impl Declared {
    /// Reads texts, each for a task of the module or for all of them.
    ///
    /// # Errors
    /// A text is no permission, or one that only operators can grant; a task is not one of `tasks`; there are too many.
    pub fn read<'a>(
        given: impl IntoIterator<Item = (Option<&'a str>, &'a str)>,
        tasks: &[TaskName],
    ) -> Result<Self, InvalidDeclaration> {
        let mut lists: BTreeMap<Option<&TaskName>, Vec<Permission>> = BTreeMap::new();
        let (mut count, mut bytes) = (0_usize, 0_usize);
        for (task, text) in given {
            let fail = |problem: String| InvalidDeclaration { task: shown(task.unwrap_or_default()), problem };
            (count, bytes) = (count + 1, bytes.saturating_add(text.len()));
            if count > MAX_DECLARED || bytes > MAX_DECLARED_BYTES {
                return Err(fail(format!(
                    "the module declares more than {MAX_DECLARED} permissions, or {MAX_DECLARED_BYTES} bytes of them"
                )));
            }
            let of = match task {
                None => None,
                Some(task) => Some(tasks.iter().find(|name| name.as_str() == task).ok_or_else(|| {
                    fail("permissions are declared for this task, which the module does not describe".into())
                })?),
            };
            lists.entry(of).or_default().push(declarable(text).map_err(fail)?);
        }
        let mut declared = Self::default();
        for (task, list) in lists {
            let list = Permissions::new(list);
            match task {
                None => {
                    declared.module = list.map_err(|problem| InvalidDeclaration { task: String::new(), problem })?
                }
                Some(task) => {
                    let list = list.map_err(|problem| InvalidDeclaration { task: task.to_string(), problem })?;
                    declared.tasks.insert(task.clone(), list);
                }
            }
        }
        declared.union().map_err(|problem| InvalidDeclaration { task: String::new(), problem })?;
        Ok(declared)
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.module.is_empty() && self.tasks.values().all(Permissions::is_empty)
    }

    /// What the tasks may have together.
    pub fn all(&self) -> Permissions {
        // More than a list may hold was refused when it was read; a damaged record allows nothing.
        self.union().unwrap_or_default()
    }

    fn union(&self) -> Result<Permissions, String> {
        Permissions::new(self.module.iter().chain(self.tasks.values().flat_map(Permissions::iter)).cloned())
    }

    /// What one task may have.
    pub fn of_task(&self, task: &str) -> Permissions {
        match self.tasks.iter().find(|(name, _)| name.as_str() == task) {
            None => self.module.clone(),
            Some((_, own)) => Permissions::new(self.module.iter().chain(own.iter()).cloned()).unwrap_or_default(),
        }
    }
}

fn shown(task: &str) -> String {
    task.chars().take(64).collect()
}

/// A permission that a module may ask for.
fn declarable(text: &str) -> Result<Permission, String> {
    let permission: Permission = text.parse().map_err(|error| format!("{error}"))?;
    if permission.is_operators() {
        return Err(format!(
            "permission {:?}: only an operator can grant it, in the tenant's bounds; leave it out",
            permission.to_string()
        ));
    }
    Ok(permission)
}

/// See the top of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    pub capabilities: BTreeSet<Capability>,
    pub declared: Declared,
}

impl Manifest {
    /// Whether the same arguments give the same result, whatever else there is: it can touch nothing.
    pub fn is_pure(&self) -> bool {
        self.capabilities.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<TaskName> {
        ["a", "b"].map(|name| TaskName::new(name).unwrap()).into()
    }

    fn texts(permissions: &Permissions) -> Vec<String> {
        permissions.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_task_may_have_what_the_module_declares_and_what_it_declares_itself() {
        let given = [(None, "kv x read"), (Some("a"), "secret s"), (Some("a"), "kv x"), (None, "kv x read")];
        let declared = Declared::read(given, &names()).unwrap();
        assert_eq!(texts(&declared.module), ["kv x read"]);
        assert_eq!(texts(&declared.of_task("a")), ["secret s", "kv x"]);
        assert_eq!(texts(&declared.of_task("b")), ["kv x read"]);
        assert_eq!(texts(&declared.all()), ["secret s", "kv x"]);
        assert!(!declared.is_empty() && Declared::read([], &names()).unwrap().is_empty());
        let stored = serde_json::to_string(&declared).unwrap();
        assert_eq!(stored, r#"{"module":["kv x read"],"tasks":{"a":["secret s","kv x"]}}"#);
        assert_eq!(serde_json::from_str::<Declared>(&stored).unwrap(), declared);
    }

    #[test]
    fn what_cannot_be_declared_is_told_with_its_task_and_what_to_write() {
        let said = |task, text| Declared::read([(task, text)], &names()).unwrap_err().to_string();
        assert_eq!(said(Some("b"), "kv"), "task \"b\": permission \"kv\": write `kv BUCKET` or `kv BUCKET read`");
        assert!(
            said(Some("c"), "kv x").contains("task \"c\"") && said(Some("c"), "kv x").contains("does not describe")
        );
        assert!(said(None, "network 10.0.0.0/8").contains("only an operator"));
        let many: Vec<String> = (0..200).map(|n| format!("kv b{n}")).collect();
        let per_task = many.iter().enumerate().map(|(n, text)| (Some(["a", "b"][n % 2]), text.as_str()));
        assert!(Declared::read(per_task, &names()).unwrap_err().problem.contains("more than 128"));
        let same = std::iter::repeat_n((None, "kv x"), MAX_DECLARED + 1);
        assert!(Declared::read(same, &names()).unwrap_err().problem.contains("more than 1024"));
    }

    fn capabilities(imports: &[&str]) -> Vec<&'static str> {
        let mut found: Vec<_> = imports.iter().filter_map(|import| Capability::of_import(import)).collect();
        found.sort();
        found.into_iter().map(Capability::as_str).collect()
    }

    #[test]
    fn a_module_that_imports_what_leads_nowhere_is_pure() {
        let pure = [
            "umbel:task/types@0.1.0",
            "umbel:task/context@0.1.0",
            "umbel:task/custom-state@0.1.0",
            "umbel:task/schedule@0.1.0",
            "wasi:logging/logging@0.1.0-draft",
            "wasi:cli/environment@0.2.6",
            "wasi:filesystem/preopens@0.2.6",
            "wasi:sockets/tcp@0.2.6",
            "wasi:io/streams@0.2.6",
            "wasi:http/types@0.2.6",
        ];
        assert!(capabilities(&pure).is_empty());
        let all = [
            "wasi:http/outgoing-handler@0.2.0",
            "wasi:clocks/monotonic-clock@0.2.0",
            "wasi:random/insecure-seed@0.2.0",
            "umbel:task/canvas@0.1.0",
            "wasi:config/store@0.2.0-rc.1",
            "wasi:keyvalue/store@0.2.0-draft",
        ];
        assert_eq!(capabilities(&all), ["http", "kv", "config", "clock", "random", "canvas"]);
    }
}
