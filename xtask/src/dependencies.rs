//! Dependencies: the lock file is complete, licences are on the list, nothing declared is unused.
//!
//! Small on purpose: it needs no tool that a fresh machine would have to build first.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    steps::{cargo, read},
    tidy::files_below,
};

/// Licences that may be linked into an Apache-2.0 program.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Dependencies that are used without being named in a source, each with the reason.
const UNNAMED: &[(&str, &str)] =
    &[("serde", "derives that a prelude hands on name it"), ("schemars", "derives that a prelude hands on name it")];

/// Checks both workspaces.
pub fn run(root: &Path) -> Result<()> {
    let mut problems = Vec::new();
    let about = read(Command::new("rustc").arg("-vV"))?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    for manifest in ["Cargo.toml", "guest-examples/Cargo.toml"] {
        let path = root.join(manifest);
        // Of this platform: what only others need is not downloaded here.
        let metadata = ["metadata", "--format-version=1", "--locked", "--filter-platform", host, "--manifest-path"];
        let text = read(cargo(&metadata).arg(&path))?;
        let metadata: Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
        licences(&metadata, &mut problems);
        unused(&metadata, &mut problems)?;
        workspace_entries(&path, &metadata, &mut problems)?;
    }
    problems.sort();
    problems.dedup();
    if !problems.is_empty() {
        bail!("{} problems:\n  {}", problems.len(), problems.join("\n  "));
    }
    Ok(())
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    metadata["packages"].as_array().into_iter().flatten()
}

fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let ids: BTreeSet<&str> =
        metadata["workspace_members"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    packages(metadata).filter(move |p| p["id"].as_str().is_some_and(|id| ids.contains(id)))
}

fn licences(metadata: &Value, problems: &mut Vec<String>) {
    for package in packages(metadata) {
        let name = package["name"].as_str().unwrap_or_default();
        match package["license"].as_str() {
            Some(licence) if allowed(licence) => {}
            Some(licence) => {
                problems.push(format!("{name}: licence {licence:?} is not on the list in xtask/src/dependencies.rs"))
            }
            None => problems.push(format!("{name}: names no licence")),
        }
    }
}

/// Whether an SPDX expression leaves a choice that is allowed.
fn allowed(expression: &str) -> bool {
    let text =
        expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ").replace(" WITH ", "\u{1}WITH\u{1}");
    let mut words = text.split_whitespace().peekable();
    either(&mut words) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn either(words: &mut Words) -> bool {
    let mut good = both(words);
    while words.next_if_eq(&"OR").is_some() {
        good |= both(words);
    }
    good
}

fn both(words: &mut Words) -> bool {
    let mut good = one(words);
    while words.next_if_eq(&"AND").is_some() {
        good &= one(words);
    }
    good
}

fn one(words: &mut Words) -> bool {
    match words.next() {
        Some("(") => either(words) && words.next() == Some(")"),
        Some(name) => LICENCES.contains(&name.replace('\u{1}', " ").as_str()),
        None => false,
    }
}

/// Dependencies of our own crates that no source of the crate names.
fn unused(metadata: &Value, problems: &mut Vec<String>) -> Result<()> {
    for member in members(metadata) {
        let crate_name = member["name"].as_str().unwrap_or_default();
        let manifest = PathBuf::from(member["manifest_path"].as_str().context("a package without a manifest")?);
        let folder = manifest.parent().context("a manifest without a folder")?;
        let mut sources = String::new();
        for file in files_below(folder)?.iter().filter(|f| f.extension().is_some_and(|e| e == "rs")) {
            sources.push_str(&fs::read_to_string(file).with_context(|| file.display().to_string())?);
        }
        for dependency in member["dependencies"].as_array().into_iter().flatten() {
            let name = dependency["rename"].as_str().or(dependency["name"].as_str()).unwrap_or_default();
            if UNNAMED.iter().any(|(known, _)| *known == name) || names_word(&sources, &name.replace('-', "_")) {
                continue;
            }
            problems.push(format!("{crate_name}: depends on {name}, which no source of it names"));
        }
    }
    Ok(())
}

/// Whether `text` has `word` with no letter, digit or `_` on either side.
fn names_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// Entries of `[workspace.dependencies]` that no member takes.
fn workspace_entries(manifest: &Path, metadata: &Value, problems: &mut Vec<String>) -> Result<()> {
    let table: toml::Table = fs::read_to_string(manifest)?.parse().with_context(|| manifest.display().to_string())?;
    let entries = table.get("workspace").and_then(|w| w.get("dependencies")).and_then(toml::Value::as_table);
    let taken: BTreeSet<&str> = members(metadata)
        .flat_map(|m| m["dependencies"].as_array().into_iter().flatten())
        .filter_map(|d| d["rename"].as_str().or(d["name"].as_str()))
        .collect();
    for name in entries.into_iter().flat_map(toml::Table::keys).filter(|name| !taken.contains(name.as_str())) {
        problems.push(format!("{}: [workspace.dependencies] has {name}, which no member takes", manifest.display()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_choice_is_enough_and_all_parts_of_a_conjunction_are_needed() {
        assert!(allowed("MIT OR GPL-3.0"));
        assert!(allowed("MIT/Apache-2.0"));
        assert!(allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(allowed("Apache-2.0 WITH LLVM-exception"));
        assert!(!allowed("MIT AND GPL-3.0"));
        assert!(!allowed("(MIT OR Apache-2.0"));
        assert!(!allowed(""));
    }

    #[test]
    fn a_word_is_not_found_inside_another() {
        assert!(names_word("use wasmtime::Engine;", "wasmtime"));
        assert!(!names_word("use wasmtime_wasi::Ctx;", "wasmtime"));
        assert!(!names_word("my_wasmtime", "wasmtime"));
    }
}
