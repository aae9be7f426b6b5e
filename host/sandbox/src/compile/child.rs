//! The compiler child: one module from standard input, its native code to standard output, then the end.
//!
//! Single-threaded, with an empty environment and no access to files or the network. The parent names every error: a crash
//! here does not crash the service.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use wasmtime::{
    Engine,
    component::{Component, types::ComponentItem},
};

use crate::{
    attempt::{
        limiter::{MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES},
        linker,
    },
    compile::{
        admission, contract, lockdown,
        protocol::{Reply, Report, Request, header, read_header},
    },
    engine,
    error::{CompileCode, CompileError},
};

const WASM_PAGE_BYTES: u64 = 65_536;

/// The main function of a program that is started by a [`crate::CompilerCommand`].
pub fn compile_child_main() -> ExitCode {
    lockdown::confine();
    match serve(&mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compiler child: {error}");
            ExitCode::from(74)
        }
    }
}

fn serve(input: &mut impl Read, output: &mut impl Write) -> io::Result<()> {
    let request: Request = read_header(input)?;
    let mut module = Vec::new();
    input.take(request.max_module_bytes.saturating_add(1)).read_to_end(&mut module)?;
    let (reply, code): (Reply, Vec<u8>) = match compile(&module, &request) {
        Ok((report, code)) => (Ok(report), code),
        Err(error) => (Err(error), Vec::new()),
    };
    output.write_all(&header(&reply)?)?;
    output.write_all(&code)?;
    output.flush()
}

/// Size, admission, contract, compiler.
fn compile(module: &[u8], request: &Request) -> Result<(Report, Vec<u8>), CompileError> {
    if module.len() as u64 > request.max_module_bytes {
        let message = format!("the module is larger than {} bytes", request.max_module_bytes);
        return Err(CompileError::new(CompileCode::ModuleTooLarge, message));
    }
    let limits = &request.admission;
    let inspected = admission::inspect(module, limits)?;
    let component = contract::component(module, &inspected)?;
    let found = if inspected.core_module { admission::inspect(&component, limits)? } else { inspected.clone() };
    contract::check(&found)?;
    let failed =
        |e: &dyn std::fmt::Display| CompileError::transient(CompileCode::CompileFailed, format!("no compiler: {e}"));
    let engine = engine::compiler_engine().map_err(|e| failed(&e))?;
    let linker = linker::build(&engine).map_err(|e| failed(&e))?;
    let compiled = Component::from_binary(&engine, &component).map_err(|e| invalid(&e))?;
    linker.instantiate_pre(&compiled).map_err(|e| contract::unfit(&e))?;
    fits_a_slot(&compiled, request.max_memory_bytes)?;
    let code = compiled.serialize().map_err(|e| failed(&e))?;
    let fingerprint = engine::fingerprint(&engine);
    let imports = used(&engine, &compiled);
    Ok((Report { core_module: inspected.core_module, imports, fingerprint }, code))
}

/// The interfaces of which the component can call something. One that it imports for a type, as `wasi:http` does for a duration,
/// touches nothing.
fn used(engine: &Engine, component: &Component) -> Vec<String> {
    let is_used = |item: &ComponentItem| match item {
        ComponentItem::ComponentInstance(instance) => {
            instance.exports(engine).any(|(_, item)| !matches!(item.ty, ComponentItem::Type(_)))
        }
        _ => true,
    };
    let component = component.component_type();
    component.imports(engine).filter(|(_, item)| is_used(&item.ty)).map(|(name, _)| name.to_owned()).collect()
}

fn invalid(error: &wasmtime::Error) -> CompileError {
    let text = format!("{error:#}");
    if text.contains("Cannot allocate memory") || text.contains("out of memory") {
        return CompileError::new(CompileCode::CompileMemory, "compiling the module takes too much memory");
    }
    CompileError::new(CompileCode::InvalidModule, format!("the module is not valid: {text}"))
}

/// Refuses, with a clear message, a module that the pool would refuse when it is loaded.
fn fits_a_slot(component: &Component, max_memory_bytes: u64) -> Result<(), CompileError> {
    let complex = |message: String| Err(CompileError::new(CompileCode::ModuleTooComplex, message));
    let Some(needs) = component.resources_required() else {
        return complex("the component imports core modules, which nobody provides".to_owned());
    };
    if needs.num_memories > MAX_MEMORIES {
        return complex(format!("the module has {} memories, more than {MAX_MEMORIES}", needs.num_memories));
    }
    if needs.num_tables > MAX_TABLES {
        return complex(format!("the module has {} tables, more than {MAX_TABLES}", needs.num_tables));
    }
    let first_bytes = needs.max_initial_memory_size.unwrap_or(0).saturating_mul(WASM_PAGE_BYTES);
    if first_bytes > max_memory_bytes {
        return complex(format!("the module starts with {first_bytes} bytes of memory, more than {max_memory_bytes}"));
    }
    match needs.max_initial_table_size {
        Some(size) if size > MAX_TABLE_ELEMENTS as u64 => {
            complex(format!("a table of the module has {size} elements, more than {MAX_TABLE_ELEMENTS}"))
        }
        _ => Ok(()),
    }
}
