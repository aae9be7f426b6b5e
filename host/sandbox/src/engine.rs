//! The engine: one set of compiler settings for the compiler child and the worker, the pool, and the epoch's clock.
//!
//! Every setting that changes generated code is in `engine_config`: code compiled under other settings would be refused at
//! loading, or worse, not be refused.

use std::{
    hash::{Hash, Hasher},
    num::NonZeroUsize,
    sync::Arc,
    thread,
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, ModuleVersionStrategy, PoolingAllocationConfig, Strategy,
    WasmBacktraceDetails, component::Linker,
};

use crate::{
    attempt::{
        limiter::{MAX_CORE_INSTANCES, MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES},
        linker,
        state::State,
    },
    config::SandboxConfig,
    error::Error,
};

/// Frames of a guest's backtrace.
const MAX_FRAMES: usize = 16;

/// Every setting that changes generated code.
pub(crate) fn engine_config() -> Config {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .consume_fuel(true)
        .epoch_interruption(true)
        .cranelift_nan_canonicalization(true)
        .wasm_component_model(true)
        .concurrency_support(false)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .wasm_relaxed_simd(false)
        .wasm_exceptions(false)
        .wasm_gc(false)
        .wasm_function_references(false)
        .gc_support(false)
        .shared_memory(false)
        .native_unwind_info(false)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(NonZeroUsize::new(MAX_FRAMES));
    config
}

fn pooled_config(settings: &SandboxConfig) -> Config {
    let slots = settings.slots;
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(slots)
        .total_core_instances(slots.saturating_mul(MAX_CORE_INSTANCES))
        .total_memories(slots.saturating_mul(MAX_MEMORIES))
        .total_tables(slots.saturating_mul(MAX_TABLES))
        // One call is on one fiber at a time; a little more for those that are being dropped.
        .total_stacks(slots.saturating_add(8))
        .max_core_instances_per_component(MAX_CORE_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memory_size(usize::try_from(settings.max_memory_bytes).unwrap_or(usize::MAX))
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .max_unused_warm_slots(slots.min(64))
        .linear_memory_keep_resident(settings.memory_keep_resident_bytes)
        .table_keep_resident(settings.table_keep_resident_bytes)
        .async_stack_keep_resident(settings.stack_keep_resident_bytes)
        .pagemap_scan(Enabled::Auto);
    let mut config = engine_config();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .memory_init_cow(true)
        .max_wasm_stack(settings.stack_bytes)
        .async_stack_size(settings.fiber_bytes)
        .async_stack_zeroing(true);
    config
}

/// An engine without a pool, for the compiler child, which must fit into a small address space.
pub(crate) fn compiler_engine() -> Result<Engine, Error> {
    let mut config = engine_config();
    config.parallel_compilation(false);
    Engine::new(&config).map_err(|e| Error::Engine(format!("{e:#}")))
}

/// Runs modules. Cheap to clone; all clones share one pool.
#[derive(Clone)]
pub struct Sandbox {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) config: SandboxConfig,
    /// One permit per slot of the pool, so that a full pool makes an attempt wait and never fail.
    pub(crate) slots: Semaphore,
    fingerprint: String,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("fingerprint", &self.inner.fingerprint).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Reserves the pool and starts the epoch's clock thread, which ends with the last clone.
    pub fn new(config: SandboxConfig) -> Result<Self, Error> {
        let engine = Engine::new(&pooled_config(&config)).map_err(|e| {
            let hint = "the pool reserves about 8.5 GiB of address space a slot: lower `slots`, or lift `ulimit -v`";
            Error::Engine(format!("{e:#} ({hint})"))
        })?;
        let linker = linker::build(&engine).map_err(|e| Error::Engine(format!("{e:#}")))?;
        let fingerprint = fingerprint(&engine);
        start_ticker(&engine, Duration::from_millis(config.epoch_tick_ms.max(1)))?;
        let slots = Semaphore::new(config.slots as usize);
        Ok(Self { inner: Arc::new(Inner { engine, linker, config, slots, fingerprint }) })
    }

    /// Names the engine and all settings that matter to compiled code. Code is loaded only where it is equal.
    pub fn fingerprint(&self) -> &str {
        &self.inner.fingerprint
    }

    pub fn config(&self) -> &SandboxConfig {
        &self.inner.config
    }
}

/// SHA-256 over everything that must match for wasmtime, which includes its version and the processor's features.
pub(crate) fn fingerprint(engine: &Engine) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    let mut sha = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut sha);
    format!("wasmtime{}-{}", ModuleVersionStrategy::WasmtimeVersion.as_str(), hex::encode(sha.0.finalize()))
}

/// Bumps the epoch until the engine is gone.
fn start_ticker(engine: &Engine, tick: Duration) -> Result<(), Error> {
    let engine = engine.weak();
    let run = move || {
        loop {
            thread::sleep(tick);
            match engine.upgrade() {
                Some(engine) => engine.increment_epoch(),
                None => return,
            }
        }
    };
    thread::Builder::new().name("umbel-epoch".into()).spawn(run).map(drop).map_err(Error::Ticker)
}
