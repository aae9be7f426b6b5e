//! `cargo xtask tidy`: the invariants of docs/ARCHITECTURE.md that a machine can check. Looks at the files that git
//! knows or would add.

mod circles;
mod rust_tokens;
mod words;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::steps::read;

/// Entries that the top folder may have.
const TOP: &[&str] = &[
    ".cargo",
    ".ci",
    ".clippy.toml",
    ".gitattributes",
    ".github",
    ".gitignore",
    ".rustfmt.toml",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "docs",
    "guest-examples",
    "host",
    "sdk",
    "tests",
    "wit",
    "xtask",
];

/// The edges of the house: which of our crates each crate may build on. One way only.
const EDGES: &[(&str, &[&str])] = &[
    ("umbel-permission", &[]),
    ("umbel-model", &["umbel-permission"]),
    ("umbel-tls", &[]),
    ("umbel-broker", &["umbel-model"]),
    ("umbel-broker-conformance", &["umbel-model", "umbel-broker", "umbel-tls"]),
    ("umbel-broker-redis", &["umbel-model", "umbel-broker", "umbel-tls"]),
    ("umbel-broker-sqlite", &["umbel-model", "umbel-broker"]),
    ("umbel-schedule", &["umbel-model"]),
    ("umbel-secrets", &["umbel-model"]),
    ("umbel-compose", &["umbel-model", "umbel-broker", "umbel-schedule", "umbel-secrets"]),
    ("umbel-modules", &["umbel-model"]),
    ("umbel-capabilities", &["umbel-model", "umbel-secrets", "umbel-tls"]),
    ("umbel-sandbox", &["umbel-model", "umbel-capabilities"]),
    (
        "umbel-worker",
        &[
            "umbel-model",
            "umbel-broker",
            "umbel-capabilities",
            "umbel-compose",
            "umbel-modules",
            "umbel-sandbox",
            "umbel-secrets",
        ],
    ),
    (
        "umbel-control",
        &["umbel-model", "umbel-broker", "umbel-bulk", "umbel-compose", "umbel-modules", "umbel-schedule"],
    ),
    ("umbel-bulk", &["umbel-model", "umbel-broker", "umbel-compose", "umbel-modules"]),
    (
        "umbel-api",
        &[
            "umbel-model",
            "umbel-broker",
            "umbel-bulk",
            "umbel-compose",
            "umbel-modules",
            "umbel-schedule",
            "umbel-secrets",
            "umbel-tls",
        ],
    ),
    (
        "umbel-cli",
        &[
            "umbel-model",
            "umbel-broker",
            "umbel-broker-redis",
            "umbel-broker-sqlite",
            "umbel-capabilities",
            "umbel-compose",
            "umbel-modules",
            "umbel-sandbox",
            "umbel-worker",
            "umbel-control",
            "umbel-schedule",
            "umbel-secrets",
            "umbel-api",
            "umbel-tls",
            "umbel-client",
        ],
    ),
    ("umbel", &["umbel-macros"]),
    ("umbel-client", &["umbel-model", "umbel-tls"]),
    ("umbel-macros", &["umbel-permission"]),
    ("umbel-tests", &["umbel-model", "umbel-broker", "umbel-broker-conformance", "umbel-broker-redis", "umbel-tls"]),
    ("xtask", &[]),
];

/// Libraries that one folder alone may name.
const ALONE: &[(&str, &str)] =
    &[("wasmtime", "host/sandbox"), ("axum", "host/api"), ("rusqlite", "host/broker-sqlite")];

/// Files over `LONGEST` lines, each with the reason.
const LONG: &[(&str, &str)] = &[];
const LONGEST: usize = 600;

/// Whether an import circle between the files of a crate is a problem.
const REFUSE_CIRCLES: bool = true;

/// Whether a retired word is a problem.
const REFUSE_RETIRED_WORDS: bool = true;

/// Largest picture that may be kept as a fixture, bytes.
const LARGEST_PICTURE: u64 = 100 << 10;

/// Checks everything and reports all that is wrong.
pub fn run(root: &Path) -> Result<()> {
    let files = known_files(root)?;
    let mut problems = Vec::new();
    top_entries(&files, &mut problems);
    let members = members(root)?;
    edges(root, &members, &mut problems)?;
    if REFUSE_CIRCLES {
        problems.extend(circles::circles(root, &members)?);
    }
    for file in &files {
        one_file(root, file, &mut problems)?;
    }
    if !problems.is_empty() {
        bail!("{} problems:\n  {}", problems.len(), problems.join("\n  "));
    }
    eprintln!("    {} files are tidy", files.len());
    Ok(())
}

/// Every file that git tracks or would add, relative to the top folder.
fn known_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut command = Command::new("git");
    command.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let mut files: Vec<PathBuf> =
        read(&mut command)?.split('\0').filter(|f| !f.is_empty()).map(PathBuf::from).collect();
    files.retain(|file| root.join(file).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}

/// Every file below a folder, build products left out.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() && entry.file_name() != "target" => found.extend(files_below(&entry.path())?),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    Ok(found)
}

fn top_entries(files: &[PathBuf], problems: &mut Vec<String>) {
    let mut strays: Vec<String> = files
        .iter()
        .filter_map(|file| Some(file.components().next()?.as_os_str().to_string_lossy().into_owned()))
        .filter(|top| !TOP.contains(&top.as_str()))
        .collect();
    strays.dedup();
    problems.extend(
        strays.into_iter().map(|top| format!("{top}: a top-level entry that docs/ARCHITECTURE.md does not know")),
    );
}

