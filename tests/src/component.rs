//! Components from text: guests with any tasks, schemas and code, made while a scenario runs.

use std::fmt::Write as _;

use anyhow::Result;

/// Where the data of `describe` begins; what is below is free for `run`.
const BASE: usize = 1024;
/// Bytes of a page of memory.
const PAGE: usize = 64 << 10;

/// One task of a component.
#[derive(Debug, Clone)]
pub struct Task {
    pub name: String,
    /// Name and JSON Schema of each parameter; all may be left out, and are null then.
    pub parameters: Vec<(String, String)>,
    /// Its policy, a JSON object.
    pub policy: String,
}

impl Task {
    /// Without parameters, and never retried.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), parameters: Vec::new(), policy: r#"{"max_retries":0}"#.to_owned() }
    }
}

/// A component in parts. `run` and `describe` are core instructions. Free for them: the locals `$i` and `$p`, the
/// functions `$stdout` and `$write` (standard output), `$block` and `$after` (a timer, by nanoseconds), and the memory
/// beyond `describe`'s data, which begins at `free`.
#[derive(Debug, Clone)]
pub struct Component {
    pub tasks: Vec<Task>,
    /// Before `describe` returns the tasks.
    pub describe: String,
    /// Before `run` returns null; it may return something else by itself.
    pub run: String,
    /// Core definitions beside the two functions.
    pub items: String,
    /// Pages of its memory, if it needs more than its data does.
    pub pages: usize,
}

impl Component {
    /// With these tasks, which return null.
    pub fn of(tasks: Vec<Task>) -> Self {
        Self { tasks, describe: String::new(), run: String::new(), items: String::new(), pages: 0 }
    }

    /// Its bytes.
    pub fn build(&self) -> Result<Vec<u8>> {
        Ok(wat::parse_str(self.text())?)
    }

    fn text(&self) -> String {
        let described = Described::of(&self.tasks);
        let Self { describe, run, items, .. } = self;
        let (list, null) = (described.list, described.null);
        let memory = memory(&described, self.pages);
        format!(
            r#"(component {TYPES} {memory} {IMPORTS}
  (core module $code {CORE_IMPORTS} {items}
    (func (export "describe") (result i32) (local $i i32) (local $p i32) {describe} (i32.const {list}))
    (func (export "run") (param i32 i32 i32 i32) (result i32) (local $i i32) (local $p i32) {run} (i32.const {null})))
  (core instance $code (instantiate $code (with "host" (instance $host)) (with "memory" (instance $memory))))
  (func $describe (result (list $task)) (canon lift (core func $code "describe") (memory $mem) (realloc $realloc)))
  (func $run (param "task" string) (param "arguments" string) (result (result string (error $outcome)))
    (canon lift (core func $code "run") (memory $mem) (realloc $realloc)))
  (instance $guest (export "describe" (func $describe)) (export "run" (func $run)))
  (export "umbel:task/guest@0.1.0" (instance $guest)))"#
        )
    }
}

/// The same module or component under another digest, with a section that nobody reads.
pub fn salted(module: &[u8], salt: u64) -> Vec<u8> {
    let name = format!("salt-{salt:016x}");
    let length = [name.len() as u8 + 1, name.len() as u8];
    [module, &[0], &length, name.as_bytes()].concat()
}

/// The data of `describe` and of a null, as the canonical ABI lays them out.
struct Described {
    data: Vec<u8>,
    /// Address of the list of tasks.
    list: usize,
    /// Address of the result null.
    null: usize,
}

impl Described {
    fn of(tasks: &[Task]) -> Self {
        let mut described = Self { data: Vec::new(), list: 0, null: 0 };
        let records: Vec<u8> = tasks.iter().flat_map(|task| described.task(task)).collect();
        let at = described.put(&records);
        described.list = described.put(&pair(at, tasks.len()));
        let null = described.text("null");
        described.null = described.put(&[&[0; 8][..], &null].concat());
        described
    }

    fn task(&mut self, task: &Task) -> Vec<u8> {
        let default = [&[1, 0, 0, 0][..], &self.text("null")].concat();
        let mut parameters = Vec::new();
        for (name, schema) in &task.parameters {
            parameters.extend([self.text(name), self.text(schema), default.clone()].concat());
        }
        let at = self.put(&parameters);
        let none = vec![0; 12];
        [self.text(&task.name), self.text("A task."), pair(at, task.parameters.len()), none, self.text(&task.policy)]
            .concat()
    }

