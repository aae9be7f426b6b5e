//! Admission to the compiler: reads a module once, in linear time, and refuses one that is expensive to compile.
//!
//! The limits admit a whole CPython or SpiderMonkey (about 12–18 MiB) and refuse the known compile bombs; a module that
//! they admit wrongly meets the child's memory and time limits.

use serde::{Deserialize, Serialize};
use wasmparser::{ComponentExternalKind, Encoding, FunctionBody, Operator, Parser, Payload};

use crate::error::{CompileCode, CompileError};

/// Largest counts in one upload, all nested modules and components together.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct AdmissionLimits {
    /// CPython has about 15,000; 100,000 empty ones take 4.5 s and 592 MiB.
    pub functions: u64,
    /// Bytes of one function's body.
    pub body_bytes: u64,
    /// Locals of one function.
    pub locals: u64,
    /// Locals × body bytes of one function: what register allocation costs grows with both.
    pub locals_times_bytes: u64,
    /// The same product, summed over all functions: many that each just pass cost as much as one that does not.
    /// CPython (Pyodide 0.27) has 0.04e9, SpiderMonkey (componentize-js 0.18) 0.11e9.
    pub sum_locals_times_bytes: u64,
    /// Nested blocks of one function: a switch of n cases makes n.
    pub block_depth: u64,
    /// Modules and components inside of one another.
    pub nesting: u64,
    pub modules: u64,
    /// Instances of modules and components.
    pub instances: u64,
    pub imports: u64,
    pub exports: u64,
    pub types: u64,
    pub globals: u64,
    /// Data and element segments.
    pub segments: u64,
    pub custom_sections: u64,
    /// Aliases and canonical functions of components.
    pub component_items: u64,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            functions: 60_000,
            body_bytes: 1 << 20,
            locals: 20_000,
            locals_times_bytes: 400_000_000,
            sum_locals_times_bytes: 2_000_000_000,
            block_depth: 4_000,
            nesting: 8,
            modules: 64,
            instances: 512,
            imports: 10_000,
            exports: 60_000,
            types: 60_000,
            globals: 60_000,
            segments: 100_000,
            custom_sections: 1_000,
            component_items: 60_000,
        }
    }
}

/// The facts about a module that admission finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Inspected {
    /// The upload is a core module, to be wrapped.
    pub(crate) core_module: bool,
    /// It has a section that says which component it becomes.
    pub(crate) has_component_type: bool,
    /// Of a component: its imports. Of a core module: `module.name` of those that no component type can provide.
    pub(crate) imports: Vec<String>,
    /// Instances that a component exports.
    pub(crate) exports: Vec<String>,
}

/// Reads `bytes` and refuses a module beyond `limits`.
pub(crate) fn inspect(bytes: &[u8], limits: &AdmissionLimits) -> Result<Inspected, CompileError> {
    let mut walk = Walk { limits, counts: Counts::default(), depth: 0, found: Inspected::default() };
    for payload in Parser::new(0).parse_all(bytes) {
        walk.payload(payload.map_err(|e| malformed(&e))?)?;
    }
    Ok(walk.found)
}

fn malformed(error: &wasmparser::Error) -> CompileError {
    let message = format!("the module is truncated or malformed: {} (at byte {})", error.message(), error.offset());
    CompileError::new(CompileCode::InvalidModule, message)
}

#[derive(Default)]
struct Counts {
    functions: u64,
    modules: u64,
    instances: u64,
    imports: u64,
    exports: u64,
    types: u64,
    globals: u64,
    segments: u64,
    custom_sections: u64,
    component_items: u64,
    locals_times_bytes: u64,
}

struct Walk<'l> {
    limits: &'l AdmissionLimits,
    counts: Counts,
    depth: u64,
    found: Inspected,
}

/// Adds to a count and refuses what goes over its limit.
fn add(count: &mut u64, more: impl Into<u64>, limit: u64, what: &str) -> Result<(), CompileError> {
    *count = count.saturating_add(more.into());
    within(*count, limit, what)
}

