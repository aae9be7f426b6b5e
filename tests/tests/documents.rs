//! Every block of README and of the guides is tried: commands run in order in a fresh folder against one started `umbel dev`,
//! JSON is posted, manifests are read by cargo, and Rust is in a crate that is compiled and tested elsewhere.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use umbel_broker_conformance::redis_server::RedisServer;
use umbel_tests::{
    Dev,
    documents::{Block, blocks, documents, repository, sources, without_indentation},
    durable_redis, umbel_binary,
};

/// Blocks that say why they are not run. Raise it only with a reason that a reader accepts.
const NOT_RUN: usize = 2;

/// Where documents say that services are.
const API_OF_THE_DOCUMENTS: &str = "127.0.0.1:7717";
const REDIS_OF_THE_DOCUMENTS: &str = "redis://127.0.0.1:6379/0";
const DATA_OF_THE_DOCUMENTS: &str = "/srv/umbel";

/// What quickstart pushes.
const MODULES: [&str; 4] = ["numbers", "orders", "text", "images"];

/// The commands of the documents that take minutes or never end, each by what a test can do of it. A guest is built by `cargo
/// xtask guests` and its `cargo test` runs there; a service reads its options and starts nothing.
const UMBEL: &str = r#"#!/bin/sh
case "$1 $2" in
  "dev "* | "server "* | "worker -"*) exec "$REAL_UMBEL" "$@" --help >/dev/null ;;
esac
exec "$REAL_UMBEL" "$@"
"#;
const CARGO: &str = r#"#!/bin/sh
case "$*" in
  test) exit 0 ;;
  "build --release --target wasm32-unknown-unknown")
    mkdir -p target/wasm32-unknown-unknown/release
    exec cp "$GUESTS/${PWD##*/}.wasm" target/wasm32-unknown-unknown/release ;;
esac
exec "$REAL_CARGO" "$@"
"#;
const RUSTUP: &str = "#!/bin/sh\nexit 0\n";
/// An answer that is a refusal ends the block.
const CURL: &str = "#!/bin/sh\nPATH=${PATH#*:}\nexec curl -sS --fail \"$@\"\n";

/// A picture of one pixel.
const PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

fn tried(language: &str) -> Result<Vec<Block>> {
    let mut found = Vec::new();
    for document in documents()? {
        found.extend(blocks(&document)?);
    }
    found.retain(|block| block.language == language && block.not_run.is_none());
    ensure!(!found.is_empty(), "the documents have no {language}");
    Ok(found)
}

#[test]
fn every_block_names_a_language_that_is_tried_or_says_why_it_is_not() -> Result<()> {
    let mut not_run = Vec::new();
    for document in documents()? {
        for block in blocks(&document)? {
            let is_known = ["sh", "rust", "json", "toml"].contains(&&*block.language);
            ensure!(is_known, "{} has the language {:?}", block.place, block.language);
            not_run.extend(block.not_run.map(|why| format!("{}: {why}", block.place)));
        }
    }
    ensure!(not_run.len() == NOT_RUN, "{NOT_RUN} blocks are expected to be not run:\n{}", not_run.join("\n"));
    Ok(())
}

#[test]
fn rust_of_the_documents_is_word_for_word_in_a_crate_that_is_compiled() -> Result<()> {
    let compiled = [sources("guest-examples")?, sources("sdk")?].concat();
    let missing: Vec<String> = tried("rust")?
        .into_iter()
        .filter(|block| !compiled.iter().any(|source| source.contains(&without_indentation(&block.text))))
        .map(|block| format!("{}:\n{}", block.place, block.text))
        .collect();
    ensure!(missing.is_empty(), "these are in no crate of guest-examples/ or sdk/:\n{}", missing.join("\n"));
    Ok(())
}

#[test]
fn manifests_of_the_documents_are_read_by_cargo() -> Result<()> {
    for block in tried("toml")? {
        let folder = tempfile::tempdir()?;
        symlink(repository(), folder.path().join("umbel"))?;
        let own = folder.path().join("example");
        fs::create_dir_all(own.join("src"))?;
        fs::write(own.join("src/lib.rs"), "")?;
        fs::copy(repository().join("Cargo.lock"), own.join("Cargo.lock"))?;
        let package = "[package]\nname = \"example\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
        let package = if block.text.contains("[package]") { "" } else { package };
        fs::write(own.join("Cargo.toml"), format!("{package}{}", block.text))?;
        let mut cargo = Command::new(cargo());
        cargo.args(["tree", "--offline", "--depth", "1"]).current_dir(&own);
        let read = cargo.output()?;
        let said = String::from_utf8_lossy(&read.stderr);
        ensure!(read.status.success() && !said.contains("unused manifest key"), "{}:\n{said}", block.place);
    }
    Ok(())
}

