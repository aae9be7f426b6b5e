//! The function library: `library/*.lua` put together, and the name by which a server knows it.
//!
//! Its name is a hash of its code. So each build finds the functions that it was made for, beside those of other builds.

use std::collections::BTreeSet;

use redis::{Cmd, FromRedisValue, Value};

/// How the names of all libraries of this crate begin.
const FAMILY: &str = "umbel_";
/// Libraries that a server keeps: those of builds that run side by side, and some that are not used any more.
const KEPT: usize = 8;

macro_rules! code {
    (@ "do") => { "do\n" };
    (@ "end") => { "end\n" };
    (@ $file:literal) => { include_str!(concat!("library/", $file, ".lua")) };
    ($($part:tt)+) => { concat!($(code!(@ $part)),+) };
}

/// The files in order. What is between "do" and "end" keeps its locals to itself: a Lua function has at most 200.
pub(crate) const CODE: &str = code! {
    "core"
    "do" "labels" "end"
    "do" "storage" "end"
    "do" "usage" "end"
    "do" "blobs" "end"
    "do" "limits" "end"
    "do" "uniqueness" "dead_set" "end"
    "do" "idempotency" "end"
    "do" "workflows" "work_items" "do" "new_workflows" "end" "do" "growth" "end" "end"
    "do" "submit" "end"
    "do" "ready_reader" "do" "turns" "end" "do" "limited_claim" "end" "claim" "end"
    "do" "settle" "end"
    "do" "renew" "end"
    "do" "maintenance" "end"
    "do" "kv" "end"
    "do" "deletion" "end"
    "do" "job_actions" "end"
    "do" "staging" "end"
    "do" "schedules" "end"
    "do" "reading" "end"
    "do" "controls" "end"
    "do" "events" "end"
    "do" "registry" "end"
    "do" "service_leases" "end"
    "do" "check" "end"
    "do" "audit_keys" "audit_sets" "audit_counts" "end"
    "do" "recount" "end"
};

/// The commands that the functions use, sorted.
pub(crate) fn commands() -> BTreeSet<&'static str> {
    let calls = ["call('", "in_pieces('"].into_iter().flat_map(|begin| CODE.split(begin).skip(1));
    calls
        .filter_map(|rest| rest.split('\'').next())
        .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase()))
        .collect()
}

/// The library as this build has it.
#[derive(Debug)]
pub(crate) struct Library {
    name: String,
    code: String,
}

impl Library {
    pub(crate) fn new() -> Self {
        Self::of(CODE)
    }

    pub(crate) fn of(code: &str) -> Self {
        let hash = redis::Script::new(code).get_hash().to_owned();
        let name = format!("{FAMILY}{}", &hash[..16]);
        Self { code: format!("#!lua name={name}\nlocal LIBRARY = '{name}'\n{code}"), name }
    }

    #[cfg(test)]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Calls a function. `keys` are those that every function is given.
    pub(crate) fn call(&self, function: &str, keys: [String; 2]) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(format!("{}_{function}", self.name)).arg(keys.len()).arg(&keys);
        command
    }

    /// Loads the library; an error when the server has it.
    pub(crate) fn load(&self) -> Cmd {
        redis::cmd("FUNCTION").arg("LOAD").arg(&self.code).to_owned()
    }

    /// Lists the libraries of all builds.
    pub(crate) fn list() -> Cmd {
        redis::cmd("FUNCTION").arg("LIST").arg("LIBRARYNAME").arg(format!("{FAMILY}*")).to_owned()
    }

    /// What deletes all others of a list, if there are too many. Redis does not say which is in use.
    pub(crate) fn deletions(&self, listed: &Value) -> Vec<Cmd> {
        let Value::Array(libraries) = listed else { return Vec::new() };
        let name_of = |library: &Value| match library {
            Value::Array(fields) => fields.get(1).and_then(|name| String::from_redis_value_ref(name).ok()),
            _ => None,
        };
        let others = libraries.iter().filter_map(name_of).filter(|name| *name != self.name);
        let delete = |name: String| redis::cmd("FUNCTION").arg("DELETE").arg(name).to_owned();
        if libraries.len() <= KEPT { Vec::new() } else { others.map(delete).collect() }
    }
}