fn within(count: u64, limit: u64, what: &str) -> Result<(), CompileError> {
    if count <= limit {
        return Ok(());
    }
    let message = format!("the module is too complex to compile safely: {count} {what}, more than {limit}");
    Err(CompileError::new(CompileCode::ModuleTooComplex, message))
}

impl Walk<'_> {
    fn payload(&mut self, payload: Payload<'_>) -> Result<(), CompileError> {
        let (counts, limits) = (&mut self.counts, self.limits);
        match payload {
            Payload::Version { encoding, .. } => self.version(encoding)?,
            Payload::End(_) => self.depth = self.depth.saturating_sub(1),
            Payload::TypeSection(s) => add(&mut counts.types, s.count(), limits.types, "types")?,
            Payload::CoreTypeSection(s) => add(&mut counts.types, s.count(), limits.types, "types")?,
            Payload::ComponentTypeSection(s) => add(&mut counts.types, s.count(), limits.types, "types")?,
            Payload::ImportSection(s) => self.core_imports(s)?,
            Payload::FunctionSection(s) => add(&mut counts.functions, s.count(), limits.functions, "functions")?,
            Payload::GlobalSection(s) => add(&mut counts.globals, s.count(), limits.globals, "globals")?,
            Payload::TableSection(s) => add(&mut counts.globals, s.count(), limits.globals, "globals and tables")?,
            Payload::MemorySection(s) => add(&mut counts.globals, s.count(), limits.globals, "globals and memories")?,
            Payload::ExportSection(s) => add(&mut counts.exports, s.count(), limits.exports, "exports")?,
            Payload::ElementSection(s) => add(&mut counts.segments, s.count(), limits.segments, "segments")?,
            Payload::DataSection(s) => add(&mut counts.segments, s.count(), limits.segments, "segments")?,
            Payload::CodeSectionEntry(body) => {
                let product = function(&body, limits)?;
                let limit = limits.sum_locals_times_bytes;
                add(&mut counts.locals_times_bytes, product, limit, "locals × bytes, summed over its functions")?;
            }
            Payload::InstanceSection(s) => add(&mut counts.instances, s.count(), limits.instances, "instances")?,
            Payload::ComponentInstanceSection(s) => {
                add(&mut counts.instances, s.count(), limits.instances, "instances")?;
            }
            Payload::ComponentAliasSection(s) => {
                add(&mut counts.component_items, s.count(), limits.component_items, "aliases")?;
            }
            Payload::ComponentCanonicalSection(s) => {
                add(&mut counts.component_items, s.count(), limits.component_items, "canonical functions")?;
            }
            Payload::ComponentImportSection(s) => self.component_imports(s)?,
            Payload::ComponentExportSection(s) => self.component_exports(s)?,
            Payload::CustomSection(s) => {
                add(&mut counts.custom_sections, 1_u32, limits.custom_sections, "custom sections")?;
                if self.depth == 1 && s.name().starts_with("component-type") {
                    self.found.has_component_type = true;
                }
            }
            // All others are small, or counted with what they hold; unknown sections are refused by the validator.
            _ => {}
        }
        Ok(())
    }

    fn version(&mut self, encoding: Encoding) -> Result<(), CompileError> {
        self.depth += 1;
        within(self.depth, self.limits.nesting, "levels of nesting")?;
        if self.depth == 1 {
            self.found.core_module = encoding == Encoding::Module;
        }
        add(&mut self.counts.modules, 1_u32, self.limits.modules, "modules and components")
    }

    fn core_imports(&mut self, section: wasmparser::ImportSectionReader<'_>) -> Result<(), CompileError> {
        for import in section.into_imports() {
            let import = import.map_err(|e| malformed(&e))?;
            add(&mut self.counts.imports, 1_u32, self.limits.imports, "imports")?;
            let is_interface = import.module.contains(':') || import.module.starts_with(['[', '$']);
            if self.depth == 1 && self.found.core_module && !is_interface {
                self.found.imports.push(format!("{}.{}", import.module, import.name));
            }
        }
        Ok(())
    }

    fn component_imports(&mut self, s: wasmparser::ComponentImportSectionReader<'_>) -> Result<(), CompileError> {
        add(&mut self.counts.imports, s.count(), self.limits.imports, "imports")?;
        if self.depth == 1 {
            for import in s {
                self.found.imports.push(import.map_err(|e| malformed(&e))?.name.name.to_owned());
            }
        }
        Ok(())
    }

    fn component_exports(&mut self, s: wasmparser::ComponentExportSectionReader<'_>) -> Result<(), CompileError> {
        add(&mut self.counts.exports, s.count(), self.limits.exports, "exports")?;
        if self.depth == 1 {
            for export in s {
                let export = export.map_err(|e| malformed(&e))?;
                if export.kind == ComponentExternalKind::Instance {
                    self.found.exports.push(export.name.name.to_owned());
                }
            }
        }
        Ok(())
    }
}

