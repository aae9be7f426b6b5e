//! Builds guest modules from WAT and runs them.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
};

use umbel_model::{Failure, Outcome, Progress};
use umbel_sandbox::{
    Attempt, AttemptInfo, Call, CompileError, CompileLimits, Compiled, Compiler, CompilerCommand, Host, LogLine,
    Prepared, Sandbox, SandboxConfig, StopHandle,
};
use wit_component::StringEncoding;
use wit_parser::Resolve;

/// One pool for all tests of this binary.
pub static SANDBOX: LazyLock<Sandbox> =
    LazyLock::new(|| Sandbox::new(SandboxConfig { slots: 32, epoch_tick_ms: 2, ..SandboxConfig::default() }).unwrap());

pub fn command() -> CompilerCommand {
    CompilerCommand { program: env!("CARGO_BIN_EXE_umbel-compile").into(), args: vec![] }
}

pub async fn compile(module: &[u8]) -> Result<Compiled, CompileError> {
    Compiler::new(command(), CompileLimits::default()).compile(module).await
}

pub async fn prepare(module: &[u8]) -> Prepared {
    let compiled = compile(module).await.unwrap();
    assert_eq!(compiled.fingerprint, SANDBOX.fingerprint());
    SANDBOX.load(compiled.into()).unwrap()
}

/// A guest module in parts: what is left out does the obvious.
#[derive(Clone)]
pub struct Guest {
    pub imports: &'static str,
    /// Limits of its memory, pages.
    pub memory: &'static str,
    /// Functions, globals and data; bytes 0–1023 of the memory are free.
    pub items: String,
    /// Body of `describe`, with the result's address on the stack.
    pub describe: String,
    /// Body of `run` with `$task $task_len $args $args_len`, a local `$i`, and the result's address on the stack.
    pub run: String,
}

/// Returns the arguments.
pub const ECHO: &str = "(return (call $ok (local.get $args) (local.get $args_len)))";

impl Default for Guest {
    fn default() -> Self {
        Self {
            imports: "",
            memory: "2",
            items: String::new(),
            describe: "(return (call $one_task (i32.const 1100) (i32.const 4)))".into(),
            run: ECHO.into(),
        }
    }
}

impl Guest {
    pub fn running(run: impl Into<String>) -> Self {
        Self { run: run.into(), ..Self::default() }
    }

    /// The core module, with its component type.
    pub fn build(&self) -> Vec<u8> {
        let mut module = wat::parse_str(self.wat()).unwrap_or_else(|e| panic!("{e}\n{}", self.wat()));
        embed(&mut module);
        module
    }

