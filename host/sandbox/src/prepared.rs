//! Loaded modules: native code that is linked and ready to be instantiated.

use std::sync::Arc;

use wasmtime::component::{Component, ComponentExportIndex, InstancePre};

use crate::{attempt::state::State, bindings::names, engine::Sandbox, error::Error};

/// Native code whose origin was checked. Making one is what `unsafe` guards, not loading it.
pub struct VerifiedCode(pub(crate) Vec<u8>);

impl VerifiedCode {
    /// Vouches for `code`.
    ///
    /// # Safety
    /// `code` must be the unmodified product of a [`crate::Compiler`] of this host, shown by a MAC that was checked
    /// on exactly these bytes: it is native code, and loading it is trusting it with this process.
    pub unsafe fn assume_verified(code: Vec<u8>) -> Self {
        Self(code)
    }
}

/// A module ready to run. Cheap to clone; keep it as long as its jobs come.
#[derive(Clone)]
pub struct Prepared {
    pub(crate) inner: Arc<PreparedInner>,
}

pub(crate) struct PreparedInner {
    pub(crate) pre: InstancePre<State>,
    pub(crate) describe: ComponentExportIndex,
    pub(crate) run: ComponentExportIndex,
    /// Of a module that declares permissions.
    pub(crate) declare: Option<ComponentExportIndex>,
    size_bytes: usize,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("size_bytes", &self.inner.size_bytes).finish_non_exhaustive()
    }
}

impl Prepared {
    /// Size of its compiled code, bytes: what a cache of prepared modules should count.
    pub fn size_bytes(&self) -> usize {
        self.inner.size_bytes
    }
}

impl Sandbox {
    /// Loads compiled code and links it. Takes 1–20 ms; call it once per module and off the async threads.
    pub fn load(&self, code: VerifiedCode) -> Result<Prepared, Error> {
        let failed = |e: wasmtime::Error| Error::Load(format!("{e:#}"));
        // SAFETY: `VerifiedCode` exists only for bytes that a compiler of this host made and nobody changed, and
        // wasmtime itself refuses those of another engine or other settings.
        let component = unsafe { Component::deserialize(&self.inner.engine, &code.0) }.map_err(failed)?;
        let pre = self.inner.linker.instantiate_pre(&component).map_err(failed)?;
        let missing = |what: &str| Error::Load(format!("it does not export {what} of {}", names::GUEST));
        let guest = component.get_export_index(None, names::GUEST).ok_or_else(|| missing("the interface"))?;
        let function = |name: &str| component.get_export_index(Some(&guest), name).ok_or_else(|| missing(name));
        let (describe, run) = (function("describe")?, function("run")?);
        let permissions = component.get_export_index(None, names::PERMISSIONS);
        let declare = permissions
            .map(|interface| component.get_export_index(Some(&interface), "declare").ok_or_else(|| missing("declare")));
        let (declare, size_bytes) = (declare.transpose()?, code.0.len());
        Ok(Prepared { inner: Arc::new(PreparedInner { pre, describe, run, declare, size_bytes }) })
    }
}
