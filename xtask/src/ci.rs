//! `cargo xtask ci`: everything that a change must pass, cheapest first.
//!
//! Two builds are made, not more: a checking one for clippy and the documentation, and the tests' one.

use std::path::Path;

use anyhow::Result;

use crate::{
    dependencies, quickstart,
    steps::{Steps, cargo, show},
    test, tidy,
};

const GUESTS: &str = "guest-examples/Cargo.toml";

/// Runs everything; the first failure ends it.
pub fn run(root: &Path) -> Result<()> {
    let mut steps = Steps::new(6 + test::STEPS);
    steps.step("tidy", || tidy::run(root))?;
    steps.step("formats", || {
        show(&mut cargo(&["fmt", "--all", "--check"]))?;
        show(&mut cargo(&["fmt", "--manifest-path", GUESTS, "--all", "--check"]))
    })?;
    steps.step("dependencies", || dependencies::run(root))?;
    steps.step("clippy", || {
        let deny = ["--", "-D", "warnings"];
        show(cargo(&["clippy", "--locked", "--workspace", "--all-targets"]).args(deny))?;
        show(cargo(&["clippy", "--locked", "--manifest-path", GUESTS, "--workspace", "--all-targets"]).args(deny))
    })?;
    steps.step("documentation", || {
        let doc = ["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"];
        show(cargo(&doc).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    test::into(&mut steps, root)?;
    // With the binary and the guests of the tests. The tests cannot run it: cargo would wait for itself.
    steps.step("quickstart", || quickstart::run(root, true))?;
    eprintln!("\nci passed in {}", steps.elapsed());
    Ok(())
}
