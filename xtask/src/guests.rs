//! Builds the guest examples for `wasm32-unknown-unknown` into `target/guests/<name>.wasm`, with the first toolchain
//! that works, and installs what that one needs.
//!
//! Invariants: the results are core modules that carry their component type (the host wraps them on upload); nothing
//! is written outside `target/` and `guest-examples/target/`; a toolchain that was forced is not replaced by another.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    setup,
    steps::{read, show},
};

const TARGET: &str = "wasm32-unknown-unknown";
/// Forces a way: `rustup` or `debian`.
const FORCE: &str = "UMBEL_GUESTS_TOOLCHAIN";
/// Debian's compiler and the source of its standard library.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// LLVM's linker, for where no Rust toolchain brings one.
const DEBIAN_LINKER: &str = "lld";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_STD_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/std";

/// The guests that were built.
#[derive(Debug)]
pub struct Guests {
    /// In order of name.
    pub modules: Vec<Guest>,
}

/// One built module.
#[derive(Debug)]
pub struct Guest {
    /// The name of its crate, such as `numbers`.
    pub name: String,
    pub path: PathBuf,
}

/// How guests are compiled here.
#[derive(Debug, PartialEq, Eq)]
enum Toolchain {
    /// The ordinary cargo, whose compiler has the target's standard library.
    Installed,
    /// Debian's compiler, which builds the standard library from source.
    Debian { linker: PathBuf },
}

/// Builds every guest example. `root` is the repository.
///
/// Says which toolchain it picked and why. Fails with the reasons of all of them if none works.
pub fn build_guests(root: &Path) -> Result<Guests> {
    let examples = root.join("guest-examples");
    let toolchain = pick_toolchain(&examples)?;
    let built_in = compile(&examples, &toolchain)?;
    let dir = root.join("target").join("guests");
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut modules = Vec::new();
    for name in members(&examples)? {
        let from = built_in.join(format!("{}.wasm", name.replace('-', "_")));
        let path = dir.join(format!("{name}.wasm"));
        copy_whole(&from, &path)?;
        let size_bytes = fs::metadata(&path)?.len();
        println!("  {name:<24} {:>8.1} KiB", size_bytes as f64 / 1024.0);
        modules.push(Guest { name, path });
    }
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    println!("guests: {} modules in {}", modules.len(), dir.display());
    Ok(Guests { modules })
}

/// Builds somebody's own guest crate with the toolchain that works here; the folder with its modules.
pub fn build_guest(folder: &Path) -> Result<PathBuf> {
    let folder = folder.canonicalize().with_context(|| format!("there is no folder {}", folder.display()))?;
    ensure!(folder.join("Cargo.toml").is_file(), "{} has no Cargo.toml", folder.display());
    let built_in = compile(&folder, &pick_toolchain(&folder)?)?;
    println!("guests: the modules are in {}", built_in.display());
    Ok(built_in)
}

/// A reader never sees half a module: it appears under its name when it is complete.
fn copy_whole(from: &Path, to: &Path) -> Result<()> {
    let part = to.with_extension("wasm.part");
    fs::copy(from, &part).with_context(|| format!("cannot copy {} to {}", from.display(), part.display()))?;
    fs::rename(&part, to).with_context(|| format!("cannot move {} to {}", part.display(), to.display()))
}

fn members(examples: &Path) -> Result<Vec<String>> {
    let path = examples.join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: toml::Table = toml::from_str(&text).with_context(|| format!("{} is not TOML", path.display()))?;
    let members = manifest.get("workspace").and_then(|w| w.get("members")).and_then(toml::Value::as_array);
    let members = members.with_context(|| format!("{} lists no workspace.members", path.display()))?;
    Ok(members.iter().filter_map(|member| member.as_str().map(str::to_owned)).collect())
}

