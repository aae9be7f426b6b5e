//! What is compiled, and why the rest is refused.

use umbel_sandbox::{CompileCode, CompileLimits, Compiler, CompilerCommand};

use crate::support::{Guest, call, command, compile, embed, prepare, run, value};

async fn refusal(module: &[u8]) -> (CompileCode, String) {
    let error = compile(module).await.unwrap_err();
    (error.code, error.message)
}

#[tokio::test]
async fn a_core_module_is_wrapped_and_a_component_is_taken_as_it_is() {
    let core = Guest::default().build();
    let wrapped = compile(&core).await.unwrap();
    assert!(wrapped.core_module);
    let component = wit_component::ComponentEncoder::default().module(&core).unwrap().encode().unwrap();
    let plain = compile(&component).await.unwrap();
    assert!(!plain.core_module);
    assert_eq!(plain.fingerprint, wrapped.fingerprint);
    assert_eq!(value(&run(&prepare(&component).await, call("5")).await), "5");
}

#[tokio::test]
async fn imports_that_are_provided_are_listed() {
    let imports = r#"(import "umbel:task/context@0.1.0" "should-stop" (func (result i32)))"#;
    let compiled = compile(&Guest { imports, ..Guest::default() }.build()).await.unwrap();
    assert!(compiled.imports.contains(&"umbel:task/context@0.1.0".to_owned()), "{:?}", compiled.imports);
}

#[tokio::test]
async fn what_is_not_wasm_is_refused() {
    for bytes in [&b""[..], b"hello", b"\x7fELF\x02\x01\x01", b"(module)", b"\0as"] {
        assert_eq!(refusal(bytes).await.0, CompileCode::NotWasm, "{bytes:?}");
    }
}

#[tokio::test]
async fn native_code_is_refused() {
    let compiled = compile(&Guest::default().build()).await.unwrap();
    let (code, message) = refusal(&compiled.code).await;
    assert_eq!(code, CompileCode::NotWasm);
    assert!(message.contains("native code"), "{message}");
}

#[tokio::test]
async fn truncated_and_damaged_modules_are_refused() {
    let module = Guest::default().build();
    for length in [8 + 1, module.len() / 3, module.len() / 2, module.len() - 1] {
        assert_eq!(refusal(&module[..length]).await.0, CompileCode::InvalidModule, "{length}");
    }
    let mut wrong_type = wat::parse_str("(module (func (result i32) i64.const 1 drop i32.const 0))").unwrap();
    let at = wrong_type.iter().position(|b| *b == 0x42).unwrap();
    wrong_type[at] = 0x41;
    embed(&mut wrong_type);
    let refused = refusal(&wrong_type).await;
    assert!(matches!(refused.0, CompileCode::InvalidModule), "{refused:?}");
}

#[tokio::test]
async fn a_module_without_the_contract_is_refused() {
    let core = wat::parse_str("(module (func (export \"main\")))").unwrap();
    let (code, message) = refusal(&core).await;
    assert_eq!(code, CompileCode::NoContract);
    assert!(message.contains("umbel SDK"), "{message}");
    let component = wat::parse_str("(component)").unwrap();
    assert_eq!(refusal(&component).await.0, CompileCode::NoContract);
    // Says it is a guest and exports nothing of one.
    let mut liar = core.clone();
    embed(&mut liar);
    let (code, message) = refusal(&liar).await;
    assert_eq!(code, CompileCode::InvalidModule, "{message}");
}

#[tokio::test]
async fn an_import_that_nobody_provides_is_named() {
    let imports = r#"(import "env" "gettimeofday" (func))"#;
    let (code, message) = refusal(&Guest { imports, ..Guest::default() }.build()).await;
    assert_eq!(code, CompileCode::UnknownImport);
    assert!(message.contains("env.gettimeofday"), "{message}");
    let preview1 = wat::parse_str(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#).unwrap();
    let (code, message) = refusal(&preview1).await;
    assert_eq!(code, CompileCode::UnknownImport);
    assert!(message.contains("fd_write") && message.contains("wasip2"), "{message}");
    let component = wat::parse_str(r#"(component (import "acme:db/client@1.0.0" (instance)))"#).unwrap();
    let (code, message) = refusal(&component).await;
    assert_eq!(code, CompileCode::UnknownImport);
    assert!(message.contains("acme:db/client@1.0.0"), "{message}");
    let wrong = r#"(component (import "wasi:io/poll@0.2.0" (instance (export "nonsense" (func)))))"#;
    let refused = refusal(&wat::parse_str(wrong).unwrap()).await;
    assert!(matches!(refused.0, CompileCode::UnknownImport | CompileCode::NoContract), "{refused:?}");
}

#[tokio::test]
async fn a_module_over_the_size_limit_is_refused() {
    let limits = CompileLimits { max_module_bytes: 1_000, ..CompileLimits::default() };
    let error = Compiler::new(command(), limits).compile(&Guest::default().build()).await.unwrap_err();
    assert_eq!(error.code, CompileCode::ModuleTooLarge);
}

#[tokio::test]
async fn a_compiler_that_cannot_be_started_or_does_not_answer_is_named_and_transient() {
    for (program, args) in
        [("/nowhere/umbel", vec![]), ("/bin/true", vec![]), ("/bin/echo", vec!["hello world".to_owned()])]
    {
        let command = CompilerCommand { program: program.into(), args };
        let error =
            Compiler::new(command, CompileLimits::default()).compile(&Guest::default().build()).await.unwrap_err();
        assert_eq!(error.code, CompileCode::CompileFailed, "{program}");
        assert!(error.is_transient);
    }
}

#[tokio::test]
async fn a_compiler_that_hangs_is_killed() {
    let command = CompilerCommand { program: "/bin/sleep".into(), args: vec!["3600".into()] };
    let limits = CompileLimits { time_ms: 200, ..CompileLimits::default() };
    let error = Compiler::new(command, limits).compile(&Guest::default().build()).await.unwrap_err();
    assert_eq!(error.code, CompileCode::CompileTimeout);
}

#[tokio::test]
async fn code_of_another_engine_or_of_nobody_is_not_loaded() {
    let mut compiled = compile(&Guest::default().build()).await.unwrap();
    compiled.code.truncate(1_000);
    assert!(crate::support::SANDBOX.load(compiled.into()).is_err());
}
