//! The compiler child of this crate's own tests; the product's binary calls the same function.
fn main() -> std::process::ExitCode {
    umbel_sandbox::compile_child_main()
}