fn pick_toolchain(examples: &Path) -> Result<Toolchain> {
    let forced = env::var(FORCE).ok().filter(|value| !value.is_empty());
    match forced.as_deref() {
        None => {}
        Some("rustup") => {
            println!("guests: {FORCE}=rustup");
            return rustup(examples);
        }
        Some("debian") => {
            println!("guests: {FORCE}=debian");
            return debian(examples);
        }
        Some(other) => bail!("{FORCE} is {other:?}; it may be \"rustup\" or \"debian\""),
    }
    let first = match rustup(examples) {
        Ok(toolchain) => return Ok(toolchain),
        Err(error) => error,
    };
    println!("guests: the ordinary toolchain cannot build for {TARGET} ({first:#}); trying Debian's");
    debian(examples).map_err(|second| {
        anyhow::anyhow!(
            "no toolchain can build for {TARGET}.\n  the installed one: {first:#}\n  Debian's: {second:#}\n\
             Install the target by hand with `rustup target add {TARGET}` and try again."
        )
    })
}

/// The ordinary toolchain, after `rustup target add` if the target is missing.
fn rustup(examples: &Path) -> Result<Toolchain> {
    if has_target(examples)? {
        println!("guests: building with the installed toolchain, which has {TARGET}");
        return Ok(Toolchain::Installed);
    }
    println!("guests: adding {TARGET} with rustup");
    let mut add = Command::new("rustup");
    // In the examples' folder, so that rustup changes the toolchain that will compile them.
    add.args(["target", "add", TARGET]).current_dir(examples);
    show(&mut add)?;
    ensure!(has_target(examples)?, "rustup added {TARGET} to a toolchain other than the one in use");
    println!("guests: building with the installed toolchain, to which rustup added {TARGET}");
    Ok(Toolchain::Installed)
}