    pub fn wat(&self) -> String {
        let Self { imports, memory, items, describe, run } = self;
        format!(
            r#"(module
  {imports}
  (memory (export "memory") {memory})
  (global $heap (mut i32) (i32.const 8192))
  (data (i32.const 1100) "task")
  (data (i32.const 1110) "{{}}")
  (data (i32.const 1120) "kind")
  (data (i32.const 1130) "message")
  {items}
  (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get 3)))
    (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
      (then (if (i32.eq (i32.const -1) (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get 3) (i32.const 65536)))))
        (then unreachable))))
    (local.get $at))
  (func $ok (param i32 i32) (result i32)
    (i32.store8 (i32.const 2048) (i32.const 0))
    (i32.store (i32.const 2056) (local.get 0))
    (i32.store (i32.const 2060) (local.get 1))
    (i32.const 2048))
  ;; An outcome without a failure: its case and its number.
  (func $err (param $case i32) (param $number i64) (result i32)
    (i32.store8 (i32.const 2048) (i32.const 1))
    (i32.store8 (i32.const 2056) (local.get $case))
    (i64.store (i32.const 2064) (local.get $number))
    (i32.const 2048))
  ;; An outcome with a failure; retry-after-ms 0 is none.
  (func $failed (param $case i32) (param $after i64) (result i32)
    (drop (call $err (local.get $case) (i64.const 0)))
    (i32.store (i32.const 2064) (i32.const 1120)) (i32.store (i32.const 2068) (i32.const 4))
    (i32.store (i32.const 2072) (i32.const 1130)) (i32.store (i32.const 2076) (i32.const 7))
    (i32.store8 (i32.const 2080) (i32.const 0))
    (i32.store8 (i32.const 2096) (i64.ne (local.get $after) (i64.const 0)))
    (i64.store (i32.const 2104) (local.get $after))
    (i32.const 2048))
  ;; A description of one task of that name, without parameters.
  (func $one_task (param i32 i32) (result i32)
    (i32.store (i32.const 2048) (i32.const 2056)) (i32.store (i32.const 2052) (i32.const 1))
    (call $task (i32.const 2056) (local.get 0) (local.get 1))
    (i32.const 2048))
  (func $task (param $at i32) (param i32 i32)
    (i32.store (local.get $at) (local.get 1)) (i32.store offset=4 (local.get $at) (local.get 2))
    (i32.store offset=36 (local.get $at) (i32.const 1110)) (i32.store offset=40 (local.get $at) (i32.const 2)))
  (func (export "umbel:task/guest@0.1.0#describe") (result i32) (local $i i32) {describe} unreachable)
  (func $run (export "umbel:task/guest@0.1.0#run")
    (param $task i32) (param $task_len i32) (param $args i32) (param $args_len i32) (result i32)
    (local $i i32) {run} unreachable)
)"#
        )
    }

    pub async fn prepare(&self) -> Prepared {
        prepare(&self.build()).await
    }
}

/// Adds the component type of the world that the SDK builds.
pub fn embed(module: &mut Vec<u8>) {
    embed_from(module, PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../wit"));
}

/// The same with the world `module` of another folder.
pub fn embed_from(module: &mut Vec<u8>, wit: PathBuf) {
    embed_world(module, wit, "module");
}

/// Adds the component type of a world. That of another world may be there already.
pub fn embed_world(module: &mut Vec<u8>, wit: PathBuf, world: &str) {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    wit_component::embed_component_metadata(module, &resolve, world, StringEncoding::UTF8).unwrap();
}

pub fn call(arguments: &str) -> Call {
    Call {
        task: "task".into(),
        arguments: arguments.into(),
        fuel: 10_000_000_000,
        memory_bytes: 16 << 20,
        time_limit_ms: 20_000,
        soft_time_limit_ms: 0,
        info: AttemptInfo { job_id: "job".into(), attempt: 1, delivery: 1, ..AttemptInfo::default() },
        reach: Default::default(),
    }
}

/// Keeps what an attempt says.
#[derive(Default)]
pub struct Heard {
    pub lines: Mutex<Vec<LogLine>>,
    pub progress: Mutex<Vec<Progress>>,
}

impl Host for Heard {
    fn log(&self, line: LogLine) {
        self.lines.lock().unwrap().push(line);
    }
    fn progress(&self, progress: Progress) {
        self.progress.lock().unwrap().push(progress);
    }
}

pub async fn run(prepared: &Prepared, call: Call) -> Attempt {
    SANDBOX.run(prepared, call, Arc::new(Heard::default()), &StopHandle::new()).await
}

pub async fn heard(prepared: &Prepared, call: Call) -> (Attempt, Arc<Heard>) {
    let host = Arc::new(Heard::default());
    let attempt = SANDBOX.run(prepared, call, host.clone(), &StopHandle::new()).await;
    (attempt, host)
}

pub fn failure(attempt: &Attempt) -> &Failure {
    match &attempt.outcome {
        Outcome::Trap(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Runs the guest with default limits and names its trap.
pub async fn trap_of(guest: Guest) -> String {
    failure(&run(&guest.prepare().await, call("{}")).await).kind.clone()
}

pub fn value(attempt: &Attempt) -> &str {
    match &attempt.outcome {
        Outcome::Value(value) => value.get(),
        other => panic!("{other:?}"),
    }
}
