//! Imports by function and type, WASI 0.3, and sockets.

use std::{fs, path::PathBuf};

use umbel_model::Outcome;
use umbel_sandbox::CompileCode;

use crate::support::{ECHO, Guest, call, compile, embed_from, heard, prepare, value};

/// The contract, and as much of WASI as these tests name.
const WIT: &str = r#"
package umbel:task@0.1.0;
interface types {
    type json = string;
    record parameter { name: string, schema: json, default: option<json> }
    record task-description { name: string, description: string, parameters: list<parameter>, returns: option<json>, policy: json }
    record failure { kind: string, message: string, details: option<json> }
    record retryable { failure: failure, retry-after-ms: option<u64> }
    variant outcome { error(retryable), fatal(failure), snooze(u64), reject(string), ignore }
}
interface guest {
    use types.{json, task-description, outcome};
    describe: func() -> list<task-description>;
    run: func(task: string, arguments: json) -> result<json, outcome>;
}
world module {
    IMPORTS
    export guest;
}
"#;
const SOCKETS: &str = "package wasi:sockets@0.2.0;
    interface network {
        enum error-code {
            unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout, concurrency-conflict, not-in-progress,
            would-block, invalid-state, new-socket-limit, address-not-bindable, address-in-use, remote-unreachable,
            connection-refused, connection-reset, connection-aborted, datagram-too-large, name-unresolvable,
            temporary-resolver-failure, permanent-resolver-failure,
        }
        enum ip-address-family { ipv4, ipv6 }
        resource network;
    }
    interface tcp { resource tcp-socket; }
    interface tcp-create-socket {
        use network.{error-code, ip-address-family};
        use tcp.{tcp-socket};
        create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
    }
    interface instance-network {
        use network.{network};
        instance-network: func() -> network;
    }
    interface ip-name-lookup {
        use network.{network, error-code};
        resource resolve-address-stream;
        resolve-addresses: func(network: borrow<network>, name: string) -> result<resolve-address-stream, error-code>;
    }";
const IMPORTS: &str = "import wasi:sockets/tcp-create-socket@0.2.0;
    import wasi:sockets/instance-network@0.2.0;
    import wasi:sockets/ip-name-lookup@0.2.0;";
const FUNCTIONS: &str = r#"
    (import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket" (func $create (param i32 i32)))
    (import "wasi:sockets/instance-network@0.2.0" "instance-network" (func $network (result i32)))
    (import "wasi:sockets/ip-name-lookup@0.2.0" "resolve-addresses" (func $resolve (param i32 i32 i32 i32)))"#;

/// A guest whose world has these imports, from packages of these texts.
fn built(imports: &str, packages: &[&str], guest: &Guest) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("deps")).unwrap();
    fs::write(folder.path().join("task.wit"), WIT.replace("IMPORTS", imports)).unwrap();
    for (number, text) in packages.iter().enumerate() {
        fs::write(folder.path().join(format!("deps/{number}.wit")), text).unwrap();
    }
    let mut module = wat::parse_str(guest.wat()).unwrap();
    embed_from(&mut module, PathBuf::from(folder.path()));
    module
}

fn sockets(run: String) -> Vec<u8> {
    built(IMPORTS, &[SOCKETS], &Guest { imports: FUNCTIONS, ..Guest::running(run) })
}

#[tokio::test]
async fn a_guest_that_tried_a_socket_fails_for_good_and_is_told_what_there_is() {
    let tries = [
        // `access-denied`, and `permanent-resolver-failure` of a name.
        ("(call $create (i32.const 0) (i32.const 512))", 1),
        ("(call $resolve (call $network) (i32.const 1100) (i32.const 4) (i32.const 512))", 20),
    ];
    for (attempt, code) in tries {
        let refused = format!(
            "{attempt} (if (i32.ne (i32.load8_u (i32.const 512)) (i32.const 1)) (then unreachable))
             (if (i32.ne (i32.load8_u (i32.const 516)) (i32.const {code})) (then unreachable))"
        );
        let gives_up = sockets(format!("{refused} (return (call $failed (i32.const 0) (i64.const 5)))"));
        let (attempt, told) = heard(&prepare(&gives_up).await, call("1")).await;
        let Outcome::Fatal(failure) = &attempt.outcome else { panic!("{:?}", attempt.outcome) };
        assert_eq!(failure.kind, "unsupported");
        assert!(failure.message.contains("umbel::http") && failure.message.contains("kind: message"), "{failure:?}");
        assert_eq!(told.lines.lock().unwrap().len(), 1);
        // One that goes on without is left alone.
        let goes_on = sockets(format!("{refused} {ECHO}"));
        assert_eq!(value(&heard(&prepare(&goes_on).await, call("1")).await.0), "1");
    }
}

async fn refusal(module: &[u8]) -> String {
    let error = compile(module).await.unwrap_err();
    assert_eq!(error.code, CompileCode::UnknownImport, "{error}");
    error.message
}

#[tokio::test]
async fn an_unknown_function_and_one_of_another_type_are_refused_by_name_with_what_to_do() {
    let poll = |item: &str| {
        let package = format!("package wasi:io@0.2.99; interface poll {{ {item} }}");
        let imports = r#"(import "wasi:io/poll@0.2.99" "poll-later" (func (param i32)))"#;
        let guest = Guest { imports, ..Guest::default() };
        built("import wasi:io/poll@0.2.99;", &[&package], &guest)
    };
    let message = refusal(&poll("poll-later: func(ms: u32);")).await;
    assert!(message.contains("`poll-later` of wasi:io/poll@0.2.99") && message.contains("0.2.12"), "{message}");
    let imports = r#"(import "umbel:task/context@0.1.0" "should-stop" (func (result i64)))"#;
    let world = "import context;";
    let context = WIT.replace("interface guest", "interface context { should-stop: func() -> u64; }\ninterface guest");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("task.wit"), context.replace("IMPORTS", world)).unwrap();
    let mut module = wat::parse_str(Guest { imports, ..Guest::default() }.wat()).unwrap();
    embed_from(&mut module, folder.path().into());
    let message = refusal(&module).await;
    assert!(message.contains("`should-stop` of umbel:task/context@0.1.0 with another type"), "{message}");
}

#[tokio::test]
async fn any_version_of_wasi_0_2_will_do_if_its_functions_exist() {
    let package = "package wasi:random@0.2.99; interface random { get-random-u64: func() -> u64; }";
    let imports = r#"(import "wasi:random/random@0.2.99" "get-random-u64" (func (result i64)))"#;
    let module = built("import wasi:random/random@0.2.99;", &[package], &Guest { imports, ..Guest::default() });
    let imports = compile(&module).await.unwrap().imports;
    assert!(imports.contains(&"wasi:random/random@0.2.99".to_owned()), "{imports:?}");
}

#[tokio::test]
async fn wasi_0_3_is_refused_with_the_switch_of_the_toolchain() {
    let component = wat::parse_str(r#"(component (import "wasi:cli/environment@0.3.0" (instance)))"#).unwrap();
    let message = refusal(&component).await;
    for part in ["wasi:cli/environment@0.3.0", "WASI 0.2", "wasm32-wasip2", "componentize-py"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}
