//! `cargo xtask test`: installs what is missing, builds the guests and the binary, runs every test.

use std::path::Path;

use anyhow::Result;

use crate::{
    guests, setup,
    steps::{Steps, cargo, show},
};

/// The binary that the tests run, and the quickstart.
pub const BINARY: &str = "target/debug/umbel";

/// Steps of `into`.
pub const STEPS: usize = 5;

/// Runs every test of both workspaces.
pub fn run(root: &Path) -> Result<()> {
    let mut steps = Steps::new(STEPS);
    into(&mut steps, root)?;
    eprintln!("\nall tests passed in {}", steps.elapsed());
    Ok(())
}

/// The same as steps of a longer list.
pub fn into(steps: &mut Steps, root: &Path) -> Result<()> {
    steps.step("install what the tests need", setup::redis_server)?;
    steps.step("build the guests", || guests::build_guests(root))?;
    // All targets at once: the features of dependencies are those of the tests, so nothing is built twice.
    steps.step("build the binary and the tests", || {
        show(&mut cargo(&["build", "--locked", "--workspace", "--all-targets"]))
    })?;
    steps.step("test the guest examples natively", || {
        let manifest = "guest-examples/Cargo.toml";
        show(&mut cargo(&["test", "--locked", "--manifest-path", manifest, "--workspace"]))
    })?;
    steps.step("test the workspace", || show(&mut cargo(&["test", "--locked", "--workspace"])))
}

/// Builds `BINARY` alone. The whole workspace and one small test are named, so that cargo gives the dependencies the
/// features that they have with all tests: the build of the tests then finds them made.
pub fn build_binary() -> Result<()> {
    show(&mut cargo(&["build", "--locked", "--workspace", "--bin", "umbel", "--test", "code_cache"]))
}
