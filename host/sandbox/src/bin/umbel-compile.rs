//! Compiles one module from standard input in this process, as `umbel __compile` does.
fn main() -> std::process::ExitCode {
    umbel_sandbox::compile_child_main()
}
