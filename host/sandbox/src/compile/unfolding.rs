//! What a component takes when all of its instances are counted: wasmtime repeats the items of a component for each of its
//! instances, and so do instances inside of instances, so a few bytes can multiply.
//!
//! Follows the index spaces of components and core modules as the payloads of a binary define them. An instance of
//! something that is only known when the component runs is refused.

use wasmparser::{
    ComponentAlias, ComponentExport, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind, Encoding,
    Instance,
};

use crate::{
    compile::complexity::{complex, within},
    error::{CompileCode, CompileError},
};

/// Bytes of an instance of a core module for one of its functions or imports, and for a global.
const FUNCTION_BYTES: u64 = 32;
const GLOBAL_BYTES: u64 = 16;

/// What one instance takes, with all that it instantiates. Sums are saturated: products of instances grow without bound.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    /// Items of components: types, imports, exports, aliases, arguments.
    items: u64,
    core_instances: u64,
    /// Bytes of the host for core instances, besides their memories and tables.
    bytes: u64,
}

impl Taken {
    fn add(&mut self, other: Self) {
        self.items = self.items.saturating_add(other.items);
        self.core_instances = self.core_instances.saturating_add(other.core_instances);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// A component or core module that is being read.
#[derive(Debug)]
struct Scope {
    encoding: Encoding,
    taken: Taken,
    /// Index spaces; of what comes from outside nothing is known.
    components: Vec<Option<Taken>>,
    modules: Vec<Option<Taken>>,
}

/// See the top of the file.
#[derive(Debug, Default)]
pub(crate) struct Unfolding {
    scopes: Vec<Scope>,
}

/// The most that a whole component may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) items: u64,
    pub(crate) core_instances: u64,
    pub(crate) bytes: u64,
}

fn unknown(what: &str) -> CompileError {
    complex(format!("the module instantiates a {what} that is not defined inside of it, so its cost is not known"))
}

fn missing() -> CompileError {
    CompileError::new(CompileCode::InvalidModule, "the module is malformed: an index is out of bounds")
}

impl Unfolding {
    pub(crate) fn enter(&mut self, encoding: Encoding) {
        let (components, modules) = (Vec::new(), Vec::new());
        self.scopes.push(Scope { encoding, taken: Taken::default(), components, modules });
    }

    /// Ends the innermost component or module, which is from now on one of those that its parent may instantiate.
    pub(crate) fn leave(&mut self, limits: &Limits) -> Result<(), CompileError> {
        let Some(Scope { encoding, mut taken, .. }) = self.scopes.pop() else { return Ok(()) };
        if encoding == Encoding::Module {
            taken.core_instances = 1;
            taken.items = 0;
        }
        within(taken.items, limits.items, "items, counted for each instance")?;
        within(taken.core_instances, limits.core_instances, "core instances, counted for each instance")?;
        within(taken.bytes, limits.bytes, "bytes for the instances of its core modules")?;
        if let Some(parent) = self.scopes.last_mut() {
            match encoding {
                Encoding::Module => parent.modules.push(Some(taken)),
                Encoding::Component => parent.components.push(Some(taken)),
            }
        }
        Ok(())
    }

    fn scope(&mut self) -> Result<&mut Scope, CompileError> {
        self.scopes.last_mut().ok_or_else(missing)
    }

    pub(crate) fn items(&mut self, count: u64) -> Result<(), CompileError> {
        self.scope()?.taken.add(Taken { items: count, ..Taken::default() });
        Ok(())
    }

    /// Functions or imports of a core module: each may need a place in its instance.
    pub(crate) fn functions(&mut self, count: u64) -> Result<(), CompileError> {
        self.scope()?.taken.add(Taken { bytes: count.saturating_mul(FUNCTION_BYTES), ..Taken::default() });
        Ok(())
    }

    pub(crate) fn globals(&mut self, count: u64) -> Result<(), CompileError> {
        self.scope()?.taken.add(Taken { bytes: count.saturating_mul(GLOBAL_BYTES), ..Taken::default() });
        Ok(())
    }

    pub(crate) fn core_instance(&mut self, instance: &Instance<'_>) -> Result<(), CompileError> {
        match instance {
            Instance::Instantiate { module_index, args } => {
                let module = *self.scope()?.modules.get(*module_index as usize).ok_or_else(missing)?;
                self.scope()?.taken.add(module.ok_or_else(|| unknown("core module"))?);
                self.items(args.len() as u64 + 1)
            }
            Instance::FromExports(exports) => self.items(exports.len() as u64 + 1),
        }
    }

    pub(crate) fn component_instance(&mut self, instance: &ComponentInstance<'_>) -> Result<(), CompileError> {
        match instance {
            ComponentInstance::Instantiate { component_index, args } => {
                let component = *self.scope()?.components.get(*component_index as usize).ok_or_else(missing)?;
                self.scope()?.taken.add(component.ok_or_else(|| unknown("component"))?);
                self.items(args.len() as u64 + 1)
            }
            ComponentInstance::FromExports(exports) => self.items(exports.len() as u64 + 1),
        }
    }

    /// An import, or an alias of what an instance exports.
    pub(crate) fn outside(&mut self, kind: ComponentExternalKind) -> Result<(), CompileError> {
        match kind {
            ComponentExternalKind::Module => self.scope()?.modules.push(None),
            ComponentExternalKind::Component => self.scope()?.components.push(None),
            _ => {}
        }
        self.items(1)
    }

    pub(crate) fn alias(&mut self, alias: &ComponentAlias<'_>) -> Result<(), CompileError> {
        match *alias {
            ComponentAlias::InstanceExport { kind, .. } => return self.outside(kind),
            ComponentAlias::CoreInstanceExport { .. } => {}
            ComponentAlias::Outer { kind, count, index } => {
                let at = self.scopes.len().checked_sub(1 + count as usize).ok_or_else(missing)?;
                let outer = &self.scopes[at];
                match kind {
                    ComponentOuterAliasKind::CoreModule => {
                        let module = *outer.modules.get(index as usize).ok_or_else(missing)?;
                        self.scope()?.modules.push(module);
                    }
                    ComponentOuterAliasKind::Component => {
                        let component = *outer.components.get(index as usize).ok_or_else(missing)?;
                        self.scope()?.components.push(component);
                    }
                    ComponentOuterAliasKind::CoreType | ComponentOuterAliasKind::Type => {}
                }
            }
        }
        self.items(1)
    }

    /// An export is one more name for what it exports.
    pub(crate) fn export(&mut self, export: &ComponentExport<'_>) -> Result<(), CompileError> {
        let (scope, index) = (self.scope()?, export.index as usize);
        match export.kind {
            ComponentExternalKind::Module => {
                let module = *scope.modules.get(index).ok_or_else(missing)?;
                scope.modules.push(module);
            }
            ComponentExternalKind::Component => {
                let component = *scope.components.get(index).ok_or_else(missing)?;
                scope.components.push(component);
            }
            _ => {}
        }
        self.items(1)
    }
}
