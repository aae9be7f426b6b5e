//! `cargo xtask lines [DIR]`: how much code `host/` has, by crate. Counts the lines of Rust, Lua and SQL that are neither
//! blank nor a comment. Tests do not count: `tests` folders, `tests.rs`, modules under `#[cfg(test)]`, `examples` and the
//! conformance suite.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};

use crate::tidy::files_below;

/// Counts below `top`, the root of a checkout.
pub fn run(top: &Path) -> Result<()> {
    let host = top.join("host");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for file in files_below(&host)? {
        let inside = file.strip_prefix(&host).context("a file outside of its folder")?;
        let language = file.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let mut parts = inside.iter().filter_map(|part| part.to_str());
        let name = parts.next().unwrap_or_default().to_owned();
        let is_test = inside.iter().any(|part| part == "tests" || part == "examples" || part == "tests.rs")
            || inside.starts_with("broker/src/conformance")
            || name == "broker-conformance";
        let comment = match language {
            "rs" => "//",
            "lua" | "sql" => "--",
            _ => continue,
        };
        if !is_test {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            *counts.entry(name).or_default() += count(&text, comment);
        }
    }
    for (name, lines) in &counts {
        println!("{lines:>7}  {name}");
    }
    println!("{:>7}  host", counts.values().sum::<usize>());
    Ok(())
}

/// Lines of code in a text. A module behind `#[cfg(test)]` ends where its indentation does.
fn count(text: &str, comment: &str) -> usize {
    let (mut lines, mut skipping) = (0, None);
    let mut rest = text.lines().peekable();
    while let Some(line) = rest.next() {
        let (code, indent) = (line.trim(), line.len() - line.trim_start().len());
        if let Some(outer) = skipping {
            if indent == outer && code == "}" {
                skipping = None;
            }
        } else if code == "#[cfg(test)]" && rest.peek().is_some_and(|next| next.trim_end().ends_with('{')) {
            skipping = Some(indent);
        } else if !code.is_empty() && !code.starts_with(comment) {
            lines += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_blank_lines_and_tests_do_not_count() {
        let text = "//! Doc.\nfn a() {\n    // why\n    b(); // here\n}\n\n#[cfg(test)]\nmod tests {\n    fn c() {\n    }\n}\nfn d() {}\n";
        assert_eq!(count(text, "//"), 4);
    }
}