/// Checks one function; answers its locals × bytes.
fn function(body: &FunctionBody<'_>, limits: &AdmissionLimits) -> Result<u64, CompileError> {
    let bytes = body.as_bytes().len() as u64;
    within(bytes, limits.body_bytes, "bytes in one function")?;
    let mut locals = 0_u64;
    for group in body.get_locals_reader().map_err(|e| malformed(&e))? {
        locals += u64::from(group.map_err(|e| malformed(&e))?.0);
        within(locals, limits.locals, "locals in one function")?;
    }
    let product = locals.saturating_mul(bytes);
    within(product, limits.locals_times_bytes, "locals × bytes in one function")?;
    let mut operators = body.get_operators_reader().map_err(|e| malformed(&e))?;
    let mut depth = 0_u64;
    while !operators.eof() {
        match operators.read().map_err(|e| malformed(&e))? {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                depth += 1;
                within(depth, limits.block_depth, "nested blocks in one function")?;
            }
            Operator::End => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(product)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_modules_are_refused_and_never_panic() {
        let wat = "(component (core module $m (import \"a\" \"b\" (func)) (memory 1) (func (local i32) block end))
                   (core instance (instantiate $m (with \"a\" (instance)))) (import \"x:y/z@0.1.0\" (instance)))";
        let module = wat::parse_str(wat).unwrap();
        let mut random = 1_u64;
        for _ in 0..20_000 {
            let mut damaged = module.clone();
            for _ in 0..3 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = (random >> 33) as usize % damaged.len();
                damaged[at] = (random >> 20) as u8;
            }
            let _ = inspect(&damaged, &AdmissionLimits::default());
        }
    }

    #[test]
    fn functions_that_each_pass_are_refused_by_their_sum() {
        let one = format!("(func (local i64) (local i64) {})", "(drop (i64.const 1))".repeat(100));
        let product = 2 * (100 * 3 + 1 + 2);
        let module = wat::parse_str(format!("(module {})", one.repeat(10))).unwrap();
        let with = |sum| AdmissionLimits { sum_locals_times_bytes: sum, ..AdmissionLimits::default() };
        assert!(inspect(&module, &with(12 * product)).is_ok());
        let refused = inspect(&module, &with(5 * product)).unwrap_err();
        assert_eq!(refused.code, CompileCode::ModuleTooComplex);
        assert!(refused.message.contains("summed over its functions"), "{}", refused.message);
    }

    #[test]
    fn imports_and_exports_are_those_of_the_outermost_component() {
        let wat = "(component (import \"a:b/c@1.0.0\" (instance)) (component (import \"d:e/f\" (instance))))";
        let found = inspect(&wat::parse_str(wat).unwrap(), &AdmissionLimits::default()).unwrap();
        assert_eq!(found.imports, ["a:b/c@1.0.0"]);
        assert!(!found.core_module && found.exports.is_empty());
    }
}
