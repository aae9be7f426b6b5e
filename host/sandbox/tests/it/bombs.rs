//! Modules made to hurt the compiler: each is refused by admission or contained by the child's limits.

use std::fmt::Write as _;

use umbel_sandbox::{AdmissionLimits, CompileCode, CompileLimits, Compiler};

use crate::support::{Guest, call, command, compile, prepare, run, value};

fn guest(items: String) -> Vec<u8> {
    Guest { items, ..Guest::default() }.build()
}

fn many_functions(count: usize) -> String {
    "(func)".repeat(count)
}

/// `count` locals, all live over a body of about `bytes`.
fn many_locals(count: usize, bytes: usize) -> String {
    let mut wat = String::from("(func $bomb ");
    wat.push_str(&"(local i64)".repeat(count));
    for n in 0..bytes / 12 {
        let (a, b, c) = (n % count, (n * 7 + 1) % count, (n * 13 + 2) % count);
        write!(wat, "(local.set {a} (i64.add (local.get {b}) (local.get {c})))").unwrap();
    }
    wat.push(')');
    wat
}

fn nested_blocks(depth: usize) -> String {
    format!("(func {} {})", "block ".repeat(depth), "end ".repeat(depth))
}

async fn refused_as_complex(module: &[u8], what: &str) {
    let error = compile(module).await.unwrap_err();
    assert_eq!(error.code, CompileCode::ModuleTooComplex, "{}", error.message);
    assert!(error.message.contains(what), "{}", error.message);
    assert!(!error.code.is_transient());
}

#[tokio::test]
async fn too_many_functions_are_refused_at_the_gate() {
    refused_as_complex(&guest(many_functions(100_000)), "functions").await;
}

#[tokio::test]
async fn a_function_with_many_locals_and_a_long_body_is_refused_at_the_gate() {
    refused_as_complex(&guest(many_locals(5_000, 119 << 10)), "locals × bytes").await;
    let mut wat = many_locals(10, 100);
    wat.insert_str("(func $bomb ".len(), &"(local i64)".repeat(30_000));
    refused_as_complex(&guest(wat), "locals in one function").await;
}

#[tokio::test]
async fn deeply_nested_blocks_are_refused_at_the_gate() {
    refused_as_complex(&guest(nested_blocks(100_000)), "nested blocks").await;
}

#[tokio::test]
async fn a_huge_function_is_refused_at_the_gate() {
    let body = "(drop (i64.const 123456789))".repeat(300_000);
    refused_as_complex(&guest(format!("(func {body})")), "bytes in one function").await;
}

#[tokio::test]
async fn nested_components_and_many_instances_are_refused_at_the_gate() {
    let deep = format!("{}{}", "(component ".repeat(20), ")".repeat(20));
    refused_as_complex(&wat::parse_str(deep).unwrap(), "nesting").await;
    let many = format!("(component (core module $m) {})", "(core instance (instantiate $m))".repeat(1_000));
    refused_as_complex(&wat::parse_str(many).unwrap(), "instances").await;
}

#[tokio::test]
async fn modules_that_no_slot_can_hold_are_refused() {
    let tables = "(table 1 funcref)".repeat(20);
    refused_as_complex(&guest(tables), "tables").await;
    refused_as_complex(&guest("(table 200000 funcref)".into()), "elements").await;
    let memory = Guest { memory: "10000", ..Guest::default() };
    refused_as_complex(&memory.build(), "bytes of memory").await;
}

#[tokio::test]
async fn what_the_gate_lets_through_is_contained_by_time() {
    let admission = AdmissionLimits { functions: u64::MAX, ..AdmissionLimits::default() };
    let limits = CompileLimits { time_ms: 300, admission, ..CompileLimits::default() };
    let error = Compiler::new(command(), limits).compile(&guest(many_functions(300_000))).await.unwrap_err();
    assert_eq!(error.code, CompileCode::CompileTimeout);
    assert!(error.code.is_transient());
}

#[tokio::test]
async fn what_the_gate_lets_through_is_contained_by_memory() {
    let admission = AdmissionLimits { functions: u64::MAX, ..AdmissionLimits::default() };
    let limits = CompileLimits { memory_bytes: 300 << 20, admission, ..CompileLimits::default() };
    let error = Compiler::new(command(), limits).compile(&guest(many_functions(100_000))).await.unwrap_err();
    assert_eq!(error.code, CompileCode::CompileMemory, "{}", error.message);
}

#[tokio::test]
async fn what_the_gate_lets_through_is_contained_by_processor_time() {
    let admission = AdmissionLimits { functions: u64::MAX, ..AdmissionLimits::default() };
    let limits = CompileLimits { cpu_s: 1, admission, ..CompileLimits::default() };
    let error = Compiler::new(command(), limits).compile(&guest(many_functions(300_000))).await.unwrap_err();
    assert_eq!(error.code, CompileCode::CompileTimeout, "{}", error.message);
}

#[tokio::test]
async fn an_ordinary_large_module_passes() {
    let mut items = many_functions(5_000);
    items.push_str(&many_locals(200, 20 << 10));
    items.push_str(&nested_blocks(300));
    assert_eq!(value(&run(&prepare(&guest(items)).await, call("1")).await), "1");
}
