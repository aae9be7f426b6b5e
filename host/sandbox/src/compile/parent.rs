//! Starts a compiler child for each module, limits it from outside, and names the error if it fails.

use std::{
    io,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
};
use umbel_model::{TenantId, settings};
use wasmtime::Engine;

use crate::{
    compile::{
        admission::AdmissionLimits,
        lockdown,
        protocol::{MAX_HEADER_BYTES, Reply, Report, Request, header},
        turns::{Turn, Turns},
    },
    config::SandboxConfig,
    error::{CompileCode, CompileError},
    prepared::VerifiedCode,
};

/// How to start a process that calls [`crate::compile_child_main`]. `/proc/self/exe` as the program is this very binary,
/// even when the file was replaced since.
#[derive(Debug, Clone)]
pub struct CompilerCommand {
    pub program: PathBuf,
    pub args: Vec<String>,
}

settings! {
    /// Limits of one compilation.
    #[derive(Debug, Clone, Copy)]
    pub struct CompileLimits {
        /// The upload, bytes.
        pub max_module_bytes: u64 = 64 << 20,
        /// Compiled code, bytes.
        pub max_code_bytes: u64 = 512 << 20,
        /// Initial size of a module's linear memory, bytes: should equal `SandboxConfig::max_memory_bytes`.
        pub max_memory_bytes: u64 = SandboxConfig::default().max_memory_bytes,
        /// Address space of the child at most, bytes (RLIMIT_AS). A Python component takes 400 MiB. A module has 640 MiB
        /// and 64 times its own size.
        pub memory_bytes: u64 = 3 << 30,
        /// Processor time of the child at most, seconds (RLIMIT_CPU). A module has 15 s and 20 s for each MiB.
        pub cpu_s: u64 = 60,
        /// Wall-clock time, milliseconds. A JavaScript component takes 13 s alone.
        pub time_ms: u64 = 120_000,
        /// Compilations at once; more wait. One more module runs beside them if it is small.
        pub concurrency: usize = 1,
        /// The largest small module, bytes.
        pub small_bytes: u64 = 1 << 20,
        pub admission: AdmissionLimits = AdmissionLimits::default(),
    }
}

/// What any module may take besides what its size allows.
const BASE_MEMORY_BYTES: u64 = 640 << 20;
const BASE_CPU_S: u64 = 15;
/// What each byte, and each MiB, of a module adds. A module that takes more is made to be expensive.
const MEMORY_FOR_BYTE: u64 = 64;
const CPU_S_FOR_MIB: u64 = 20;

impl CompileLimits {
    /// Address space for a module of so many bytes, bytes.
    fn memory_for(&self, module_bytes: u64) -> u64 {
        BASE_MEMORY_BYTES.saturating_add(module_bytes.saturating_mul(MEMORY_FOR_BYTE)).min(self.memory_bytes)
    }

    /// Processor time for it, seconds.
    fn cpu_s_for(&self, module_bytes: u64) -> u64 {
        BASE_CPU_S.saturating_add((module_bytes >> 20).saturating_mul(CPU_S_FOR_MIB)).min(self.cpu_s)
    }
}

/// A compiled module, not yet loaded.
#[derive(Clone)]
pub struct Compiled {
    /// Native code, to be stored with a MAC under the module's digest and `fingerprint`.
    pub code: Vec<u8>,
    /// The engine that it is for.
    pub fingerprint: String,
    /// The upload was a core module and was wrapped.
    pub core_module: bool,
    /// Interfaces of which the component imports a function or a resource, such as `umbel:task/context@0.1.0`.
    pub imports: Vec<String>,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled")
            .field("code_bytes", &self.code.len())
            .field("core_module", &self.core_module)
            .field("imports", &self.imports)
            .finish_non_exhaustive()
    }
}

impl From<Compiled> for VerifiedCode {
    /// Code that came straight from the compiler needs no MAC to be trusted as much as the compiler is.
    fn from(compiled: Compiled) -> Self {
        Self(compiled.code)
    }
}

/// Compiles modules, each in a child of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Compiler {
    command: Arc<CompilerCommand>,
    limits: CompileLimits,
    turns: Turns,
}