    /// Stores a text and returns its address and length.
    fn text(&mut self, text: &str) -> Vec<u8> {
        let at = self.put(text.as_bytes());
        pair(at, text.len())
    }

    /// Stores bytes at a multiple of eight and returns their address.
    fn put(&mut self, bytes: &[u8]) -> usize {
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        let at = BASE + self.data.len();
        self.data.extend(bytes);
        at
    }
}

fn pair(at: usize, length: usize) -> Vec<u8> {
    [(at as u32).to_le_bytes(), (length as u32).to_le_bytes()].concat()
}

/// The memory with the data, in a module of its own: the host's functions need it before the code is there.
fn memory(described: &Described, pages: usize) -> String {
    let end = (BASE + described.data.len()).next_multiple_of(PAGE);
    let pages = pages.max(end / PAGE + 2);
    let mut data = String::with_capacity(3 * described.data.len());
    for byte in &described.data {
        let _ = write!(data, "\\{byte:02x}");
    }
    format!(
        r#"(core module $memory
    (memory (export "memory") {pages})
    (global $free (mut i32) (i32.const {end}))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.set $free (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $free) (i32.mul (memory.size) (i32.const {PAGE})))
        (then (if (i32.eq (i32.const -1)
            (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get 3) (i32.const {PAGE})))))
          (then unreachable))))
      (local.get $at))
    (data (i32.const {BASE}) "{data}"))
  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $mem))
  (alias core export $memory "realloc" (core func $realloc))"#
    )
}

const TYPES: &str = r#"
  (import "umbel:task/types@0.1.0" (instance $types
    (type $p (record (field "name" string) (field "schema" string) (field "default" (option string))))
    (export "parameter" (type $parameter (eq $p)))
    (type $t (record (field "name" string) (field "description" string) (field "parameters" (list $parameter))
      (field "returns" (option string)) (field "policy" string)))
    (export "task-description" (type (eq $t)))
    (type $f (record (field "kind" string) (field "message" string) (field "details" (option string))))
    (export "failure" (type $failure (eq $f)))
    (type $r (record (field "failure" $failure) (field "retry-after-ms" (option u64))))
    (export "retryable" (type $retryable (eq $r)))
    (type $o (variant (case "error" $retryable) (case "fatal" $failure) (case "snooze" u64) (case "reject" string)
      (case "ignore")))
    (export "outcome" (type (eq $o)))))
  (alias export $types "task-description" (type $task))
  (alias export $types "outcome" (type $outcome))
  (import "wasi:io/error@0.2.0" (instance $errors (export "error" (type (sub resource)))))
  (alias export $errors "error" (type $error))
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $s (sub resource)))
    (alias outer 1 $error (type $e)) (export "error" (type $error (eq $e)))
    (type $v (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $v)))
    (export "[method]output-stream.write"
      (func (param "self" (borrow $s)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $cli
    (alias outer 1 $output-stream (type $s)) (export "output-stream" (type $stream (eq $s)))
    (export "get-stdout" (func (result (own $stream))))))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $p)) (export "pollable" (type $pollable (eq $p)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
"#;

const IMPORTS: &str = r#"
  (core func $stdout (canon lower (func $cli "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.write") (memory $mem) (realloc $realloc)))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $after (canon lower (func $clock "subscribe-duration")))
  (core instance $host (export "stdout" (func $stdout)) (export "write" (func $write)) (export "block" (func $block))
    (export "after" (func $after)))
"#;

const CORE_IMPORTS: &str = r#"
    (import "host" "stdout" (func $stdout (result i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "block" (func $block (param i32)))
    (import "host" "after" (func $after (param i64) (result i32)))
    (import "memory" "memory" (memory 1))
    (import "memory" "realloc" (func $alloc (param i32 i32 i32 i32) (result i32)))
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_well_formed_and_stays_so_with_salt() -> Result<()> {
        let task = Task { parameters: vec![("x".to_owned(), "true".to_owned())], ..Task::named("small") };
        let plain = Component::of(vec![task]).build()?;
        let other = salted(&plain, 1);
        assert!(other.starts_with(&plain) && other.len() == plain.len() + 24);
        Ok(())
    }
}