fn has_target(examples: &Path) -> Result<bool> {
    let mut rustc = clean("rustc");
    rustc.args(["--print", "target-libdir", "--target", TARGET]).current_dir(examples);
    let lib = PathBuf::from(read(&mut rustc)?.trim());
    // The folder alone may remain from a removed target.
    let Ok(entries) = fs::read_dir(&lib) else { return Ok(false) };
    Ok(entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
}

/// Debian's packages, installed if they are missing.
fn debian(examples: &Path) -> Result<Toolchain> {
    let complete = || [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_STD_SOURCE].iter().all(|path| Path::new(path).exists());
    if !complete() {
        setup::apt_get(&DEBIAN_PACKAGES)?;
        ensure!(complete(), "{} are installed, and still something of them is missing", DEBIAN_PACKAGES.join(", "));
    }
    let mut version = clean(DEBIAN_RUSTC);
    let version = read(version.arg("--version"))?;
    let linker = match find_linker(examples) {
        Some(linker) => linker,
        None => {
            setup::apt_get(&[DEBIAN_LINKER])?;
            find_linker(examples)
                .context("no linker for WebAssembly, neither a toolchain's rust-lld nor LLVM's wasm-ld")?
        }
    };
    println!("guests: building std and guests with Debian's {}, linking with {}", version.trim(), linker.display());
    Ok(Toolchain::Debian { linker })
}

/// A linker for WebAssembly: that inside a Rust toolchain, or LLVM's.
fn find_linker(examples: &Path) -> Option<PathBuf> {
    let mut candidates = Vec::new();
    let mut rustc = clean("rustc");
    let sysroot = rustc.args(["--print", "sysroot"]).current_dir(examples);
    let sysroots = [read(sysroot).ok().map(|path| PathBuf::from(path.trim())), Some(PathBuf::from("/usr"))];
    for sysroot in sysroots.into_iter().flatten() {
        let hosts = fs::read_dir(sysroot.join("lib/rustlib")).into_iter().flatten().flatten();
        candidates.extend(hosts.map(|host| host.path().join("bin/rust-lld")));
    }
    candidates.push("/usr/bin/wasm-ld".into());
    let llvms = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let llvms = llvms.filter(|dir| dir.file_name().to_string_lossy().starts_with("llvm-"));
    candidates.extend(llvms.map(|dir| dir.path().join("bin/wasm-ld")));
    candidates.into_iter().find(|path| path.exists())
}

/// Compiles all crates of a folder; where the `.wasm` files are.
fn compile(folder: &Path, toolchain: &Toolchain) -> Result<PathBuf> {
    let mut cargo;
    let target_dir;
    match toolchain {
        Toolchain::Installed => {
            target_dir = folder.join("target");
            cargo = clean("cargo");
            cargo.args(["build", "--release"]);
        }
        Toolchain::Debian { linker } => {
            // Its own folder: two compilers in one would rebuild each other's work.
            target_dir = folder.join("target").join("debian");
            cargo = clean(DEBIAN_CARGO);
            cargo
                .args(["build", "--release", "-Zbuild-std=std,panic_abort"])
                .env("RUSTC", DEBIAN_RUSTC)
                // Allows -Zbuild-std in a stable compiler.
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
    }
    // An example never changes its lock file; somebody's new crate has none yet.
    if folder.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    cargo.args(["--target", TARGET, "--target-dir"]).arg(&target_dir).current_dir(folder);
    show(&mut cargo)?;
    Ok(target_dir.join(TARGET).join("release"))
}

/// A command without what the cargo that runs us has set for itself, which would reach the compiler that we start.
fn clean(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let set_by_cargo = text.starts_with("CARGO") && text != "CARGO_HOME" && !text.starts_with("CARGO_HTTP_");
        let set_by_cargo = set_by_cargo && !text.starts_with("CARGO_NET_") && !text.starts_with("CARGO_REGISTR");
        if set_by_cargo
            || text.starts_with("RUSTC")
            || matches!(&*text, "RUSTFLAGS" | "RUSTDOCFLAGS" | "LD_LIBRARY_PATH")
        {
            command.env_remove(&name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-examples")
    }

    #[test]
    fn every_member_of_the_examples_is_a_crate_of_the_same_name() {
        let members = members(&examples()).unwrap();
        assert!(members.contains(&"numbers".to_owned()) && members.contains(&"hostile".to_owned()));
        for name in members {
            let manifest = fs::read_to_string(examples().join(&name).join("Cargo.toml")).unwrap();
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }

    /// The blocks of a document that are written in Rust.
    fn blocks(document: &str) -> impl Iterator<Item = &str> {
        document.split("\n```rust\n").skip(1).filter_map(|rest| rest.split("\n```").next())
    }

    #[test]
    fn the_examples_of_the_documents_are_guests_word_for_word() {
        let (readme, guide) = (include_str!("../../README.md"), include_str!("../../docs/guides/writing-tasks.md"));
        for (guest, document, signs) in [
            ("greet", readme, &["module![greet]"][..]),
            ("shop", guide, &["module![process_order]"]),
            ("charges", guide, &["module![charge]", "fn a_declined_card_is_not_tried_again"]),
        ] {
            let code = fs::read_to_string(examples().join(guest).join("src/lib.rs")).unwrap();
            let (_, code) = code.split_once("\n\n").unwrap();
            let of = |sign: &&str| blocks(document).find(|block| block.contains(*sign)).unwrap_or_default();
            let written: Vec<&str> = signs.iter().map(of).collect();
            assert_eq!(code.trim_end(), written.join("\n\n"), "{guest}");
        }
    }

    #[test]
    fn a_module_appears_under_its_name_only_when_it_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("a.wasm"));
        fs::write(&from, b"new").unwrap();
        fs::write(&to, b"old").unwrap();
        copy_whole(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"new");
        assert!(!dir.path().join("a.wasm.part").exists());
        assert!(copy_whole(&dir.path().join("missing"), &to).is_err());
        assert_eq!(fs::read(&to).unwrap(), b"new");
    }

    #[test]
    fn the_compiler_that_is_started_sees_nothing_of_the_cargo_around_it() {
        let command = clean("rustc");
        let removed: Vec<_> = command.get_envs().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
        assert!(removed.iter().any(|name| name == "CARGO_MANIFEST_DIR"), "{removed:?}");
        assert!(!removed.iter().any(|name| name == "CARGO_HOME" || name == "PATH"));
    }
}
