//! Modules made ready: inspected, cached with a MAC, repaired or refused.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use umbel_model::{Digest, TenantId};
use umbel_modules::{CodeCache, HostKey, Inspector, ModuleStore};
use umbel_sandbox::{CompileLimits, Compiler, CompilerCommand, Sandbox, SandboxConfig};
use umbel_worker::{PrepareError, Ready, Runtime, RuntimeConfig};

use crate::{guest::MODULE, support::tenant};

/// A runtime on `folder`, as a process that just started.
async fn started(folder: &Path, compiler: &str) -> (Runtime, ModuleStore) {
    started_with(folder, compiler, RuntimeConfig::default()).await
}

async fn started_with(folder: &Path, compiler: &str, config: RuntimeConfig) -> (Runtime, ModuleStore) {
    let store = ModuleStore::local(folder.join("modules")).await.unwrap();
    let key = HostKey::load_or_create(folder.join("key")).unwrap();
    let code = CodeCache::open(folder.join("code"), key, 1 << 30).unwrap();
    let command = CompilerCommand { program: compiler.into(), args: vec![] };
    let sandbox = Sandbox::new(SandboxConfig { slots: 2, ..SandboxConfig::default() }).unwrap();
    let compiler = Compiler::new(command, CompileLimits::default());
    (Runtime::new(config, store.clone(), code, compiler, sandbox), store)
}

const COMPILER: &str = env!("CARGO_BIN_EXE_umbel-worker-compile");
/// A compiler that answers nothing: whoever needs it fails.
const NO_COMPILER: &str = "/bin/false";

fn files(folder: PathBuf) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(path)) } else { found.push(path) }
    }
    found
}

fn damage(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn an_upload_is_asked_for_its_tasks_and_imports() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, _) = started(folder.path(), COMPILER).await;
    let info = runtime.inspect(&tenant(), Bytes::from(MODULE.clone())).await.unwrap();
    assert_eq!((info.digest, info.size_bytes, info.core_module), (Digest::of(&MODULE), MODULE.len() as u64, true));
    assert_eq!(info.tasks.iter().map(|task| task.name.as_str()).collect::<Vec<_>>(), ["task"]);
    assert!(info.imports.iter().any(|import| import.starts_with("umbel:task/context@")), "{:?}", info.imports);
}

#[tokio::test]
async fn a_refused_upload_says_why_and_whether_it_may_pass_later() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, _) = started(folder.path(), COMPILER).await;
    let refused = runtime.inspect(&tenant(), Bytes::from_static(b"hello")).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.transient), ("not_wasm", false));
    let cut = Bytes::from(MODULE[..MODULE.len() / 2].to_vec());
    assert_eq!(runtime.inspect(&tenant(), cut).await.unwrap_err().code, "invalid_module");
    let (broken, _) = started(folder.path(), NO_COMPILER).await;
    let refused = broken.inspect(&tenant(), Bytes::from(MODULE.clone())).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.transient), ("compile_failed", true));
}

#[tokio::test]
async fn compiled_code_is_used_again_by_the_next_process_and_never_when_it_was_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, store) = started(folder.path(), COMPILER).await;
    let digest = store.put_bytes(MODULE.clone().into(), 1 << 20).await.unwrap().digest;
    runtime.prepared(&tenant(), digest).await.unwrap();
    let (next, _) = started(folder.path(), NO_COMPILER).await;
    next.prepared(&tenant(), digest).await.unwrap();
    let code = files(folder.path().join("code"));
    let code: Vec<_> = code.into_iter().filter(|path| path.extension().is_some_and(|e| e == "code")).collect();
    assert_eq!(code.len(), 1, "{code:?}");
    damage(&code[0]);
    let (without, _) = started(folder.path(), NO_COMPILER).await;
    assert!(matches!(without.prepared(&tenant(), digest).await, Err(PrepareError::Unavailable(..))));
    let (with, _) = started(folder.path(), COMPILER).await;
    with.prepared(&tenant(), digest).await.unwrap();
}

