//! Modules made ready to run: from memory, from the verified code cache, or by compiling them in the child.
//!
//! Invariants: code is loaded only when the cache checked its MAC or when it came straight from the compiler; many
//! jobs of one module that is not ready cause one preparation.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use moka::future::Cache;
use umbel_broker::{LargeValues, ValueError};
use umbel_model::{Digest, LargeValue, ModuleInfo, PolicyBounds, TaskDescription, TenantId, settings};
use umbel_modules::{CodeCache, InspectError, Inspector, ModuleStore};
use umbel_sandbox::{CompileError, Compiled, Compiler, Prepared, Sandbox, VerifiedCode};

use crate::error::PrepareError;

settings! {
    /// Settings of a [`Runtime`].
    #[derive(Debug, Clone)]
    pub struct RuntimeConfig {
        /// Compiled code kept in memory, bytes. The least used modules go first.
        pub max_prepared_bytes: u64 = 512 << 20,
        /// A module that no job used for this time leaves memory, seconds.
        pub idle_s: u64 = 3_600,
        /// The widest policies that a module may ask for.
        pub bounds: PolicyBounds = PolicyBounds::default(),
    }
}

/// The module store, the code cache, the compiler and the sandbox together. Cheap to clone.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    store: ModuleStore,
    code: CodeCache,
    compiler: Compiler,
    sandbox: Sandbox,
    prepared: Cache<Digest, Prepared>,
    bounds: PolicyBounds,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("prepared", &self.inner.prepared.entry_count()).finish_non_exhaustive()
    }
}

impl Runtime {
    pub fn new(
        config: RuntimeConfig,
        store: ModuleStore,
        code: CodeCache,
        compiler: Compiler,
        sandbox: Sandbox,
    ) -> Self {
        let weight = |_: &Digest, prepared: &Prepared| u32::try_from(prepared.size_bytes()).unwrap_or(u32::MAX);
        let prepared = Cache::builder()
            .weigher(weight)
            .max_capacity(config.max_prepared_bytes)
            .time_to_idle(Duration::from_secs(config.idle_s.max(1)))
            .build();
        Self { inner: Arc::new(Inner { store, code, compiler, sandbox, prepared, bounds: config.bounds }) }
    }

    pub fn sandbox(&self) -> &Sandbox {
        &self.inner.sandbox
    }

    /// The widest policies that a module may ask for.
    pub fn bounds(&self) -> &PolicyBounds {
        &self.inner.bounds
    }

    pub(crate) fn store(&self) -> &ModuleStore {
        &self.inner.store
    }

    /// The module if it is in memory.
    pub async fn cached(&self, digest: &Digest) -> Option<Prepared> {
        self.inner.prepared.get(digest).await
    }

    /// The module ready to run. Takes microseconds when it is in memory, milliseconds from the code cache, seconds when
    /// it must be compiled.
    pub async fn prepared(&self, digest: Digest) -> Result<Prepared, PrepareError> {
        let prepare = self.prepare(digest);
        self.inner.prepared.try_get_with(digest, prepare).await.map_err(|error| (*error).clone())
    }

    async fn prepare(&self, digest: Digest) -> Result<Prepared, PrepareError> {
        if let Some(code) = self.verified(digest).await
            && let Ok(prepared) = self.load(digest, code).await
        {
            return Ok(prepared);
        }
        let module = self.module(digest).await?;
        let refused = |CompileError { code, message }: CompileError| match code.is_transient() {
            true => PrepareError::Unavailable(digest, message),
            false => PrepareError::Refused(digest, code.as_str().to_owned(), message),
        };
        let compiled = self.inner.compiler.compile(&module).await.map_err(refused)?;
        self.keep(digest, &compiled).await;
        self.load(digest, compiled.into()).await
    }

