//! Admission to the compiler: reads a module once, in linear time, and refuses one that is expensive to compile.
//!
//! The limits admit a whole CPython or SpiderMonkey (about 12–18 MiB) and refuse the known compile bombs; a module that
//! they admit wrongly meets the child's memory and time limits.

use serde::{Deserialize, Serialize};
use umbel_model::settings;
use wasmparser::{
    ComponentExternalKind, ElementItems, Encoding, FromReader, FunctionBody, Operator, Parser, Payload, SectionLimited,
};

use crate::{
    attempt::limiter::MAX_CORE_INSTANCES,
    compile::{
        complexity::within,
        types,
        unfolding::{self, Unfolding},
    },
    error::{CompileCode, CompileError},
};

settings! {
    /// Largest counts in one upload, all nested modules and components together.
    #[derive(Debug, Clone, Copy, Serialize, Deserialize)]
    pub struct AdmissionLimits {
        /// CPython has about 15,000; 100,000 empty ones take 4.5 s and 592 MiB.
        pub functions: u64 = 60_000,
        /// Bytes of one function's body.
        pub body_bytes: u64 = 1 << 20,
        /// Locals of one function.
        pub locals: u64 = 20_000,
        /// Locals × body bytes of one function: what register allocation costs grows with both.
        pub locals_times_bytes: u64 = 400_000_000,
        /// The same product, summed over all functions: many that each just pass cost as much as one that does not.
        /// CPython (Pyodide 0.27) has 0.04e9, SpiderMonkey (componentize-js 0.18) 0.11e9.
        pub sum_locals_times_bytes: u64 = 2_000_000_000,
        /// Nested blocks of one function: a switch of n cases makes n.
        pub block_depth: u64 = 4_000,
        /// Modules and components inside of one another.
        pub nesting: u64 = 8,
        pub modules: u64 = 64,
        /// Instances of modules and components.
        pub instances: u64 = 512,
        pub imports: u64 = 10_000,
        pub exports: u64 = 60_000,
        /// Those that the types of instances and components declare are counted, too.
        pub types: u64 = 60_000,
        pub globals: u64 = 60_000,
        /// CPython has about 12,000, SpiderMonkey 25,000; 5 million take 46 s and 2.5 GB.
        pub elements: u64 = 200_000,
        /// Tables, and their first elements together.
        pub tables: u64 = 64,
        pub table_elements: u64 = 1_000_000,
        /// Data and element segments.
        pub segments: u64 = 100_000,
        pub custom_sections: u64 = 1_000,
        /// Aliases and canonical functions of components.
        pub component_items: u64 = 60_000,
        /// Items of components (types, imports, exports, aliases, arguments), counted again for each instance.
        pub unfolded_items: u64 = 200_000,
        /// Instances of core modules, counted so: a slot has no room for more.
        pub core_instances: u64 = u64::from(MAX_CORE_INSTANCES),
        /// Bytes of the host for these instances, besides memories and tables: each attempt takes them.
        pub instance_bytes: u64 = 16 << 20,
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
    let (found, unfolding) = (Inspected::default(), Unfolding::default());
    let mut walk = Walk { limits: *limits, left: *limits, depth: 0, found, unfolding };
    for payload in Parser::new(0).parse_all(bytes) {
        walk.payload(payload.map_err(|e| malformed(&e))?)?;
    }
    Ok(walk.found)
}

fn malformed(error: &wasmparser::Error) -> CompileError {
    let message = format!("the module is truncated or malformed: {} (at byte {})", error.message(), error.offset());
    CompileError::new(CompileCode::InvalidModule, message)
}

struct Walk {
    limits: AdmissionLimits,
    /// Of `limits`.
    left: AdmissionLimits,
    depth: u64,
    found: Inspected,
    unfolding: Unfolding,
}

/// One of the limits.
type Limit = fn(&mut AdmissionLimits) -> &mut u64;

impl Walk {
    /// Counts `more` of something and refuses what goes over its limit.
    fn add(&mut self, of: Limit, more: impl Into<u64>, what: &str) -> Result<(), CompileError> {
        let (limit, left) = (*of(&mut self.limits), of(&mut self.left));
        let count = (limit - *left).saturating_add(more.into());
        within(count, limit, what)?;
        *left = limit - count;
        Ok(())
    }

    fn payload(&mut self, payload: Payload<'_>) -> Result<(), CompileError> {
        match payload {
            Payload::Version { encoding, .. } => self.version(encoding)?,
            Payload::End(_) => {
                self.depth = self.depth.saturating_sub(1);
                let AdmissionLimits { unfolded_items: items, core_instances, instance_bytes: bytes, .. } = self.limits;
                self.unfolding.leave(&unfolding::Limits { items, core_instances, bytes })?;
            }
            Payload::TypeSection(s) => self.types(s, types::of_group)?,
            Payload::CoreTypeSection(s) => self.types(s, types::of_core_type)?,
            Payload::ComponentTypeSection(s) => self.types(s, types::of_component_type)?,
            Payload::ImportSection(s) => self.core_imports(s)?,
            Payload::FunctionSection(s) => self.add(|l| &mut l.functions, s.count(), "functions")?,
            Payload::GlobalSection(s) => {
                self.add(|l| &mut l.globals, s.count(), "globals")?;
                self.unfolding.globals(s.count().into())?;
            }
            Payload::TableSection(s) => self.tables(s)?,
            Payload::MemorySection(s) => self.add(|l| &mut l.globals, s.count(), "globals and memories")?,
            Payload::ExportSection(s) => {
                self.add(|l| &mut l.exports, s.count(), "exports")?;
                self.unfolding.functions(s.count().into())?;
            }
            Payload::ElementSection(s) => self.elements(s)?,
            Payload::DataSection(s) => self.add(|l| &mut l.segments, s.count(), "segments")?,
            Payload::CodeSectionEntry(body) => {
                let product = function(&body, &self.limits)?;
                let what = "locals × bytes, summed over its functions";
                self.add(|l| &mut l.sum_locals_times_bytes, product, what)?;
            }
            Payload::InstanceSection(s) => {
                self.add(|l| &mut l.instances, s.count(), "instances")?;
                each(s, |instance| self.unfolding.core_instance(&instance))?;
            }
            Payload::ComponentInstanceSection(s) => {
                self.add(|l| &mut l.instances, s.count(), "instances")?;
                each(s, |instance| self.unfolding.component_instance(&instance))?;
            }
            Payload::ComponentAliasSection(s) => {
                self.add(|l| &mut l.component_items, s.count(), "aliases")?;
                each(s, |alias| self.unfolding.alias(&alias))?;
            }
            Payload::ComponentCanonicalSection(s) => {
                self.add(|l| &mut l.component_items, s.count(), "canonical functions")?;
                self.unfolding.items(s.count().into())?;
            }
            Payload::ComponentImportSection(s) => self.component_imports(s)?,
            Payload::ComponentExportSection(s) => self.component_exports(s)?,
            Payload::CustomSection(s) => {
                self.add(|l| &mut l.custom_sections, 1_u32, "custom sections")?;
                if self.depth == 1 && s.name().starts_with("component-type") {
                    self.found.has_component_type = true;
                }
            }
            // All others are small, or counted with what they hold; unknown sections are refused by the validator.
            _ => {}
        }
        Ok(())
    }

    fn types<'a, T: FromReader<'a>>(
        &mut self,
        section: SectionLimited<'a, T>,
        declarations: fn(&T) -> u64,
    ) -> Result<(), CompileError> {
        each(section, |ty| {
            let count = declarations(&ty);
            self.add(|l| &mut l.types, count, "types")?;
            self.unfolding.items(count)
        })
    }

    fn tables(&mut self, section: wasmparser::TableSectionReader<'_>) -> Result<(), CompileError> {
        each(section, |table| {
            self.add(|l| &mut l.tables, 1_u32, "tables")?;
            self.add(|l| &mut l.table_elements, table.ty.initial, "elements in its tables")
        })
    }

    fn elements(&mut self, section: wasmparser::ElementSectionReader<'_>) -> Result<(), CompileError> {
        self.add(|l| &mut l.segments, section.count(), "segments")?;
        each(section, |element| {
            let count = match element.items {
                ElementItems::Functions(items) => items.count(),
                ElementItems::Expressions(_, items) => items.count(),
            };
            self.add(|l| &mut l.elements, count, "elements of tables")?;
            self.unfolding.functions(count.into())
        })
    }

    fn version(&mut self, encoding: Encoding) -> Result<(), CompileError> {
        self.depth += 1;
        self.unfolding.enter(encoding);
        within(self.depth, self.limits.nesting, "levels of nesting")?;
        if self.depth == 1 {
            self.found.core_module = encoding == Encoding::Module;
        }
        self.add(|l| &mut l.modules, 1_u32, "modules and components")
    }

    fn core_imports(&mut self, section: wasmparser::ImportSectionReader<'_>) -> Result<(), CompileError> {
        for import in section.into_imports() {
            let import = import.map_err(|e| malformed(&e))?;
            self.add(|l| &mut l.imports, 1_u32, "imports")?;
            self.unfolding.functions(1)?;
            let is_interface = import.module.contains(':') || import.module.starts_with(['[', '$']);
            if self.depth == 1 && self.found.core_module && !is_interface {
                self.found.imports.push(format!("{}.{}", import.module, import.name));
            }
        }
        Ok(())
    }

    fn component_imports(&mut self, s: wasmparser::ComponentImportSectionReader<'_>) -> Result<(), CompileError> {
        self.add(|l| &mut l.imports, s.count(), "imports")?;
        each(s, |import| {
            if self.depth == 1 {
                self.found.imports.push(import.name.name.to_owned());
            }
            self.unfolding.outside(import.ty.kind())
        })
    }

    fn component_exports(&mut self, s: wasmparser::ComponentExportSectionReader<'_>) -> Result<(), CompileError> {
        self.add(|l| &mut l.exports, s.count(), "exports")?;
        each(s, |export| {
            if self.depth == 1 && export.kind == ComponentExternalKind::Instance {
                self.found.exports.push(export.name.name.to_owned());
            }
            self.unfolding.export(&export)
        })
    }
}

/// Reads a section to its end.
fn each<'a, T: FromReader<'a>>(
    section: SectionLimited<'a, T>,
    mut look: impl FnMut(T) -> Result<(), CompileError>,
) -> Result<(), CompileError> {
    section.into_iter().try_for_each(|item| look(item.map_err(|e| malformed(&e))?))
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