/// The dependencies that a manifest names, by section; `dev-dependencies` are under their own name.
fn dependencies(manifest: &Path) -> Result<(String, BTreeMap<String, Vec<String>>)> {
    let table: toml::Table = fs::read_to_string(manifest)?.parse().with_context(|| manifest.display().to_string())?;
    let name = table.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str).unwrap_or_default();
    let mut sections = BTreeMap::new();
    for section in ["dependencies", "build-dependencies", "dev-dependencies"] {
        let names = table.get(section).and_then(toml::Value::as_table).map(|t| t.keys().cloned().collect());
        sections.insert(section.to_owned(), names.unwrap_or_default());
    }
    Ok((name.to_owned(), sections))
}

/// The folders of the workspace's crates.
fn members(root: &Path) -> Result<Vec<String>> {
    let workspace: toml::Table = fs::read_to_string(root.join("Cargo.toml"))?.parse()?;
    let members = workspace.get("workspace").and_then(|w| w.get("members")).and_then(toml::Value::as_array);
    Ok(members.into_iter().flatten().filter_map(toml::Value::as_str).map(str::to_owned).collect())
}

fn edges(root: &Path, members: &[String], problems: &mut Vec<String>) -> Result<()> {
    for member in members {
        let (name, sections) = dependencies(&root.join(member).join("Cargo.toml"))?;
        let Some((_, may)) = EDGES.iter().find(|(known, _)| *known == name) else {
            problems.push(format!("{member}: the crate {name} has no place in the edges of xtask/src/tidy.rs"));
            continue;
        };
        for (section, names) in &sections {
            for dependency in names {
                let ours = EDGES.iter().any(|(known, _)| known == dependency);
                // Tests may reach across the house, but no library leaves its room.
                if ours && section != "dev-dependencies" && !may.contains(&dependency.as_str()) {
                    problems.push(format!("{member}: {name} may not build on {dependency}"));
                }
                for (library, room) in ALONE {
                    if dependency.starts_with(library) && member != room {
                        problems.push(format!("{member}: only {room} may name {library}, in {section} too"));
                    }
                }
            }
        }
    }
    Ok(())
}

fn one_file(root: &Path, file: &Path, problems: &mut Vec<String>) -> Result<()> {
    let path = root.join(file);
    let name = file.display().to_string();
    let bytes = fs::read(&path).with_context(|| name.clone())?;
    if bytes.iter().take(8 << 10).any(|&b| b == 0) || std::str::from_utf8(&bytes).is_err() {
        let picture =
            file.extension().is_some_and(|e| e == "png" || e == "jpg") && bytes.len() as u64 <= LARGEST_PICTURE;
        if !picture {
            problems.push(format!("{name}: a binary; build products are not kept"));
        }
        return Ok(());
    }
    let text = String::from_utf8_lossy(&bytes);
    machine_paths(&name, &text, problems);
    if REFUSE_RETIRED_WORDS {
        problems.extend(words::retired(&name, &text));
    }
    if file.extension().is_some_and(|e| e == "rs") {
        rust_file(file, &name, &text, problems);
    }
    if file.extension().is_some_and(|e| e == "md") {
        links(&path, &name, &text, problems);
        named_paths(root, &name, &text, problems);
    }
    Ok(())
}

fn machine_paths(name: &str, text: &str, problems: &mut Vec<String>) {
    // Put together here so that this file does not name them itself.
    let homes = ["work", "root", "home"].map(|folder| format!("/{folder}/"));
    for (number, line) in text.lines().enumerate() {
        // `~/`, relative and web paths are not this machine's.
        let own = homes.iter().any(|home| {
            line.match_indices(home.as_str())
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || ".~_-}*".contains(c)))
        });
        if own && name != "Cargo.lock" {
            problems.push(format!("{name}:{}: names a path of one machine", number + 1));
        }
    }
}

fn rust_file(file: &Path, name: &str, text: &str, problems: &mut Vec<String>) {
    // Cases of a compile-fail test are written for their error.
    if !file.components().any(|part| part.as_os_str() == "ui") && !text.starts_with("//!") {
        problems.push(format!("{name}: does not start with `//!` and what it is for"));
    }
    let lines = text.lines().count();
    match LONG.iter().find(|(known, _)| *known == name) {
        None if lines > LONGEST => {
            problems.push(format!("{name}: {lines} lines; over {LONGEST} needs a reason in xtask/src/tidy.rs"))
        }
        Some(_) if lines <= LONGEST => {
            problems.push(format!("{name}: is no longer long; take it off the list in xtask/src/tidy.rs"))
        }
        _ => {}
    }
}

/// Relative links of a Markdown file must lead somewhere.
fn links(path: &Path, name: &str, text: &str, problems: &mut Vec<String>) {
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split([')', '\n', ' ']).next().unwrap_or_default();
        let target = target.split('#').next().unwrap_or_default();
        if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        if !path.parent().unwrap_or(Path::new("")).join(target).exists() {
            problems.push(format!("{name}: the link to {target} leads nowhere"));
        }
    }
}

/// Paths of this repository that a document names as code must exist.
fn named_paths(root: &Path, name: &str, text: &str, problems: &mut Vec<String>) {
    let is_ours = |path: &str| TOP.iter().any(|top| path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/')));
    let is_plain = |path: &str| path.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
    for path in text.split('`').skip(1).step_by(2).filter(|path| is_ours(path) && is_plain(path)) {
        if !root.join(path).exists() {
            problems.push(format!("{name}: there is no {path}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_this_machine_is_found_and_a_relative_one_is_not() {
        let found = |line: &str| {
            let mut problems = Vec::new();
            machine_paths("x", line, &mut problems);
            !problems.is_empty()
        };
        assert!(found(&format!("cd /{}/main", "work")));
        assert!(!found("see ../work/main and host/root/x"));
    }
}
