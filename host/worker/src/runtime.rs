//! Modules made ready to run: from memory, from the verified code cache, or by compiling them in the child.
//!
//! Invariants: code is loaded only when the cache checked its MAC or when it came straight from the compiler; many
//! jobs of one module that is not ready cause one compilation, and none of them waits for it in a slot.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use moka::future::Cache;
use umbel_broker::{LargeValues, ValueError};
use umbel_capabilities::http::HttpClient;
use umbel_model::{Digest, LargeValue, ModuleInfo, PolicyBounds, TenantId, settings};
use umbel_modules::{CodeCache, InspectError, Inspector, ModuleStore, gives_way};
use umbel_sandbox::{CompileCode, CompileError, Compiled, Compiler, Described, Prepared, Sandbox, Turn, VerifiedCode};
use umbel_secrets::MasterKeys;

use crate::{
    compilations::{Compilations, Compiling},
    error::PrepareError,
};

settings! {
    /// Settings of a [`Runtime`].
    #[derive(Debug, Clone)]
    pub struct RuntimeConfig {
        /// Compiled code kept in memory, bytes: that of thousands of small modules, or of six with a JavaScript engine. What was
        /// used longest ago of the tenant that has the most goes first, and comes back from the code cache in milliseconds.
        pub max_prepared_bytes: u64 = 256 << 20,
        /// A module that no job used for this time leaves memory, seconds.
        pub idle_s: u64 = 3_600,
        /// The widest policies that a module may ask for.
        pub bounds: PolicyBounds = PolicyBounds::default(),
        /// Sends the HTTP requests of guests. None: nobody does.
        pub http: Option<Arc<HttpClient>> = None,
        /// The largest blob that a guest may write, bytes.
        pub max_blob_bytes: u64 = 1 << 30,
        /// Opens the secrets of tenants. Without one none can be used.
        pub master_keys: Arc<MasterKeys> = Arc::default(),
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
    prepared: Cache<Digest, Arc<Kept>>,
    max_prepared_bytes: u64,
    /// Counts uses of prepared modules.
    uses: AtomicU64,
    compilations: Compilations,
    bounds: PolicyBounds,
    http: Option<Arc<HttpClient>>,
    max_blob_bytes: u64,
    master_keys: Arc<MasterKeys>,
}

/// Whether a module is ready to run.
#[derive(Debug)]
pub enum Ready {
    Now(Prepared),
    /// Not before it was compiled.
    Compiling(Compiling),
}

/// A prepared module in memory.
struct Kept {
    prepared: Prepared,
    /// Whose jobs brought it into memory.
    tenant: TenantId,
    /// The number of its last use.
    used: AtomicU64,
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
        // Without a capacity: tenants share it, which `make_room` sees to.
        let prepared = Cache::builder().time_to_idle(Duration::from_secs(config.idle_s.max(1))).build();
        let (uses, compilations) = (AtomicU64::new(0), Compilations::default());
        let RuntimeConfig { max_prepared_bytes, bounds, http, max_blob_bytes, master_keys, .. } = config;
        let inner = Inner {
            store,
            code,
            compiler,
            sandbox,
            prepared,
            max_prepared_bytes,
            uses,
            compilations,
            bounds,
            http,
            max_blob_bytes,
            master_keys,
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn sandbox(&self) -> &Sandbox {
        &self.inner.sandbox
    }

    /// The largest blob that a guest may write, bytes.
    pub(crate) fn max_blob_bytes(&self) -> u64 {
        self.inner.max_blob_bytes
    }

    /// The widest policies that a module may ask for.
    pub fn bounds(&self) -> &PolicyBounds {
        &self.inner.bounds
    }

    /// Sends the HTTP requests of guests.
    pub fn http(&self) -> Option<&Arc<HttpClient>> {
        self.inner.http.as_ref()
    }

    pub(crate) fn master_keys(&self) -> &Arc<MasterKeys> {
        &self.inner.master_keys
    }

    pub(crate) fn store(&self) -> &ModuleStore {
        &self.inner.store
    }

    /// The module if it is in memory.
    pub async fn cached(&self, digest: &Digest) -> Option<Prepared> {
        let kept = self.inner.prepared.get(digest).await?;
        kept.used.store(self.inner.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(kept.prepared.clone())
    }

    fn kept(&self, tenant: &TenantId, prepared: Prepared) -> Arc<Kept> {
        let used = self.inner.uses.fetch_add(1, Ordering::Relaxed).into();
        Arc::new(Kept { prepared, tenant: tenant.clone(), used })
    }

    /// Lets modules go until the rest fits into memory.
    async fn make_room(&self) {
        let mut kept: Vec<_> = self.inner.prepared.iter().collect();
        kept.sort_by_key(|(_, kept)| kept.used.load(Ordering::Relaxed));
        let held: Vec<_> =
            kept.iter().map(|(_, kept)| (kept.tenant.as_str(), kept.prepared.size_bytes() as u64)).collect();
        for at in gives_way(&held, self.inner.max_prepared_bytes) {
            self.inner.prepared.invalidate(&*kept[at].0).await;
        }
    }

    /// The module ready to run: takes microseconds when it is in memory, milliseconds from the code cache. When it must be
    /// compiled, that begins in the background, in the turn of `tenant`.
    pub async fn ready(&self, tenant: &TenantId, digest: Digest) -> Result<Ready, PrepareError> {
        if let Some(compiling) = self.inner.compilations.of(digest)? {
            return Ok(Ready::Compiling(compiling));
        }
        // Jobs that ask for it at once read and load it once.
        let load = async { self.cached_code(digest).await.map(|prepared| self.kept(tenant, prepared)).ok_or(()) };
        if let Ok(kept) = self.inner.prepared.try_get_with(digest, load).await {
            self.make_room().await;
            return Ok(Ready::Now(kept.prepared.clone()));
        }
        let size_bytes = self.module(digest).await?.len() as u64;
        let (this, tenant) = (self.clone(), tenant.clone());
        let compiling = self.inner.compilations.begin(digest, async move {
            let turn = this.inner.compiler.turn(&tenant, size_bytes).await;
            // Read again: modules that wait for their turn are not kept in memory.
            let module = this.module(digest).await?;
            let prepared = this.compiled(&tenant, digest, turn, &module).await?;
            this.inner.prepared.insert(digest, this.kept(&tenant, prepared.clone())).await;
            this.make_room().await;
            Ok(prepared)
        });
        Ok(Ready::Compiling(compiling))
    }

    /// As [`Runtime::ready`], and waits for the compilation.
    pub async fn prepared(&self, tenant: &TenantId, digest: Digest) -> Result<Prepared, PrepareError> {
        match self.ready(tenant, digest).await? {
            Ready::Now(prepared) => Ok(prepared),
            Ready::Compiling(compiling) => compiling.ended(digest).await,
        }
    }

    async fn cached_code(&self, digest: Digest) -> Option<Prepared> {
        let code = self.verified(digest).await?;
        self.load(digest, code).await.ok()
    }

    async fn compiled(
        &self,
        tenant: &TenantId,
        digest: Digest,
        turn: Turn,
        module: &[u8],
    ) -> Result<Prepared, PrepareError> {
        let refused = |CompileError { code, message, is_transient }: CompileError| match is_transient {
            true => PrepareError::Unavailable(digest, message),
            false => PrepareError::Refused(digest, code.as_str().to_owned(), message),
        };
        let compiled = self.inner.compiler.compile_in(turn, module).await.map_err(refused)?;
        self.keep(tenant, digest, &compiled).await;
        self.load(digest, compiled.into()).await
    }

    /// Loads native code off the async threads: it takes milliseconds. What the sandbox refuses now it always refuses.
    async fn load(&self, digest: Digest, code: VerifiedCode) -> Result<Prepared, PrepareError> {
        let sandbox = self.inner.sandbox.clone();
        let loaded = tokio::task::spawn_blocking(move || sandbox.load(code)).await;
        let loaded = loaded.map_err(|error| PrepareError::Unavailable(digest, error.to_string()))?;
        loaded.map_err(|error| {
            tracing::error!(%digest, %error, "a compiled module cannot be loaded");
            PrepareError::Refused(digest, CompileCode::ModuleTooComplex.as_str().to_owned(), error.to_string())
        })
    }

    /// The code from the cache, if its MAC is right.
    async fn verified(&self, digest: Digest) -> Option<VerifiedCode> {
        let code = self.inner.code.get(&digest, self.inner.sandbox.fingerprint()).await?;
        // SAFETY: the cache answers only bytes whose MAC it checked, with the key of this host, over this engine's
        // fingerprint; and only `keep` signs, what the compiler child made.
        Some(unsafe { VerifiedCode::assume_verified(code) })
    }

    /// Caches compiled code for the next process. A failure costs only time later.
    async fn keep(&self, tenant: &TenantId, digest: Digest, compiled: &Compiled) {
        if let Err(error) = self.inner.code.put(tenant, &digest, &compiled.fingerprint, compiled.code.clone()).await {
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
    async fn describe(&self, prepared: &Prepared) -> Result<Described, InspectError> {
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
    async fn inspect(&self, tenant: &TenantId, module: Bytes) -> Result<ModuleInfo, InspectError> {
        let digest = Digest::of(&module);
        let refused = |e: CompileError| not_inspected(e.code.as_str(), e.message, e.is_transient);
        let turn = self.inner.compiler.turn(tenant, module.len() as u64).await;
        let compiled = self.inner.compiler.compile_in(turn, &module).await.map_err(refused)?;
        self.keep(tenant, digest, &compiled).await;
        let Compiled { core_module, imports, .. } = compiled.clone();
        let unloaded = |error: PrepareError| match error {
            PrepareError::Refused(_, code, message) => not_inspected(&code, message, false),
            other => not_inspected("compile_failed", other.to_string(), true),
        };
        let prepared = self.load(digest, compiled.into()).await.map_err(unloaded)?;
        // Not kept in memory: a stranger's pushes would fill it, and the first job loads it from the code cache.
        let Described { tasks, permissions } = self.describe(&prepared).await?;
        Ok(ModuleInfo {
            digest,
            size_bytes: module.len() as u64,
            core_module,
            imports,
            tasks,
            permissions: Some(permissions),
            pushed_at: None,
            deleted_at: None,
        })
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