impl Compiler {
    pub fn new(command: CompilerCommand, limits: CompileLimits) -> Self {
        let turns = Turns::new(limits.concurrency, limits.small_bytes);
        Self { command: Arc::new(command), limits, turns }
    }

    /// Waits until a module of so many bytes is next. Tenants share the compiler equally, and small modules go before
    /// large ones.
    pub async fn turn(&self, tenant: &TenantId, module_bytes: u64) -> Turn {
        self.turns.take(tenant, module_bytes).await
    }

    /// Checks and compiles `module` in its turn.
    pub async fn compile_in(&self, _turn: Turn, module: &[u8]) -> Result<Compiled, CompileError> {
        self.compile(module).await
    }

    /// Checks and compiles `module`, a component or a core module with a component type. Waits for no turn: for a process
    /// that compiles nothing else.
    pub async fn compile(&self, module: &[u8]) -> Result<Compiled, CompileError> {
        self.precheck(module)?;
        let unavailable = |e: &dyn std::fmt::Display| {
            CompileError::transient(CompileCode::CompileFailed, format!("the compiler cannot be started: {e}"))
        };
        let mut child = self.spawn(module.len() as u64).map_err(|e| unavailable(&e))?;
        let time = Duration::from_millis(self.limits.time_ms);
        let Ok(exchanged) = tokio::time::timeout(time, self.exchange(&mut child, module)).await else {
            // No id means that it was waited for, and its number may be somebody else's by now.
            if let Some(group) = child.id() {
                lockdown::kill_group(group);
            }
            let message = format!("compiling the module took longer than {} ms", self.limits.time_ms);
            return Err(CompileError::transient(CompileCode::CompileTimeout, message));
        };
        exchanged.map_err(|e| unavailable(&e))?.into_compiled(&self.limits)
    }

    /// Checks the size and the first bytes, without parsing the module.
    fn precheck(&self, module: &[u8]) -> Result<(), CompileError> {
        let max = self.limits.max_module_bytes;
        if module.len() as u64 > max {
            let message = format!("the module has {} bytes, more than {max}", module.len());
            return Err(CompileError::new(CompileCode::ModuleTooLarge, message));
        }
        if Engine::detect_precompiled(module).is_some() {
            let message = "these bytes are native code; upload the WebAssembly module that it was compiled from";
            return Err(CompileError::new(CompileCode::NotWasm, message));
        }
        if !module.starts_with(b"\0asm") {
            let message =
                "these bytes are not WebAssembly: they do not start with \\0asm (text format is not accepted)";
            return Err(CompileError::new(CompileCode::NotWasm, message));
        }
        Ok(())
    }

    fn spawn(&self, module_bytes: u64) -> io::Result<Child> {
        let (memory_bytes, cpu_s) = (self.limits.memory_for(module_bytes), self.limits.cpu_s_for(module_bytes));
        let mut command = Command::new(&self.command.program);
        command
            .args(&self.command.args)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        // Nothing runs between fork and exec, so that there is no fork: that would copy the page tables of all running guests,
        // and stop every thread that needs memory meanwhile.
        let child = command.spawn()?;
        let id = child.id().ok_or_else(|| io::Error::other("it ended at once"))?;
        lockdown::limit_resources(id, memory_bytes, cpu_s)?;
        Ok(child)
    }

    /// Sends the module and takes everything that comes back, within bounds.
    async fn exchange(&self, child: &mut Child, module: &[u8]) -> io::Result<Exchanged> {
        let lost = || io::Error::other("a pipe is missing");
        let mut stdin = child.stdin.take().ok_or_else(lost)?;
        let stdout = child.stdout.take().ok_or_else(lost)?;
        let stderr = child.stderr.take().ok_or_else(lost)?;
        let CompileLimits { max_module_bytes, max_memory_bytes, admission, .. } = self.limits;
        let request = header(&Request { max_module_bytes, max_memory_bytes, admission })?;
        let send = async move {
            // A child that died is seen by its status; that it stopped reading says nothing more.
            let _ = stdin.write_all(&request).await;
            let _ = stdin.write_all(module).await;
            let _ = stdin.shutdown().await;
        };
        let max = self.limits.max_code_bytes.saturating_add(MAX_HEADER_BYTES as u64);
        let ((), output, errors) = tokio::join!(send, read_bounded(stdout, max), read_bounded(stderr, 16 << 10));
        let status = child.wait().await?;
        Ok(Exchanged { status, output: output?, errors: String::from_utf8_lossy(&errors?).into_owned() })
    }
}