#[tokio::test]
async fn commands_and_json_of_the_documents_run_in_their_order() -> Result<()> {
    let (dev, redis) = (Dev::start().await?, durable_redis());
    for document in documents()? {
        for module in MODULES {
            dev.client.push(module).await?;
        }
        // A shell blocks its thread, and the client needs none meanwhile.
        run(&document, &dev, &redis)?;
    }
    Ok(())
}

/// Runs the blocks of one document in one shell, as a reader who types them does.
fn run(document: &str, dev: &Dev, redis: &RedisServer) -> Result<()> {
    let blocks: Vec<Block> = blocks(document)?.into_iter().filter(|block| block.not_run.is_none()).collect();
    let folder = tempfile::tempdir()?;
    let (bin, files, work) = (folder.path().join("bin"), folder.path().join("files"), folder.path().join("work"));
    commands(&bin)?;
    files_of_the_documents(&files)?;
    neighbour(&work.join("umbel"), &bin, dev)?;

    let mut script = "set -e\n".to_owned();
    for block in &blocks {
        let text = block.text.replace(&format!("http://{API_OF_THE_DOCUMENTS}"), dev.client.url());
        let text = text.replace(REDIS_OF_THE_DOCUMENTS, &redis.url());
        let text = text.replace(DATA_OF_THE_DOCUMENTS, &folder.path().join("data").display().to_string());
        // The files that a reader would have are in whatever folder the commands before went to.
        script += "for file in \"$FILES\"/*; do [ -e \"${file##*/}\" ] || cp -r \"$file\" .; done\n";
        script += &format!("echo '--- {}' >&2\n", block.place);
        match &*block.language {
            "sh" => script += &text,
            "json" => script += &post(&text),
            _ => {}
        }
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH")?);
    let mut command = Command::new("sh");
    command.env("UMBEL_URL", dev.client.url()).env("UMBEL_TOKEN", dev.client.token());
    command.args(["-c", &script]).current_dir(&work).stdin(Stdio::null());
    command.env("PATH", path).env("REAL_UMBEL", umbel_binary()?).env("REAL_CARGO", cargo()).env("FILES", &files);
    command.env("GUESTS", repository().join("target/guests"));
    command.env("UMBEL_DATA", &dev.data).env("BACKUP", folder.path().join("backup"));
    let done = command.output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    let last = said.rfind("--- ").map_or(&*said, |at| &said[at..]);
    ensure!(done.status.success(), "{document} failed at {last}\n{}", String::from_utf8_lossy(&done.stdout));
    Ok(())
}

/// The request with this JSON as its body.
fn post(json: &str) -> String {
    let header = r#"-H "authorization: Bearer $UMBEL_TOKEN" -H 'content-type: application/json'"#;
    format!("curl {header} --data-binary @- \"$UMBEL_URL/v1/workflows\" <<'END'\n{json}END\n")
}

/// The cargo that built this test.
fn cargo() -> &'static str {
    env!("CARGO")
}

fn commands(bin: &Path) -> Result<()> {
    fs::create_dir_all(bin)?;
    for (name, text) in [("umbel", UMBEL), ("cargo", CARGO), ("rustup", RUSTUP), ("curl", CURL)] {
        fs::write(bin.join(name), text)?;
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The files that commands of the documents name.
fn files_of_the_documents(files: &Path) -> Result<()> {
    fs::create_dir_all(files.join("docs/guides"))?;
    fs::create_dir_all(files.join("photos"))?;
    fs::copy(repository().join("docs/GLOSSARY.md"), files.join("docs/GLOSSARY.md"))?;
    fs::write(files.join("photos/broken.jpg"), "no picture")?;
    let decode = format!("echo {PNG} | base64 -d > photos/dot.png");
    ensure!(Command::new("sh").args(["-ec", &decode]).current_dir(files).status()?.success(), "no base64");
    fs::write(files.join("routes.json"), r#"{"routes": [{"match": "mail.*", "kind": "glob", "queue": "mail"}]}"#)?;
    let order = blocks("README.md")?.into_iter().find(|block| block.language == "json").context("a canvas")?;
    fs::write(files.join("order.json"), order.text)?;
    Ok(())
}

/// The folder `umbel` beside a reader's crate: where the quickstart ran.
fn neighbour(umbel: &Path, bin: &Path, dev: &Dev) -> Result<()> {
    fs::create_dir_all(umbel.join("target/debug"))?;
    fs::create_dir_all(umbel.join(".umbel"))?;
    symlink(bin.join("umbel"), umbel.join("target/debug/umbel"))?;
    symlink(repository().join("sdk"), umbel.join("sdk"))?;
    fs::copy(dev.data.join("profile.json"), umbel.join(".umbel/profile.json"))?;
    Ok(())
}
