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
    assert!(!error.is_transient);
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
async fn millions_of_elements_are_refused_at_the_gate() {
    let element = format!("(elem declare func {})", "$f ".repeat(10_000));
    refused_as_complex(&guest(format!("(func $f) {}", element.repeat(21))), "elements of tables").await;
    refused_as_complex(&guest("(table 1000001 funcref)".into()), "elements in its tables").await;
    refused_as_complex(&guest("(table 1 funcref)".repeat(65)), "tables").await;
}

/// Components that instantiate the one before `width` times, `depth` levels.
fn multiplied(inner: &str, width: usize, depth: usize) -> Vec<u8> {
    let mut wat = format!("(component $c0 {inner})");
    for level in 1..depth {
        let instances = format!("(instance (instantiate $c{}))", level - 1).repeat(width);
        write!(wat, "(component $c{level} (alias outer $root $c{0} (component $c{0})) {instances})", level - 1)
            .unwrap();
    }
    let last = format!("(instance (instantiate $c{}))", depth - 1).repeat(width);
    wat::parse_str(format!("(component $root {wat} {last})")).unwrap()
}

#[tokio::test]
async fn instances_that_multiply_are_refused_at_the_gate() {
    let module = multiplied("(core module $m) (core instance (instantiate $m))", 4, 5);
    assert!(module.len() < 1_000);
    refused_as_complex(&module, "256 core instances").await;
    let types = format!("(type (instance {}))", "(export \"a\" (type (sub resource)))".replace("\"a\"", "\"a{}\""));
    let types: String = (0..40).map(|n| types.replace("{}", &n.to_string())).collect();
    let module = multiplied(&types, 12, 4);
    assert!(module.len() < 3_000);
    refused_as_complex(&module, "items, counted for each instance").await;
}

#[tokio::test]
async fn instances_that_take_the_hosts_memory_are_refused_at_the_gate() {
    let module = format!("(core module $m {})", "(global i32 (i32.const 0))".repeat(40_000));
    let many = format!("(component {module} {})", "(core instance (instantiate $m))".repeat(30));
    refused_as_complex(&wat::parse_str(many).unwrap(), "bytes for the instances").await;
}

#[tokio::test]
async fn declarations_inside_of_types_are_counted() {
    let nested = format!("(type (instance {}))", "(type (tuple u8 u8 u8 u8 u8 u8 u8))".repeat(1_000));
    refused_as_complex(&wat::parse_str(format!("(component {})", nested.repeat(8))).unwrap(), "types").await;
}

#[tokio::test]
async fn a_component_outside_cannot_be_instantiated() {
    let inner = "(component (import \"c\" (component $c)) (instance (instantiate $c)))";
    refused_as_complex(&wat::parse_str(format!("(component {inner})")).unwrap(), "not defined inside").await;
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
    assert!(error.is_transient);
}

#[tokio::test]
async fn what_the_gate_lets_through_is_contained_by_memory() {
    let admission = AdmissionLimits { functions: u64::MAX, ..AdmissionLimits::default() };
    let limits = CompileLimits { memory_bytes: 120 << 20, admission, ..CompileLimits::default() };
    let error = Compiler::new(command(), limits).compile(&guest(many_functions(100_000))).await.unwrap_err();
    assert_eq!(error.code, CompileCode::CompileMemory, "{}", error.message);
    assert!(!error.is_transient, "the same module takes as much the next time");
}

#[tokio::test]
async fn what_the_gate_lets_through_is_contained_by_processor_time() {
    let admission = AdmissionLimits { functions: u64::MAX, ..AdmissionLimits::default() };
    let limits = CompileLimits { cpu_s: 1, admission, ..CompileLimits::default() };
    let error = Compiler::new(command(), limits).compile(&guest(many_functions(300_000))).await.unwrap_err();
    assert_eq!(error.code, CompileCode::CompileTimeout, "{}", error.message);
    assert!(!error.is_transient, "the same module takes as long the next time");
}

#[tokio::test]
async fn an_ordinary_large_module_passes() {
    let mut items = many_functions(5_000);
    items.push_str(&many_locals(200, 20 << 10));
    items.push_str(&nested_blocks(300));
    assert_eq!(value(&run(&prepare(&guest(items)).await, call("1")).await), "1");
}