/// Reads up to `max` bytes and drops the pipe, so that a child that writes more ends.
async fn read_bounded(from: impl AsyncRead + Unpin, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(max).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The exit status and output of a child.
struct Exchanged {
    status: ExitStatus,
    output: Vec<u8>,
    errors: String,
}

impl Exchanged {
    fn into_compiled(mut self, limits: &CompileLimits) -> Result<Compiled, CompileError> {
        if !self.status.success() {
            return Err(self.death());
        }
        let failed =
            |what: &str| CompileError::transient(CompileCode::CompileFailed, format!("the compiler's answer {what}"));
        let length = self.output.first_chunk::<4>().map(|n| u32::from_le_bytes(*n) as usize);
        let length = length.ok_or_else(|| failed("is empty"))?;
        let json = self.output.get(4..4 + length).ok_or_else(|| failed("is cut off"))?;
        let reply: Reply = serde_json::from_slice(json).map_err(|_| failed("cannot be read"))?;
        let Report { core_module, imports, fingerprint } = reply?;
        let code = self.output.split_off(4 + length);
        if code.len() as u64 >= limits.max_code_bytes {
            let message = format!("the compiled module is larger than {} bytes", limits.max_code_bytes);
            return Err(CompileError::new(CompileCode::ModuleTooComplex, message));
        }
        Ok(Compiled { code, fingerprint, core_module, imports })
    }

    /// Names how a child died that did not answer. A limit of its own, or a crash, comes again with the same module.
    fn death(&self) -> CompileError {
        let Self { status, errors, .. } = self;
        tracing::warn!(%status, errors = %crate::attempt::text::clean(errors, 512), "compiler child died");
        let memory = errors.contains("memory allocation of") || errors.contains("Cannot allocate memory");
        let advice = "; make the module smaller or simpler";
        match status.signal() {
            _ if memory => {
                let message = format!("compiling the module takes more memory than a module of its size may{advice}");
                CompileError::new(CompileCode::CompileMemory, message)
            }
            _ if errors.contains("overflowed its stack") => {
                CompileError::new(CompileCode::ModuleTooComplex, "the module is nested too deep to compile")
            }
            Some(libc::SIGXCPU) => {
                let message = format!("compiling the module takes more time than a module of its size may{advice}");
                CompileError::new(CompileCode::CompileTimeout, message)
            }
            // Not ours, which comes after the exchange: the kernel's, when the machine is out of memory.
            Some(libc::SIGKILL) => {
                CompileError::transient(CompileCode::CompileMemory, "the compiler was killed; memory ran out")
            }
            Some(libc::SIGSEGV | libc::SIGABRT | libc::SIGILL | libc::SIGBUS) => {
                CompileError::new(CompileCode::CompileFailed, format!("the compiler crashed on this module ({status})"))
            }
            None if status.code() == Some(PANICKED) => {
                CompileError::new(CompileCode::CompileFailed, format!("the compiler crashed on this module ({status})"))
            }
            _ => {
                CompileError::transient(CompileCode::CompileFailed, format!("the compiler ended too early ({status})"))
            }
        }
    }
}

/// The exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_module_has_little_memory_and_time_and_a_large_one_what_there_is() {
        let limits = CompileLimits::default();
        assert_eq!((limits.memory_for(3 << 10) >> 20, limits.cpu_s_for(3 << 10)), (640, 15));
        assert_eq!((limits.memory_for(18 << 20) >> 20, limits.cpu_s_for(18 << 20)), (640 + 18 * 64, 60));
        assert_eq!(limits.memory_for(u64::MAX), limits.memory_bytes);
        let tight = CompileLimits { memory_bytes: 1 << 20, cpu_s: 1, ..limits };
        assert_eq!((tight.memory_for(1), tight.cpu_s_for(1)), (1 << 20, 1));
    }
}
