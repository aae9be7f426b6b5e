//! The guest modules that `cargo xtask guests` builds.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// The bytes of `target/guests/<name>.wasm`.
pub fn guest(name: &str) -> Result<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests");
    let path = folder.join(format!("{name}.wasm"));
    fs::read(&path).with_context(|| format!("{} cannot be read; `cargo xtask guests` builds it", path.display()))
}