#[tokio::test]
async fn missing_and_damaged_modules_have_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, store) = started(folder.path(), COMPILER).await;
    assert!(matches!(runtime.prepared(&tenant(), Digest::of(b"nothing")).await, Err(PrepareError::Missing(_))));
    let digest = store.put_bytes(MODULE.clone().into(), 1 << 20).await.unwrap().digest;
    damage(&files(folder.path().join("modules"))[0]);
    assert!(matches!(runtime.prepared(&tenant(), digest).await, Err(PrepareError::Corrupted(_))));
    store.put_bytes(MODULE.clone().into(), 1 << 20).await.unwrap();
    runtime.prepared(&tenant(), digest).await.unwrap();
}

#[tokio::test]
async fn many_jobs_of_one_cold_module_prepare_it_once() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, store) = started(folder.path(), COMPILER).await;
    let digest = store.put_bytes(MODULE.clone().into(), 1 << 20).await.unwrap().digest;
    let tenant = tenant();
    let all = futures::future::join_all((0..50).map(|_| runtime.prepared(&tenant, digest))).await;
    assert!(all.iter().all(Result::is_ok));
    // The code, and the name of its tenant.
    assert_eq!(files(folder.path().join("code")).len(), 2);
}

#[tokio::test]
async fn what_the_compiler_crashes_on_and_what_no_slot_holds_is_refused_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let crash = folder.path().join("crash");
    std::fs::write(&crash, "#!/bin/sh\nkill -ABRT $$\n").unwrap();
    std::fs::set_permissions(&crash, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let (runtime, store) = started(folder.path(), crash.to_str().unwrap()).await;
    let refused = runtime.inspect(&tenant(), Bytes::from(MODULE.clone())).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.transient), ("compile_failed", false), "{refused}");
    let digest = store.put_bytes(MODULE.clone().into(), 1 << 20).await.unwrap().digest;
    let refused = runtime.prepared(&tenant(), digest).await;
    assert!(matches!(refused, Err(PrepareError::Refused(..))), "{refused:?}");
}

#[tokio::test]
async fn a_pushed_module_takes_no_memory_before_a_job_uses_it() {
    let folder = tempfile::tempdir().unwrap();
    let (runtime, store) = started(folder.path(), COMPILER).await;
    let digest = store.put_bytes(MODULE.clone().into(), 1 << 20).await.unwrap().digest;
    runtime.inspect(&tenant(), Bytes::from(MODULE.clone())).await.unwrap();
    assert!(runtime.cached(&digest).await.is_none());
    // From the code cache, and not by compiling it again.
    let ready = runtime.ready(&tenant(), digest).await.unwrap();
    assert!(matches!(ready, Ready::Now(_)), "{ready:?}");
    assert!(runtime.cached(&digest).await.is_some());
}

#[tokio::test]
async fn a_tenant_that_fills_the_memory_of_modules_drops_only_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (loud, quiet) = (TenantId::new("loud").unwrap(), TenantId::new("quiet").unwrap());
    let nothing = RuntimeConfig { max_prepared_bytes: 1, ..RuntimeConfig::default() };
    let (runtime, store) = started_with(folder.path(), COMPILER, nothing).await;
    let digest = store.put_bytes(MODULE.clone().into(), 1 << 20).await.unwrap().digest;
    let size = runtime.prepared(&quiet, digest).await.unwrap().size_bytes() as u64;
    assert!(runtime.cached(&digest).await.is_none(), "there is room for nothing");

    let config = RuntimeConfig { max_prepared_bytes: 3 * size + size / 2, ..RuntimeConfig::default() };
    let (runtime, store) = started_with(folder.path(), COMPILER, config).await;
    runtime.prepared(&quiet, digest).await.unwrap();
    for n in 0..4_u8 {
        // An empty custom section with another name: other bytes, the same code.
        let module = [MODULE.as_slice(), &[0, 2, 1, b'a' + n]].concat();
        let digest = store.put_bytes(module.into(), 1 << 20).await.unwrap().digest;
        runtime.prepared(&loud, digest).await.unwrap();
        assert!(runtime.cached(&digest).await.is_some());
    }
    assert!(runtime.cached(&digest).await.is_some());
}