    /// Loads native code off the async threads: it takes milliseconds.
    async fn load(&self, digest: Digest, code: VerifiedCode) -> Result<Prepared, PrepareError> {
        let sandbox = self.inner.sandbox.clone();
        let loaded = tokio::task::spawn_blocking(move || sandbox.load(code)).await;
        let unavailable = |problem: String| {
            tracing::error!(%digest, problem, "a compiled module cannot be loaded");
            PrepareError::Unavailable(digest, problem)
        };
        let loaded = loaded.map_err(|error| unavailable(error.to_string()))?;
        loaded.map_err(|error| unavailable(error.to_string()))
    }

    /// The code from the cache, if its MAC is right.
    async fn verified(&self, digest: Digest) -> Option<VerifiedCode> {
        let code = self.inner.code.get(&digest, self.inner.sandbox.fingerprint()).await?;
        // SAFETY: the cache answers only bytes whose MAC it checked, with the key of this host, over this engine's
        // fingerprint; and only `keep` signs, what the compiler child made.
        Some(unsafe { VerifiedCode::assume_verified(code) })
    }

    /// Caches compiled code for the next process. A failure costs only time later.
    async fn keep(&self, digest: Digest, compiled: &Compiled) {
        if let Err(error) = self.inner.code.put(&digest, &compiled.fingerprint, compiled.code.clone()).await {
            tracing::warn!(%digest, %error, "compiled code was not cached");
        }
    }

    /// The module's bytes, checked by the store.
    async fn module(&self, digest: Digest) -> Result<Bytes, PrepareError> {
        self.inner.store.get(&digest).await.map_err(|error| match error {
            umbel_modules::Error::Missing(_) => PrepareError::Missing(digest),
            umbel_modules::Error::Corrupted(_) => PrepareError::Corrupted(digest),
            other => PrepareError::Unavailable(digest, other.to_string()),
        })
    }

    /// Runs the guest's `describe` on a thread of its own: it may spin for as long as it is allowed to.
    async fn describe(&self, prepared: &Prepared) -> Result<Vec<TaskDescription>, InspectError> {
        let (this, prepared, handle) = (self.clone(), prepared.clone(), tokio::runtime::Handle::current());
        let describing = tokio::task::spawn_blocking(move || {
            handle.block_on(this.inner.sandbox.describe(&prepared, &this.inner.bounds))
        });
        match describing.await {
            Ok(described) => described.map_err(|error| not_inspected(error.code(), error.to_string(), false)),
            Err(error) => Err(not_inspected("describe_failed", error.to_string(), true)),
        }
    }
}

fn not_inspected(code: &str, message: String, transient: bool) -> InspectError {
    InspectError { code: code.to_owned(), message, transient }
}

#[async_trait]
impl Inspector for Runtime {
    /// Compiles the module even if its code is cached: only the compiler knows what it imports.
    async fn inspect(&self, module: Bytes) -> Result<ModuleInfo, InspectError> {
        let digest = Digest::of(&module);
        let refused = |e: CompileError| not_inspected(e.code.as_str(), e.message, e.code.is_transient());
        let compiled = self.inner.compiler.compile(&module).await.map_err(refused)?;
        self.keep(digest, &compiled).await;
        let Compiled { core_module, imports, .. } = compiled.clone();
        let unloaded = |error: PrepareError| not_inspected("compile_failed", error.to_string(), true);
        let prepared = self.load(digest, compiled.into()).await.map_err(unloaded)?;
        let tasks = self.describe(&prepared).await?;
        self.inner.prepared.insert(digest, prepared).await;
        Ok(ModuleInfo { digest, size_bytes: module.len() as u64, core_module, imports, tasks })
    }
}

#[async_trait]
impl LargeValues for Runtime {
    async fn read(&self, tenant: &TenantId, stored: &LargeValue) -> Result<String, ValueError> {
        self.inner.store.value(tenant, stored).await.map_err(|error| match error {
            umbel_modules::Error::ValueMissing { .. } | umbel_modules::Error::ValueCorrupted { .. } => {
                ValueError::Lost(error.to_string())
            }
            other => ValueError::Unavailable(other.to_string()),
        })
    }
}
